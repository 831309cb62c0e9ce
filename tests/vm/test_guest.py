"""What a guest does itself: a kernel that breaks down before its disk is there is started once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.programs import run
from tests.vm import guest
from tests.vm.guest import Guest
from tests.vm.image import Image
from tests.vm.machine import Machine, MachineFailed

_BREAKS = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
echo "initrd: begins" >/dev/console
echo "it breaks here" >/dev/console
/bin/busybox poweroff -f
"""


class _BreaksFirst(Machine):
    """Its first starts end in the initrd."""

    def __init__(self, image: Image, directory: Path, starts: int) -> None:
        super().__init__(image)
        self.sound, self.broken = self.initrd, _broken(image, directory)
        self.left = starts

    def start(self, state: Path | None = None) -> None:
        self.initrd = self.broken if self.left > 0 else self.sound
        self.left -= 1
        super().start(state)


def _broken(image: Image, directory: Path) -> Path:
    """An initrd in which a second archive replaces the program that the kernel starts."""
    init = directory / "init"
    init.write_text(_BREAKS)
    init.chmod(0o755)
    run("sh", "-ec", "echo init | cpio -o -H newc --quiet | gzip >more", cwd=directory)
    broken = directory / "initrd"
    broken.write_bytes(image.initrd.read_bytes() + (directory / "more").read_bytes())
    return broken


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is noted during a test; the run's report is not to have it."""
    texts: list[str] = []
    monkeypatch.setattr(guest, "BREAKDOWNS", texts)
    return texts


def _guest(image: Image, directory: Path, *, starts: int) -> Guest:
    return Guest(_BreaksFirst(image, directory, starts))


def test_a_start_that_broke_before_the_disk_is_made_once_more(
    image: Image, tmp_path: Path, noted: list[str]
) -> None:
    broken = _guest(image, tmp_path, starts=1)
    try:
        broken.boot()
        assert broken.check("findmnt -n -o SOURCE /") == "/dev/vda"
    finally:
        broken.machine.remove()
    (said,) = noted
    assert "it breaks here" in said


def test_a_second_one_is_a_failure(image: Image, tmp_path: Path, noted: list[str]) -> None:
    broken = _guest(image, tmp_path, starts=2)
    try:
        with pytest.raises(MachineFailed, match="it breaks here"):
            broken.boot()
    finally:
        broken.machine.remove()
    assert len(noted) == 1
