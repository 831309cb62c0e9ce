"""Which headers a program includes, without a compiler."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kheadersd.sources.includes import MAX_HEADER, Missing, check_included
from kheadersd.system.files import NotRegular

SYMBOLS = {"X86": "1", "NET_MODULE": "1", "NR_CPUS": "64"}


def check(directory: Path, text: str) -> int:
    """Check a program of one header with this text; <linux/there.h> is there, <linux/gone.h> is not."""
    (directory / "linux").mkdir()
    (directory / "linux/it.h").write_text(text)
    (directory / "linux/there.h").write_text("#pragma once\n#include <linux/it.h>\n")
    return check_included(["linux/it.h"], [str(directory / "empty"), str(directory)], SYMBOLS)


@pytest.mark.parametrize(
    "text",
    [
        "#include <linux/gone.h>\n",
        "  #\tinclude <linux/gone.h> // here\r\n",
        "/* a guard */\n#ifndef _IT_H\n#define _IT_H\n#include <linux/gone.h>\n#endif\n",
        "#if !defined(_IT_H)\n#define _IT_H\n#include <linux/gone.h>\n#endif\n",
        "#ifdef __KERNEL__\n#include <linux/gone.h>\n#endif\n",
        "#ifndef __ASSEMBLY__\n#include <linux/gone.h>\n#endif\n",
        "#ifdef CONFIG_X86\n#include <linux/gone.h>\n#endif\n",
        "#ifdef CONFIG_ARM\n#else\n#include <linux/gone.h>\n#endif\n",
        "#if defined(CONFIG_ARM)\n#elif IS_ENABLED(CONFIG_NET)\n#include <linux/gone.h>\n#endif\n",
        "#if defined(CONFIG_X86) && \\\n  !defined CONFIG_ARM\n#include <linux/gone.h>\n#endif\n",
        "#if defined(UNKNOWN) || defined(CONFIG_X86)\n#include <linux/gone.h>\n#endif\n",
        "#include <linux/there.h>\n#include <asm/gone.h>\n",
        "/* a **/#include <linux/gone.h>\n/**/ /***/ // x /*\n",
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(Missing) as caught:
        check(tmp_path, text)
    assert caught.value.name.endswith("/gone.h")
    assert caught.value.by == str(tmp_path / "linux/it.h")
    assert str(tmp_path / caught.value.name) in caught.value.places


@pytest.mark.parametrize(
    "text",
    [
        "#include <linux/there.h>\n",
        "/* #include <linux/gone.h> */\n/*\n#include <linux/gone.h>\n*/\n// #include <linux/gone.h>\n",
        "#ifdef CONFIG_ARM\n#include <linux/gone.h>\n#endif\n",
        "#if IS_BUILTIN(CONFIG_NET)\n#include <linux/gone.h>\n#endif\n",
        "#ifdef CONFIG_X86\n#else\n#include <linux/gone.h>\n#endif\n",
        "#ifdef CONFIG_X86\n#elif defined(CONFIG_X86)\n#include <linux/gone.h>\n#endif\n",
        "#ifdef UNKNOWN\n#include <linux/gone.h>\n#else\n#include <linux/gone.h>\n#endif\n",
        "#if NR_CPUS > 8\n#include <linux/gone.h>\n#endif\n",
        "#if 0\n#if 1\n#include <linux/gone.h>\n#endif\n#endif\n",
        "#ifdef __ASSEMBLY__\n#include <linux/gone.h>\n#endif\n",
        '#include <stdarg.h>\n#include MACRO\n#include "gone.h"\n#include_next <linux/gone.h>\n',
        "#endif\n#include <linux/gone.h>\n",
        "#if\n#ifdef\n#include <linux/gone.h>\n",
        "/* never closed **\n#include <linux/gone.h>\n",
        # Out of the tree, and what no file can be called.
        "#include <linux/../../../../../../../../etc/gone.h>\n",
        "#include <linux/a\0.h>\n",
        "#include <linux/" + "a" * 5000 + ".h>\n",
    ],
)
def test_what_may_be_missing_is_not_missed(tmp_path: Path, text: str) -> None:
    check(tmp_path, text)


def test_headers_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    assert check(tmp_path, "#include <linux/there.h>\n#include <linux/there.h>\n") == 2


def test_a_header_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "linux").mkdir()
    os.mkfifo(tmp_path / "linux/it.h")
    with pytest.raises(NotRegular):
        check_included(["linux/it.h"], [str(tmp_path)], SYMBOLS)


def filled(unit: str) -> str:
    return unit * (MAX_HEADER // len(unit))


HOSTILE = [
    filled("/* "),
    filled("/**"),
    filled("#if 1\n"),
    filled("#else\n"),
    "#if 1\n" + filled("#elif\n")[:-6],
    "#if " + filled("&&")[:-4],
    "#if !defined" + filled(" ")[:-16] + "x y",
    "#if !defined A" + filled("\t")[:-16] + "x",
    filled(" ")[:-1] + "x",
    filled("#include <linux/there.h>\n"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:14]))
def test_work_is_in_proportion_to_the_text(tmp_path: Path, text: str) -> None:
    """Quadratic work on 8 MiB would take days, in which no other thread runs."""
    assert check(tmp_path, text) <= 2


def test_a_chain_of_headers_ends(tmp_path: Path) -> None:
    """Each includes thousands that are not there behind one that is, which is looked at first."""
    (tmp_path / "linux").mkdir()
    for number in range(40):
        gone = "".join(f"#include <linux/gone{number}_{each}.h>\n" for each in range(2000))
        (tmp_path / f"linux/{number}.h").write_text(f"{gone}#include <linux/{number + 1}.h>\n")
    assert check_included(["linux/0.h"], [str(tmp_path)], {}) < 40
