"""Which headers of a program are precompiled for it."""

from __future__ import annotations

import pytest

from kheadersd.pch.profiles import MAX_HEADERS as MOST_THAT_ARE_TAKEN
from kheadersd.precompiled.includes import MAX_HEADERS, MAX_TEXT, leading_headers

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
        # What a macro, a condition or a pragma could change is not taken.
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
        ("", ()),
    ],
)
def test_the_list(text: str, headers: tuple[str, ...]) -> None:
    assert leading_headers(text.encode()) == headers


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
