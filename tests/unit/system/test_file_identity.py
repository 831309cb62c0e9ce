"""What the identity of a file tells apart, and what it stores."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from kheadersd.system.file_digests import FileDigests
from kheadersd.system.file_identity import (
    are_unchanged,
    identities_at,
    identity_at,
    identity_of,
    stored_identity,
    stored_identity_at,
)
from kheadersd.system.tasks import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def rewrite(path: Path) -> None:
    """Change the content, not the size, and set the time of modification back."""
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock has ticks of milliseconds
        path.write_bytes(b"B" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"A")


@pytest.mark.parametrize("change", [rewrite, replace, grow, os.unlink])
def test_a_change_is_noticed(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * 10)
    identity, stored = identity_at(path, follow=True), stored_identity_at(path)
    assert identity == identity_of(path.stat())
    assert stored == stored_identity(path.stat())
    known = identities_at([path, tmp_path / "missing"])
    assert are_unchanged(known)
    change(path)
    assert identity_at(path, follow=True) != identity
    assert stored_identity_at(path) != stored
    assert not are_unchanged(known)


def test_what_comes_is_noticed(tmp_path: Path) -> None:
    known = identities_at([tmp_path / "missing"])
    (tmp_path / "missing").touch()
    assert not are_unchanged(known)


def test_a_link_is_not_what_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"A")
    link.symlink_to(target)
    assert identity_at(link, follow=True) == identity_at(target, follow=True)
    known = identities_at([link])
    grow(target)
    assert are_unchanged(known)
    target.unlink()
    assert identity_at(link, follow=True) is None
    assert stored_identity_at(link) == ""
    assert identity_at(link, follow=False) is not None


def test_what_is_stored_holds_on_another_device() -> None:
    status = os.stat("/")
    fields = list(status[:10])
    fields[2] = status.st_dev + 1
    times = {"st_ctime_ns": status.st_ctime_ns}
    elsewhere = os.stat_result(fields, times)
    assert identity_of(elsewhere) != identity_of(status)
    assert stored_identity(elsewhere) == stored_identity(status)


def test_a_digest_is_not_computed_again_for_the_same_identity(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"A" * 10)
    known, digests, never = identities_at([path]), FileDigests(), threading.Event()
    first = digests.digest(known, never)
    rewrite(path)
    assert digests.digest(known, never) == first
    assert digests.digest(identities_at([path]), never) != first


def test_a_digest_is_of_names_too_and_can_be_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"A")
    one, two = (FileDigests().digest(identities_at([tmp_path / name]), cancelled) for name in ("one", "two"))
    assert one != two
    cancelled.set()
    with pytest.raises(Cancelled):
        FileDigests().digest(identities_at([tmp_path / "one"]), cancelled)
