"""Real kernel headers of Debian's suites: unpacked pairs of packages, as they lie on a host."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import debian, store
from tests.support.programs import run

# Of the kernel that a suite was released with; it can have newer ones besides.
_SERIES = {"bookworm": r"6\.1\.", "trixie": r"6\.12\."}
_PORTS = {"amd64": "amd64", "arm64": "arm64", "rt-amd64": "amd64", "686-pae": "i386"}
_OTHER_FLAVOURS = ("cloud", "rt", "16k")


def unpacked(suite: str, flavour: str) -> tuple[Path, str]:
    """The root of the headers of a suite's newest kernel, not to be changed, and the kernel's release.

    Args:
        flavour: "amd64", "arm64", "rt-amd64" or "686-pae".

    Raises:
        debian.CannotGet: they cannot be had.
    """
    port = _PORTS[flavour]
    pattern = rf"linux-headers-{_SERIES.get(suite, '[0-9]')}[0-9.]*[-+][a-z0-9-]*{flavour}"
    found = [
        name
        for name in debian.names(suite, pattern, port)
        if not any(f"-{other}-" in name for other in _OTHER_FLAVOURS if not flavour.startswith(other))
    ]
    if not found:
        raise debian.CannotGet(f"{suite} has no linux-headers for {flavour}")
    own = found[-1]
    common = debian.depends(suite, own, r"linux-headers-\S+-common(?:-rt)?", port)
    packages = [debian.download(suite, name, port) for name in (own, common)]

    def make(directory: Path) -> None:
        for package in packages:
            run("dpkg-deb", "-x", str(package), str(directory))

    key = store.key_of(*(package.name for package in packages))
    return store.kept(f"headers/{suite}-{flavour}", key, make), re.sub(r"^linux-headers-", "", own)
