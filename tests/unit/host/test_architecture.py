"""The architecture of a kernel: its names, and what autoconf.h says of it."""

from __future__ import annotations

import pytest

from kheadersd.host.architecture import (
    ARCHITECTURES,
    MAX_AUTOCONF,
    of_debian_port,
    of_machine,
    read_configuration,
)

COMMENT = (
    b"/*\n * Automatically generated file; DO NOT EDIT.\n * Linux/x86 6.1.176 Kernel Configuration\n */\n"
)


@pytest.mark.parametrize(
    ("autoconf", "expected"),
    [
        (b"#define CONFIG_X86 1\n#define CONFIG_X86_64 1\n", "x86"),
        (b"#define CONFIG_ARM64 1\n", "arm64"),
        (b"#define CONFIG_PPC 1\n#define CONFIG_PPC64 1\n", "powerpc"),
        (b"#define CONFIG_SUPERH 1", "sh"),
        (b" #\tdefine CONFIG_S390 1\r\n", "s390"),
        # User-mode Linux, on such a machine.
        (b"#define CONFIG_UML 1\n#define CONFIG_X86_64 1\n", "um"),
        (COMMENT, None),
        (COMMENT + b"#define CONFIG_64BIT 1\n", None),
        (b"#define CONFIG_X86 1\n#define CONFIG_ARM64 1\n", None),
        (b"/* #define CONFIG_X86 1\n#define CONFIG_X86 1\n*/\n// #define CONFIG_X86 1\n", None),
        (b"/* never closed\n#define CONFIG_X86 1\n", None),
        (b"#undef CONFIG_X86\n#define CONFIG_X86 0\n#define CONFIG_X86_MODULE 1\n", None),
        (b"#define CONFIG_X86_THERMAL_VECTOR 1\n#define MY_CONFIG_X86 1\n", None),
        (b"\xff\0" * 1000, None),
        (b"", None),
    ],
)
def test_the_architecture_is_what_autoconf_says(autoconf: bytes, expected: str | None) -> None:
    assert read_configuration(autoconf).architecture == expected


def test_the_width_and_randomised_structures() -> None:
    plain = read_configuration(b"#define CONFIG_X86 1\n#define CONFIG_RANDSTRUCT_NONE 1\n")
    assert not plain.is_64bit
    assert not plain.is_randomised
    assert read_configuration(b"#define CONFIG_64BIT 1\n").is_64bit
    # Before Linux 5.19, only a plugin of gcc's did it.
    for name in (b"RANDSTRUCT", b"RANDSTRUCT_FULL", b"RANDSTRUCT_PERFORMANCE", b"GCC_PLUGIN_RANDSTRUCT"):
        assert read_configuration(b"#define CONFIG_%s 1\n" % name).is_randomised


def test_values() -> None:
    found = read_configuration(b"#define CONFIG_NR_CPUS 8192\n#define CONFIG_X\n")
    assert found.symbols["NR_CPUS"] == "8192"
    assert found.symbols["X"] == ""
    assert read_configuration(b"#define CONFIG_X \t1 /* one */ \r\n#define CONFIG_Y 2").symbols == {
        "X": "1",
        "Y": "2",
    }


def test_what_looks_like_a_comment_in_a_value() -> None:
    found = read_configuration(
        b'#define CONFIG_CMDLINE "nfsroot=10.0.0.1:/* \\" //"\n/* "one */\n#define CONFIG_X86 1 // "\n'
        b'#define CONFIG_Y "http://y"\n'
    )
    assert found.architecture == "x86"
    assert found.symbols == {"CMDLINE": r'"nfsroot=10.0.0.1:/* \" //"', "X86": "1", "Y": '"http://y"'}


def test_work_is_in_proportion_to_the_text() -> None:
    """Quadratic work on 4 MiB would take hours, in which no other thread runs."""
    for text in (
        b"#define CONFIG_X x" + b" " * MAX_AUTOCONF + b"x",
        b"/* " * (MAX_AUTOCONF // 3),
        b'"' * MAX_AUTOCONF,
    ):
        assert len(read_configuration(text).symbols) <= 1


def test_names_of_others() -> None:
    assert of_machine("x86_64") == "x86"
    assert of_machine("aarch64") == "arm64"
    assert of_machine("vax") == "vax"
    assert of_debian_port("ppc64el") == "powerpc"
    assert of_debian_port("all") is None
    assert all(known.name == name and known.symbols for name, known in ARCHITECTURES.items())
