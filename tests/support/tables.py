"""Tables of what tests measured, printed at the end of the run, whichever process made them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

_PROPERTY = "table"

PrintTable = Callable[[str, Sequence[str]], None]


@pytest.fixture
def print_table(record_property: Callable[[str, object], None]) -> PrintTable:
    """``print_table(title, lines)``: no test fails because of it."""

    def record(title: str, lines: Sequence[str]) -> None:
        record_property(_PROPERTY, (title, list(lines)))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    for report in ended:
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, (tuple, list)):
                title, lines = value
                terminalreporter.section(title)
                for line in lines:
                    terminalreporter.line(line)
