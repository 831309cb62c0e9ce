"""The compilers that PCHs are made by: only what root has installed, and exactly known.

A PCH is good for one compiler only, and clang does not notice every other one: another patch release of the
same major is taken for the same. So a compiler is known by the digest of all its files: those that run it,
the libraries that the loader finds for it, its configuration files and its own headers. Of a script that
runs a compiler, these are the script, its interpreter and the compiler that is run in the end; what else the
script reads or runs is not known, and not covered.
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
from ..sandbox.limits import exceeded_limit
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.file_digests import FileDigests
from ..system.file_identity import Identities, are_unchanged, identities_at
from ..system.tasks import SharedWork, in_thread
from .compiler_files import checked, programs_of
from .compiler_paths import Places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sandbox.command import Finished, Run

_VERSION = re.compile(r"^.*\bclang version (([0-9]+)\.[0-9]+(?:\.[0-9]+)?).*$", re.MULTILINE)
_FIRST_STEP = re.compile(r'^ "([^"\n]+)" "-cc1" .*"-resource-dir" "([^"\n]+)"', re.MULTILINE)
_CONFIGURATION = re.compile(r"^Configuration file: (/.*)$", re.MULTILINE)
_LIBRARY = re.compile(r"^\s(?:\S+ => )?(/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)

# What the loader looks at before it finds a library: a change there may lead to another one.
_LOADER_FILES = (Path("/etc/ld.so.cache"), Path("/etc/ld.so.preload"))


@dataclasses.dataclass(frozen=True, slots=True)
class Compiler:
    """One compiler, as it was found.

    Attributes:
        name: clang and its major version, as in "clang-16".
        path: what is run: absolute, without links.
        version: as in "16.0.6".
        major: as in 16.
        details: the whole line in which it says its version.
        digest: sha256, in hex, of its path, and the names and contents of all of its files.
        resource: the directory with its own headers in "include".
        stamps: of its programs, libraries, configuration, links, and directories with headers.
        header_stamps: of its own headers, some hundred.
    """

    name: str
    path: Path
    version: str
    major: int
    details: str
    digest: str
    resource: Path
    stamps: Identities = dataclasses.field(compare=False, repr=False)
    header_stamps: Identities = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Said:
    """What a compiler says of itself."""

    details: str
    version: str
    major: int
    program: Path
    resource: Path
    configuration: tuple[Path, ...]


class Compilers:
    """The compilers of this machine.

    Args:
        directories: in which they are, absolute; they may be patterns, as /usr/lib/llvm-*/bin.
        run: what runs them, apart from the daemon.
        default: the name or path of the compiler for "", which is the newest if this is "". May be changed.
        thorough_seconds: how often `current` looks at every single header of a compiler.
        ask_seconds: how long a compiler may take to say what it is.
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
        self._places = Places(directories)
        self._run = run
        self._thorough_seconds = thorough_seconds
        self._ask_seconds = ask_seconds
        self._found: dict[Path, Compiler] = {}
        self._looked: dict[str, float] = {}  # at all headers, by the compiler's digest
        self._contents = FileDigests()
        self._finding = SharedWork()

    async def find(self, wanted: str) -> Compiler:
        """The compiler of that name, or at that path; for "" the default.

        Without waiting for anything, in a tenth of a millisecond or two, if it is known and has not changed.

        Raises:
            InvalidArgs: it is neither a plain name of clang's nor an absolute path; or not in one of the
                directories; or not root's alone; or no clang.
            NotAvailable: it is not installed, or does not run.
            Timeout: it does not say what it is.
        """
        path = self.leads_to(wanted)
        if path is None:
            path = await in_thread(self._places.locate, wanted or self.default)
        known = self._found.get(path)
        if known is not None and self.current(known):
            return known
        return await self._finding.share(path, functools.partial(self._examine, path))

    def leads_to(self, wanted: str) -> Path | None:
        """Where that name or path leads now, or for "" the default; without links, as `Compiler.path`.

        Returns:
            None if that is not known without looking again: it was never found, or something was changed on
            the way, such as a link, or the directories that compilers are in. Then `find` looks.

        This takes less than a tenth of a millisecond.
        """
        return self._places.known(wanted or self.default)

    def current(self, compiler: Compiler) -> bool:
        """Whether none of its files has changed since it was found, nor a directory that some of them are in.

        If one has, `find` says whether it is another one: by its digest. This takes a tenth of a millisecond.
        A header that was written to in place, instead of being replaced as package managers do it, is noticed
        within some seconds.
        """
        if not are_unchanged(compiler.stamps):
            return False
        now = time.monotonic()
        if now - self._looked.get(compiler.digest, -math.inf) < self._thorough_seconds:
            return True
        if not are_unchanged(compiler.header_stamps):
            return False
        self._looked[compiler.digest] = now
        return True

    async def close(self) -> None:
        """End what is under way."""
        await self._finding.close()

    async def _examine(self, path: Path) -> Compiler:
        # Of what it is made of, and of where a configuration file or a library may appear.
        before = identities_at((path, path.parent, *_LOADER_FILES))
        said = await self._ask(path)
        prefix = checked(said.program).parent.parent
        before |= identities_at((prefix / "bin", prefix / "lib"))
        programs = await in_thread(programs_of, path, said.program)
        files = {*programs, *map(checked, said.configuration)}
        for program, loader in programs.items():
            if loader is not None:
                files |= await self._libraries(program, loader)
        cancelled = threading.Event()
        compiler = await in_thread(self._read, path, said, files, before, cancelled, cancelled=cancelled)
        self._found[path] = compiler
        self._looked[compiler.digest] = time.monotonic()
        return compiler

    def _read(
        self,
        path: Path,
        said: _Said,
        files: set[Path],
        before: Identities,
        cancelled: threading.Event,
    ) -> Compiler:
        resource = checked(said.resource)
        try:
            directories, _ = _headers(resource / "include")
            before |= identities_at(directories)
            _, headers = _headers(resource / "include")  # what comes from now on is noticed
            read = identities_at(files)
            header_stamps = identities_at(headers)
            digest = self._contents.digest({**read, **header_stamps}, cancelled)
        except OSError as error:
            raise NotAvailable(f"the compiler {path} cannot be read: {error}") from error
        if not are_unchanged({**read, **header_stamps, **before}):
            raise NotAvailable(f"the compiler {path} was replaced while it was read; try again")
        return Compiler(
            name=f"clang-{said.major}",
            path=path,
            version=said.version,
            major=said.major,
            details=said.details,
            digest=digest,
            resource=resource,
            stamps={**read, **before},
            header_stamps=header_stamps,
        )

    async def _ask(self, path: Path) -> _Said:
        """What it would run for a file from its standard input, which it does not read for that."""
        finished = await self._query([str(path), "-###", "-c", "-x", "c", "-"])
        version = _VERSION.search(finished.stderr)
        if version is None:
            raise InvalidArgs(f"{path} is not used: it does not say that it is clang")
        step = _FIRST_STEP.search(finished.stderr)
        if step is None:
            raise NotAvailable(f"the compiler {path} does not say what it runs, and where its headers are")
        return _Said(
            details=version[0].strip(),
            version=version[1],
            major=int(version[2]),
            program=Path(step[1]),
            resource=Path(step[2]),
            configuration=tuple(Path(file) for file in _CONFIGURATION.findall(finished.stderr)),
        )

    async def _libraries(self, program: Path, loader: Path) -> set[Path]:
        """What the loader itself says that it would load, and itself; nothing of the program is run."""
        finished = await self._query([str(loader), "--list", str(program)])
        return {loader, *(checked(Path(file)) for file in _LIBRARY.findall(finished.stdout))}

    async def _query(self, words: Sequence[str]) -> Finished:
        """Raises: NotAvailable, Timeout."""
        try:
            finished = await self._run(Command(words, COMPILE_ENVIRONMENT, self._ask_seconds))
        except OSError as error:
            raise NotAvailable(f"cannot run {words[0]}: {error.strerror}") from error
        if finished.status:
            last = finished.stderr.strip().rpartition("\n")[2][:200]
            why = exceeded_limit(finished) or last or f"it ended with status {finished.status}"
            raise NotAvailable(f"the compiler does not work: {' '.join(words)}: {why}")
        return finished


def _headers(top: Path) -> tuple[list[Path], set[Path]]:
    """The directories and the files below the resource directory's "include"; links and where they lead."""
    directories: list[Path] = []
    files: set[Path] = set()
    for directory, _, names in os.walk(top, followlinks=True):
        directories.append(Path(directory))
        for path in (Path(directory, name) for name in names):
            files |= {path, checked(path)}
    if not files:
        raise NotAvailable(f"the compiler's own headers are not installed in {top}")
    return directories, files
