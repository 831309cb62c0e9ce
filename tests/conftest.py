"""What holds for every test: nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.threads import at_work

pytest_plugins = [
    "tests.support.directories",
    "tests.support.in_process",
    "tests.support.notify_socket",
    "tests.support.real",
    "tests.support.running",
    "tests.support.skips",
    "tests.support.tables",
]

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")

_MADE = pytest.StashKey[str]()
_PATIENCE = 5.0  # seconds; what was told to end may take a moment


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Pytest's own is one for all runs, and each new run takes it from other users, who a run's tests need.
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = config.stash[_MADE] = tempfile.mkdtemp(prefix="kheadersd-tests-")
    # A script's background jobs ignore SIGINT, and all that they start does, also the commands under test.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # nohup(1) does the same with SIGHUP, which this process goes on ignoring.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    # What tests make is for other users too, whatever the shell they are started from wants.
    os.umask(0o022)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What tests that failed have written stays."""
    made = session.config.stash.get(_MADE, None)
    if made is not None and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(made, ignore_errors=True)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """The argument's name instead of bytes: what was made by gzip, say, has the time of day in it."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(hookwrapper=True)
def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
    """Close the loop that the pytest-asyncio of Debian 12 and 13 makes after each asynchronous test.

    `asyncio.run` in a later test replaces it without closing it, and any test after that would fail.
    """
    yield
    if fixturedef.argname == "event_loop":
        with contextlib.suppress(RuntimeError):  # there is none
            asyncio.get_event_loop_policy().get_event_loop().close()


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test: no child process, thread or descriptor that was not there before."""
    before = _children(), at_work(), _descriptors()
    yield
    # The pytest-asyncio of Debian 12 and 13, which a package's build has, ends the loop's threads only later.
    # It has closed the loop already where only a fixture is asynchronous.
    if (loop := (request.node.funcargs or {}).get("event_loop")) is not None and not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
    _wait_until(lambda: _children() <= before[0])
    _wait_until(lambda: at_work() <= before[1])
    _wait_until(lambda: len(_descriptors()) <= len(before[2]))
    assert _children() <= before[0], "a child process is left"
    assert at_work() <= before[1], "a thread is left"
    assert len(_descriptors()) <= len(before[2]), f"descriptors are left: {_descriptors() - before[2]}"


@pytest.fixture(autouse=True)
def no_task_is_left(request: pytest.FixtureRequest, nothing_is_left: None) -> None:
    """After every asynchronous test: no task but its own."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("own_task_only")


@pytest.fixture(autouse=True)
def nothing_is_nobodys(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """During every test: no error that nobody took, which asyncio puts into the log, with a traceback."""
    yield
    records = [record for phase in ("setup", "call") for record in caplog.get_records(phase)]
    errors = [record for record in records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    assert not errors, "\n".join(record.getMessage() for record in errors)


@pytest.fixture
async def own_task_only() -> AsyncIterator[None]:
    yield
    own = asyncio.current_task()
    assert not [task for task in asyncio.all_tasks() if task is not own], "a task is left"


def _children() -> set[int]:
    children = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            children |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:
            continue
    return children


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            continue
    return found


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
