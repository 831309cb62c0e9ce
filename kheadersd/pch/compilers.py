# SPDX-License-Identifier: LGPL-2.1-or-later
"""The compilers of this machine: only those that root installed, identified by all of their files.

A precompiled header is good for one compiler only, and clang does not reject those of every other compiler:
it accepts those of another patch release of the same major version. So the digest of a compiler covers all of
its files: its programs, the libraries that the loader finds for them, its configuration files and its own
headers. Of a script or another program that runs a compiler it covers the program, its interpreter and the
compiler that is run in the end, and nothing else that the program reads or runs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs, NotAvailable
from ..sandbox.command import Command
from ..sandbox.limits import why_failed
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.file_digests import FileDigests
from ..system.file_identity import Identities, are_unchanged, identities_at
from ..system.tasks import SharedWork, in_thread
from .compiler_files import checked, programs_of
from .compiler_paths import CompilerPaths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sandbox.command import Finished, Run

_VERSION = re.compile(r"^.*\bclang version (([0-9]+)\.[0-9]+(?:\.[0-9]+)?).*$", re.MULTILINE)
_FIRST_STEP = re.compile(r'^ "([^"\n]+)" "-cc1" .*"-resource-dir" "([^"\n]+)"', re.MULTILINE)
_CONFIGURATION = re.compile(r"^Configuration file: (/.*)$", re.MULTILINE)
_LIBRARY = re.compile(r"^\s(?:\S+ => )?(/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)

# The loader reads them before it finds a library: after a change it may find another one.
_LOADER_FILES = (Path("/etc/ld.so.cache"), Path("/etc/ld.so.preload"))

# Where a script finds the compiler that it runs by its name; with the links that alternatives are.
_SEARCHED = (*map(Path, COMPILE_ENVIRONMENT["PATH"].split(":")), Path("/etc/alternatives"))


@dataclasses.dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler, as it was found.

    Attributes:
        name: clang and its major version, as in "clang-16".
        path: of the program or script: absolute, without links.
        version: as in "16.0.6".
        major: as in 16.
        digest: sha256, in hex, of its path, and the names and contents of all of its files.
        resource: the directory with its own headers in "include".
        identities: those of its programs, libraries, configuration, links, and directories with headers.
        header_identities: those of its own headers, some hundred.
    """

    name: str
    path: Path
    version: str
    major: int
    digest: str
    resource: Path
    identities: Identities = dataclasses.field(compare=False, repr=False)
    header_identities: Identities = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Invocation:
    """What a compiler prints of itself and of what it would run."""

    version: str
    major: int
    program: Path
    resource: Path
    configuration: tuple[Path, ...]


