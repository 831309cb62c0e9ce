# SPDX-License-Identifier: LGPL-2.1-or-later
"""Comes before libbcc's one entry point, and adds a precompiled header of what the program includes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.abc
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from . import DROPPED, RELEASE, SESSION
from .bus import Precompiled, Refused, get_pch
from .includes import leading_headers

_MODULE = "bcc.libbcc"
_ENTRY_POINT = "bpf_module_create_c_from_string"
_SOURCE = "BCC_KERNEL_SOURCE"
_DEFINE = re.compile(r"-D([A-Za-z_]\w*(?:=[\w.+-]*)?)", re.ASCII)
_MAX_DEFINES = 16
# -Wp, -Wa and -Wl hand options to others, -Wp also macros.
_ABOUT_WARNINGS = re.compile(rb"-w|-W(?![apl],)[a-zA-Z0-9=+-]*")
_FIRST_HIGH = 500  # most processes may have 1,024
_MAX_LINE = 1000  # characters of a reason
# A tool can have closed its descriptor, or Python's file; Python has none if it was closed at start.
_NO_STDERR = (OSError, ValueError, AttributeError)

Create = Callable[..., Any]


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for bcc's module with libbcc, and hooks it as soon as it has been executed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - of the interface
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_hook(module: ModuleType) -> None:
                execute(module)
                hook(module)

            spec.loader.exec_module = execute_and_hook  # type: ignore[method-assign]
        return spec


def hook_when_imported() -> None:
    """Hook libbcc when bcc is imported, or now if it has been."""
    if _MODULE in sys.modules:
        hook(sys.modules[_MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


def hook(module: ModuleType) -> None:
    """Let all programs of this process that libbcc compiles from now on have precompiled headers."""
    try:
        library = module.lib
        original = getattr(library, _ENTRY_POINT)
    except AttributeError:
        _say(f"{_MODULE} has no {_ENTRY_POINT} here")
        return
    if not getattr(original, "has_precompiled", False):
        setattr(library, _ENTRY_POINT, _hooked(original))


def _hooked(original: Create) -> Create:
    def create(text: bytes, debug: int, cflags: Any, count: int, *rest: Any) -> Any:
        own = [cflags[i] for i in range(count)]
        try:
            found = _precompiled(text, own)
        except Refused as refused:
            _say(str(refused))
            return original(text, debug, cflags, count, *rest)
        with _source_tree(found.source_tree), _held_stderr() as held:
            created = original(text, debug, *_array([*found.arguments, *own]), *rest)
            if created:
                held.show()
        if created:
            return created
        _say("libbcc does not compile the program with them")
        return original(text, debug, cflags, count, *rest)

    create.has_precompiled = True  # type: ignore[attr-defined]
    return create


def _precompiled(text: bytes, own: Sequence[bytes]) -> Precompiled:
    headers = leading_headers(text)
    if not headers:
        raise Refused("the program includes no kernel header before all else")
    defines: list[str] = []
    for flag in own:
        defined = _DEFINE.fullmatch(flag.decode(errors="replace"))
        if defined and len(defines) < _MAX_DEFINES:
            defines.append(defined[1])
        elif not _ABOUT_WARNINGS.fullmatch(flag):
            raise Refused(f"the program is compiled with '{flag.decode(errors='replace')[:80]}'")
    return get_pch(
        os.environ.get(RELEASE, ""),
        headers,
        defines,
        keep_headers=DROPPED not in os.environ,
        session=SESSION in os.environ,
    )


def _array(flags: list[bytes]) -> tuple[Any, int]:
    return (ctypes.c_char_p * len(flags))(*flags), len(flags)


@contextlib.contextmanager
def _source_tree(path: str) -> Iterator[None]:
    """Libbcc looks for the headers where the precompiled one was made from."""
    before = os.environ.get(_SOURCE)
    if path:
        os.environ[_SOURCE] = path
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SOURCE, None)
        else:
            os.environ[_SOURCE] = before


class _Held:
    """What was written to stderr while it was held."""

    def __init__(self, stderr: int, held: int) -> None:
        self._stderr = stderr
        self._held = held

    def show(self) -> None:
        os.lseek(self._held, 0, os.SEEK_SET)
        with contextlib.suppress(OSError):  # as libbcc, which does not notice
            while piece := os.read(self._held, 1 << 16):
                os.write(self._stderr, piece)


@contextlib.contextmanager
def _held_stderr() -> Iterator[_Held]:
    """Hold what libbcc writes: if it is asked again without, it must not have complained twice."""
    with contextlib.suppress(*_NO_STDERR):
        sys.stderr.flush()
    with _high(_stderr()) as stderr, _high(os.memfd_create("stderr")) as held:
        os.dup2(held, 2)
        try:
            yield _Held(stderr, held)
        finally:
            os.dup2(stderr, 2)


def _stderr() -> int:
    """A descriptor of stderr, or of the null device where stderr is closed."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


@contextlib.contextmanager
def _high(descriptor: int) -> Iterator[int]:
    """A descriptor out of the way: the numbers of those that libbcc opens are in the code that it makes."""
    with contextlib.suppress(OSError):  # a process that may have few has none so high
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_HIGH)
        os.close(descriptor)
        descriptor = high
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _say(reason: str) -> None:
    """One line: why a program is compiled as if kheadersd were not there."""
    tool = Path(sys.argv[0]).name if sys.argv else "the program"
    with contextlib.suppress(*_NO_STDERR):
        line = f"kheadersd: {tool} compiles without precompiled headers: {reason}"
        sys.stderr.write(ascii(line[:_MAX_LINE])[1:-1] + "\n")
