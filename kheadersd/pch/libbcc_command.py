# SPDX-License-Identifier: LGPL-2.1-or-later
"""How libbcc compiles: the command line of the compiler in it, as the library itself prints it.

The options depend on the version of libbcc and of its LLVM. The library prints them before it compiles, by
its DEBUG_PREPROCESSOR, in the sandbox of compilers, without any privilege. A line with a word that is not
known here is refused: clang does not notice a macro that was missing when a precompiled header was made.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NotAvailable
from ..host.architecture import of_machine
from ..sandbox.command import Command
from ..sandbox.limits import exceeded_limit
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.printable import quoted
from ..system.tasks import SharedWork, in_thread
from .libbcc import LIBBCC, InstalledLibbcc, Libbcc
from .recipe import host_triple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..sandbox.command import Finished, Run

VIRTUAL = "/virtual/include/"
"""Where libbcc pretends that its own headers are."""

KCONFIG = "include/linux/kconfig.h"
"""A tree without it is none for libbcc, which would then look for headers by itself."""

EXTENSIONS = "-fms-extensions"
"""Tagged anonymous members, in the kernel's headers since 6.19. Libbcc gives it by itself since 0.36."""

_PROGRAM = Path(__file__).with_name("ask_libbcc.py")
_PYTHON = os.path.realpath(sys.executable)  # a virtual environment may be where the sandbox has no access
_DIRECTORY = "/"  # in which the library is asked, and which it names by -I
_SECONDS = 30.0  # it takes 0.4
_MOST_KNOWN = 64
_START = "clang -cc1 "
_MACRO = re.compile(r"-[DU]")

