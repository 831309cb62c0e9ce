"""Fixtures with real kernel headers; the first use on a machine takes minutes, see support/kheaders.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kheaders import RealHeaders, make_real_headers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def real_headers() -> RealHeaders:
    """The release, and all that was made for it."""
    return make_real_headers()


@pytest.fixture(scope="session")
def real_archive(real_headers: RealHeaders) -> Path:
    """A kheaders.tar.xz as the kernel's own generator makes it, for `real_headers.release`."""
    return real_headers.archive


@pytest.fixture(scope="session")
def real_module(real_headers: RealHeaders) -> Path:
    """A kheaders.ko as a distribution ships it, for `real_headers.release`."""
    return real_headers.module
