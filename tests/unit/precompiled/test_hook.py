"""What is put before libbcc: it is asked with a precompiled header, and without where that does not help."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kheadersd.precompiled import DROPPED, RELEASE, hook
from kheadersd.precompiled.bus import Precompiled, Refused
from tests.support.running import REPOSITORY

TEXT = b"#include <linux/sched.h>\nint f;"
PCH = b"-include-pch"
ENTRY_POINT = "bpf_module_create_c_from_string"


class Libbcc:
    """Takes programs, as libbcc's library does; says on stderr what it thinks of them.

    Attributes:
        refuses: the flag of the programs that it does not take.
        calls: the flags of each call, and where it looked for headers.
    """

    def __init__(self, refuses: bytes = b"") -> None:
        self.refuses = refuses
        self.calls: list[tuple[list[bytes], str | None]] = []

    def bpf_module_create_c_from_string(
        self, text: bytes, debug: int, cflags: Sequence[bytes], count: int, *rest: Any
    ) -> int:
        assert (type(text), debug, rest) == (bytes, 0, (True, None))
        flags = [cflags[at] for at in range(count)]
        self.calls.append((flags, os.environ.get("BCC_KERNEL_SOURCE")))
        with contextlib.suppress(OSError):
            os.write(2, b"with " + b" ".join(flags) + b"\n")
        return 0 if self.refuses in flags else 7


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the daemon is asked for; it gives a precompiled header for every list."""
    calls: list[Any] = []

    def get_pch(
        release: str, headers: tuple[str, ...], defines: list[str], *, drop_restored: bool, session: bool
    ) -> Precompiled:
        assert not drop_restored
        assert not session
        calls.append((release, headers, defines))
        return Precompiled([PCH, b"/x.pch"], "/tree")

    monkeypatch.setattr(hook, "get_pch", get_pch)
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/before")
    return calls


def compiled(library: Libbcc, *flags: bytes, text: bytes = TEXT) -> Any:
    hook.hook(SimpleNamespace(lib=library))  # type: ignore[arg-type]
    return getattr(library, ENTRY_POINT)(text, 0, list(flags), len(flags), True, None)


def test_a_program_gets_its_headers(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(RELEASE, "6.1.0")
    library = Libbcc()
    assert compiled(library, b"-DMAX_PID=4", b"-Wno-x") == 7
    assert asked == [("6.1.0", ("linux/sched.h",), ["MAX_PID=4"])]
    assert library.calls == [([PCH, b"/x.pch", b"-DMAX_PID=4", b"-Wno-x"], "/tree")]
    assert os.environ["BCC_KERNEL_SOURCE"] == "/before"
    assert capfd.readouterr().err == "with -include-pch /x.pch -DMAX_PID=4 -Wno-x\n"


def test_a_program_that_libbcc_refuses_is_compiled_as_it_is(
    asked: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    library = Libbcc(refuses=PCH)
    assert compiled(library, b"-w") == 7
    assert [flags for flags, _ in library.calls] == [[PCH, b"/x.pch", b"-w"], [b"-w"]]
    assert library.calls[1][1] == "/before"
    said = capfd.readouterr().err.splitlines()
    # What libbcc says of the first attempt stands before the line: it may be the last that the process says.
    assert [line.partition(": ")[0] for line in said] == [
        "with -include-pch /x.pch -w",
        "kheadersd",
        "with -w",
    ]
    assert said[1].endswith(": libbcc does not compile the program with them, and is asked again")


def test_what_libbcc_says_at_the_end_of_the_process_is_shown(tmp_path: Path) -> None:
    """LLVM ends it where a program takes too much of the stack, or with SIGABRT."""
    program = f"""
import os, sys, types
sys.path += [{str(REPOSITORY)!r}]
from kheadersd.precompiled import hook
from kheadersd.precompiled.bus import Precompiled
def end(*_):
    os.write(2, b"error: too large\\n")
    os.abort()
hook.get_pch = lambda *_, **__: Precompiled([b"-include-pch", b"/x.pch"], "")
library = types.SimpleNamespace({ENTRY_POINT}=end)
hook.hook(types.SimpleNamespace(lib=library))
library.{ENTRY_POINT}(b"int f;", 0, [], 0)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-6, b"error: too large\n")


def test_threads_compile_one_after_the_other(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own headers, and the environment is then what it was."""
    monkeypatch.delenv("BCC_KERNEL_SOURCE")
    both = threading.Barrier(2)
    at_once: list[str | None] = []

    class Slow(Libbcc):
        def bpf_module_create_c_from_string(self, *arguments: Any) -> int:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.2)
                at_once.append(os.environ.get("BCC_KERNEL_SOURCE"))
            return super().bpf_module_create_c_from_string(*arguments)

    library = Slow()
    hook.hook(SimpleNamespace(lib=library))  # type: ignore[arg-type]
    compiling = [threading.Thread(target=compiled, args=(library,)) for _ in range(2)]
    for thread in compiling:
        thread.start()
    for thread in compiling:
        thread.join()
    assert at_once == []
    assert [tree for _, tree in library.calls] == ["/tree", "/tree"]
    assert "BCC_KERNEL_SOURCE" not in os.environ


def test_a_child_can_compile_while_another_thread_did(asked: list[Any]) -> None:
    taken, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with hook._lock:
            taken.set()
            ended.wait()

    holding = threading.Thread(target=hold)
    holding.start()
    taken.wait()
    child = os.fork()
    if not child:
        os._exit(0 if hook._lock.acquire(blocking=False) else 1)
    ended.set()
    holding.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("x")])
