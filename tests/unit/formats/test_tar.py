"""What GNU tar makes of an archive is what is extracted, or the archive is refused."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from kheadersd.errors import Corrupt
from tests.support.extracting import contents, extract_to
from tests.support.tar_shapes import BLOCK, attributes, header, long_name, padded, record

if TYPE_CHECKING:
    from pathlib import Path

LONG = b"/".join([b"a_component_of_some_length"] * 5)
NAMES = st.sampled_from(
    [
        b"a",
        b"b",
        b"c",
        b"d/a",
        b"d",
        b"d/",
        b"./a",
        b"a/",
        b"",
        b"a\0b",
        b"a ",
        "ü".encode(),
        b"x" * 100,
        LONG,
    ]
)
SIZES = st.sampled_from([b"", b"0", b"3", b"5", b"03", b"3 ", b"-3", b"600", b"0x3", b"99999999999999999999"])
RECORDS = st.one_of(
    st.builds(record, st.sampled_from([b"path", b"linkpath", b" path", b"path ", b"path\0"]), NAMES),
    st.builds(record, st.sampled_from([b"size", b"GNU.sparse.realsize", b"GNU.sparse.size"]), SIZES),
    st.builds(
        record,
        st.sampled_from(
            [b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.numblocks", b"mtime", b"uid"]
        ),
        st.sampled_from([b"0", b"1", b"1.5", b"x"]),
    ),
    st.builds(record, st.sampled_from([b"GNU.sparse.name", b"GNU.volume.filename"]), NAMES),
    st.just(record(b"GNU.sparse.map", b"0,1,2,1")),
    st.just(record(b"comment", b"nothing")),
    st.builds(
        record,
        st.just(b"hdrcharset"),
        st.sampled_from([b"BINARY", b"ISO-IR 10646 2000 UTF-8", b"ISO-8859-1"]),
    ),
    st.sampled_from([b"", b"0 path=a\n", b"11  path=a\n", b"9 path=a\n", b"10 path=a", b"\0"]),
)
ATTRIBUTES = st.builds(
    attributes, st.lists(RECORDS, max_size=3).map(b"".join), st.sampled_from([b"x", b"x", b"g", b"X"])
)
LONG_NAMES = st.builds(
    long_name, NAMES.flatmap(lambda name: st.just(name + b"\0")) | NAMES, st.sampled_from([b"L", b"K"])
)
DATA = b"abc"
FIELDS = st.sampled_from(
    [
        b"%011o\0" % 3,
        b"%011o " % 3,
        b"%012o" % 3,
        b"          3 ",
        b"3".ljust(12, b"\0"),
        b"\x80".ljust(11, b"\0") + b"\3",
        b"\xff".ljust(12, b"\xff"),
        b"\0%010o\0" % 3,
        bytes(8) + b"0003",
        b"3\0\0\0\0\0\0\0\0\0\0004",
        b"%011o\0" % 0,
        b"%011o\0" % 600,
        b" " * 12,
        b"-3".ljust(12, b"\0"),
        b"+AD".ljust(12, b"\0"),
    ]
)
MAGICS = st.sampled_from([b"ustar\00000", b"ustar\00000", b"ustar  \0", b"ustar\0  ", b"ustar   ", b"\0" * 8])
MEMBERS = st.builds(
    lambda name, kind, size, target, magic, prefix, off, data: (
        header(name, kind, size, target, magic, prefix, off) + padded(data)
    ),
    NAMES,
    st.sampled_from([b"0", b"0", b"0", b"\0", b"5", b"2", b"1", b"7", b"S", b"V", b"M", b"D", b"3"]),
    st.just(b"%011o\0" % 3) | FIELDS,
    st.sampled_from([b"", b"", b"a", b"d", b"x" * 100, b"a\0b"]),
    MAGICS,
    st.sampled_from([b"", b"", b"", b"p", b"p/q", b"p/", b"x" * 130]),
    st.sampled_from([0, 0, 0, 0, 0, 65521, -65521, 1]),
    st.just(DATA) | st.sampled_from([b"", b"b" * 600]),
)
FILES = st.builds(lambda name: header(name, size=len(DATA)) + padded(DATA), NAMES)
DIRECTORIES = st.builds(lambda name: header(name, b"5"), NAMES)
LINKS = st.builds(
    lambda name, target: header(name, b"2", target=target), NAMES, st.sampled_from([b"a", b"d", b"."])
)
PARTS = st.one_of(FILES, FILES, DIRECTORIES, LINKS, MEMBERS, ATTRIBUTES, LONG_NAMES)
ENDS = st.sampled_from(
    [bytes(2 * BLOCK)] * 4 + [bytes(BLOCK), b"", bytes(2 * BLOCK) + b"an index of some tool"]
)


@given(parts=st.lists(PARTS, min_size=1, max_size=3), end=ENDS)
def test_the_same_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], end: bytes
) -> None:
    event("extracted" if check(tmp_path_factory.mktemp("tar"), b"".join(parts) + end) else "refused")


@pytest.mark.parametrize(
    "before",
    [
        b"",
        attributes(record(b"path", b"other")),
        attributes(record(b"comment", b"nothing") + record(b"mtime", b"1.5")),
        attributes(record(b"comment", b"nothing"), b"g"),
        attributes(record(b"size", b"3")),
        long_name(b"other\0"),
        long_name(LONG),
        long_name(b"ignored", b"K"),
    ],
)
def test_what_is_taken(tmp_path: Path, before: bytes) -> None:
    assert check(tmp_path, before + header(b"a", size=len(DATA)) + padded(DATA) + bytes(2 * BLOCK))


def check(directory: Path, archive: bytes) -> bool:
    """Extract with both; whether it is accepted."""
    try:
        extract_to(directory / "ours", archive)
    except Corrupt:
        return False
    (directory / "theirs").mkdir()
    # It may complain: of a missing end, for one.
    tar = ["tar", "--extract", "--no-same-owner", "--file", "-", "--directory", str(directory / "theirs")]
    subprocess.run(tar, input=archive, stderr=subprocess.DEVNULL, check=False)
    ours, theirs = contents(directory / "ours"), contents(directory / "theirs")
    assert {name: (kind, data) for name, (kind, _, data) in ours.items()} == {
        name: (kind, data) for name, (kind, _, data) in theirs.items()
    }
    return True
