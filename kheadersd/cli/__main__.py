"""kheadersctl: kernel headers from the command line, through the service on the bus.

Exit codes: 0 done, 1 failed, 2 usage, 3 not available, 4 not authorised, 5 no daemon; 130 interrupted, 141
nobody reads the output any more; `exec` ends as its command does, with 126 or 127 where that cannot be run.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InvalidArgs
from ..release import parse_release
from ..system.printable import quoted
from ..system.tasks import hanging
from .output import SHELLS, by_source, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .commands import Prepared

_INTERRUPTED = 130
_PIPE_CLOSED = 141
_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run kheadersctl with ``arguments``, by default those of the process; the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know every character
    # That an interrupted read goes on is no news.
    logging.getLogger("kheadersd.system.tasks").setLevel(logging.ERROR)
    try:
        code = _run(_parse(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        if hanging():  # in a read or a write, of which the interpreter would wait for the end
            os._exit(_INTERRUPTED)
        return _INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except ImportError as error:  # of a library, by a Python that does not have it
        _complain(f"{sys.executable} cannot run kheadersctl: {error}")
        return _FAILED
    except OSError as error:
        _drop_output()
        _complain(f"cannot write the output: {error.strerror}")
        return _FAILED
    return code


def _run(options: argparse.Namespace) -> int:
    import asyncio

    from .client import NOT_AVAILABLE, CommandError, password_prompter

    try:
        with password_prompter(options.session):
            outcome = asyncio.run(_converse(options))
        if isinstance(outcome, int):
            return outcome
        sys.stdout.flush()
        outcome.run()
    except CommandError as error:
        for_person = error.code == NOT_AVAILABLE and sys.stderr is not None and sys.stderr.isatty()
        _complain(by_source(error.message) if for_person else error.message, error.hint)
        return error.code
    except (LookupError, TypeError, ValueError) as error:
        _complain(
            f"the service gave an answer that was not understood: {error!r}",
            "Are kheadersd and kheadersctl of one version?",
        )
        return _FAILED


async def _converse(options: argparse.Namespace) -> int | Prepared:
    from .client import Client
    from .commands import COMMANDS, prepare_exec

    client = await Client.connect(options.session)
    try:
        if options.action == "exec":
            return await prepare_exec(client, options)
        if options.action == "cc":
            from .cc import cc

            return await cc(client, options)
        return await COMMANDS[options.action](client, options)
    finally:
        await client.close()


def _complain(message: str, hint: str = "") -> None:
    try:
        for line in filter(None, (message, hint)):
            print(lines(f"kheadersctl: {line}" if line is message else line), file=sys.stderr)
    except (OSError, AttributeError):  # stderr is closed: the exit code is all that is left
        pass


def _drop_output() -> None:
    """Let the interpreter flush what is left of stdout to nowhere when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Ends the process after --help and --version (0) and on mistakes (2)."""
    arguments, tail = list(arguments), None
    if "--" in arguments and {"exec", "cc"} & set(arguments[: arguments.index("--")]):
        cut = arguments.index("--")
        arguments, tail = arguments[:cut], arguments[cut + 1 :]
    parser = _parser()
    options = parser.parse_args(arguments, argparse.Namespace(session=False, json=False))
    _check(parser, options)
    if options.action == "exec":
        if tail is not None:  # a "--" after the command's name is the command's own
            options.command = [*options.command, "--", *tail] if options.command else tail
        if not options.command or not options.command[0]:
            parser.error("exec needs a command: kheadersctl exec -- COMMAND…")
    if options.action == "cc":
        options.flags = tail or []
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the process (2) on what cannot be asked for; names of files and a command's words may be any."""
    for name in ("profile", "compiler", "header"):
        given = getattr(options, name, None) or ()
        for value in (given,) if isinstance(given, str) else given:
            try:
                value.encode()
            except UnicodeEncodeError:
                parser.error(f"the {name} {quoted(value)} is not valid UTF-8")
    if release := getattr(options, "release", None):
        try:
            parse_release(release)
        except InvalidArgs as error:
            parser.error(error.message)


