# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the daemon and a unit that runs a command talk, over a socket that serves one command.

A request is one byte, with which a descriptor for the command's standard output may come; then a line of
JSON, and the command's standard input. The answer is a line of JSON for each line of the command's standard
output, if that was asked for, as it comes; then a line with the result, and behind it as many bytes of
standard output and standard error as that says. The unit kills the command when the daemon closes the
connection.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

MAX_LINE = 1 << 20
"""Bytes of a line; the outputs that follow the result are in no line."""


def write(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Write pieces that may be empty.

    `StreamWriter.writelines` never finishes with an empty last piece: since Python 3.12 it leaves that in the
    buffer and sends it again and again (asyncio/selector_events.py, `_adjust_leftover_buffer`).
    """
    for piece in pieces:
        writer.write(piece)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line of JSON."""
    return json.dumps(message).encode() + b"\n"