# The options of clang's front end (-cc1), clang/include/clang/Driver/Options.td. Those with a word behind:
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.+=-]+", re.ASCII)
_VALUES = {
    "-triple": _PLAIN_VALUE,
    "-mrelocation-model": _PLAIN_VALUE,
    "-pic-level": _PLAIN_VALUE,
    "-mthread-model": _PLAIN_VALUE,
    "-target-cpu": _PLAIN_VALUE,
    "-tune-cpu": _PLAIN_VALUE,
    "-target-feature": _PLAIN_VALUE,
    "-target-abi": _PLAIN_VALUE,
    "-stack-protector": _PLAIN_VALUE,
    "-fvisibility": _PLAIN_VALUE,
    "-ferror-limit": _PLAIN_VALUE,
    # None of those that load something.
    "-mllvm": re.compile(r"-[a-z0-9-]+", re.ASCII),
    **dict.fromkeys(("-D", "-U"), re.compile(r"[A-Za-z_]\w*(?:\([\w,.]*\))?(?:=[!-~]*)?", re.ASCII)),
}
# Those that stand for themselves, of which none can name a file:
_FLAG = re.compile(
    r"-disable-free|-clear-ast-before-backend|-disable-llvm-verifier|-discard-value-names|-pic-is-pie"
    r"|-nostdsysteminc|-nobuiltininc|-vectorize-loops|-vectorize-slp|-relaxed-aliasing|-w|-O[0-3sz]"
    r"|-D[A-Za-z_]\w*(?:=[\w\"'.]*)?|-std=[a-z0-9:]+"
    r"|-debug-info-kind=[a-z-]+|-dwarf-version=[0-9]|-debugger-tuning=[a-z]+"
    r"|-W(?![alp],)[a-z0-9=+-]+|-m(?!llvm)[a-z][a-z0-9-]*(?:=[a-z0-9.,+-]+)?"
    r"|-f(?!plugin|pass-plugin|module|profile|syntax-only)[a-z0-9-]+(?:=[a-z0-9.,+-]+)?",
    re.ASCII,
)
# What is made and what for is another thing here.
_LEFT_OUT = frozenset(("-emit-llvm", "-emit-llvm-bc", "-emit-llvm-uselists"))
_LEFT_OUT_WITH_VALUE = {
    "-main-file-name": "main.c",
    "-o": "main.bc",
    "-x": "c",
    "-dumpdir": "main-",
}
_COMPILATION_DIRECTORY = re.compile(r"(-f(?:debug|coverage)-compilation-dir)=/.*")
_MAIN = "/virtual/main.c"
_CLANG_HEADERS = "/virtual/lib/clang/include"
_RESOURCE = re.compile(r"[A-Za-z0-9_./+-]*\bclang/([0-9]{1,3}(?:\.[0-9]{1,3}){0,2})", re.ASCII)
_IN_TREE = re.compile(r"(?:\./)?((?:[A-Za-z0-9_+-][A-Za-z0-9_.+-]*/?)+)", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class LibbccCommand:
    """What libbcc tells its compiler, in this order.

    Attributes:
        library: that said so.
        llvm: the version of its LLVM as far as it says it: "14.0.6", "19".
        options: of clang's front end: all that name neither a file nor a directory.
        directories: where headers are looked for, as names in the tree.
        first: what is included before everything, as names in the tree.
        own: the headers of its own that come next, as /virtual/include/bcc/helpers.h.
    """

    library: Libbcc
    llvm: str
    options: tuple[str, ...]
    directories: tuple[str, ...]
    first: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def major(self) -> int:
        """The major version of its LLVM."""
        return int(self.llvm.partition(".")[0])

    @property
    def compiler(self) -> str:
        """The name of the only clang that makes what it takes."""
        return f"clang-{self.major}"


def is_macro(flag: str) -> bool:
    """Whether a flag of a profile's defines a macro, or undefines one: those can have spaces in them."""
    return _MACRO.match(flag) is not None


class LibbccCommands:
    """Asks the installed libbcc how it compiles, and asks again only when it or its libraries have changed.

    Belongs to the event loop.

    Args:
        run: what runs a command in the sandbox of a compiler.
        seconds: how long the library may take to answer.
    """

    def __init__(self, run: Run, libraries: InstalledLibbcc = LIBBCC, *, seconds: float = _SECONDS) -> None:
        self._run = run
        self._libraries = libraries
        self._seconds = seconds
        self._work = SharedWork()
        self._library: Libbcc | None = None
        self._known: dict[tuple[str, tuple[str, ...]], LibbccCommand] = {}

    async def close(self) -> None:
        """End what is under way."""
        await self._work.close()

    async def library(self) -> Libbcc:
        """The one that is installed.

        Raises:
            NotAvailable: there is none, or it cannot be used.
        """
        known = self._libraries.known()
        return await in_thread(self._libraries.installed) if known is None else known

    async def ask(self, flags: Sequence[str], tree: Path, arch: str) -> LibbccCommand:
        """How it compiles; half a second the first time, then some microseconds.

        Args:
            flags: what the caller gives besides, by cflags. Macros make no difference, and are left out.
            tree: any tree of the architecture; libbcc does not begin without one.
            arch: as the kernel calls it.

        Raises:
            NotAvailable: libbcc is not installed, or cannot be used, or does not answer what is understood.
            Timeout: it does not answer.
        """
        library = await self.library()
        if library is not self._library:
            self._library = library
            self._known.clear()
        asked = (EXTENSIONS, *(flag for flag in flags if not is_macro(flag)))
        if (known := self._known.get((arch, asked))) is not None:
            return known
        key = library, arch, asked
        command = await self._work.share(key, functools.partial(self._ask, library, asked, tree, arch))
        if library is self._library:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[arch, asked] = command
        return command

    async def _ask(self, library: Libbcc, flags: tuple[str, ...], tree: Path, arch: str) -> LibbccCommand:
        finished = await self._print(library, flags, await in_thread(_usable, tree), arch)
        if await self.library() is not library:
            raise NotAvailable(f"{library.path} was replaced while it was asked how it compiles; try again")
        return parse(finished.stderr, library, arch)

    async def _print(self, library: Libbcc, flags: tuple[str, ...], tree: str, arch: str) -> Finished:
        program = await in_thread(_PROGRAM.read_text)
        words = (_PYTHON, "-I", "-S", "-c", program, str(library.path), *flags)
        environment = {**COMPILE_ENVIRONMENT, "BCC_KERNEL_SOURCE": tree}
        if arch != of_machine(os.uname().machine):
            environment["ARCH"] = arch
        try:
            finished = await self._run(Command(words, environment, self._seconds, Path(_DIRECTORY)))
        except OSError as error:
            raise NotAvailable(f"cannot run {_PYTHON} to ask {library.path}: {error.strerror}") from error
        if finished.status:
            last = finished.stderr.strip().rpartition("\n")[2]
            why = exceeded_limit(finished) or quoted(last)
            raise NotAvailable(f"{library.path} does not say how it compiles: {why}")
        return finished


def _usable(tree: Path) -> str:
    """The path of the tree, if libbcc takes it for one, and its path for one word. Blocking, briefly."""
    if not (tree / KCONFIG).is_file():
        raise NotAvailable(f"{tree} has no {KCONFIG}, without which libbcc takes it for no tree of headers")
    for path in (str(tree), os.path.realpath(tree)):
        if not path.isprintable() or " " in path:
            raise NotAvailable(
                f"libbcc cannot be asked how it compiles with {quoted(path)}: it prints that path as it is, "
                "and the space in it, or what cannot be printed, could be taken for options"
            )
    return str(tree)


def parse(said: str, library: Libbcc, arch: str) -> LibbccCommand:
    """What libbcc printed.

    Args:
        said: its standard error. What comes behind its line can be anything: it is of the headers.

    Raises:
        NotAvailable: a word of it is not understood, or it is for another architecture.
    """
    line = next((line for line in said.splitlines() if line.startswith(_START)), None)
    if line is None:
        raise NotAvailable(f"{library.path} does not print how it compiles: {quoted(said[:500])}")
    read = _Reader(library)
    read.all(line.removeprefix(_START).split(" "))
    return read.result(arch)


class _Reader:
    """The words of a line, one after the other."""

    def __init__(self, library: Libbcc) -> None:
        self._library = library
        self._options: list[str] = []
        self._directories: list[str] = []
        self._first: list[str] = []
        self._own: list[str] = []
        self._llvm = self._triple = ""
        self._main = False
        self._named: dict[str, Callable[[str], bool]] = {
            "-triple": self._is_triple,
            "-resource-dir": self._is_resource,
            "-I": self._is_directory,
            "-include": self._is_header,
            "-isystem": {f"{VIRTUAL[:-1]}", _CLANG_HEADERS}.__contains__,
        }

    def all(self, words: Sequence[str]) -> None:
        numbered = enumerate(words)
        pending = (word for _, word in numbered)
        for at, word in numbered:
            if not self._take(word, pending):
                near = quoted(" ".join(words[at : at + 3]))
                raise self._unfit(f"with {quoted(word)} ({near}), which is not known here")

    def result(self, arch: str) -> LibbccCommand:
        wanted = host_triple(arch).partition("-")[0]
        if self._triple.partition("-")[0] != wanted or "linux" not in self._triple:
            raise self._unfit(f"for {quoted(self._triple)}, and the headers are for {wanted}")
        if not self._llvm or not self._main or KCONFIG not in self._first:
            raise self._unfit(f"without a resource directory, {KCONFIG} or {_MAIN}")
        return LibbccCommand(
            self._library,
            self._llvm,
            tuple(self._options),
            tuple(self._directories),
            tuple(self._first),
            tuple(self._own),
        )

    def _take(self, word: str, pending: Iterator[str]) -> bool:
        """Whether the word is understood, with the next if it has one."""
        if word in self._named:
            return self._named[word](next(pending, ""))
        if word in _LEFT_OUT_WITH_VALUE:
            return next(pending, "") == _LEFT_OUT_WITH_VALUE[word]
        if word in _VALUES:
            value = next(pending, "")
            self._options += [word, value]
            return _VALUES[word].fullmatch(value) is not None
        if match := _COMPILATION_DIRECTORY.fullmatch(word):
            self._options.append(f"{match[1]}=/")  # the same bytes, whatever tree was asked with
            return True
        if word == _MAIN and not self._main:
            self._main = True
            return True
        if word not in _LEFT_OUT:
            self._options.append(word)
        return word in _LEFT_OUT or _FLAG.fullmatch(word) is not None

    def _is_triple(self, value: str) -> bool:
        self._triple = value
        self._options += ["-triple", value]
        return _PLAIN_VALUE.fullmatch(value) is not None

    def _is_resource(self, value: str) -> bool:
        match = _RESOURCE.fullmatch(value)
        self._llvm = match[1] if match else ""
        return match is not None

    def _is_directory(self, value: str) -> bool:
        if value == _DIRECTORY:  # where the caller is, which a precompiled header does not depend on
            return True
        match = _IN_TREE.fullmatch(value)
        self._directories.append(match[1].rstrip("/") if match else "")
        return match is not None

    def _is_header(self, value: str) -> bool:
        if value.startswith(VIRTUAL):
            self._own.append(value)
            return value in dict(self._library.headers)
        match = _IN_TREE.fullmatch(value)
        self._first.append(match[1] if match else "")
        return match is not None and not self._own  # what comes later is not in the same order as here

    def _unfit(self, how: str) -> NotAvailable:
        return NotAvailable(f"{self._library} compiles {how}, so nothing can be precompiled for it")