class Compilers:
    """The compilers of this machine.

    Args:
        directories: in which they are, absolute; they may be patterns, as /usr/lib/llvm-*/bin.
        run: runs them outside the daemon.
        default: the name or path of the compiler for "", which is the newest if this is "". May be changed.
        thorough_seconds: the time between two looks of `is_current` at each header of a compiler.
        ask_seconds: the time that a compiler has to print its version.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        run: Run,
        *,
        default: str = "",
        thorough_seconds: float = 5.0,
        ask_seconds: float = 30.0,
    ) -> None:
        self.default = default
        self._paths = CompilerPaths(directories)
        self._run = run
        self._thorough_seconds = thorough_seconds
        self._ask_seconds = ask_seconds
        self._found: dict[Path, Compiler] = {}
        self._looked: dict[str, float] = {}  # when all headers were looked at, by the compiler's digest
        self._contents = FileDigests()
        self._finding = SharedWork()

    async def find(self, wanted: str) -> Compiler:
        """The compiler of that name, or at that path; for "" the default.

        Takes 0.1 or 0.2 ms, without a thread, if it is known and has not changed.

        Raises:
            InvalidArgs: it is neither a name of clang nor an absolute path, it is in none of the directories,
                other users than root can change it, or it is no clang.
            NotAvailable: it is not installed, or does not run.
            Timeout: it does not print its version.
        """
        path = self.leads_to(wanted)
        if path is None:
            path = await in_thread(self._paths.locate, wanted or self.default)
        known = self._found.get(path)
        if known is not None and self.is_current(known):
            return known
        return await self._finding.share(path, functools.partial(self._examine, path))

    def leads_to(self, wanted: str) -> Path | None:
        """The path, without links, that a name or path leads to now, or for "" the default; below 0.1 ms.

        Returns:
            None if only `find` can tell: it was never found, or a link or directory on the way has changed,
            or a directory that compilers are in.
        """
        return self._paths.known(wanted or self.default)

    def is_current(self, compiler: Compiler) -> bool:
        """Whether no file of a compiler has changed since it was found, and no directory of them; 0.1 ms.

        If one has, `find` tells by the digest whether it is another compiler. Package managers replace
        headers; one that was written to in place is noticed after ``thorough_seconds``.
        """
        if not are_unchanged(compiler.identities):
            return False
        now = time.monotonic()
        if now - self._looked.get(compiler.digest, -math.inf) < self._thorough_seconds:
            return True
        if not are_unchanged(compiler.header_identities):
            return False
        self._looked[compiler.digest] = now
        return True

    def watched_directories(self) -> set[Path]:
        """The directories in which something changes when a compiler is installed, replaced or removed."""
        files = [Path(path) for known in self._found.values() for path in known.identities]
        return {*self._paths.watched_directories(), *(path.parent for path in (*files, *_LOADER_FILES))}

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up."""
        await self._finding.close()

    async def _examine(self, path: Path) -> Compiler:
        # Also of the directories in which a configuration file or a library may appear.
        before = identities_at((path, path.parent, *_LOADER_FILES))
        searched = identities_at(_SEARCHED)
        invocation = await self._ask(path)
        if (program := checked(invocation.program)) != path:
            before |= searched
        prefix = program.parent.parent
        before |= identities_at((prefix / "bin", prefix / "lib"))
        programs = await in_thread(programs_of, path, invocation.program)
        files = {*programs, *map(checked, invocation.configuration)}
        for program, loader in programs.items():
            if loader is not None:
                files |= await self._libraries(program, loader)
        cancelled = threading.Event()
        compiler = await in_thread(
            self._read, path, invocation, files, before, cancelled, cancelled=cancelled
        )
        self._found[path] = compiler
        self._looked[compiler.digest] = time.monotonic()
        return compiler

    def _read(
        self,
        path: Path,
        invocation: _Invocation,
        files: set[Path],
        before: Identities,
        cancelled: threading.Event,
    ) -> Compiler:
        resource = checked(invocation.resource)
        try:
            directories, _ = _headers(resource / "include")
            before |= identities_at(directories)
            _, headers = _headers(resource / "include")  # a header that is added from now on is noticed
            read = identities_at(files)
            header_identities = identities_at(headers)
            digest = self._contents.digest({**read, **header_identities}, cancelled)
        except OSError as error:
            raise NotAvailable(f"the compiler {path} cannot be read: {error}") from error
        if not are_unchanged({**read, **header_identities, **before}):
            raise NotAvailable(f"the compiler {path} was replaced while it was read; try again")
        return Compiler(
            name=f"clang-{invocation.major}",
            path=path,
            version=invocation.version,
            major=invocation.major,
            digest=digest,
            resource=resource,
            identities={**read, **before},
            header_identities=header_identities,
        )

    async def _ask(self, path: Path) -> _Invocation:
        """What a compiler would run for a file on its standard input, which it does not read for that."""
        finished = await self._query([str(path), "-###", "-c", "-x", "c", "-"])
        version = _VERSION.search(finished.stderr)
        if version is None:
            raise InvalidArgs(f"{path} is not used: it does not print the version of a clang")
        step = _FIRST_STEP.search(finished.stderr)
        if step is None:
            raise NotAvailable(f"the compiler {path} does not print what it runs, and where its headers are")
        return _Invocation(
            version=version[1],
            major=int(version[2]),
            program=Path(step[1]),
            resource=Path(step[2]),
            configuration=tuple(Path(file) for file in _CONFIGURATION.findall(finished.stderr)),
        )

    async def _libraries(self, program: Path, loader: Path) -> set[Path]:
        """The libraries that a loader would load for a program, which it does not run, and the loader."""
        finished = await self._query([str(loader), "--list", str(program)])
        return {loader, *(checked(Path(file)) for file in _LIBRARY.findall(finished.stdout))}

    async def _query(self, words: Sequence[str]) -> Finished:
        """Run a compiler or its loader.

        Raises:
            NotAvailable: it cannot be run, or fails.
            Timeout: it takes too long.
        """
        try:
            finished = await self._run(Command(words, COMPILE_ENVIRONMENT, self._ask_seconds))
        except OSError as error:
            raise NotAvailable(f"cannot run {words[0]}: {error.strerror}") from error
        if finished.status:
            last = finished.stderr.strip().rpartition("\n")[2][:200]
            why = why_failed(finished, last)
            raise NotAvailable(f"the compiler does not work: {' '.join(words)}: {why}")
        return finished


def _headers(top: Path) -> tuple[list[Path], set[Path]]:
    """The directories below a compiler's "include", and the files, with links and the files behind them."""
    directories: list[Path] = []
    files: set[Path] = set()
    for directory, _, names in os.walk(top, followlinks=True):
        directories.append(Path(directory))
        for path in (Path(directory, name) for name in names):
            files |= {path, checked(path)}
    if not files:
        raise NotAvailable(f"the compiler's own headers are not installed in {top}")
    return directories, files
