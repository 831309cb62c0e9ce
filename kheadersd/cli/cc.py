# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kheadersctl cc``: compiles a BPF program with a precompiled header, plain headers or a vmlinux.h."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KheadersError
from ..precompiled.includes import changes_before_headers
from ..sandbox.child import run
from ..sandbox.command import Command
from ..system.printable import printable
from ..system.tasks import in_thread
from .calls import MAX_SECONDS, options, request
from .failures import DONE, FAILED, NOT_AUTHORISED, NOT_AVAILABLE, USAGE, CommandError
from .output import complain, put_stderr
from .output_file import put

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from ..sandbox.command import Finished
    from .client import Client

_HEADERS_PROFILE, _TYPES_PROFILE = "bpf-tracing", "types"
_VMLINUX = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]vmlinux\.h[">]', re.MULTILINE)
# Flags that change neither how headers are read nor what they mean. Clang does not notice all others.
_HARMLESS = re.compile(r"-(?:W(?![alp],).*|g[0-9a-z.-]*|fdiagnostics-.*|fcolor-.*|ferror-limit=.*|v)")
# Otherwise a clang that crashes leaves the program's text in /tmp, and has another exit status.
_NO_REPORTS = ("-fno-crash-diagnostics",)
# The messages of clang 14 to 19: "PCH file", "precompiled file", "AST file", "module file".
_ABOUT_PCH = re.compile(r"\bPCH\b|precompiled|\bAST file\b|malformed block record|\bpch\b")
_MAX_CHANGE = 80  # characters of a line
_STDOUT = 1
_MAX_OUTPUT = 16 << 20  # bytes


@dataclasses.dataclass(frozen=True, slots=True)
class _Invocation:
    """How a compiler is called for a program.

    Attributes:
        name: what the program is compiled with, for messages.
        compiler: the compiler's name or path.
        arguments: all arguments but the caller's flags and the file.
        backend: the arguments of a second step, from IR to BPF; empty if there is none.
        headers_kept: whether the plain headers are there besides the precompiled one.
        warnings: the daemon's, in sentences.
        headers: the profile's list of headers.
    """

    name: str
    compiler: str
    arguments: tuple[str, ...]
    backend: tuple[str, ...] = ()
    headers_kept: bool = True
    warnings: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()

    def without_pch(self) -> _Invocation:
        """The same with plain headers."""
        at = self.arguments.index("-include-pch")
        arguments = self.arguments[:at] + self.arguments[at + 2 :]
        return dataclasses.replace(self, name="plain headers", arguments=arguments)


async def cc(client: Client, arguments: argparse.Namespace) -> int:
    """Compile one file for BPF; the exit code."""
    source = Path(arguments.file)
    try:
        content = await in_thread(source.read_bytes)
    except OSError as error:
        raise CommandError(FAILED, f"cannot read {printable(str(source))}: {error.strerror}") from None
    profile = arguments.profile or (_TYPES_PROFILE if _VMLINUX.search(content) else _HEADERS_PROFILE)
    with tempfile.TemporaryDirectory(prefix="kheadersctl-") as directory:
        compilation = _Compilation(client, arguments, profile, Path(directory))
        finished = await compilation.run(await in_thread(changes_before_headers, content))
    put_stderr(finished.stderr)
    return FAILED if finished.status else DONE


class _Compilation:
    """The compilation of one program, with a directory for temporary files."""

    def __init__(self, client: Client, arguments: argparse.Namespace, profile: str, directory: Path) -> None:
        self._client = client
        self._arguments = arguments
        self._profile = profile
        self._directory = directory
        self._output = Path(arguments.output or Path(arguments.file).with_suffix(".o").name)
        self._warnings: set[str] = set()

    async def run(self, change: str) -> Finished:
        """Compile with the best headers that there are.

        Args:
            change: what the program has before its headers that can change them, but not precompiled ones; ""
                if it has nothing.
        """
        try:
            invocation = await self._with_pch()
        except CommandError as error:
            if error.code in (USAGE, NOT_AUTHORISED):
                raise
            _tell(f"no precompiled header: {error.message}")
            return await self._compile_plain(await self._without_pch(error))
        if changing := [flag for flag in self._arguments.flags if not _HARMLESS.fullmatch(flag)]:
            what = shlex.join(changing)
            _tell(f"with {what} a precompiled header may not fit: compiling with plain headers")
        elif change:
            what = printable(change, _MAX_CHANGE)
            _tell(f"'{what}' comes before headers, which may change them: compiling with plain headers")
        else:
            finished = await self._compile(invocation)
            if not _is_about_pch(finished):
                return finished
            errors = (line for line in finished.stderr.splitlines() if "error" in line)
            first = next(errors, f"it gave {finished.status}").strip()
            _tell(f"the precompiled header was not accepted ({first}): compiling with plain headers")
        if invocation.headers_kept:
            return await self._compile_plain(invocation.without_pch())
        return await self._compile_plain(await self._without_pch(None))

    async def _with_pch(self) -> _Invocation:
        release, given = self._arguments.release, options(self._arguments, "compiler")
        _, flags, details = await request(self._client, "GetPch", "ssa{sv}", release, self._profile, given)
        self._check_consumer(details["consumer"])
        return _Invocation(
            "a precompiled header",
            details["compiler"],
            tuple(flags),
            tuple(details.get("backend_arguments", ())),
            bool(details["headers_kept"]),
            tuple(details.get("warnings", ())),
            tuple(details["headers"]),
        )

    def _check_consumer(self, consumer: str) -> None:
        if consumer == "bcc":
            why = f"the profile {self._profile} is for bcc, which compiles its programs itself"
            raise CommandError(USAGE, why)

    async def _without_pch(self, why_no_pch: CommandError | None) -> _Invocation:
        """Plain headers, or if there are none, types."""
        release = self._arguments.release
        if self._profile != _TYPES_PROFILE:
            try:
                _, details = await request(self._client, "GetHeaders", "sa{sv}", release, {})
            except CommandError as error:
                if error.code != NOT_AVAILABLE:
                    raise
                _tell(f"no headers: {error.message}")
            else:
                return await self._with_headers(details)
        compiler = self._find_compiler(why_no_pch)
        _, details = await request(self._client, "GetTypes", "sa{sv}", release, {})
        return _Invocation("vmlinux.h", compiler, tuple(details["arguments"]))

    async def _with_headers(self, details: Mapping[str, Any]) -> _Invocation:
        """Plain headers; the details are the daemon's."""
        # 20 ms, which a program with a precompiled header does not need.
        from .plain_headers import find_profile, plain_recipe

        profile = await in_thread(find_profile, self._profile)
        self._check_consumer(profile.consumer)
        compiler = self._find_compiler(None)
        told = await _clang(compiler, "-print-resource-dir")
        resource = Path(told.stdout.strip())
        made = await in_thread(plain_recipe, profile, Path(compiler), resource, details, self._directory)
        return _Invocation(
            "plain headers",
            compiler,
            made.text,
            made.backend,
            warnings=tuple(details.get("warnings", ())),
            headers=profile.headers,
        )

    def _find_compiler(self, why_no_pch: CommandError | None) -> str:
        wanted = self._arguments.compiler
        names = [wanted] if wanted else [*(f"clang-{major}" for major in range(40, 10, -1)), "clang"]
        if found := next(filter(None, map(shutil.which, names)), None):
            return found
        raise why_no_pch or CommandError(
            NOT_AVAILABLE,
            f"{wanted or 'clang'} is not installed",
            "Install the distribution's package clang.",
        )

    async def _compile_plain(self, invocation: _Invocation) -> Finished:
        """Compile with plain headers; if clang crashes on them, with a precompiled header of its own.

        Clang 19 crashes at the end of a program for BPF whose headers declare a function by a typedef and use
        it, as <net/inet_hashtables.h> of newer kernels does. It does not when the headers are precompiled.
        """
        finished = await self._compile(invocation)
        if not _has_crashed(finished.status) or not invocation.headers:
            return finished
        _tell("the compiler crashed on plain headers: compiling with a precompiled header of its own")
        header, pch = self._directory / "headers.h", self._directory / "headers.pch"
        header.write_text("".join(f"#include <{name}>\n" for name in invocation.headers))
        finished = await self._step(invocation, "-c", "-x", "c-header", str(header), "-o", str(pch))
        if finished.status:
            return finished
        arguments = ("-include-pch", str(pch), *invocation.arguments)
        name = "a precompiled header of its own"
        return await self._compile(dataclasses.replace(invocation, name=name, arguments=arguments))

    async def _compile(self, invocation: _Invocation) -> Finished:
        """Compile the program; if that succeeds, write the output."""
        for warning in invocation.warnings:
            if warning not in self._warnings:
                self._warnings.add(warning)
                _tell(f"warning: {warning}")
        new = self._directory / "new.o"
        first = self._directory / "first.bc" if invocation.backend else new
        source = self._arguments.file
        source = f"./{source}" if source.startswith("-") else source  # not an option of clang
        finished = await self._step(invocation, "-c", source, "-o", str(first))
        if invocation.backend and not finished.status:
            second = await self._run(invocation.compiler, *invocation.backend, str(first), "-o", str(new))
            finished = dataclasses.replace(second, stderr=finished.stderr + second.stderr)
        if finished.status:
            return finished
        try:
            await in_thread(put, new, self._output)
        except OSError as error:
            where = printable(str(self._output))
            raise CommandError(FAILED, f"cannot write {where}: {error.strerror}") from None
        if self._arguments.verbose:
            complain(f"compiled with {invocation.name}")
        return finished

    async def _step(self, invocation: _Invocation, *words: str) -> Finished:
        flags = (*_NO_REPORTS, *invocation.arguments, *self._arguments.flags)
        return await self._run(invocation.compiler, *flags, *words)

    async def _run(self, *words: str) -> Finished:
        if self._arguments.verbose:
            put_stderr(shlex.join(words) + "\n")
        return await _clang(*words, stdout=_STDOUT)


async def _clang(*words: str, stdout: int | None = None) -> Finished:
    """Run a compiler in this directory and environment."""
    directory = Path.cwd()
    command = Command(words, os.environ, MAX_SECONDS, directory, max_output=_MAX_OUTPUT, stdout=stdout)
    try:
        return await run(command)
    except KheadersError as error:
        raise CommandError(FAILED, error.message) from None
    except OSError as error:
        raise CommandError(FAILED, f"cannot run {printable(words[0])}: {error.strerror}") from None


def _is_about_pch(finished: Finished) -> bool:
    """Whether clang complains about the precompiled header, or crashed on it."""
    errors = [line for line in finished.stderr.splitlines() if "error:" in line]
    return _has_crashed(finished.status) or (
        finished.status != 0 and any(_ABOUT_PCH.search(line) for line in errors)
    )


def _has_crashed(code: int) -> bool:
    return code < 0 or code in (128 + signal.SIGSEGV, 128 + signal.SIGABRT, 254)


def _tell(message: str) -> None:
    complain(f"kheadersctl: {message}")
