# SPDX-License-Identifier: LGPL-2.1-or-later
"""Comes before libbcc's one entry point, and adds a precompiled header of what the program includes."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import os
import re
import sys

from . import DROPPED, RELEASE, SESSION
from .bus import Precompiled, Refused, get_headers, get_pch
from .includes import MAX_TEXT, OF_LIBBCC, includes_any, leading_headers
from .library import check

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Create = Callable[..., Any]

_MODULE = "bcc.libbcc"
_ENTRY_POINT = "bpf_module_create_c_from_string"
_SOURCE = "BCC_KERNEL_SOURCE"
_DEFINE = re.compile(r"-D([A-Za-z_]\w*(?:=[\w.+-]*)?)", re.ASCII)
_MAX_DEFINES = 16
# -Wp, -Wa and -Wl hand options to others, -Wp also macros.
_ABOUT_WARNINGS = re.compile(rb"-w|-W(?![apl],)[a-zA-Z0-9=+-]*")
_MAX_LINE = 1000  # characters of a reason
# A tool can have closed its descriptor, or Python's file; Python has none if it was closed at start.
_NO_STDERR = (OSError, ValueError, AttributeError)
# Held while libbcc compiles: the environment that it looks into is the whole process's. By a thread twice
# where a handler of a signal compiles. Threading, which a tool may not have loaded, has no other.
_lock = _thread.RLock()


class _Finder:
    """Waits for bcc's module with libbcc, and hooks it as soon as it has been executed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path)
        spec = next(filter(None, found), None)
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


def _after_fork() -> None:
    """The thread that holds the lock is not in the child."""
    global _lock  # noqa: PLW0603
    _lock = _thread.RLock()


os.register_at_fork(after_in_child=_after_fork)


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
        """As the original. Its messages are not held back: it can end the process with the last of them."""
        try:
            own = [cflags[i] for i in range(count)]
            found = _precompiled(text, own)
            if found.library:
                check(original, found.library, found.library_file)
            flags = _array([*found.arguments, *own])
        except Refused as refused:
            _say(str(refused))
        except Exception as error:  # noqa: BLE001 - a tool runs whatever is wrong here
            _say(repr(error))
        else:
            with _lock, _source_tree(found.source_tree):
                created = original(text, debug, *flags, *rest)
            if created:
                return created
            _say("libbcc does not compile the program with them, and is asked again")
        with _lock:
            _restore()
            return original(text, debug, cflags, count, *rest)

    create.has_precompiled = True  # type: ignore[attr-defined]
    return create


def _restore() -> None:
    """Have headers that were dropped made again, for all that this process compiles from now on."""
    if DROPPED not in os.environ or _SOURCE in os.environ:
        return
    try:
        tree = get_headers(os.environ.get(RELEASE, ""), session=SESSION in os.environ)
    except Exception as error:  # noqa: BLE001 - as above
        if not isinstance(error, Refused):  # libbcc says what it lacks
            _say(repr(error))
        return
    del os.environ[DROPPED]
    if tree:
        os.environ[_SOURCE] = tree  # as 'kheadersctl exec' sets it, where they were not dropped


def _precompiled(text: bytes, own: Sequence[bytes]) -> Precompiled:
    if len(text) > MAX_TEXT:
        raise Refused(f"the program is longer than {MAX_TEXT >> 20} MiB")
    headers = leading_headers(text)
    if not headers:
        if includes_any(text):
            raise Refused("the program includes no kernel header before all else")
        headers = OF_LIBBCC
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
        drop_restored=DROPPED in os.environ,
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


def _say(reason: str) -> None:
    """One line: why a program is compiled as if kheadersd were not there."""
    tool = sys.argv[0].rpartition("/")[2] if sys.argv else "the program"
    with contextlib.suppress(*_NO_STDERR):
        line = f"kheadersd: {tool} compiles without precompiled headers: {reason}"
        sys.stderr.write(ascii(line[:_MAX_LINE])[1:-1] + "\n")
