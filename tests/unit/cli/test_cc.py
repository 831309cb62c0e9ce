"""When kheadersctl cc does without a precompiled header."""

from __future__ import annotations

import pytest

from kheadersd.cli.cc import _HARMLESS, _VMLINUX, _has_crashed, _Invocation, _is_about_pch
from kheadersd.sandbox.command import Finished


@pytest.mark.parametrize("flag", ["-Wall", "-Wno-unused", "-g", "-g0", "-fdiagnostics-color", "-v"])
def test_flags_that_fit_any_precompiled_header(flag: str) -> None:
    assert _HARMLESS.fullmatch(flag)


@pytest.mark.parametrize(
    "flag", ["-O1", "-DA", "-Wl,x", "-Wp,-DA", "-Wa,x", "-include", "-std=gnu99", "-fwrapv"]
)
def test_flags_that_may_not_fit(flag: str) -> None:
    assert not _HARMLESS.fullmatch(flag)


@pytest.mark.parametrize(
    "line", [b'#include "vmlinux.h"', b"  #  include <vmlinux.h>", b"int a;\n#include <vmlinux.h>"]
)
def test_programs_for_types(line: bytes) -> None:
    assert _VMLINUX.search(line)


@pytest.mark.parametrize("line", [b'// #include "vmlinux.h"', b'#include "my_vmlinux.h"'])
def test_other_programs(line: bytes) -> None:
    assert not _VMLINUX.search(line)


@pytest.mark.parametrize(
    ("status", "stderr", "is_about"),
    [
        (1, "error: PCH file was compiled for the target 'x'", True),
        (1, "fatal error: malformed block record in AST file", True),
        (1, "a.c:1: error: unknown type name 'x'", False),
        (1, "warning: PCH file is old\na.c:1: error: expected ';'", False),
        (0, "error: PCH", False),
        (-11, "", True),
        (254, "", True),
    ],
)
def test_complaints(status: int, stderr: str, is_about: bool) -> None:
    assert _is_about_pch(Finished(status, "", stderr)) is is_about


def test_crashes() -> None:
    assert [status for status in (0, 1, 2, 70, 134, 139, -6) if _has_crashed(status)] == [134, 139, -6]


def test_the_same_without_a_precompiled_header() -> None:
    invocation = _Invocation("x", "clang", ("-O2", "-include-pch", "/a.pch", "-g"), headers=("a.h",))
    plain = invocation.without_pch()
    assert (plain.arguments, plain.headers) == (("-O2", "-g"), ("a.h",))
