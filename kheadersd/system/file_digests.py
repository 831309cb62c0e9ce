# SPDX-License-Identifier: LGPL-2.1-or-later
"""The digests of files that are asked for again and again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from .files import opened, read_pieces
from .tasks import Cancelled

if TYPE_CHECKING:
    import threading

    from .file_identity import FileIdentity, Identities


class FileDigests:
    """The digests of files; reads a file again only when its identity has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[FileIdentity | None, str]] = {}

    def digest(self, identities: Identities, cancelled: threading.Event) -> str:
        """The sha256, in hex, of the names and contents of regular files. Blocks: 200 MB take half a second.

        Raises:
            OSError: a file cannot be read.
            Cancelled: ``cancelled`` was set.
        """
        whole = hashlib.sha256()
        for path in sorted(identities):
            if cancelled.is_set():
                raise Cancelled
            known = self._known.get(path)
            if known is None or known[0] != identities[path]:
                known = identities[path], _digest(path, cancelled)
                self._known[path] = known
            # Neither a name nor a digest has a zero byte in it.
            whole.update(f"{path}\0{known[1]}\0".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()


def _digest(path: str, cancelled: threading.Event) -> str:
    digest = hashlib.sha256()
    with opened(path) as (descriptor, status):
        for piece in read_pieces(descriptor, status.st_size):
            if cancelled.is_set():
                raise Cancelled
            digest.update(piece)
    return digest.hexdigest()
