"""Whom the daemon takes the root of another container for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.dbus.credentials import ORDINARY_UID, Callers, Credentials


def callers(known: dict[str, Variant], *, is_shared: bool) -> Callers:
    async def ask(member: str, signature: str = "", values: Sequence[Any] = ()) -> list[Any]:
        return [known] if member == "GetConnectionCredentials" else []

    return Callers(ask, is_shared=is_shared)


def known(uid: int, pid: int | None) -> dict[str, Variant]:
    told = {"UnixUserID": Variant("u", uid)}
    return told if pid is None else told | {"ProcessID": Variant("u", pid)}


@pytest.mark.parametrize("pid", [0, None])
@pytest.mark.parametrize("uid", [0, os.getuid()])
async def test_root_of_another_container_is_nobody(uid: int, pid: int | None) -> None:
    assert await callers(known(uid, pid), is_shared=True).credentials(":1.2") == (ORDINARY_UID, 0)


async def test_others_are_who_they_are() -> None:
    assert await callers(known(0, 7), is_shared=True).credentials(":1.2") == Credentials(0, 7)
    assert await callers(known(1000, 0), is_shared=True).credentials(":1.2") == Credentials(1000, 0)
    assert await callers(known(0, 0), is_shared=False).credentials(":1.2") == Credentials(0, 0)
