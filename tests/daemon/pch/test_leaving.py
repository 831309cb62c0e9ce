"""Callers who leave at any moment while something is precompiled: nothing is locked, half made or running."""

from __future__ import annotations

import json
import random
import time

import pytest

from kheadersd.dbus.codec import Variant, encode
from tests.support.callers import client
from tests.support.clients import wait_until
from tests.support.needs import needs_root
from tests.support.precompiling import COMPILERS, is_there
from tests.support.raw import HERE
from tests.support.running import Bus, Daemon
from tests.support.small_headers import RELEASE

pytestmark = [
    pytest.mark.slow,
    needs_root("only root's compilers are used"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

ROUNDS = 40
COMPILER = next(filter(is_there, COMPILERS), "")
PRECOMPILED = "ssa{sv}"
GET_PCH = HERE._replace(member="GetPch", signature=PRECOMPILED)


def test_nothing_is_left_of_them(bus: Bus, daemon: Daemon) -> None:
    chance = random.Random(1)
    for number in range(ROUNDS):
        options = {
            "compiler": Variant("s", COMPILER),
            "headers": Variant("as", [chance.choice(["linux/types.h", "linux/list.h", "linux/kref.h"])]),
            "keep_headers": Variant("b", chance.random() < 0.5),
        }
        with client(bus.socket) as leaving:
            leaving.send(GET_PCH, encode(PRECOMPILED, ["", "bpf-core", options]))
            time.sleep(chance.uniform(0, 0.5))
        if number % 4 == 3:
            bus.call("Remove", "sa{sv}", RELEASE, "1", "force", "b", "true")
    # Who stays is served, whatever had the locks.
    with client(bus.socket) as staying:
        assert staying.call("GetPch", PRECOMPILED, ["", "bpf-core", options]).name == ""
    wait_until(lambda: json.loads(bus.call("Describe")[0])["activity"] == "idle")
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert daemon.leftovers() == []
    assert daemon.stop() == 0
