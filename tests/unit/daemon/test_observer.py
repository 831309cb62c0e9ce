"""What the service manager shows of a daemon follows what happens, not too often."""

from __future__ import annotations

import time

from kheadersd.daemon.observer import StatusUpdates
from tests.support.clients import eventually


async def test_the_status_follows() -> None:
    told: list[float] = []
    status = StatusUpdates(lambda: told.append(time.monotonic()))
    for _ in range(100):
        status.on_change()
    assert told == []
    await eventually(lambda: told)
    # Were each of them told, these would be many.
    status.on_change()
    await eventually(lambda: len(told) > 1)
    assert len(told) == 2
