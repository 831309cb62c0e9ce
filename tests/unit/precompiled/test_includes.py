"""Which headers of a program are precompiled for it."""

from __future__ import annotations

import pytest

from kheadersd.pch.profiles import MAX_HEADERS as MOST_THAT_ARE_TAKEN
from kheadersd.precompiled.includes import (
    MAX_HEADERS,
    MAX_TEXT,
    changes_before_headers,
    includes_any,
    leading_headers,
)

PTRACE, SCHED, FS = "uapi/linux/ptrace.h", "linux/sched.h", "linux/fs.h"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("#include <linux/sched.h>\nint f;", (SCHED,)),
        ("\n  #  include\t<linux/sched.h>  // for TASK_COMM_LEN\n", (SCHED,)),
        ("/* bcc */ #include <linux/sched.h> /* here\n and there */\n#include <linux/fs.h>", (SCHED, FS)),
        ("#include <linux/fs.h>\n#include <uapi/linux/ptrace.h>\n#include <linux/fs.h>\n", (FS, PTRACE)),
        ("#inc\\\nlude <linux/\\\nsched.h>\n", (SCHED,)),
        # Code before, as bcc's container filters; what looks like a comment in it is none.
        ('char *s = "/*";\n#include <linux/sched.h>\nchar *t = "*/";\n#include <linux/fs.h>\n', (SCHED, FS)),
        ("char c = '\"';\n#include <linux/sched.h>\n", (SCHED,)),
        # Libbcc's own stay in the program.
        ("#include <linux/fs.h>\n#include <bcc/proto.h>\n#include <linux/sched.h>\n", (FS, SCHED)),
        ("#pragma clang diagnostic push\n#include <linux/fs.h>\n#pragma clang diagnostic pop\n", (FS,)),
        ('#ifndef KBUILD_MODNAME\n#define KBUILD_MODNAME "x"\n#endif\n#include <linux/fs.h>\n', (FS,)),
        (
            "#ifndef KBUILD_MODNAME\n#if 1\n#endif\n#include <linux/x.h>\n#endif\n#include <linux/fs.h>\n",
            (FS,),
        ),
        ("static int f(void) { return (1); }\n#include <linux/fs.h>\n", (FS,)),
        # It ends where it ends for libbcc, and its lines as they do for clang.
        ("#include <linux/fs.h>\n\0\n#include <linux/sched.h>\n", (FS,)),
        ("#include <linux/fs.h>\r\n#include <linux/sched.h>\r", (FS, SCHED)),
        ("int f;\r#define X 1\n#include <linux/fs.h>\n", ()),
        ("// \\ \t\n#include <linux/fs.h>\n#include <linux/sched.h>\n", (SCHED,)),
        # What a macro, a condition or a pragma could change is not taken.
        ("%:define X 1\n#include <linux/fs.h>\n", ()),
        (" %: include <linux/fs.h>\n", (FS,)),
        ('_Pragma("pack(1)")\n#include <linux/fs.h>\n', ()),
        ("struct x {\n#include <linux/fs.h>\n};\n", ()),
        ("int x =\n#include <linux/fs.h>\n", ()),
        ('char *s = "};"\n#include <linux/fs.h>\n', ()),
        ("#ifndef KBUILD_MODNAME\n#else\n#define X 1\n#endif\n#include <linux/fs.h>\n", ()),
        ("#define X 1\n#include <linux/fs.h>\n", ()),
        ("#include <linux/sched.h>\n#undef X\n#include <linux/fs.h>\n", (SCHED,)),
        ("#include <linux/sched.h>\n#ifdef CONFIG_SLUB\n#include <linux/fs.h>\n#endif\n", (SCHED,)),
        ("#ifndef OTHER\n#endif\n#include <linux/fs.h>\n", ()),
        ("#pragma pack(1)\n#include <linux/fs.h>\n", ()),
        # What is no kernel header's name is left to the compiler, and all that comes after it.
        ('#include "linux/fs.h"\n#include <linux/sched.h>\n', ()),
        ("#include </etc/shadow>\n#include <linux/sched.h>\n", ()),
        ("#include <linux/sched.h>\n#include <" + "a" * 200 + ".h>\n#include <linux/fs.h>\n", (SCHED,)),
        ("#include MACRO\n#include <linux/sched.h>\n", ()),
        ("/* #include <linux/sched.h>\n", ()),
        # The daemon refuses such names.
        ("#include <linux/../../../etc/passwd.h>\n", ("linux/../../../etc/passwd.h",)),
        ("", ()),
    ],
)
def test_the_list(text: str, headers: tuple[str, ...]) -> None:
    assert leading_headers(text.encode()) == headers


@pytest.mark.parametrize(
    ("text", "includes"),
    [
        (b"", False),
        (b"BPF_HASH(x);\n", False),
        (b"#define X 1\n#include <linux/fs.h>\n", True),
        (b"int f;\0#include <linux/fs.h>\n", False),
    ],
)
def test_a_program_that_includes_nothing(text: bytes, includes: bool) -> None:
    assert includes_any(text) is includes


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("", ""),
        ("#include <linux/fs.h>\n#define X 1\n", ""),
        ("#define X 1 // one\n#include <linux/fs.h>\n", "#define X 1"),
        ("#include <linux/fs.h>\n#undef X\n#include <linux/sched.h>\n", "#undef X"),
        ("# define X \\\n 1\n#define Y\n#include HEADER\n", "# define X  1"),
        ("%:define X 1\n#include <linux/fs.h>\n", "#define X 1"),
        ("#pragma pack(1)\n#include <linux/fs.h>\n", "#pragma pack(1)"),
        ('_Pragma("pack(1)")\n#include <linux/fs.h>\n', '_Pragma("")'),
        ('#define X\n#include "vmlinux.h"\n', "#define X"),
        # What changes no header of the kernel.
        ("#pragma once\n#pragma clang diagnostic push\n#include <linux/fs.h>\n", ""),
        ("#ifdef X\n#endif\nstruct x;\n#include <linux/fs.h>\n", ""),
        ('#include "vmlinux.h"\n#define X\n#include <bpf/bpf_tracing.h>\n#include "own.h"\n', ""),
        ("/*\n#define X 1\n*/\n#include <linux/fs.h>\n", ""),
    ],
)
def test_what_comes_before_the_headers(text: str, change: str) -> None:
    assert changes_before_headers(text.encode()) == change


def test_no_more_than_the_daemon_takes() -> None:
    assert MAX_HEADERS == MOST_THAT_ARE_TAKEN
    text = "".join(f"#include <linux/h{number}.h>\n" for number in range(MAX_HEADERS + 5))
    assert len(leading_headers(text.encode())) == MAX_HEADERS


def test_a_text_that_is_too_long_has_none() -> None:
    text = b"#include <linux/fs.h>\n"
    assert leading_headers(text.ljust(MAX_TEXT)) == (FS,)
    assert leading_headers(text.ljust(MAX_TEXT + 1)) == ()


@pytest.mark.parametrize(
    "piece",
    [
        b"/*",
        b'"',
        b"'",
        b"/",
        b"\\\n",
        b"\\ ",
        b"\r",
        b"%:",
        b"{",
        b"#",
        b"# ",
        b"#include <",
        b"\\",
        b"'\\",
        b"#pragma clang diagnostic ",
    ],
)
@pytest.mark.timeout(60)
def test_hostile_texts_take_linear_time(piece: bytes) -> None:
    """One that took quadratic time would take hours."""
    assert leading_headers(piece * (MAX_TEXT // len(piece))) == ()
    changes_before_headers(piece * (MAX_TEXT // len(piece)))
