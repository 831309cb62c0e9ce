"""No archive takes much memory, works without a bound, or keeps the extraction from being stopped."""

from __future__ import annotations

import functools
import io
import lzma
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.cache.manifest import Item
from kheadersd.cache.tree_writer import BadLink, LinkResolver
from kheadersd.formats import decompress
from kheadersd.formats.tar import DIRECTORY, FILE, SYMLINK
from kheadersd.sources.source import Layer, whole
from kheadersd.system.tasks import Cancelled
from tests.support.extracting import extract_to, nothing_left
from tests.support.tar_shapes import (
    member,
    tar,
    xz,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Looks(threading.Event):
    """Counts how often it is asked whether it is set; it is after ``most`` times."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most = most
        self.count = 0

    def is_set(self) -> bool:
        self.count += 1
        return self.most is not None and self.count > self.most


def test_every_step_can_be_the_last(tmp_path: Path) -> None:
    symlinks = [member(f"l{number}", b"2", target="a.h") for number in range(200)]
    files = [member(f"{number}.h") for number in range(200)]
    data = xz(tar([member("a.h"), *files, *symlinks]))
    looks = Looks()
    extract_to(tmp_path / "all", data, cancelled=looks)
    assert looks.count >= 201 + 200 * 3  # a link is read, followed and made
    for number, most in enumerate(range(0, looks.count, 37)):
        with pytest.raises(Cancelled):
            extract_to(tmp_path / str(number), data, cancelled=Looks(most))
        made = len(os.listdir(tmp_path / str(number)))
        assert made <= most, "it went on"


class Counted(Mapping[str, Item]):
    """Entries of a tree, and how often one was looked up."""

    def __init__(self, entries: dict[str, Item]) -> None:
        self._entries = entries
        self.count = 0

    def __getitem__(self, name: str) -> Item:
        self.count += 1
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def test_each_link_is_followed_once() -> None:
    # Every 39th link leads up and down many times, the others to the one before.
    steps = "a/../" * 100 + "a/b"
    chains = {
        f"l{number}": Item(SYMLINK, 0, f"l{number - 1}" if number % 39 else steps)
        for number in range(39 * 20)
    }
    entries = Counted({"a": Item(DIRECTORY), "a/b": Item(FILE), **chains})
    resolver = LinkResolver(entries)
    for name in chains:
        assert resolver.resolve(name)[0] == "a/b"
    # Of each step two: where it leads, and that it is a directory.
    assert entries.count <= 20 * 39 * 3 + 20 * 100 * 4


@given(
    links=st.dictionaries(
        st.sampled_from(["l", "m", "d/l", "d/e/m"]),
        st.lists(st.sampled_from(["l", "m", "d", "e", "x", ".", "..", ""]), min_size=1, max_size=5).map(
            "/".join
        ),
    )
)
def test_links_lead_where_the_kernel_says(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]
) -> None:
    links = {name: target for name, target in links.items() if target and target[0] != "/"}
    entries = {"d": Item(DIRECTORY), "d/e": Item(DIRECTORY), "d/x": Item(FILE)}
    entries |= {name: Item(SYMLINK, 0, target) for name, target in links.items()}
    top = tmp_path_factory.mktemp("links") / "tree"
    (top / "d/e").mkdir(parents=True)
    (top / "d/x").touch()
    for name, target in links.items():
        os.symlink(target, top / name)
    resolver = LinkResolver(entries)
    for name in links:
        try:
            led = str(top / resolver.resolve(name)[0])
        except BadLink as bad:
            # What is outside may be there; it is refused even where a link comes back.
            if "outside" in str(bad):
                continue
            led = ""
        try:
            status = os.stat(top / name)
        except OSError:
            assert led == ""
        else:
            assert os.path.samestat(status, os.lstat(led))


class Endless(io.RawIOBase):
    """A compressed file that gives nothing, and has no end."""

    def __init__(self, head: bytes, again: bytes) -> None:
        super().__init__()
        self._head = head
        self._again = again * (65536 // len(again))

    def read(self, size: int = -1, /) -> bytes:
        piece, self._head = self._head[:size], self._head[size:]
        return piece or self._again[:size]


@pytest.mark.parametrize(
    ("head", "again"),
    [
        (lzma.compress(b""), b"\0"),  # padding
        (b"\x1f\x8b\x08\x08" + bytes(6), b"x"),  # the name of the file
        (b"\x28\xb5\x2f\xfd\x20\0" + b"\1\0\0", b"\x50\x2a\x4d\x18\xf0\xff\0\0" + bytes(0xFFF0)),
    ],
    ids=["xz", "gzip", "zstd"],
)
def test_a_file_without_an_end_can_be_left(tmp_path: Path, head: bytes, again: bytes) -> None:
    source = functools.partial(Endless, head, again)
    endless = Layer("a.tar", lambda: decompress.chunks(source, "a.tar"), whole)  # type: ignore[arg-type]
    with nothing_left(), pytest.raises(Cancelled):
        extract_to(tmp_path / "tree", endless, cancelled=Looks(2))
