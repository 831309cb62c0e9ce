"""Profiles as files, and lists of headers that callers give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import InvalidArgs
from kheadersd.pch.profiles import HEADERS, MAX_HEADERS, TYPES, Profile, check_headers, custom, load
from tests.support.precompiling import SHIPPED

_GOOD = 'description = "One."\nconsumer = "clang-bpf"\nheaders = ["linux/sched.h"]\n'


def test_those_that_are_shipped() -> None:
    found, problems = load([SHIPPED])
    assert problems == []
    assert {"bpf-core", "bpf-tracing", "host-tracing", "types"} <= set(found)
    assert found["bpf-tracing"].headers == found["host-tracing"].headers
    assert found["types"].base == TYPES
    assert {profile.base for name, profile in found.items() if name != "types"} == {HEADERS}
    for name, profile in found.items():
        assert (profile.name, profile.path) == (name, SHIPPED / f"{name}.toml")


def test_everything_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'description = "What I trace."\nconsumer = "clang-host"\nbase = "headers"\n'
        'headers = ["net/tcp.h", "linux/sched.h"]\nflags = ["-mcpu=v3", "-DMINE=1 + 2", "-Wall"]\n'
    )
    assert load([tmp_path]) == (
        {
            "mine": Profile(
                "mine",
                "What I trace.",
                "clang-host",
                HEADERS,
                ("net/tcp.h", "linux/sched.h"),
                ("-mcpu=v3", "-DMINE=1 + 2", "-Wall"),
                tmp_path / "mine.toml",
            )
        },
        [],
    )


def test_the_last_directory_wins(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    for directory in (shipped, own):
        directory.mkdir()
        (directory / "same.toml").write_text(_GOOD)
        (directory / "ignored.txt").write_text("not a profile")
    (shipped / "kept.toml").write_text(_GOOD)
    (own / "kept.toml").write_text("broken")
    found, problems = load([shipped, own, tmp_path / "missing"])
    assert found["same"].path == own / "same.toml"
    assert found["kept"].path == shipped / "kept.toml"
    assert len(problems) == 1
    assert problems[0].startswith(f"{own}/kept.toml: it is not TOML: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "consumer has to be one of clang-bpf, clang-host, bcc, not 'None'"),
        ("headers = [", "it is not TOML"),
        ("a = " + "[" * 5000, "it is not TOML"),
        (_GOOD + 'include = "/etc"\n', "unknown key 'include'"),
        (_GOOD.replace("clang-bpf", "gcc"), "consumer has to be one of"),
        (_GOOD.replace('"clang-bpf"', "[1]"), "consumer has to be one of"),
        (_GOOD + 'base = "modules"\n', "base has to be one of headers, types"),
        (
            _GOOD.replace("clang-bpf", "clang-host") + 'base = "types"\n',
            "types are for the consumer clang-bpf",
        ),
        (_GOOD.replace('"One."', "1"), "description has to be one line"),
        (_GOOD.replace("One.", r"One.\nTwo."), "description has to be one line"),
        (_GOOD.replace('["linux/sched.h"]', "[]"), "headers: a list of headers has 1 to 64 names"),
        (_GOOD.replace('["linux/sched.h"]', '"linux/sched.h"'), "headers has to be a list of strings"),
        (_GOOD.replace('["linux/sched.h"]', "[1]"), "headers has to be a list of strings"),
        (
            _GOOD.replace("linux/sched.h", "/etc/shadow.h"),
            "headers: '/etc/shadow.h' is not the name of a header",
        ),
        (_GOOD + 'flags = "-g0"\n', "flags has to be a list of strings"),
        (_GOOD + f"flags = {['-g0'] * 33}\n", "there are more than 32 flags"),
        ("#" * (1 << 17), "it has more than 65536 bytes"),
    ],
)
def test_what_is_no_profile(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    found, problems = load([tmp_path])
    assert found == {}
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: {problem}")


@pytest.mark.parametrize("name", ["-x", "Upper", "a.b", "ä", "a" * 65, " "])
def test_names_that_no_profile_may_have(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.toml").write_text(_GOOD)
    found, problems = load([tmp_path])
    assert found == {}
    assert "a profile is called by" in problems[0]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "directory.toml").mkdir()
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "gone.toml").symlink_to("nowhere")
    (tmp_path / "good.toml").write_text(_GOOD)
    found, problems = load([tmp_path, tmp_path / "good.toml"])
    assert set(found) == {"good"}
    assert problems == [
        f"{tmp_path}/directory.toml: it is a directory and not a regular file",
        f"{tmp_path}/fifo.toml: it is a FIFO and not a regular file",
        f"{tmp_path}/gone.toml: cannot be read: No such file or directory",
    ]


@pytest.mark.parametrize(
    "flag",
    [
        "-I/etc",
        "-include",
        "-include/etc/passwd",
        "-o/etc/passwd",
        "-c",
        "-x",
        "-E",
        "-fplugin=evil.so",
        "-fpass-plugin=evil.so",
        "-fmodule-file=x",
        "-fprofile-use=/etc/x",
        "-fdump=/tmp/x",
        "-fprofile-use",
        "-fsanitize-ignorelist=x",
        "-Wa,--x",
        "-Wl,-x",
        "-Wp,-MD",
        "-Xclang",
        "-mllvm",
        "-specs=x",
        "--sysroot=/",
        "-gsplit-dwarf=/x",
        "-D",
        "-D A",
        "-DA\n",
        "-DA=\0",
        "@file",
        "file.c",
        "",
        "-",
        "-D" + "A" * 200,
    ],
)
def test_flags_that_cannot_be_given(tmp_path: Path, flag: str) -> None:
    quoted = "".join(f"\\u{ord(character):04x}" for character in flag)
    (tmp_path / "own.toml").write_text(f'{_GOOD}flags = ["{quoted}"]\n')
    found, problems = load([tmp_path])
    assert found == {}
    assert "cannot be given here" in problems[0]


def test_a_list_of_headers_is_kept_as_it_is() -> None:
    names = ["net/tcp.h", "linux/sched.h", "asm-generic/a+b_c.d.h", "0.h"]
    assert check_headers(names) == tuple(names)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".h",
        "/linux/sched.h",
        "../sched.h",
        "linux/../../etc/x.h",
        "linux//sched.h",
        "linux/./sched.h",
        "linux/sched.h/",
        "linux/sched.c",
        "linux/sched.h\n",
        "linux/sched.h\n#include </etc/passwd>\n.h",
        "linux/sched.h>.h",
        'a".h',
        "-include.h",
        "-o.h",
        "a b.h",
        "a\0.h",
        "a\\.h",
        "ä.h",
        "a" * 127 + ".h",
        "$(id).h",
    ],
)
def test_names_that_no_header_may_have(name: str) -> None:
    with pytest.raises(InvalidArgs, match="is not the name of a header"):
        check_headers(["linux/fs.h", name])


@given(st.text())
def test_no_other_name_gets_through(name: str) -> None:
    try:
        check_headers([name])
    except InvalidArgs:
        return
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set(" \"'<>\\$`;|&*?(){}[]#!~")
    assert ".." not in name.split("/")
    assert not name.startswith(("/", "-"))


def test_lists_that_are_too_short_or_too_long() -> None:
    with pytest.raises(InvalidArgs, match="1 to 64 names, and this one 0"):
        check_headers([])
    with pytest.raises(InvalidArgs, match="1 to 64 names, and this one 65"):
        check_headers([f"linux/{number}.h" for number in range(MAX_HEADERS + 1)])
    with pytest.raises(InvalidArgs, match=r"the header linux/fs\.h is in the list more than once"):
        check_headers(["linux/fs.h", "linux/mm.h", "linux/fs.h"])


def test_somebody_s_own_list() -> None:
    found, _ = load([SHIPPED])
    changed = custom(found["bpf-core"], ["linux/mm.h"])
    assert changed.headers == ("linux/mm.h",)
    assert changed.flags == found["bpf-core"].flags
    with pytest.raises(InvalidArgs, match=r"vmlinux\.h alone"):
        custom(found["types"], ["linux/mm.h"])
    with pytest.raises(InvalidArgs, match="is not the name of a header"):
        custom(found["bpf-core"], ["/etc/passwd"])