def _parser() -> argparse.ArgumentParser:
    # SUPPRESS: an option that is given before the command is not forgotten when it is not repeated after it.
    bus = argparse.ArgumentParser(add_help=False)
    bus.add_argument(
        "--session", action="store_true", default=argparse.SUPPRESS, help="use the session bus, for trials"
    )
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")

    parser = argparse.ArgumentParser(
        prog="kheadersctl",
        description="Get kernel headers for tracing tools, and look after their cache.",
        epilog="RELEASE is as 'uname -r' prints it; without it, the running kernel is meant. "
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not available, 4 not authorised, 5 no daemon.",
        parents=[bus, output],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kheadersctl {__version__}")
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")

    def command(name: str, summary: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary + ".", parents=[bus, *parents], allow_abbrev=False
        )

    command("status", "Show the daemon's state, its cache and who uses it", output)
    get = command("get", "Make sure that headers are there, and print their path", output)
    _add_release(get)
    _add_sources(get)
    export = command("export", "Write the headers to stdout as a tar archive, where no path can be shared")
    _add_release(export)
    _add_sources(export)
    command("list", "List what is in the cache", output)
    execute = command("exec", "Run a command with headers that stay while it runs")
    execute.add_argument("--release", default="", metavar="R", help="the kernel release to use")
    _add_sources(execute)
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND…", help="after --")
    env = command("env", "Print what makes bcc and bpftrace use the headers, if anything", output)
    _add_release(env)
    _add_sources(env)
    env.add_argument("--shell", choices=SHELLS, default="sh", help="whose syntax (systemd: EnvironmentFile=)")
    env.add_argument(
        "--unless-dropped",
        action="store_true",
        help="nothing where the headers were dropped, by 'pch --drop-headers', instead of making them again",
    )
    _add_compiling(command, output)
    verify = command("verify", "Compare cached headers, all without RELEASE, with what was extracted", output)
    verify.add_argument("release", nargs="?", metavar="RELEASE")
    remove = command("remove", "Remove headers from the cache", output)
    _add_release(remove)
    remove.add_argument("--force", action="store_true", help="also when a program uses them")
    command("prune", "Remove what the limits of the configuration do not let stay", output)
    command("unload", "Unload the kernel module kheaders, if nothing needs it", output)
    command("monitor", "Show what happens, until interrupted", output)
    return parser


def _add_compiling(command: Callable[..., argparse.ArgumentParser], output: argparse.ArgumentParser) -> None:
    pch = command("pch", "Make sure that headers are precompiled for clang, and print the path", output)
    pch.add_argument("profile", metavar="PROFILE", help="which headers, such as bpf-tracing")
    _add_release(pch)
    _add_compiler(pch)
    pch.add_argument(
        "--header", action="append", metavar="H", help="exactly these headers instead of the profile's"
    )
    pch.add_argument("--drop-headers", action="store_true", help="drop the headers, where the caller may")
    pch.add_argument("--force", action="store_true", help="drop them even if no source can give them again")
    pch.add_argument("--arguments", action="store_true", help="print the compiler's arguments instead")
    types = command("types", "Make sure that there is a vmlinux.h, and print its path", output)
    _add_release(types)
    compile_ = command("cc", "Compile a program for BPF with the best that is there")
    compile_.usage = "%(prog)s [OPTION…] FILE [-- FLAG…]"
    compile_.epilog = "What comes after -- are further arguments of clang."
    compile_.add_argument("file", metavar="FILE", help="a program in C")
    compile_.add_argument(
        "-o", dest="output", metavar="OUT", help="by default FILE with .o, in this directory"
    )
    compile_.add_argument("--release", default="", metavar="R", help="the kernel release to compile for")
    compile_.add_argument(
        "--profile", help="by default bpf-tracing, or types for a program that includes vmlinux.h"
    )
    _add_compiler(compile_)
    compile_.add_argument("-v", "--verbose", action="store_true", help="print the command")


def _add_compiler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compiler", default="", metavar="C", help="a name such as clang-16, or a path")


def _add_release(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release", nargs="?", default="", metavar="RELEASE")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    from ..names import SOURCE_NAMES

    parser.add_argument(
        "--source",
        action="append",
        choices=SOURCE_NAMES,
        help="try only this source; several are tried in the order given",
    )
    parser.add_argument("--refresh", action="store_true", help="do not use what is cached")


if __name__ == "__main__":
    sys.exit(main())
