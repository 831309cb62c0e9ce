"""Configuration files as people write them, and as they get them wrong."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from kheadersd.config import Config, load, parse_seconds, parse_size


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return tmp_path / "kheadersd.conf"


def dropin(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    return directory / name


def test_nothing_there_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "no", [tmp_path / "nothing.d"]) == (Config(), ())


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    config, problems = load(tmp_path / "no", (), required=True)
    assert config == Config()
    assert (
        str(problems[0]) == f"{tmp_path}/no: cannot be read: No such file or directory; the file is ignored"
    )


GOOD = [
    ("Ahead", "Profiles=bpf-core bcc-base", "ahead_profiles", ("bpf-core", "bcc-base")),
    ("Ahead", "Compilers=clang-19 clang", "ahead_compilers", ("clang-19", "clang")),
    ("Ahead", "DropHeaders=On", "ahead_drop_headers", True),
    ("Headers", "Sources=package tree", "sources", ("package", "tree")),
    ("Headers", "Sources = sysfs ", "sources", ("sysfs",)),
    (
        "Headers",
        "ExtraRepositories=https://a.example/$releasever/${basearch}/ file:///srv/old",
        "extra_repositories",
        ("https://a.example/$releasever/${basearch}/", "file:///srv/old"),
    ),
    ("Cache", "Directory=/srv//headers/", "cache_directory", Path("/srv/headers")),
    ("Cache", "MaxEntries=3", "max_entries", 3),
    ("Cache", "MaxEntries=infinity", "max_entries", None),
    ("Cache", "MaxSize=512M", "max_size", 512 << 20),
    ("Cache", "MaxSize=1.5G", "max_size", 3 << 29),
    ("Cache", "MaxSize=infinity", "max_size", None),
    ("Cache", "MaxAge=1w", "max_age", 604800.0),
    ("Limits", "MaxLeases=10", "max_leases", 10),
    ("Limits", "MaxLeasesPerUser=2", "max_leases_per_user", 2),
    ("Limits", "MaxFiles=5000", "max_files", 5000),
    ("Limits", "MaxBytes=2G", "max_bytes", 2 << 30),
    ("Limits", "ExtractTimeout=1min 30s", "extract_timeout", 90.0),
    ("Limits", "ExtractTimeout=infinity", "extract_timeout", None),
    ("Limits", "DownloadTimeout=2h", "download_timeout", 7200.0),
    ("Module", "Loader=modprobe", "loader", "modprobe"),
    ("Log", "Level=debug", "log_level", "debug"),
    ("Cache", "MaxEntries=3\nMaxEntries=", "max_entries", 8),
    ("Headers", "Sources=tree \\\n# in between\n  sysfs", "sources", ("tree", "sysfs")),
]


@pytest.mark.parametrize(("section", "text", "attribute", "value"), GOOD)
def test_values(main: Path, section: str, text: str, attribute: str, value: object) -> None:
    main.write_text(f"# comment\n; comment\n\n[{section}]\r\n{text}\n")
    config, problems = load(main, ())
    assert problems == ()
    assert getattr(config, attribute) == value


BAD = [
    (
        "[Cache]\nMaxEntries=many",
        2,
        "MaxEntries=many is not a whole number from 0 to 2147483648, or infinity",
    ),
    ("[Cache]\nMaxEntries=-1", 2, "whole number"),
    ("[Cache]\nMaxEntries=٣", 2, "whole number"),
    ("[Cache]\nMaxSize=2 potatoes", 2, "a size, such as"),
    ("[Cache]\nMaxSize=" + "9" * 400, 2, "a size, such as"),
    ("[Cache]\nMaxAge=soon", 2, "a time, such as"),
    ("[Cache]\nDirectory=relative", 2, "absolute path"),
    ("[Cache]\nDirectory=/", 2, "absolute path"),
    ("[Cache]\nDirectory=/a/../", 2, "absolute path"),
    ("[Headers]\nSources=tree wish", 2, "each at most once"),
    ("[Headers]\nSources=tree tree", 2, "each at most once"),
    ("[Headers]\nExtraRepositories=ftp://a.example/", 2, "begin with https://"),
    ("[Headers]\nExtraRepositories=https://a.example/ https://a.example/", 2, "each once"),
    ("[Headers]\nExtraRepositories=https://me:secret@a.example/", 2, "without user names"),
    ("[Headers]\nExtraRepositories=https://a.example/,https://b.example/", 2, "begin with https://"),
    ("[Headers]\nExtraRepositories=file:///srv/../etc", 2, "begin with https://"),
    ("[Headers]\nExtraRepositories=--config=/x", 2, "begin with https://"),
    ("[Limits]\nMaxLeases=infinity", 2, "whole number"),
    ("[Limits]\nMaxBytes=5", 2, "at least 1M"),
    ("[Limits]\nExtractTimeout=0", 2, "at least 1s"),
    ("[Ahead]\nProfiles=bpf-core ../x", 2, "at most 16 names such as bpf-core"),
    ("[Ahead]\nProfiles=types types", 2, "each once"),
    ("[Ahead]\nCompilers=a b", 2, "such as clang-16"),
    ("[Ahead]\nCompilers=clang-1 clang-2 clang-3 clang-4 clang-5", 2, "at most 4"),
    ("[Ahead]\nDropHeaders=maybe", 2, "yes or no"),
    ("[Module]\nLoader=insmod", 2, "one of auto, systemd, modprobe, none"),
    ("[Log]\nLevel=loud", 2, "one of emerg"),
    ("[Log]\n\nColour=red", 3, "unknown key Colour in [Log]"),
    ("[Log]\nlevel=debug", 2, "unknown key level"),
    ("[Cache]\nLevel=debug", 2, "unknown key Level in [Cache]"),
    ("\n[Kitchen]\nSink=1\nTap=2", 2, "unknown section [Kitchen]"),
    ("[Log\nLevel=debug", 1, "unknown section [Log"),
    ("Level=debug", 1, "before the first section"),
    ("[Log]\nLevel", 2, "neither a section nor an assignment"),
    ("[Log]\n\x1b[31m=1", 2, "\\x1b"),
    ("[Log]\n" + "x" * 10_000 + "=1", 2, "xxx…"),
]


@pytest.mark.parametrize(("text", "line", "message"), BAD)
def test_mistakes_are_problems_with_file_and_line(main: Path, text: str, line: int, message: str) -> None:
    main.write_text(text)
    config, (problem,) = load(main, ())
    assert config == Config()
    assert (problem.file, problem.line) == (main, line)
    assert message in problem.message
    assert str(problem).startswith(f"{main}:{line}: ")
    assert str(problem).isprintable()
    assert len(problem.message) < 300


def test_a_bad_value_leaves_the_default_whatever_came_before(main: Path) -> None:
    main.write_text("[Cache]\nMaxEntries=3\nMaxEntries=x\nMaxAge=5d\n")
    config, problems = load(main, ())
    assert (config.max_entries, config.max_age, len(problems)) == (8, 432000.0, 1)


def test_dropins_win_in_the_order_of_their_names(tmp_path: Path, main: Path) -> None:
    main.write_text("[Cache]\nMaxEntries=1\nMaxSize=1G\nMaxAge=1d\n[Log]\nLevel=err\n")
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    dropin(lib, "10-a.conf", "[Cache]\nMaxEntries=10\nMaxSize=10G")
    dropin(etc, "20-b.conf", "[Cache]\nMaxSize=20G")
    dropin(lib, "30-masked.conf", "[Log]\nLevel=debug")
    (etc / "30-masked.conf").symlink_to("/dev/null")
    dropin(lib, "40-same.conf", "[Cache]\nMaxAge=40d")
    dropin(etc, "40-same.conf", "[Headers]\nSources=tree")
    dropin(etc, "50-not.conf.bak", "[Log]\nLevel=debug")
    dropin(etc, ".50-hidden.conf", "[Log]\nLevel=debug")
    config, problems = load(main, [etc, lib])
    assert problems == ()
    assert (config.max_entries, config.max_size, config.max_age) == (10, 20 << 30, 86400.0)
    assert (config.log_level, config.sources) == ("err", ("tree",))


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"[Log]\n\xff\xfe=1", 2, "not UTF-8"),
        (b"[Log]\nLevel=de\0bug", 0, "NUL"),
        (b"#" * (1 << 20) + b"#", 0, f"more than {1 << 20} bytes"),
    ],
)
def test_files_that_are_not_text(main: Path, content: bytes, line: int, message: str) -> None:
    main.write_bytes(content)
    config, (problem,) = load(main, ())
    assert config == Config()
    assert problem.line == line
    assert message in problem.message


def test_things_that_are_not_files(tmp_path: Path, main: Path) -> None:
    main.mkdir()
    etc = tmp_path / "etc"
    etc.mkdir()
    os.mkfifo(etc / "a.conf")
    (etc / "b.conf").symlink_to("b.conf")
    (etc / "masked.conf").symlink_to("/dev/null")
    (etc / "zeros.conf").symlink_to("/dev/zero")
    (tmp_path / "file").write_text("")
    config, problems = load(main, [etc, tmp_path / "file"])
    assert config == Config()
    assert sorted(problem.file.name for problem in problems) == [
        "a.conf",
        "b.conf",
        "file",
        "kheadersd.conf",
        "zeros.conf",
    ]
    assert any("it is a device and not a regular file" in problem.message for problem in problems)


def test_windows_and_byte_order_mark(main: Path) -> None:
    main.write_bytes(b"\xef\xbb\xbf[Log]\r\nLevel=debug\r\n")
    assert load(main, ())[0].log_level == "debug"


def test_noise_never_raises(main: Path) -> None:
    dice = random.Random(1)
    words = [
        b"[",
        b"]",
        b"=",
        b"\n",
        b"\\\n",
        b"[Cache]\n",
        b"MaxSize",
        b"1e9G",
        b"\xff",
        b"#",
        b" ",
        b"inf",
        b"-",
    ]
    for _ in range(500):
        main.write_bytes(b"".join(dice.choices(words, k=30)))
        load(main, ())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("500ms", 0.5),
        ("1h30min", 5400),
        ("2 h 1 s", 7201),
        ("1d", 86400),
        ("1w", 604800),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "s", "5 parsecs", "1.2.3", "-1s", "1e3", "٣s"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="a time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("10", 10), ("4K", 4096), ("1 M", 1 << 20), ("2T", 2 << 40)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "1KK", "1k", "-1", "1 2", "nan", "inf"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)
