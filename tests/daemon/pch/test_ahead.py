"""Precompiled headers before a caller asks, by the whole daemon, with real headers and real compilers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bcc import is_installed
from tests.support.clients import wait_until
from tests.support.kheaders import RealHeaders
from tests.support.needs import needs_root
from tests.support.precompiling import COMPILERS, is_there
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon

pytestmark = [
    pytest.mark.slow,
    needs_root("only root's compilers are used"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

COMPILER = next(filter(is_there, COMPILERS), "")
SECONDS = 120

Configure = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "kheadersd.conf"


@pytest.fixture
def configure(config: Path) -> Configure:
    def write(profiles: str, compilers: str = COMPILER, drop_headers: str = "no", more: str = "") -> None:
        config.write_text(
            f"[Ahead]\nProfiles={profiles}\nCompilers={compilers}\nDropHeaders={drop_headers}\n{more}"
        )

    return write


@pytest.fixture
def start(memory: Path, root: Path, config: Path, bus: Bus, make_daemon: MakeDaemon) -> Callable[[], Daemon]:
    return lambda: make_daemon(bus, root=root, cache=memory / "cache", arguments=[f"--config={config}"])


def ahead(bus: Bus) -> Any:
    return json.loads(bus.call("Describe")[0])["ahead"]


def wait_for(bus: Bus, **wanted: object) -> Any:
    """Wait until Describe has these; all of it then."""
    states: list[Any] = []

    def is_so() -> bool:
        states.append(ahead(bus))
        return all(states[-1][key] == value for key, value in wanted.items())

    wait_until(is_so, SECONDS)
    return states[-1]


def pchs(bus: Bus) -> list[tuple[bool, int]]:
    """Of all entries: whether there are headers, and the number of precompiled headers."""
    return [(entry["headers_kept"], entry["pch_count"]) for entry in bus.call("ListEntries")[0]]


def get_pch(bus: Bus, compiler: str = COMPILER) -> Any:
    return bus.call(
        "GetPch", "ssa{sv}", "", "bpf-core", "2", "compiler", "s", compiler, "keep_headers", "b", "0"
    )


def status(bus: Bus) -> str:
    command = [sys.executable, "-m", "kheadersd.cli", "status"]
    environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return next((line for line in done.stdout.splitlines() if line.startswith("Ahead:")), "")


def reload(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)


def test_made_dropped_restored_and_kept(
    bus: Bus, start: Callable[[], Daemon], configure: Configure, real_headers: RealHeaders
) -> None:
    configure("bpf-core", drop_headers="yes")
    daemon = start()
    state = wait_for(bus, state="done", made=1)
    assert state == {
        "profiles": ["bpf-core"], "compilers": [COMPILER], "drop_headers": True, "state": "done",
        "wanted": 1, "made": 1, "problems": [], "headers_kept": {},
    }  # fmt: skip
    assert pchs(bus) == [(False, 1)]
    said = f"All 1 precompiled headers of [Ahead] are made, for {real_headers.release}"
    assert daemon.log.read_text().count(said) == 1
    assert "1 of 1 precompiled headers made" in status(bus)
    # It is what callers get, at once.
    assert get_pch(bus)[2]["fresh"] is False
    # A caller needs the headers, which stay then: also after the next look, and at the next start.
    path = bus.call("GetHeaders", "sa{sv}", "", "0")[0]
    assert Path(path, "include/linux/sched.h").exists()
    daemon.stop()
    daemon.start()
    wait_for(
        bus,
        state="done",
        made=1,
        headers_kept={real_headers.release: "they were extracted again for a caller"},
    )
    assert pchs(bus) == [(True, 1)]
    assert daemon.log.read_text().count("Compiled ") == 1
    assert "stay: they were extracted again for a caller" in status(bus)


def test_what_cannot_be_made_is_told_once(
    bus: Bus, start: Callable[[], Daemon], configure: Configure
) -> None:
    configure("bpf-core no-such-profile", f"{COMPILER} clang-99", drop_headers="yes")
    daemon = start()
    state = wait_for(bus, state="failed", made=1)
    assert state["wanted"] == 3
    assert pchs(bus) == [(True, 1)], "not all are made, so the headers stay"
    reload(daemon)
    wait_until(lambda: "The configuration was read again: nothing has changed" in daemon.log.read_text())
    wait_for(bus, state="failed", made=1)
    log = daemon.log.read_text()
    assert log.count("there is no profile 'no-such-profile'") == 1
    assert log.count("clang-99 is not installed") == 1
    # Corrected.
    configure("bpf-core", drop_headers="yes")
    reload(daemon)
    wait_for(bus, state="done", problems=[], wanted=1)
    wait_until(lambda: pchs(bus) == [(False, 1)], SECONDS)


def test_status_says_why_not(bus: Bus, start: Callable[[], Daemon], configure: Configure) -> None:
    configure("bpf-core no-such-profile")
    start()
    wait_for(bus, state="failed", made=1)
    shown = status(bus)
    assert "1 of 2 precompiled headers made" in shown
    assert "no-such-profile: there is no profile" in shown


def test_another_configuration(
    bus: Bus, start: Callable[[], Daemon], configure: Configure, config: Path
) -> None:
    config.write_text("")
    daemon = start()
    assert ahead(bus)["state"] == "off"
    assert status(bus) == ""
    configure("bpf-core")
    reload(daemon)
    wait_for(bus, state="done", made=1)
    assert pchs(bus) == [(True, 1)]
    configure("bpf-core types" if Path("/sys/kernel/btf/vmlinux").exists() else "bpf-core host-tracing")
    reload(daemon)
    wait_for(bus, wanted=2)
    config.write_text("[Ahead]\nProfiles=\n")
    reload(daemon)
    wait_for(bus, state="off", wanted=0)


def test_a_compiler_that_comes(
    bus: Bus, start: Callable[[], Daemon], configure: Configure, roots_own: Path
) -> None:
    directory = roots_own / "bin"
    directory.mkdir()
    configure(
        "bpf-core", more=f"[Compile]\nDirectories={directory} /usr/lib/llvm-*/bin\n", compilers="clang-98"
    )
    daemon = start()
    wait_for(bus, state="failed", made=0)
    wrapper = directory / "clang-98"
    wrapper.with_name("new").write_text(f'#!/bin/sh\nexec /usr/bin/{COMPILER} "$@"\n')
    wrapper.with_name("new").chmod(0o755)
    wrapper.with_name("new").rename(wrapper)
    wait_for(bus, state="done", made=1)
    # It is upgraded.
    wrapper.with_name("new").write_text(f'#!/bin/sh\n# newer\nexec /usr/bin/{COMPILER} "$@"\n')
    wrapper.with_name("new").chmod(0o755)
    wrapper.with_name("new").rename(wrapper)
    wait_until(lambda: daemon.log.read_text().count("Compiled ") == 2, SECONDS)
    wait_for(bus, state="done", made=1)
    assert pchs(bus) == [(True, 1)]


@pytest.mark.skipif(not is_installed(), reason="needs libbpfcc, and the clang of its LLVM")
def test_a_profile_for_bcc_of_dropped_headers(
    bus: Bus, start: Callable[[], Daemon], configure: Configure
) -> None:
    configure("bpf-core", drop_headers="yes")
    daemon = start()
    wait_for(bus, state="done", made=1)
    assert pchs(bus) == [(False, 1)]
    # It has libbcc's own compiler, and the headers that it takes come and go again.
    configure("bpf-core bcc-small", drop_headers="yes")
    reload(daemon)
    wait_for(bus, wanted=2, made=2, state="done")
    assert pchs(bus) == [(False, 2)]


def test_told_to_stop_meanwhile(bus: Bus, start: Callable[[], Daemon], configure: Configure) -> None:
    configure("bpf-tracing")
    daemon = start()
    wait_for(bus, state="working")
    assert daemon.stop() == 0
    assert daemon.leftovers() == []
