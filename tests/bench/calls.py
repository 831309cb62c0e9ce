"""Calls for headers that are there already, against a service in C that knows its answer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from kheadersd.dbus.codec import encode
from tests.bench.measure import MIB, Result, median, note
from tests.bench.rig import FLOOR
from tests.support.callers import Flood, Watch, client, frames
from tests.support.raw import HERE
from tests.support.running import NAME

if TYPE_CHECKING:
    from tests.bench.rig import Calls, Rig

_ROUNDS = 7
_MICRO = 1e6
_PROFILE = "bpf-core"


def cached(rig: Rig) -> list[Result]:
    """Cached GetHeaders, against the service in C on the same bus."""
    ours: list[tuple[Calls, Calls]] = []
    theirs: list[tuple[Calls, Calls]] = []
    with rig.daemon() as daemon:
        rig.call(daemon.pid)
        (entry,) = daemon.entries()
        with rig.floor(daemon.cache / entry / "tree") as floor:
            for _ in range(rig.rounds(_ROUNDS)):
                ours.append(_both(rig, daemon.pid, NAME))
                theirs.append(_both(rig, floor, FLOOR))
                note(f"  kheadersd {_shown(ours[-1])}; C {_shown(theirs[-1])}")
    return [
        Result(
            "cached GetHeaders, p50 with one caller, with a constant from C",
            _median_p50(ours),
            "µs",
            _median_p50(theirs),
            goal=1.6,
        ),
        Result(
            "cached GetHeaders, CPU per call with ten, with a constant from C",
            _median_cpu(ours),
            "µs",
            _median_cpu(theirs),
            goal=2,
        ),
    ]


def cached_pch(rig: Rig) -> list[Result]:
    """Cached GetPch, against cached GetHeaders of the same daemon."""
    pch, headers = [], []
    with rig.daemon() as daemon:
        rig.call(daemon.pid, profile=_PROFILE)
        for _ in range(rig.rounds(_ROUNDS)):
            pch.append(_both(rig, daemon.pid, NAME, _PROFILE))
            headers.append(_both(rig, daemon.pid, NAME))
            note(f"  GetPch {_shown(pch[-1])}; GetHeaders {_shown(headers[-1])}")
    return [
        Result(
            "cached GetPch, p50 with one caller, with GetHeaders",
            _median_p50(pch),
            "µs",
            _median_p50(headers),
            goal=1.3,
        ),
        Result(
            "cached GetPch, CPU per call with ten, with GetHeaders",
            _median_cpu(pch),
            "µs",
            _median_cpu(headers),
            goal=1.3,
        ),
    ]


def growth(rig: Rig) -> list[Result]:
    """What 100,000 calls leave behind."""
    calls = rig.calls(100_000)
    with rig.daemon() as daemon:
        rig.call(daemon.pid)
        rig.call(daemon.pid, connections=10, calls=2000)
        before = daemon.memory(), daemon.descriptors()
        done = rig.call(daemon.pid, connections=10, calls=calls)
        after = daemon.memory(), daemon.descriptors()
    note(f"  {calls} calls in {done.wall:.1f} s")
    return [
        Result(f"after {calls} calls: memory", (after[0] - before[0]) / MIB, "MiB", goal=1.0),
        Result(f"after {calls} calls: descriptors", after[1] - before[1], goal=0),
    ]


def unheard(rig: Rig) -> list[Result]:
    """How long a caller waits while another sends 100,000 calls that want no answer."""
    calls = rig.calls(100_000)
    results = []
    with rig.daemon() as daemon, client(rig.bus.socket) as caller, client(rig.bus.socket) as flooding:
        rig.call(daemon.pid, profile=_PROFILE)
        for member, signature, values in (
            ("GetHeaders", "sa{sv}", [rig.release, {}]),
            ("GetPch", "ssa{sv}", [rig.release, _PROFILE, {}]),
            ("Acquire", "sa{sv}", [rig.release, {}]),
        ):
            watch = Watch(daemon, caller)
            fields = HERE._replace(member=member, signature=signature)
            bodies = itertools.repeat(encode(signature, values), calls)
            with Flood(flooding, frames(fields, bodies, no_reply=True)) as flood:
                watch.keep_asking(lambda: flood.sending)
                watch.ask("Lookup", "s", "")
            note(f"  {member}: {watch.asked} calls of the other")
            what = f"the longest Lookup beside {calls} calls of {member} without a reply"
            results.append(Result(what, watch.longest, "s", goal=0.2))
    return results


def _both(rig: Rig, pid: int, name: str, profile: str | None = None) -> tuple[Calls, Calls]:
    """One caller, then ten."""
    return (
        rig.call(pid, name=name, calls=rig.calls(5000), profile=profile),
        rig.call(pid, name=name, connections=10, calls=rig.calls(20_000), profile=profile),
    )


def _median_p50(rounds: list[tuple[Calls, Calls]]) -> float:
    return median([one.p50 for one, _ in rounds]) * _MICRO


def _median_cpu(rounds: list[tuple[Calls, Calls]]) -> float:
    return median([ten.cpu / ten.calls for _, ten in rounds]) * _MICRO


def _shown(calls: tuple[Calls, Calls]) -> str:
    one, ten = calls
    return f"{one.p50 * _MICRO:.1f} µs, CPU with ten {ten.cpu / ten.calls * _MICRO:.1f} µs a call"
