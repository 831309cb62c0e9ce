# SPDX-License-Identifier: LGPL-2.1-or-later
"""kheadersctl: kernel headers from the command line, through the service on the bus.

Exit codes: 0 done, 1 failed, 2 usage, 3 not available, 4 not authorised, 5 no daemon; 130 interrupted, 141
the output is closed; `exec` returns the exit code of its command, 126 or 127 where the command cannot be run.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from .arguments import parse
from .failures import NOT_AVAILABLE, CommandError
from .output import OutputError, by_source, complain, flush
from .polkit_agent import polkit_agent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .blocking_client import BlockingClient
    from .environment import Execution

_PACKAGE = (__package__ or "").partition(".")[0]
_FAILED = 1
_INTERRUPTED = 130
_OUTPUT_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run kheadersctl with ``arguments``, by default those of the process; the exit code."""
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters
    try:
        code = _run(parse(sys.argv[1:] if arguments is None else arguments))
        flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # people press Ctrl-C twice
        tasks = sys.modules.get(f"{_PACKAGE}.system.tasks")
        if tasks is not None and tasks.hanging():  # the interpreter would wait for the thread
            os._exit(_INTERRUPTED)
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _OUTPUT_CLOSED
    except ImportError as error:
        _fail(f"{sys.executable} cannot run kheadersctl: {error}")
        return _FAILED
    except OutputError as error:
        _drop_output()
        _fail(f"cannot write the output: {error}")
        return _FAILED
    except OSError as error:
        what = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{what}{error.strerror or error}")
        return _FAILED
    return code


def _open_closed() -> None:
    """Write to the null device in place of streams that were closed at start, for which Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends


def _run(options: argparse.Namespace) -> int:
    try:
        with contextlib.nullcontext() if options.session else polkit_agent():
            outcome = _called(options)
        if isinstance(outcome, int):
            return outcome
        flush()
        outcome.run()
    except CommandError as error:
        on_terminal = error.code == NOT_AVAILABLE and sys.stderr.isatty()
        _fail(by_source(error.message) if on_terminal else error.message, error.hint)
        return error.code
    except (LookupError, TypeError, ValueError) as error:
        _fail(
            f"the answer of the service was not understood: {error!r}",
            "Are kheadersd and kheadersctl of the same version?",
        )
        return _FAILED


def _called(options: argparse.Namespace) -> int | Execution:
    """What comes of a command: without asyncio where it does nothing but call."""
    # Not imported at the top: --help needs none of them.
    from .commands import COMMANDS

    if options.action in COMMANDS and (client := _blocking_client(options)) is not None:
        from .blocking_client import completed

        with contextlib.closing(client):
            return completed(COMMANDS[options.action](client, options))

    import asyncio

    return asyncio.run(_call(options))


def _blocking_client(options: argparse.Namespace) -> BlockingClient | None:
    """None where `Client` has to be used, or to say why there is no bus."""
    try:
        from ..precompiled.sd_bus import CannotAsk
        from .blocking_client import BlockingClient
    except (ImportError, MemoryError):  # ctypes is an optional part of Python, and SELinux may forbid it
        return None
    try:
        return BlockingClient(session=options.session)
    except CannotAsk:
        return None


async def _call(options: argparse.Namespace) -> int | Execution:
    import logging

    # Without a D-Bus library, `main` says what lacks.
    from .client import Client
    from .commands import COMMANDS

    # A thread that still reads after an interruption is not worth a warning.
    logging.getLogger("kheadersd.system.tasks").setLevel(logging.ERROR)
    client = await Client.connect(session=options.session)
    try:
        if options.action == "cc":
            from .cc import cc  # 6 ms, which no other command needs

            return await cc(client, options)
        if options.action == "push":
            from .push import push  # 15 ms, which no other command needs

            return await push(client, options)
        if options.action in ("export", "monitor"):
            from .streams import export, monitor

            return await {"export": export, "monitor": monitor}[options.action](client, options)
        return await COMMANDS[options.action](client, options)
    finally:
        await client.close()


def _fail(message: str, hint: str = "") -> None:
    complain(f"kheadersctl: {message}")
    if hint:
        complain(hint)


def _drop_output() -> None:
    """Let the interpreter flush the rest of stdout to the null device when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
