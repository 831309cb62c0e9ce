# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long a source may take, and how much it may bring, as the configuration says."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, TypeVar

from ..errors import Timeout
from ..names import PACKAGE, REGISTRY
from ..sources.source import Limits
from ..system.tasks import within

if TYPE_CHECKING:
    from ..config import Config
    from ..release import Release

DOWNLOADING = (PACKAGE, REGISTRY)
"""The sources that use the network, each of which takes a consent of its own."""

T = TypeVar("T")


def limits_of(config: Config) -> Limits:
    """What an archive may have at most."""
    return Limits(max_files=config.max_files, max_bytes=config.max_bytes)


async def in_time(config: Config, release: Release, source: str, work: Awaitable[T]) -> T:
    """The result of a source's work.

    Raises:
        Timeout: the work takes longer than ExtractTimeout= or DownloadTimeout= allows.
    """
    setting, limit = "ExtractTimeout=", config.extract_timeout
    if source in DOWNLOADING:
        setting, limit = "DownloadTimeout=", config.download_timeout

    def late() -> Timeout:
        return Timeout(f"source {source} took longer than {limit or 0:g} s for {release}; see {setting}")

    return await within(limit, work, late)