def test_a_tool_runs_whatever_is_wrong_here(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    for name in ("get_pch", "get_headers"):
        monkeypatch.setattr(hook, name, fail)
    monkeypatch.setenv(DROPPED, "1")
    monkeypatch.delenv("BCC_KERNEL_SOURCE")
    library = Libbcc()
    assert compiled(library) == 7
    assert [flags for flags, _ in library.calls] == [[]]
    assert capfd.readouterr().err.count("compiles without precompiled headers: ") == 2


@pytest.mark.parametrize("text", [b"", b"BPF_HASH(x);\n"])
def test_a_program_without_headers_gets_those_of_libbcc(asked: list[Any], text: bytes) -> None:
    """Libbcc includes some before each program. Bcc's opensnoop begins with an empty one."""
    library = Libbcc()
    assert compiled(library, text=text) == 7
    assert asked == [("", ("linux/types.h",), [])]
    assert library.calls == [([PCH, b"/x.pch"], "/tree")]


@pytest.mark.parametrize(
    ("text", "flags", "reason"),
    [
        (b'#include "x.h"\nint main;', (), "the program includes no kernel header before all else"),
        (TEXT, (b"-include", b"/etc/shadow"), "the program is compiled with '-include'"),
        (TEXT, (b"-Wp,-DX=1",), "the program is compiled with '-Wp,-DX=1'"),
        (TEXT, (b"-DX=\xff",), "the program is compiled with '-DX=\\ufffd'"),
    ],
)
def test_what_has_none(
    asked: list[Any],
    capfd: pytest.CaptureFixture[str],
    text: bytes,
    flags: tuple[bytes, ...],
    reason: str,
) -> None:
    library = Libbcc()
    library.bpf_module_create_c_from_string = lambda *_: 7  # type: ignore[method-assign]
    assert compiled(library, *flags, text=text) == 7
    assert asked == []
    assert capfd.readouterr().err.endswith(f"compiles without precompiled headers: {reason}\n")


def test_a_refusal_of_the_daemon_is_one_line(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> Precompiled:
        raise Refused("not\nallowed \x1b[1m")

    monkeypatch.setattr(hook, "get_pch", refuse)
    monkeypatch.setattr(sys, "argv", ["/usr/sbin/tool"])
    assert compiled(Libbcc()) == 7
    said = "kheadersd: tool compiles without precompiled headers: not\\nallowed \\x1b[1m\nwith \n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("is_there", [True, False])
def test_headers_that_were_dropped_come_back_for_what_has_none(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, is_there: bool
) -> None:
    def get_headers(release: str, *, session: bool) -> str:
        if not is_there:
            raise Refused("they are nowhere")
        return f"/{release}" if not session else ""

    monkeypatch.setattr(hook, "get_headers", get_headers)
    monkeypatch.setenv(RELEASE, "6.1.0")
    monkeypatch.setenv(DROPPED, "1")
    monkeypatch.delenv("BCC_KERNEL_SOURCE")
    library = Libbcc()
    tree = "/6.1.0" if is_there else None
    for _ in range(2):
        assert compiled(library, b"-include", b"x.h") == 7
        assert (DROPPED in os.environ) is not is_there
    # They stay, for the next program too, and for what the tool starts.
    assert library.calls == [([b"-include", b"x.h"], tree)] * 2
    assert os.environ.get("BCC_KERNEL_SOURCE") == tree
    assert len(capfd.readouterr().err.splitlines()) == 4, "each time one of kheadersd, one of libbcc"


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_tool_can_have_closed_its_stderr(asked: list[Any], *, is_closed: bool) -> None:
    before = os.dup(2)
    read, unread = os.pipe()
    os.close(read)
    try:
        os.close(2) if is_closed else os.dup2(unread, 2)
        assert [compiled(Libbcc(refuses)) for refuses in (b"", PCH)] == [7, 7]
    finally:
        os.dup2(before, 2)
        for descriptor in (before, unread):
            os.close(descriptor)


def test_a_library_is_hooked_once(asked: list[Any]) -> None:
    library = Libbcc()
    compiled(library)
    compiled(library)
    assert len(asked) == len(library.calls) == 2


def test_a_bcc_of_another_kind_is_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    hook.hook(ModuleType("bcc.libbcc"))
    assert "has no bpf_module_create_c_from_string" in capfd.readouterr().err


def test_bcc_is_hooked_when_it_is_imported(tmp_path: Path) -> None:
    """And a tool loads nothing for it that bcc has not loaded: it would take longer than a small program."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").touch()
    (tmp_path / "bcc/libbcc.py").write_text(f"class lib:\n    {ENTRY_POINT} = print\n")
    program = f"""
import __future__, contextlib, ctypes, re, sys
class OfLibbcc(ctypes.Structure):  # bcc's have fields, for which Python 3.14 loads more of ctypes
    _fields_ = [("field", ctypes.c_int)]
sys.path += [{str(tmp_path)!r}, {str(REPOSITORY)!r}]
before = set(sys.modules)
from kheadersd.precompiled.hook import hook_when_imported
hook_when_imported()
import bcc.libbcc
assert bcc.libbcc.lib.{ENTRY_POINT}.has_precompiled
more = set(sys.modules) - before
print(sorted(name for name in more if name.partition(".")[0] not in ("bcc", "kheadersd")))
"""
    assert subprocess.check_output([sys.executable, "-I", "-S", "-c", program], text=True) == "[]\n"
