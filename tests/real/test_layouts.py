"""Debian's own headers in the layouts of other distributions: found, usable, and copied as one tree."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources import tree_copy
from kheadersd.sources.installed_tree import TreeSource
from kheadersd.sources.source import NotFound, Tree
from kheadersd.sources.usable import check_usable
from tests.support.directories import for_all_users
from tests.support.extracting import LIMITS, put
from tests.support.hosts import ignore
from tests.support.layouts import LAYOUTS, Headers, make

pytestmark = pytest.mark.slow

COPIED = ("openSUSE, prepared", "Ubuntu")
"""Of these, a precompiled header is made from directories of more than one package."""


@pytest.fixture(scope="module")
def headers() -> Iterator[Headers]:
    with for_all_users("kh-layouts-", "/dev/shm") as directory:
        yield Headers(directory)


@pytest.mark.parametrize("name", LAYOUTS)
async def test_headers_are_found(headers: Headers, name: str) -> None:
    root, source, build = make(LAYOUTS[name], headers)
    host, release = Host(root.root), Release(LAYOUTS[name].release)
    assert host.running == release
    found = await TreeSource(host).find(release, ignore)
    assert found == Tree(source_tree=source, build_tree=build)
    if name in COPIED:
        archive = tree_copy.snapshot(host, release, found, LIMITS, threading.Event())
        tree = put(archive, headers.directory / f"entry of {name}")
        check_usable(tree, tree, release)
    root.remove_headers()
    with pytest.raises(NotFound):
        await TreeSource(host).find(release, ignore)
    root.remove()
