"""What loads the module: never anything on a host that is not this machine, or that forbids it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from kheadersd.daemon import loader
from kheadersd.daemon.loader import choose_loader
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import CannotLoad, NoLoader
from kheadersd.host.systemd_loader import UnitLoader

BUS = cast("Any", None)


@pytest.mark.parametrize(
    ("root", "wanted", "session", "reason"),
    [
        ("image", "systemd", False, "is not this machine"),
        ("/", "systemd", True, "session bus"),
        ("/", "none", False, "Loader=none"),
    ],
)
async def test_what_forbids_loading(
    tmp_path: Path, root: str, wanted: str, session: bool, reason: str
) -> None:
    chosen = choose_loader(Host(tmp_path / root), wanted, BUS, session=session)
    assert isinstance(chosen, NoLoader)
    with pytest.raises(Exception, match=reason):
        await chosen.load()


async def test_no_place_for_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "file/here"))
    monkeypatch.setattr(loader, "_unit_is_installed", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    chosen = choose_loader(Host(Path("/")), "auto", BUS, session=False)
    assert isinstance(chosen, NoLoader)
    with pytest.raises(CannotLoad, match="Not a directory"):
        await chosen.load()


def test_systemd_is_used_where_the_configuration_says_so() -> None:
    assert isinstance(choose_loader(Host(Path("/")), "systemd", BUS, session=False), UnitLoader)
