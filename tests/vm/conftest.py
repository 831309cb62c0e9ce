"""Everything below needs the guest: marked `vm`, and left out unless `-m` names that mark."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.support.kheaders import make_real_headers
from tests.vm.figures import Figures, figures_of, table
from tests.vm.guest import BREAKDOWNS, BROKE_DOWN, Guest
from tests.vm.image import Image
from tests.vm.image import image as make_image
from tests.vm.snapshot import Snapshot, guest_from
from tests.vm.snapshot import booted as make_booted
from tests.vm.suites import MAIN

_HERE = Path(__file__).parent
_TIME_LIMIT = 1800
"""Seconds for a test, and the fixtures that it is the first to need."""
_BREAKDOWN = "breakdown"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: on a real kernel in an emulated guest; takes minutes (-m vm)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("suites")
        metafunc.parametrize("suite", marker.args if marker else [MAIN], scope="session", indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    for item in ours:
        item.add_marker("vm")
        if config.pluginmanager.hasplugin("timeout"):
            item.add_marker(pytest.mark.timeout(_TIME_LIMIT))
    if "vm" not in config.option.markexpr.split():
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    while BREAKDOWNS:
        report.user_properties.append((_BREAKDOWN, BREAKDOWNS.pop()))
    guest = getattr(item, "funcargs", {}).get("guest")
    if report.failed and isinstance(guest, Guest):
        for title, text in _last_words(guest):
            report.sections.append((title, text))
    return report


def _last_words(guest: Guest) -> Iterator[tuple[str, str]]:
    yield "the guest's console", guest.machine.console()[-4000:]
    if guest.machine.running:
        try:
            shown = guest.run("journalctl --boot --no-pager --lines=150 --output=short-precise", timeout=60)
            yield "the guest's journal", shown.output
        except Exception as error:  # noqa: BLE001 - the failure itself is what matters
            yield "the guest's journal", repr(error)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    found = [figure for report in ended for figure in figures_of(report.user_properties)]
    if found:
        terminalreporter.section("measured in the guest")
        for line in table(found):
            terminalreporter.line(line)
    breakdowns = [text for report in ended for name, text in report.user_properties if name == _BREAKDOWN]
    for text in breakdowns:
        terminalreporter.section(BROKE_DOWN)
        terminalreporter.line(str(text))


@pytest.fixture(scope="session", autouse=True)
def ended_in_an_orderly_way() -> Iterator[None]:
    """Who ends the tests by SIGTERM leaves as little behind as who presses Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Where a test notes what it measures; printed in the end."""
    return Figures(record_property)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> str:
    """Debian's code name for what the guest is."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def image(suite: str) -> Image:
    """The disk, kernel and initrd; without the project. Minutes, the first time."""
    return make_image(make_real_headers(suite))


@pytest.fixture(scope="session")
def booted(image: Image) -> Snapshot:
    """A guest with the project installed and booted. A minute, when the project's tree has changed."""
    return make_booted(image)


@pytest.fixture
def guest(booted: Snapshot) -> Iterator[Guest]:
    """A running guest, the same for every test: installed, booted, idle."""
    running = guest_from(booted)
    yield running
    running.machine.remove()
