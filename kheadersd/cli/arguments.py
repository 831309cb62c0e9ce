# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of kheadersctl."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InvalidArgs
from ..names import SOURCE_NAMES
from ..release import parse_release
from ..system.printable import quoted
from .output import SHELLS

if TYPE_CHECKING:
    from collections.abc import Sequence


_LONGEST_WAIT = 86400


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The parsed command line. Ends the process after --help and --version (0) and on mistakes (2)."""
    arguments, tail = list(arguments), None
    if "--" in arguments and {"exec", "cc"} & set(arguments[: arguments.index("--")]):
        cut = arguments.index("--")
        arguments, tail = arguments[:cut], arguments[cut + 1 :]
    parser = _parser()
    options = parser.parse_args(arguments, argparse.Namespace(session=False, json=False))
    _check(parser, options)
    if options.action == "exec":
        if tail is not None:  # a "--" after the command's name belongs to the command
            options.command = [*options.command, "--", *tail] if options.command else tail
        if not options.command or not options.command[0]:
            parser.error("exec needs a command: kheadersctl exec -- COMMAND…")
    if options.action == "cc":
        options.flags = tail or []
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the process (2) on values that D-Bus cannot carry, and on impossible releases."""
    for name in ("profile", "compiler", "header"):
        given = getattr(options, name, None) or ()
        for value in (given,) if isinstance(given, str) else given:
            try:
                value.encode()
            except UnicodeEncodeError:
                parser.error(f"the {name} {quoted(value)} is not valid UTF-8")
    if options.action == "push":
        _check_push(parser, options)
    if release := getattr(options, "release", None):
        try:
            parse_release(release)
        except InvalidArgs as error:
            parser.error(error.message)


def _check_push(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not 0 <= options.within <= _LONGEST_WAIT:
        parser.error(f"--within is a number of seconds from 0 to {_LONGEST_WAIT}")
    if options.new:
        if options.release or options.replace or options.pchs or options.types:
            parser.error("push --new takes no release, no repository, and no other option than --within")
        return
    if not options.repository:
        parser.error("push needs a release and a repository: kheadersctl push RELEASE REGISTRY/REPOSITORY")
    try:
        from ..repository import parse_repository

        if parse_repository(options.repository).digest:
            parser.error("a push names no digest: it is that of what is pushed")
    except InvalidArgs as error:
        parser.error(error.message)


def _options(*flags: str, **settings: Any) -> argparse.ArgumentParser:
    """A parser of one argument, to be a parent of the commands that take it."""
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(*flags, **settings)
    return parent


def _parser() -> argparse.ArgumentParser:
    # SUPPRESS: the default of the command's parser does not replace what was given before the command.
    switch = {"action": "store_true", "default": argparse.SUPPRESS}
    bus = _options("--session", **switch, help="use the session bus, for trials")
    json = _options("--json", **switch, help="print JSON")
    release = _options("release", nargs="?", default="", metavar="RELEASE")
    used_release = _options("--release", default="", metavar="R", help="the kernel release to use")
    compiler = _options("--compiler", default="", metavar="C", help="a name such as clang-16, or a path")
    sources = _options(
        "--source",
        action="append",
        choices=SOURCE_NAMES,
        help="try only this source; repeat the option for several, in this order",
    )
    sources.add_argument("--refresh", action="store_true", help="do not use cached headers")

    parser = argparse.ArgumentParser(
        prog="kheadersctl",
        description="Get kernel headers for tracing tools, and manage their cache.",
        epilog="RELEASE is a kernel release as 'uname -r' prints it; the default is the running kernel. "
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not available, 4 not authorised, 5 no daemon.",
        parents=[bus, json],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kheadersctl {__version__}")
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")

    def command(name: str, summary: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary + ".", parents=[bus, *parents], allow_abbrev=False
        )

    command("status", "Show the state of the daemon, its cache and the leases", json)
    command("get", "Make sure that headers are there, and print their path", json, release, sources)
    command(
        "export",
        "Write headers to stdout as a tar archive, for containers without the cache",
        release,
        sources,
    )
    command("list", "List the entries of the cache", json)
    execute = command("exec", "Run a command with headers that stay until it ends", used_release, sources)
    execute.add_argument(
        "--precompiled",
        action="store_true",
        help="let unmodified bcc tools in Python compile with precompiled headers",
    )
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND…", help="after --")
    summary = "Print the variables that make bcc and bpftrace use the headers, if any"
    env = command("env", summary, json, release, sources)
    env.add_argument(
        "--shell", choices=SHELLS, default="sh", help="for this shell, or for systemd's EnvironmentFile="
    )
    env.add_argument(
        "--unless-dropped",
        action="store_true",
        help="print nothing if 'pch --drop-headers' dropped the headers, and do not extract them again",
    )

    pch = command(
        "pch", "Make sure that headers are precompiled for clang, and print the path", json, compiler
    )
    pch.add_argument("profile", metavar="PROFILE", help="a list of headers, such as bpf-tracing")
    pch.add_argument("release", nargs="?", default="", metavar="RELEASE")
    pch.add_argument(
        "--header", action="append", metavar="H", help="precompile this header, instead of the profile's"
    )
    pch.add_argument(
        "--drop-headers", action="store_true", help="drop the headers that are not needed afterwards"
    )
    pch.add_argument("--force", action="store_true", help="drop them even if no source can restore them")
    pch.add_argument("--arguments", action="store_true", help="print the compiler's arguments instead")
    command("types", "Make sure that there is a vmlinux.h, and print its path", json, release)
    cc = command("cc", "Compile a BPF program, with precompiled headers if possible", used_release, compiler)
    cc.usage = "%(prog)s [OPTION…] FILE [-- FLAG…]"
    cc.epilog = "The FLAGs after -- are further arguments of clang."
    cc.add_argument("file", metavar="FILE", help="a program in C")
    cc.add_argument("-o", dest="output", metavar="OUT", help="the default is FILE with .o, in this directory")
    cc.add_argument(
        "--profile", help="the default is bpf-tracing, or types for a program that includes vmlinux.h"
    )
    cc.add_argument("-v", "--verbose", action="store_true", help="print the compiler's command")

    verify = command("verify", "Compare cached headers with what was extracted; all without RELEASE", json)
    verify.add_argument("release", nargs="?", metavar="RELEASE")
    remove = command("remove", "Remove headers from the cache", json, release)
    remove.add_argument("--force", action="store_true", help="remove them also while a program uses them")
    command("prune", "Remove the entries that exceed the limits of the configuration", json)
    push = command("push", "Push headers to an OCI registry, for other hosts; as root", json)
    push.add_argument("release", nargs="?", default="", metavar="RELEASE")
    push.add_argument("repository", nargs="?", default="", metavar="REGISTRY/REPOSITORY")
    push.add_argument(
        "--replace", action="store_true", help="push even if the registry has these headers, or others"
    )
    push.add_argument(
        "--pchs",
        action="store_true",
        help="push also what is precompiled from them, signed by PushPchSigningKey=",
    )
    push.add_argument("--types", action="store_true", help="push also vmlinux.h, signed by the same key")
    push.add_argument(
        "--new",
        action="store_true",
        help="with PushNew=yes, push what the first Registry= lacks, and only that",
    )
    push.add_argument(
        "--within",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="with --new, wait a random time of up to so long",
    )
    command("unload", "Unload the kernel module kheaders, if no extraction needs it", json)
    command("monitor", "Print what the daemon does, until interrupted", json)
    return parser
