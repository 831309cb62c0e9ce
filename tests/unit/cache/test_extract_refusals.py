"""Every refusal with an archive of its own: `Corrupt`, the member's name, nothing outside the directory."""

from __future__ import annotations

import functools
import lzma
import os
import random
import struct
import subprocess
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kheadersd.cache import extract
from kheadersd.errors import Corrupt, KheadersError, NoSpace
from kheadersd.sources.kernel_archive import archive_from_bytes
from kheadersd.sources.source import Limits
from tests.support import tar_shapes as shapes
from tests.support.archives import (
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    SYMLINK,
    kheaders_files,
    make_kheaders,
    make_tar,
    member,
    tree_tar,
)
from tests.support.extracting import archive, contents, extract_to, layer, nothing_left
from tests.support.needs import needs_root
from tests.support.threads import at_work

if TYPE_CHECKING:
    from collections.abc import Iterator

RELEASE = "6.1.0-13-amd64"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


def refused(tmp_path: Path, *layers: bytes, limits: Limits | None = None) -> str:
    """Extract what must be refused; the message, after a look at what is outside the directory."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    with pytest.raises(Corrupt) as caught:
        extract_to(outside / "tree", *layers, limits=limits)
    assert sorted(os.listdir(outside)) == ["precious", "tree"]
    assert (outside / "precious").read_bytes() == b"precious"
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/evil", "absolute"),
        ("//evil", "absolute"),
        ("../evil", "'..' component"),
        ("include/../../evil", "'..' component"),
        ("include/..", "'..' component"),
        ("..", "'..' component"),
        ("include/./evil", "'.' or '..' component"),
        ("././evil", "'.' or '..' component"),
        ("include//evil", "empty component"),
        (".//evil", "absolute"),
        ("evil/", "empty component"),
        ("", "empty component"),
        ("include/ev\nil", "control characters"),
        ("include/ev\x1b[31mil", "control characters"),
        ("include/ev\x7fil", "control characters"),
        ("include/ev\u202eil", "control characters"),
        ("x" * 256, "component of the name has more than 255 bytes"),
        ("é" * 128, "component of the name has more than 255 bytes"),
        ("/".join(["x" * 200] * 6), "more than 1024 bytes"),
        ("/".join(["x"] * 33), "more than 32 components"),
    ],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, SYMLINK, FIFO])
def test_names(tmp_path: Path, name: str, reason: str, kind: bytes) -> None:
    message = refused(tmp_path, make_tar(member(name, kind=kind, target="x")))
    assert reason in message
    assert repr(name.removeprefix("./"))[:50] in message


def test_names_of_members_that_are_left_out_count_too(tmp_path: Path) -> None:
    bad = layer(make_tar(member("usr/../../evil")), lambda _name: None)
    with pytest.raises(Corrupt, match="component"):
        extract_to(tmp_path / "tree", bad)


def test_names_that_places_make_are_checked_too(tmp_path: Path) -> None:
    bad = layer(make_tar(member("evil")), lambda name: "../" + name)
    with pytest.raises(Corrupt, match="component"):
        extract_to(tmp_path / "tree", bad)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    message = refused(tmp_path, make_tar(member("include/ev\udcffil")))
    assert "not UTF-8" in message
    assert "xff" in message


def test_a_message_shows_at_most_some_of_a_name(tmp_path: Path) -> None:
    assert len(refused(tmp_path, make_tar(member("x/" * 5000 + "x")))) < 400


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (HARD_LINK, "a hard link"),
        (CHARACTER_DEVICE, "a character device"),
        (BLOCK_DEVICE, "a block device"),
        (FIFO, "a fifo"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.CONTTYPE, "of the unknown type '7'"),
        (b"D", "of the unknown type 'D'"),
        (b"V", "of the unknown type 'V'"),
        (b"M", "of the unknown type 'M'"),
        (b"\xff", "of the unknown type 'ÿ'"),
    ],
)
def test_kinds(tmp_path: Path, kind: bytes, reason: str) -> None:
    message = refused(tmp_path, make_tar(member("include/evil", kind=kind, target="include/linux/types.h")))
    assert reason in message
    assert "'include/evil'" in message


def test_sparse_files_in_pax_form(tmp_path: Path) -> None:
    info, data = member("include/evil", b"x")
    info.pax_headers = {"GNU.sparse.major": "1"}
    assert "a sparse file" in refused(tmp_path, make_tar((info, data), form=tarfile.PAX_FORMAT))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/etc/passwd", "not a relative path"),
        ("", "not a relative path"),
        ("x\n", "not a relative path"),
        ("../../../etc/passwd", "leads outside of the tree"),
        ("../..", "leads outside of the tree"),
        ("nothing.h", "leads to nothing in the archive"),
        ("linux/nothing.h", "leads to nothing in the archive"),
        ("linux/types.h/..", "leads through a file"),
        ("linux/types.h/", "leads through a file"),
        ("evil", "leads in circles"),
        ("evil/x", "leads in circles"),
        ("x" * 1025, "more than 1024 bytes"),
        # A link's ".." is the parent of where it has led: asm is two levels further down than it looks.
        ("asm/../../../../x", "leads to nothing in the archive"),
        ("asm/../../../../../x", "leads outside of the tree"),
    ],
)
def test_link_targets(tmp_path: Path, target: str, reason: str) -> None:
    links = {"include/evil": target, "include/asm": "../arch/x86/include/asm"}
    message = refused(tmp_path, tree_tar(kheaders_files(RELEASE), links))
    assert reason in message
    assert "'include/evil'" in message
    assert not any(path.is_symlink() for path in (tmp_path / "outside").rglob("*"))


def test_two_links_in_circles(tmp_path: Path) -> None:
    assert "circles" in refused(tmp_path, tree_tar({"a.h": b""}, {"one": "two", "two": "one"}))


def test_links_that_fork_end_soon(tmp_path: Path) -> None:
    links = {f"l{number}": f"l{number + 1}/l{number + 1}" for number in range(60)}
    assert "circles" in refused(tmp_path, tree_tar({"a.h": b""}, {**links, "l60": "."}))


@pytest.mark.parametrize(
    "members",
    [
        (member("a.h", b"1"), member("a.h", b"2")),
        (member("a.h"), member("./a.h")),
        (member("a.h"), member("a.h", kind=SYMLINK, target="a.h")),
        (member("l", kind=SYMLINK, target="."), member("l")),
        (member("d/", kind=DIRECTORY), member("d/", kind=DIRECTORY)),
        (member("d/x.h"), member("d", b"a file")),
        (member("d", b"a file"), member("d/", kind=DIRECTORY)),
        (member("d", b"a file"), member("d/x.h")),
        (member("d", b"a file"), member("d/e/f/x.h")),
        (member("l", kind=SYMLINK, target="."), member("l/x.h")),
        (member("l", kind=SYMLINK, target="../.."), member("l/x.h")),
        (member("l", kind=SYMLINK, target="."), member("l/", kind=DIRECTORY)),
    ],
)
def test_one_name_is_one_thing(tmp_path: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...]) -> None:
    message = refused(tmp_path, make_tar(*members))
    assert "occurs twice" in message or "and a directory" in message


def test_one_name_is_one_thing_across_layers(tmp_path: Path) -> None:
    message = refused(tmp_path, make_tar(member("a.h", b"1")), make_tar(member("a.h", b"1")))
    assert "'a.h': it occurs twice" in message


def test_limits(tmp_path: Path) -> None:
    tar = tree_tar({f"include/{number}.h": bytes(1000) for number in range(8)})
    extract_to(tmp_path / "enough", tar, limits=Limits(max_files=9, max_bytes=len(tar)))
    with pytest.raises(Corrupt, match="more than 8 files"):
        extract_to(tmp_path / "files", tar, limits=Limits(max_files=8))
    with pytest.raises(Corrupt, match=f"has more than {len(tar) - 1} bytes"):
        extract_to(tmp_path / "stream", tar, limits=Limits(max_bytes=len(tar) - 1))


def test_the_limit_counts_all_layers(tmp_path: Path) -> None:
    layers = [make_tar(member(f"{number}.h", bytes(8000))) for number in range(3)]
    with pytest.raises(Corrupt, match=r"'2\.h': the files have more than 20000 bytes"):
        extract_to(tmp_path / "tree", *layers, limits=Limits(max_bytes=20000))


def test_a_bomb_is_stopped_at_its_first_header(tmp_path: Path) -> None:
    bomb = lzma.compress(make_tar(member("bomb", bytes(50_000_000))), preset=0)
    assert "'bomb'" in refused(tmp_path, bomb, limits=Limits(max_bytes=1_000_000))


GOOD = tree_tar(kheaders_files(RELEASE))


# What pixz appends (its file write.c): a magic number, then every name with the offset of its member.
PIXZ_INDEX = 0xDBAE14D62E324CA6.to_bytes(8, "little") + b"".join(
    name.encode() + b"\0" + struct.pack("<Q", 512 * number)
    for number, name in enumerate(kheaders_files(RELEASE))
)


@pytest.mark.parametrize("behind", [PIXZ_INDEX, b"x", bytes(511) + b"x", b"ustar" * 200_000])
def test_what_a_tool_keeps_behind_the_archive_is_not_read(tmp_path: Path, behind: bytes) -> None:
    extract_to(tmp_path / "tree", lzma.compress(GOOD + behind))
    extract_to(tmp_path / "streams", lzma.compress(GOOD) + lzma.compress(behind))
    assert contents(tmp_path / "tree") == contents(tmp_path / "streams")
    assert len(contents(tmp_path / "tree")) > len(kheaders_files(RELEASE))


def test_what_a_tool_keeps_behind_the_archive_is_not_endless(tmp_path: Path) -> None:
    assert "more than 16777216 bytes follow" in refused(
        tmp_path, lzma.compress(GOOD + b"x" * (17 << 20), preset=0)
    )


@pytest.mark.parametrize("zeros", [0, 512, 700_416])
def test_another_archive_behind_the_archive_is_not_lost(tmp_path: Path, zeros: int) -> None:
    assert "another archive follows" in refused(tmp_path, lzma.compress(GOOD + bytes(zeros) + GOOD))


@pytest.mark.parametrize("behind", [b"x", b"\0", bytes(3), PIXZ_INDEX])
def test_bytes_behind_the_xz_stream_are_corrupt(tmp_path: Path, behind: bytes) -> None:
    assert "damaged" in refused(tmp_path, lzma.compress(GOOD) + behind)


def test_padding_of_xz(tmp_path: Path) -> None:
    half = len(GOOD) // 2
    data = lzma.compress(GOOD[:half]) + bytes(4) + lzma.compress(GOOD[half:]) + bytes(4096)
    extract_to(tmp_path / "tree", *archive_from_bytes(data, label="a.tar.xz", origin="/a").layers)
    extract_to(tmp_path / "good", GOOD)
    assert contents(tmp_path / "tree") == contents(tmp_path / "good")


def test_zeros_behind_the_tar_archive_are_its_padding(tmp_path: Path) -> None:
    extract_to(tmp_path / "tree", lzma.compress(GOOD.rstrip(b"\0") + bytes(300_000)))


@pytest.mark.parametrize("length", range(0, len(GOOD.rstrip(b"\0")), 256))
def test_a_tar_archive_cut_short(tmp_path: Path, length: int) -> None:
    assert "cut short" in refused(tmp_path, lzma.compress(GOOD[:length]))


def test_one_block_of_zeros_is_no_end(tmp_path: Path) -> None:
    tar = make_tar(member("a.h"))[:512]
    assert "cut short" in refused(tmp_path, tar + bytes(512))
    with pytest.raises(Corrupt, match="lone block of zeros"):
        extract_to(tmp_path / "tree", tar + bytes(512) + make_tar(member("b.h")))


def header(**fields: tuple[int, bytes]) -> bytes:
    """The header of a file "evil", with bytes put at offsets, and the right checksum."""
    block = bytearray(make_tar(member("evil", b"x"))[:512])
    for offset, value in fields.values():
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


UMLAUTS = "\u00ff".encode() * 50
FULL_HEADER = functools.partial(shapes.header, UMLAUTS, b"2", target=UMLAUTS, prefix=UMLAUTS + UMLAUTS[:54])


@pytest.mark.parametrize(
    ("tar", "reason"),
    [
        (b"this is no archive" * 100, "not a tar archive"),
        (header(magic=(257, b"other")), "not a tar archive"),
        (header()[:148] + b"000000\0 " + header()[156:], "checksum"),
        (shapes.header(b"evil", off=65521), "checksum"),
        # A sum of more than 65,521, which Adler-32 cannot tell from a small one.
        (FULL_HEADER() + bytes(1024), "leads in circles"),
        (FULL_HEADER(off=-65521), "checksum"),
        (header(size=(124, b"x" * 12)), "not a number"),
        (header(size=(124, b"-1".ljust(12, b"\0"))), "not a number"),
        (header(size=(124, b"1_0".ljust(12, b"\0"))), "not a number"),
        (header(size=(124, b"9".ljust(12, b"\0"))), "not a number"),
        (header(size=(124, bytes(12))), "not a number"),
        (header(size=(124, b"\0" + b"1".ljust(11, b"\0"))), "not a number"),
        (header(size=(124, b"\xff" * 12)), "not a number"),
        (header(size=(124, b"\x80" + b"\xff" * 11)), "the files have more than"),
        (header(kind=(156, b"5")), "a directory with data"),
        (header(kind=(156, b"2")), "a symlink with data"),
        (header(kind=(156, b"L"), size=(124, b"77777777777\0")), "bytes of attributes"),
        (header(kind=(156, b"x"), size=(124, b"77777777777\0")), "bytes of attributes"),
        (header(kind=(156, b"g"), size=(124, b"77777777777\0")), "bytes of attributes"),
        (
            header(kind=(156, b"L")) + b"x".ljust(512, b"\0") + bytes(1024),
            "ends where a member was announced",
        ),
    ],
)
def test_headers(tmp_path: Path, tar: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, tar)


@pytest.mark.parametrize(
    "records",
    [
        b"nonsense\n",
        b"99 path=a\n",
        b"0 path=a\n",
        b"9 path=a\n\n\n",
        b"10 path=ab",
        b"8 path=\n",
        b"6 path\n",
        b"11 path=a\0b\n",
        b"10 size=x1\n",
        b"35 size=1234567890123456789012345\n",
        b"10 size=12\n",  # it has none
        b"10 path=a\n11 path=bb\n",
        b"10 path=a\n10 path=a\n",
        b"11  path=a\n",
        b"11 path\0=a\n",
        b"8 size=\n",
        b"12 linkpath=\n",
        b"22 GNU.sparse.major=1\n",
        b"23 GNU.sparse.name=aaa\n",
        b"25 GNU.volume.filename=a\n",
        b"21 hdrcharset=BINARY\n",
    ],
)
def test_pax_records(tmp_path: Path, records: bytes) -> None:
    tar = shapes.attributes(records) + make_tar(member("evil"))
    assert "damaged or unsafe at the member" in refused(tmp_path, tar)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (shapes.attributes(shapes.record(b"path", b"a"), b"g"), "one 'path' for all members"),
        (shapes.attributes(shapes.record(b"linkpath", b"a"), b"g"), "one 'linkpath' for all members"),
        (shapes.attributes(shapes.record(b"size", b"0"), b"g"), "one 'size' for all members"),
        (shapes.attributes(shapes.record(b"GNU.sparse.realsize", b"9"), b"g"), "a sparse file"),
        (shapes.attributes(shapes.record(b"hdrcharset", b"BINARY"), b"g"), "not UTF-8"),
        (shapes.attributes(shapes.record(b"mtime", b"1")) * 2, "two headers of type 'x'"),
        (shapes.long_name(b"a") * 2, "two headers of type 'L'"),
        (shapes.long_name(b"a", b"K") * 2, "two headers of type 'K'"),
        (shapes.long_name(b""), "is empty"),
        (shapes.long_name(bytes(100)), "is empty"),
        (shapes.long_name(b"", b"K"), "is empty"),
        (shapes.long_name(b"a\0b"), "has a NUL"),
        (shapes.long_name(b"a\0b", b"K"), "has a NUL"),
        (shapes.long_name(b"a") + shapes.attributes(shapes.record(b"path", b"b")), "given twice"),
        (shapes.attributes(shapes.record(b"comment", b"x" * 60_000)) * 300, "two headers"),
        (
            shapes.attributes(shapes.record(b"comment", b"x" * 60_000), b"g") * 300,
            "bytes of attributes in all",
        ),
    ],
)
def test_what_is_said_of_members(tmp_path: Path, before: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, before + make_tar(member("evil")))


def test_attributes_that_say_nothing_of_what_is_made(tmp_path: Path) -> None:
    commit = shapes.attributes(shapes.record(b"comment", b"5c1f0a"), b"g")  # as git archive
    times = shapes.attributes(
        shapes.record(b"mtime", b"1700000000.5")
        + shapes.record(b"SCHILY.xattr.user.a b", b"\0\xff=\n")
        + shapes.record(b"hdrcharset", b"ISO-IR 10646 2000 UTF-8")
        + shapes.record(b"path", "ü.h".encode())
    )
    extract_to(tmp_path / "tree", commit + times + make_tar(member("a.h", b"content")))
    assert (tmp_path / "tree/ü.h").read_bytes() == b"content"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_xz_is_corrupt_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check_damage(tmp_path_factory.mktemp("xz"), make_kheaders(RELEASE, {"include/x.h": b"x" * 3000}), data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_the_tar_archive_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check_damage(tmp_path_factory.mktemp("tar"), GOOD, data, exact=False)


def check_damage(directory: Path, good: bytes, data: st.DataObject, *, exact: bool = True) -> None:
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=20))
    tree = directory / "tree"
    try:
        extract_to(tree, bytes(damaged))
    except Corrupt:
        pass
    else:
        if exact:
            extract_to(directory / "good", good)
            assert contents(tree) == contents(directory / "good")
    assert set(os.listdir(directory)) <= {"tree", "good"}
    assert not at_work()


def test_every_truncation_of_the_xz_is_corrupt(tmp_path: Path) -> None:
    files = {f"include/{number}.h": random.Random(number).randbytes(3000) for number in range(40)}
    command = ["xz", "--compress", "--stdout", "--block-size=20000"]
    data = subprocess.run(command, input=tree_tar(files), stdout=subprocess.PIPE, check=True).stdout
    for number, length in enumerate(range(0, len(data), 1777)):
        with pytest.raises(Corrupt):
            extract_to(tmp_path / str(number), data[:length])


@contextmanager
def small_disk(directory: Path, options: str) -> Iterator[Path]:
    """A file system with hardly any room."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


