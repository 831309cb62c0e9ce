"""The files of a host that a whole daemon serves."""

from __future__ import annotations

from pathlib import Path

RELEASE = "6.1.0-9-test"


class ServedHost:
    """The files of a host whose kernel carries headers for the running release."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archive = root / "sys/kernel/kheaders.tar.xz"
        self.modules = root / "lib/modules" / RELEASE
        osrelease = root / "proc/sys/kernel/osrelease"
        for directory in (osrelease.parent, self.archive.parent, self.modules):
            directory.mkdir(parents=True)
        osrelease.write_text(RELEASE + "\n")

    def show(self, archive: bytes) -> None:
        """Put an archive where a loaded module shows it."""
        new = self.archive.with_suffix(".new")
        new.write_bytes(archive)
        new.rename(self.archive)
