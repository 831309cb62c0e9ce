"""The .deb container and where the headers are in it."""

from __future__ import annotations

import os
import tarfile
from contextlib import closing
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt
from kheadersd.formats import deb
from kheadersd.sources import debian_package
from kheadersd.system.files import NotRegular
from tests.support.apt_repository import build_deb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = "linux-headers-6.8.0-31-generic"
COMMON = "linux-headers-6.8.0-31"


def names(layer_chunks: bytes) -> list[str]:
    with tarfile.open(fileobj=BytesIO(layer_chunks)) as tar:
        return [name.removeprefix("./") for name in tar.getnames()]


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd", "none"])
def test_every_compression_is_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.deb"
    try:
        build_deb(path, "a", "1", {"usr/x": "hello"}, compression=compression)
    except OSError:
        pytest.skip(f"this dpkg-deb has no {compression}")
    layer = debian_package.layer(deb.HeldFile(path), debian_package.place_of("a", "x86"))
    path.unlink()
    first, second = b"".join(layer.chunks()), b"".join(layer.chunks())
    assert first == second
    assert "usr/x" in names(first)
    assert layer.label == "a.deb"


def test_the_descriptor_is_closed_when_the_layer_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    build_deb(path, "a", "1", {"usr/x": "hello"})
    before = len(os.listdir("/proc/self/fd"))
    layer = debian_package.layer(deb.HeldFile(path), debian_package.place_of("a", "x86"))
    stream = layer.chunks()
    next(iter(stream))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del layer, stream
    assert len(os.listdir("/proc/self/fd")) == before


def ar(*members: tuple[bytes, bytes]) -> bytes:
    content = b"!<arch>\n"
    for name, data in members:
        content += b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data))
        content += data + b"\n" * (len(data) % 2)
    return content


GOOD = ar((b"debian-binary", b"2.0\n"), (b"control.tar", b"odd"), (b"data.tar", b"data"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "does not begin as an ar archive"),
        (b"PK\3\4" + bytes(100), "does not begin as an ar archive"),
        (b"!<arch>\n", "has no member data.tar"),
        (ar((b"debian-binary", b"2.0\n")), "has no member data.tar"),
        (ar((b"data.tar.bz2", b"data")), "has no member data.tar"),
        (ar(*[(b"x", b"")] * 20, (b"data.tar", b"")), "has no member data.tar"),
        (GOOD[:-1], "'data.tar' reaches beyond the end"),
        (GOOD[:-30], "is damaged"),
        (GOOD.replace(b"`\n", b"xx"), "is damaged"),
        (GOOD.replace(b"4         `", b"-4        `"), "is damaged"),
        (GOOD.replace(b"4         `", b"9999999999`"), "reaches beyond the end"),
    ],
)
def test_a_damaged_container_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "linux-headers-x.deb"
    path.write_bytes(content)
    with closing(deb.HeldFile(path)) as file, pytest.raises(Corrupt, match=complaint) as caught:
        deb.find_data(file)
    assert "linux-headers-x.deb" in caught.value.message


def test_members_at_odd_lengths_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(GOOD)
    file = deb.HeldFile(path)
    offset, size = deb.find_data(file)
    assert file.at(offset, size) == b"data"


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_only_a_regular_file_is_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.deb"
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(NotRegular):
        deb.HeldFile(path)


@pytest.mark.parametrize(
    ("name", "whole", "generated"),
    [
        (f"usr/src/{OWN}/include", "include", None),
        (f"usr/src/{OWN}/include/generated", "include/generated", "include/generated"),
        (f"usr/src/{OWN}/include/generated/autoconf.h", "include/generated/autoconf.h", ...),
        (f"usr/src/{OWN}/arch/x86/include/generated/a.h", "arch/x86/include/generated/a.h", ...),
        (f"usr/src/{OWN}/include/linux", "include/linux", None),  # Ubuntu: a symlink into the common package
        (f"usr/src/{OWN}/arch/x86/include/asm", "arch/x86/include/asm", None),
        (f"usr/src/{OWN}/include/generatedx/a.h", "include/generatedx/a.h", None),
        (f"usr/src/{OWN}/include/config/SMP", None, None),
        (f"usr/src/{OWN}/include/config", None, None),
        (f"usr/src/{OWN}/includes/a.h", None, None),
        (f"usr/src/{OWN}/arch/arm64/include/asm/a.h", None, None),
        (f"usr/src/{OWN}/arch/x86/Makefile", None, None),
        (f"usr/src/{OWN}/scripts", None, None),
        (f"usr/src/{OWN}/Makefile", None, None),
        (f"usr/src/{OWN}", None, None),
        (f"usr/src/{COMMON}/include/linux/a.h", None, None),
        ("usr/share/doc/x", None, None),
        ("lib/modules/6.8.0-31-generic/build", None, None),
        ("", None, None),
    ],
)
def test_where_a_member_goes(name: str, whole: str | None, generated: object) -> None:
    assert debian_package.place_of(OWN, "x86")(name) == whole
    assert debian_package.place_of(OWN, "x86", written=False)(name) == (
        whole if generated is ... else generated
    )


def test_no_name_is_taken_from_both_packages() -> None:
    generated, written = (
        debian_package.place_of(OWN, "x86", written=False),
        debian_package.place_of(OWN, "x86", generated=False),
    )
    places: list[Callable[[str], str | None]] = [generated, written]
    for path in ("include/generated/a.h", "include/linux/a.h", "arch/x86/include/generated/a.h"):
        taken = [place(f"usr/src/{OWN}/{path}") for place in places]
        assert sorted(map(str, taken)) == sorted(["None", path])
