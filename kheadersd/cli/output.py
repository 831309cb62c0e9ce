# SPDX-License-Identifier: LGPL-2.1-or-later
"""What kheadersctl prints: tables on a terminal, tab-separated lines in a pipe, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from ..names import ADVICE, SOURCE_NAMES
from ..system.printable import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

SHELLS = ("sh", "fish", "systemd")


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


class OutputError(Exception):
    """Stdout cannot be written to; the message says why."""


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Around what writes to stdout: the failure of that is told apart from that of anything else.

    Raises:
        OutputError: it cannot be written to.
        BrokenPipeError: its reader has closed it.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def put(line: str) -> None:
    """Write one line to stdout; raises as `writing`."""
    with writing():
        sys.stdout.write(line + "\n")


def flush() -> None:
    """Write what stdout has in its buffer; raises as `writing`."""
    with writing():
        sys.stdout.flush()


def complain(text: str) -> None:
    """Write ``text`` to stderr, with an escape sequence for each character that is not printable."""
    put_stderr("\n".join(printable(line) for line in text.splitlines()) + "\n")


def put_stderr(text: str) -> None:
    """Write ``text`` to stderr as it is, as far as that can be written."""
    with contextlib.suppress(OSError):  # the exit code has to do
        sys.stderr.write(text)


def put_json(value: Any) -> None:
    """Write ``value`` to stdout as JSON: indented on a terminal, on one line in a pipe."""
    put(json.dumps(value, indent=2 if is_terminal() else None))


def show(arguments: argparse.Namespace, value: Any, *lines: str) -> int:
    """Write ``value`` to stdout as JSON if the user wants that, else ``lines``; the exit code, 0."""
    if arguments.json:
        put_json(value)
    else:
        for line in lines:
            put(line)
    return 0


def put_table(titles: Sequence[str], rows: Iterable[Sequence[str]], plain: Iterable[Sequence[str]]) -> None:
    """Write ``rows`` under ``titles`` to a terminal, or ``plain``, separated by tabs, to a pipe."""
    if not is_terminal():
        for row in plain:
            put("\t".join(printable(cell) for cell in row))
        return
    table = [tuple(titles), *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        put("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def put_fields(fields: Mapping[str, str]) -> None:
    """Write names and values to stdout, one pair a line."""
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        put(f"{name + ':':<{width}}{printable(value)}")


def by_source(text: str) -> str:
    """The service's "…: tree: …; sysfs: …; …" with a line for each source; any other text unchanged."""
    head, *reasons = re.split(rf"[:;] (?=(?:{'|'.join((*SOURCE_NAMES, ADVICE))}): )", text)
    return "\n  ".join((head + ":", *reasons)) if len(reasons) > 1 else text


def moment(usec: int) -> str:
    """The local time of a time on the bus (µs since the epoch); "-" for 0."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(usec / 1e6)) if usec else "-"


def count(number: int, noun: str, nouns: str = "") -> str:
    """``number`` with the right form of a noun."""
    return f"{number} {noun if number == 1 else nouns or noun + 's'}"


def assignment(shell: str, name: str, value: str) -> str:
    """A line that sets an environment variable, for sh, fish or systemd's EnvironmentFile=."""
    if shell == "fish":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}'"
    if shell == "systemd":
        quoted = "".join("\\" + char if char in '"\\`$' else char for char in value)
        return f'{name}="{quoted}"'
    return f"export {name}={shlex.quote(value)}"


class ProgressLine:
    """A line on stderr with the progress of the daemon's work.

    Attributes:
        wanted: whether stderr is a terminal; otherwise nothing is shown.
    """

    def __init__(self) -> None:
        self.wanted = sys.stderr.isatty()
        self._shown = False

    def show(self, release: str, stage: str, fraction: float) -> None:
        """Replace the line."""
        if self.wanted:
            self._shown = True
            self._write(f"\r\x1b[K{printable(release)}: {printable(stage)} {min(max(fraction, 0), 1):4.0%}")

    def clear(self) -> None:
        """Erase the line."""
        if self._shown:
            self._shown = False
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:  # the terminal is gone; the work is not
            self.wanted = False
