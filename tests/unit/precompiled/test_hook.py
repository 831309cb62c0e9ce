"""What is put before libbcc: it is asked with a precompiled header, and without where that does not help."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kheadersd.precompiled import RELEASE, hook
from kheadersd.precompiled.bus import Precompiled, Refused

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
        assert (text[:8], debug, rest) == (TEXT[:8], 0, (True, None))
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
        release: str, headers: tuple[str, ...], defines: list[str], *, keep_headers: bool, session: bool
    ) -> Precompiled:
        assert keep_headers
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
    # What libbcc says of the first attempt is not shown.
    assert [line.partition(": ")[0] for line in said] == ["kheadersd", "with -w"]
    assert said[0].endswith(": libbcc does not compile the program with them")


@pytest.mark.parametrize(
    ("text", "flags", "reason"),
    [
        (b"int main;", (), "the program includes no kernel header before all else"),
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
