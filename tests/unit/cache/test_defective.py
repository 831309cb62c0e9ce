"""Archives with headers that no program compiles with: no entry is made of them."""

from __future__ import annotations

import hashlib
import io
import threading

import pytest

from kheadersd.cache.cache import Cache
from kheadersd.errors import Corrupt
from kheadersd.formats.decompress import chunks
from kheadersd.headers.extraction import Found, extract_entry
from kheadersd.headers.requests import Request
from kheadersd.progress import unreported
from kheadersd.sources.source import Archive, Layer, Limits, whole
from tests.support.archives import kheaders_files, tree_tar
from tests.support.made_up_cache import RELEASE

RIGHT = kheaders_files(RELEASE)
AUTOCONF = "include/generated/autoconf.h"
TYPES = "include/linux/types.h"


def without(part: str) -> dict[str, bytes]:
    return {name: content for name, content in RIGHT.items() if not name.startswith(part)}


DEFECTIVE = {
    "has no headers, and autoconf.h says x86": without("arch/"),
    "arch/x86/include/asm has no headers": without("arch/x86/include/asm/"),
    "arch/x86/include/generated has no headers": without("arch/x86/include/generated/"),
    "configures no architecture": RIGHT | {AUTOCONF: b"/* nothing */\n"},
    "what was generated is for arm64": without("arch/x86/include/generated/")
    | {"arch/arm64/include/generated/asm/types.h": b"\n"},
    "has to be built again": RIGHT | {"Makefile": b"VERSION = 6\nPATCHLEVEL = 2\n"},
    "there is no <asm/gone.h>, which": RIGHT | {TYPES: b"#include <asm/types.h>\n#include <asm/gone.h>\n"},
}


@pytest.mark.parametrize("reason", DEFECTIVE)
def test_an_archive_with_which_nothing_compiles_is_corrupt(cache: Cache, reason: str) -> None:
    data = tree_tar(DEFECTIVE[reason])
    layer = Layer("kheaders.tar", lambda: chunks(lambda: io.BytesIO(data), "kheaders.tar"), whole)
    archive = Archive(hashlib.sha256(data).hexdigest(), (layer,), "/sys/kernel/kheaders.tar.xz")
    found = Found(Request(RELEASE, ("sysfs",)), "sysfs", archive, Limits(), None, unreported)
    with pytest.raises(Corrupt, match="the archive has no usable headers") as caught:
        extract_entry(cache, "/", found, threading.Event())
    assert reason in caught.value.message
    assert not list(cache.entries())
