"""What the service manager shows of a daemon follows what happens, not too often."""

from __future__ import annotations

import time

from kheadersd.daemon.observer import StatusObserver
from tests.support.clients import eventually
from tests.support.in_process import NoObserver


async def test_the_status_follows() -> None:
    told: list[float] = []
    observer = StatusObserver(NoObserver(), lambda: told.append(time.monotonic()))
    for _ in range(100):
        observer.changed()
    assert told == []
    await eventually(lambda: told)
    # Were each of them told, these would be many.
    observer.changed()
    await eventually(lambda: len(told) > 1)
    assert len(told) == 2
