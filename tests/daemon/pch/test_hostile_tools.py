"""Programs that are made to mislead the search for their headers: they compile, or do not, as without."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.precompiled.includes import MAX_TEXT
from tests.support.bcc import PYTHON, by_exec, is_installed
from tests.support.callers import client, error
from tests.support.running import Bus, Daemon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM"),
]

SCHED = b"#include <linux/sched.h>\n"
PROGRAM = b"int f(void *c) { return sizeof(struct task_struct); }\n"
COMPILING: dict[str, bytes] = {
    "a NUL": SCHED + PROGRAM + b"\0\n#include <linux/no-such.h>\n",
    "no UTF-8": b"// \xff\xfe\n" + SCHED + PROGRAM,
    "a thousand times": SCHED * 1000 + PROGRAM,
    "megabytes": SCHED + PROGRAM + b"// x\n" * (MAX_TEXT // 2),
    "a macro": b'#define HEADER "linux/sched.h"\n#include HEADER\n' + PROGRAM,
    "a macro before": b"#define CONFIG_SECURITY 1\n" + SCHED + PROGRAM,
    "another spelling": b"%:undef CONFIG_SECURITY\n" + SCHED + PROGRAM,
    "another end of line": b"int x;\r#undef CONFIG_SECURITY\n" + SCHED + PROGRAM,
    "up and down": b"#include <linux/../linux/sched.h>\n" + PROGRAM,
    "packed": b'_Pragma("pack(1)")\n#include <linux/sched.h>\n' + PROGRAM,
    "the other branch": b"#ifndef KBUILD_MODNAME\n#else\n#undef CONFIG_SECURITY\n#endif\n" + SCHED + PROGRAM,
}
FAILING: dict[str, bytes] = {
    "a file of root's": SCHED + b'#include "/etc/shadow"\n' + PROGRAM,
    "a path": b"#include </etc/shadow>\n" + SCHED + PROGRAM,
    "far above": b"#include <linux/../../../../../../../../etc/shadow.h>\n" + SCHED + PROGRAM,
    "no header": b"#include <linux/no-such.h>\n" + PROGRAM,
    "thousands": b"".join(b"#include <linux/no-%d.h>\n" % number for number in range(5000)) + PROGRAM,
}
TEXTS = COMPILING | FAILING
PRECOMPILED = {"a NUL", "no UTF-8", "a thousand times", "a file of root's"}
"""Those that are compiled with precompiled headers; the last is refused with them and without."""

_SCRIPT = """
import base64, json, os, sys
with open(sys.argv[1]) as file:
    texts = json.load(file)
sys.path.insert(0, sys.argv[2])
if sys.argv[3] == "ours":
    from kheadersd.bcc import BPF
else:
    from bcc import BPF
for name, text in texts.items():
    print(f"<{name}>", file=sys.stderr, flush=True)
    try:
        code = BPF(text=base64.b64decode(text)).dump_func("f").hex()
    except Exception:
        code = "refused"
    print(json.dumps([name, code]), flush=True)
"""


class Run:
    """What became of each text: its code or "refused", and what was said of it on stderr."""

    def __init__(
        self, package: Path, bus: Bus, texts: Path, bcc: str = "bcc", options: Sequence[str] = ()
    ) -> None:
        done = by_exec(package, bus, options, (PYTHON, "-c", _SCRIPT, texts, package, bcc))
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
        self.code: dict[str, str] = dict(map(json.loads, lines))
        _, *pieces = re.split(r"^<(.*)>\n", done.stderr, flags=re.MULTILINE)
        self.said = dict(zip(pieces[::2], pieces[1::2], strict=True))

    def lines(self, name: str) -> list[str]:
        """What kheadersd said of a text."""
        return [line for line in self.said[name].splitlines() if line.startswith("kheadersd: ")]


@pytest.fixture
def texts(roots_own: Path) -> Path:
    file = roots_own / "texts.json"
    file.write_text(json.dumps({name: base64.b64encode(text).decode() for name, text in TEXTS.items()}))
    return file


def test_programs(bus: Bus, real_daemon: Daemon, package: Path, texts: Path) -> None:
    plain = Run(package, bus, texts)
    assert {name for name, code in plain.code.items() if code == "refused"} == set(FAILING)
    for run in (
        Run(package, bus, texts, options=["--precompiled"]),
        Run(package, bus, texts, bcc="ours"),
    ):
        assert run.code == plain.code
        told = {name: run.lines(name) for name in TEXTS}
        assert {name for name, lines in told.items() if len(lines) > 1} == set()
        compiled = {name for name, lines in told.items() if not lines}
        assert compiled | {"a file of root's"} == PRECOMPILED
        # What clang says of a file that root alone can read is what it says without.
        assert "root:" not in run.said["a file of root's"].replace(plain.said["a file of root's"], "")
    assert bus.call("ListEntries")[0][0]["pch_count"] == 1


def test_a_program_without_any_after_the_headers_were_dropped(
    bus: Bus, real_daemon: Daemon, package: Path, texts: Path
) -> None:
    """They come back for it, wherever libbcc would look for them."""
    assert bus.call("GetPch", "ssa{sv}", "", "bcc-small", "1", "keep_headers", "b", "false")[2]
    assert bus.call("ListEntries")[0][0]["headers_kept"] is False
    one = texts.with_name("one.json")
    one.write_text(json.dumps({"a macro": base64.b64encode(COMPILING["a macro"]).decode()}))
    run = Run(package, bus, one, options=["--precompiled"])
    assert run.code["a macro"] != "refused", run.said
    assert len(run.lines("a macro")) == 1
    assert bus.call("ListEntries")[0][0]["headers_kept"] is True


NAMES: list[tuple[list[str], str]] = [
    (["../../../etc/shadow"], "InvalidArgs"),
    (["/etc/shadow"], "InvalidArgs"),
    (["linux/../../../../etc/shadow.h"], "InvalidArgs"),
    (["linux/sched.h", "MACRO"], "InvalidArgs"),
    (["linux/sched.h>\n#include </etc/shadow"], "InvalidArgs"),
    ([f"linux/no-{number}.h" for number in range(100)], "InvalidArgs"),
    (["x" * 10_000 + ".h"], "InvalidArgs"),
    (["linux/sched.h"], "AccessDenied"),
    (["linux/no-such.h"], "AccessDenied"),
]
"""Lists that an ordinary user asks for, and the error that comes of each."""


def test_an_ordinary_user_with_a_list(bus: Bus, daemon: Daemon) -> None:
    with client(bus.socket, "nobody") as nobody:
        for names, name_of_error in NAMES:
            reply = nobody.call("GetPch", "ssa{sv}", ["", "bcc-base", {"headers": Variant("as", names)}])
            assert reply.name == error(name_of_error), names
    assert daemon.entries() == []