as_root = needs_root("mounts a small file system")
MUCH = tree_tar({f"include/{number}.h": random.Random(number).randbytes(9000) for number in range(200)})


@as_root
def test_no_space_is_known_in_advance(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(NoSpace, match=rf"need {len(MUCH)} bytes.*has \d+ free"):
            extract_to(disk, lzma.compress(MUCH, preset=0))
        assert os.listdir(disk) == []


@as_root
def test_no_space_half_way(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "size=1m") as disk,
        pytest.raises(NoSpace, match=r"writing 'include/\d+\.h' failed: No space left on device; \d+ bytes"),
    ):
        extract_to(disk, MUCH)  # not compressed: the size is not known


@as_root
def test_no_inodes(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "size=8m,nr_inodes=20") as disk,
        pytest.raises(NoSpace, match="No space left on device"),
    ):
        extract_to(disk, lzma.compress(MUCH, preset=0))
    with small_disk(tmp_path / "full", "size=8m,nr_inodes=2") as disk:
        (disk / "tree").mkdir()
        with pytest.raises(NoSpace, match="no free inode"):
            extract_to(disk / "tree", lzma.compress(MUCH, preset=0))


@as_root
def test_a_file_larger_than_allowed_is_no_space(tmp_path: Path) -> None:
    import resource
    import signal

    tree = tmp_path / "tree"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(NoSpace, match="File too large"):
            extract_to(tree, MUCH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_directory_that_goes_away_is_told(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    tree.rmdir()
    try:
        with pytest.raises(KheadersError, match="could not be written to the cache: No such file") as caught:
            extract.extract(
                archive(GOOD),
                fd,
                limits=Limits(),
                report=lambda _stage, _fraction: None,
                cancelled=threading.Event(),
            )
    finally:
        os.close(fd)
    assert type(caught.value) is KheadersError


def test_packed_numbers_of_gnu_tar_are_read(tmp_path: Path) -> None:
    tar = header(size=(124, b"\x80" + struct.pack(">xxxQ", 1))) + b"x".ljust(512, b"\0") + bytes(1024)
    extract_to(tmp_path / "tree", tar)
    assert (tmp_path / "tree/evil").read_bytes() == b"x"
