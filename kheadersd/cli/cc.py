"""``kheadersctl cc``: compiles a program for BPF with the best that there is for a kernel."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sandbox.child import end, start
from ..system.printable import printable
from ..system.tasks import in_thread
from . import output as text
from .client import DONE, FAILED, NOT_AUTHORISED, NOT_AVAILABLE, USAGE, Client, CommandError, plain
from .commands import following_progress, get_pch

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

_HEADERS_PROFILE, _TYPES_PROFILE = "bpf-tracing", "types"
_VMLINUX = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*["<]vmlinux\.h[">]', re.MULTILINE)
# What changes neither how headers are read nor what they mean; all else, clang need not notice.
_HARMLESS = re.compile(r"-(?:W(?![alp],).*|g[0-9a-z.-]*|fdiagnostics-.*|fcolor-.*|ferror-limit=.*|v)")
# Or a clang that crashes leaves the program's text in /tmp, and says another exit status.
_NO_REPORTS = ("-fno-crash-diagnostics",)
# In the words of clang 14 to 19: "PCH file", "precompiled file", "AST file", "module file".
_ABOUT_PCH = re.compile(r"\bPCH\b|precompiled|\bAST file\b|malformed block record|\bpch\b")


@dataclasses.dataclass(frozen=True, slots=True)
class _Way:
    """One way to compile a program.

    Attributes:
        name: for messages.
        compiler: what is run.
        arguments: complete, but for the file.
        backend: of a second step, from IR to BPF; empty if there is none.
        headers_kept: whether the headers are there besides what is precompiled.
        warnings: what the daemon says of the headers, in sentences.
        headers: those of the profile.
    """

    name: str
    compiler: str
    arguments: tuple[str, ...]
    backend: tuple[str, ...] = ()
    headers_kept: bool = True
    warnings: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


async def cc(client: Client, arguments: argparse.Namespace) -> int:
    """Compile one file for BPF with the best that is there: precompiled, else headers, else types."""
    source = Path(arguments.file)
    content = await in_thread(_read, source)
    output = Path(arguments.output or source.with_suffix(".o").name)
    profile = arguments.profile or (_TYPES_PROFILE if _VMLINUX.search(content) else _HEADERS_PROFILE)
    with tempfile.TemporaryDirectory(prefix="kheadersctl-") as directory:
        job = _Job(client, arguments, profile, source, output, Path(directory))
        return await job.run()


class _Job:
    """One program to be compiled, and a directory for what that takes."""

    def __init__(
        self,
        client: Client,
        arguments: argparse.Namespace,
        profile: str,
        source: Path,
        output: Path,
        directory: Path,
    ) -> None:
        self._client = client
        self._arguments = arguments
        self._profile = profile
        self._source = source
        self._output = output
        self._directory = directory
        self._warned: set[str] = set()

    async def run(self) -> int:
        try:
            way = await _precompiled(self._client, self._arguments, self._profile)
        except CommandError as error:
            if error.code in (USAGE, NOT_AUTHORISED):
                raise
            _tell(f"no precompiled header: {error.message}")
            return await self._without_pch(None, error)
        if changing := [flag for flag in self._arguments.flags if not _HARMLESS.fullmatch(flag)]:
            what = shlex.join(changing)
            _tell(f"with {what} a precompiled header need not fit: compiling with plain headers")
            return await self._without_pch(way, None)
        complaints, code = await self._try(way)
        if code and _is_about_pch(complaints, code):
            first = next((line for line in complaints.splitlines() if "error" in line), f"it gave {code}")
            _tell(f"the precompiled header was not accepted ({first.strip()}): compiling with plain headers")
            return await self._without_pch(way, None)
        sys.stderr.write(complaints)
        return FAILED if code else DONE

    async def _without_pch(self, way: _Way | None, why: CommandError | None) -> int:
        """Compile with the headers that a way has besides, or such as can be had."""
        if way is not None and way.headers_kept:
            plain_way = _plain_of(way)
        else:
            plain_way = await _plain(self._client, self._arguments, self._profile, why, self._directory)
        complaints, code = await self._try(plain_way)
        if _has_crashed(code) and plain_way.headers:
            _tell("the compiler crashed on plain headers: compiling with a precompiled header of its own")
            complaints, code = await self._with_own_pch(plain_way)
        sys.stderr.write(complaints)
        return FAILED if code else DONE

    async def _with_own_pch(self, way: _Way) -> tuple[str, int]:
        """Compile with a precompiled header that has the same flags as the program.

        Clang 19 crashes at the end of a program for BPF whose headers declare a function by a typedef and use
        it, as <net/inet_hashtables.h> of newer kernels does. It does not when the headers are precompiled.
        """
        header, pch = self._directory / "headers.h", self._directory / "headers.pch"
        header.write_text("".join(f"#include <{name}>\n" for name in way.headers))
        command = [way.compiler, *_NO_REPORTS, *way.arguments, *self._arguments.flags, "-c", "-x", "c-header"]
        complaints, code = await _run([*command, str(header), "-o", str(pch)])
        if code:
            return complaints, code
        arguments = ("-include-pch", str(pch), *way.arguments)
        return await self._try(
            dataclasses.replace(way, name="a precompiled header of its own", arguments=arguments)
        )

    async def _try(self, way: _Way) -> tuple[str, int]:
        """Compile; the output appears whole or not at all."""
        for warning in way.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                _tell(f"warning: {warning}")
        new = self._directory / "new.o"
        first = self._directory / "first.bc" if way.backend else new
        # Not what clang could take for an option.
        source = os.path.join(".", self._source) if str(self._source).startswith("-") else str(self._source)
        steps = [
            [
                way.compiler,
                *_NO_REPORTS,
                *way.arguments,
                *self._arguments.flags,
                "-c",
                source,
                "-o",
                str(first),
            ]
        ]
        if way.backend:
            steps.append([way.compiler, *way.backend, str(first), "-o", str(new)])
        complaints = ""
        for step in steps:
            if self._arguments.verbose:
                sys.stderr.write(shlex.join(step) + "\n")
            said, code = await _run(step)
            complaints += said
            if code:
                return complaints, code
        try:
            await in_thread(_put, new, self._output)
        except OSError as error:
            where = printable(str(self._output))
            raise CommandError(FAILED, f"cannot write {where}: {error.strerror}") from None
        if self._arguments.verbose:
            sys.stderr.write(f"compiled with {way.name}\n")
        return complaints, 0


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise CommandError(FAILED, f"cannot read {printable(str(source))}: {error.strerror}") from None


async def _precompiled(client: Client, arguments: argparse.Namespace, profile: str) -> _Way:
    _, flags, details = await get_pch(client, arguments, profile)
    _check_consumer(profile, details["consumer"])
    backend = tuple(details.get("backend_arguments", ()))
    kept = bool(details["headers_kept"])
    warnings = tuple(details.get("warnings", ()))
    compiler, headers = details["compiler"], tuple(details["headers"])
    return _Way("a precompiled header", compiler, tuple(flags), backend, kept, warnings, headers)


def _check_consumer(profile: str, consumer: str) -> None:
    if consumer == "bcc":
        raise CommandError(USAGE, f"the profile {profile} is for bcc, which compiles its programs itself")


def _plain_of(way: _Way) -> _Way:
    at = way.arguments.index("-include-pch")
    return dataclasses.replace(
        way, name="plain headers", arguments=way.arguments[:at] + way.arguments[at + 2 :]
    )


async def _plain(
    client: Client, arguments: argparse.Namespace, profile: str, why: CommandError | None, directory: Path
) -> _Way:
    """Headers as they are, or where there are none, types."""
    if profile != _TYPES_PROFILE:
        work = client.call("GetHeaders", "sa{sv}", [arguments.release, {}])
        try:
            path, details = plain((await following_progress(client, work)).values)
        except CommandError as error:
            if error.code != NOT_AVAILABLE:
                raise
            _tell(f"no headers: {error.message}")
        else:
            return await _with_headers(arguments, profile, directory, Path(path), details)
    compiler = _local_compiler(arguments.compiler, why)
    work = client.call("GetTypes", "sa{sv}", [arguments.release, {}])
    _, details = plain((await following_progress(client, work)).values)
    return _Way("vmlinux.h", compiler, tuple(details["arguments"]))


async def _with_headers(
    arguments: argparse.Namespace, profile: str, directory: Path, tree: Path, details: Mapping[str, Any]
) -> _Way:
    """Headers as they are, in a tree.

    Raises:
        CommandError: no program can be compiled with them; NOT_AVAILABLE where no other way would do.
    """
    from ..cache.pch_files import PREFIX
    from ..errors import KheadersError
    from ..pch import profiles
    from ..pch.compile import precompilable
    from ..pch.compilers import Compiler
    from ..pch.recipe import LIBBPF, clang_recipe
    from ..sources.build_tree import Unusable

    try:
        arch = await in_thread(precompilable, Path(details["build_tree"]), details["release"])
    except (KheadersError, Unusable) as error:
        raise CommandError(NOT_AVAILABLE, error.message) from None
    if details["source_tree"] != details["build_tree"]:
        raise CommandError(
            FAILED,
            f"the headers in {details['source_tree']} and {details['build_tree']} are in two trees, and "
            "nothing could be precompiled from them",
        )
    known, _ = profiles.load(profiles.DIRECTORIES)
    if profile not in known:
        raise CommandError(USAGE, f"there is no profile {printable(profile)}")
    _check_consumer(profile, known[profile].consumer)
    compiler = _local_compiler(arguments.compiler, None)
    resource = Path((await _output(compiler, "-print-resource-dir")).strip())
    itself = Compiler("clang", Path(compiler), "", 0, "", "", resource, {}, {})
    (directory / "include").mkdir()
    (directory / "include/bpf").symlink_to(LIBBPF)
    try:
        made = clang_recipe(known[profile], itself, tree, "", arch, beside=directory)
    except KheadersError as error:
        raise CommandError(NOT_AVAILABLE, error.message) from None
    (directory / PREFIX).write_bytes(made.prefix)
    warnings = tuple(details.get("warnings", ()))
    headers = known[profile].headers
    return _Way("plain headers", compiler, made.text, made.backend, warnings=warnings, headers=headers)


def _local_compiler(wanted: str, why: CommandError | None) -> str:
    names = [wanted] if wanted else [*(f"clang-{major}" for major in range(40, 10, -1)), "clang"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise why or CommandError(
        NOT_AVAILABLE, f"there is no {wanted or 'clang'} here", "Install the distribution's package clang."
    )


async def _output(*command: str) -> str:
    child = await start(*command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
    output, _ = await _communicate(child)
    return output.decode(errors="replace")


async def _communicate(child: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    try:
        return await child.communicate()
    except BaseException:
        await end(child)
        raise


def _put(new: Path, output: Path) -> None:
    """Have the new file at its place, which may be on another file system, or a device.

    Others may have prepared links in a directory that they can write to. One at the place is replaced, but
    for those in /dev, such as /dev/stdout; and the new file's name there is not known beforehand.
    """
    if _is_device(output):
        with new.open("rb") as content, output.open("wb") as out:
            shutil.copyfileobj(content, out)
        return
    descriptor, beside = tempfile.mkstemp(prefix=".", dir=output.parent)
    try:
        with new.open("rb") as content, open(descriptor, "wb") as out:
            shutil.copyfileobj(content, out)
            os.fchmod(descriptor, 0o666 & ~_umask())
        os.replace(beside, output)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _is_device(output: Path) -> bool:
    """Whether there is something that is written to, instead of being replaced."""
    try:
        status = output.stat() if output.parent == Path("/dev") else output.lstat()
    except OSError:
        return False
    return not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


async def _run(command: Sequence[str]) -> tuple[str, int]:
    try:
        child = await start(*command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    except OSError as error:
        raise CommandError(FAILED, f"cannot run {printable(command[0])}: {error.strerror}") from None
    _, complaints = await _communicate(child)
    assert child.returncode is not None
    return complaints.decode(errors="replace"), child.returncode


def _is_about_pch(complaints: str, code: int) -> bool:
    """Whether it is the precompiled header that clang complains about, or crashed on."""
    errors = [line for line in complaints.splitlines() if "error:" in line]
    return _has_crashed(code) or any(_ABOUT_PCH.search(line) for line in errors)


def _has_crashed(code: int) -> bool:
    return code < 0 or code in (128 + signal.SIGSEGV, 128 + signal.SIGABRT, 254)


def _tell(message: str) -> None:
    print(text.lines(f"kheadersctl: {message}"), file=sys.stderr)
