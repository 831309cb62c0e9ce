# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments of kheadersd, and the directories that follow from them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..config import Config
from ..errors import KheadersError
from ..system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line. Ends the process after --help and --version (0) and on mistakes (2)."""
    parser = argparse.ArgumentParser(
        prog="kheadersd", description="Provides kernel headers to tracing tools over D-Bus."
    )
    parser.add_argument(
        "--session", action="store_true", help="serve on the session bus, a trial without root"
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", default=Path("/"), help="serve the host whose files are below DIR"
    )
    parser.add_argument(
        "--cache-directory", type=Path, metavar="DIR", help="instead of Directory= in [Cache]"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read only this configuration file")
    parser.add_argument("--debug", action="store_true", help="log everything")
    parser.add_argument("--version", action="version", version=f"kheadersd {__version__}")
    return parser.parse_args(arguments)


def root_directory(arguments: argparse.Namespace) -> Path:
    """The directory below which the files of the host are.

    Raises:
        KheadersError: there is no such directory, it cannot be looked at, or its path is not UTF-8.
    """
    try:
        is_directory, root = arguments.root.is_dir(), arguments.root.resolve()
    except OSError as error:
        raise KheadersError(f"--root {arguments.root}: {error.strerror}") from error
    if not is_directory:
        raise KheadersError(f"--root {arguments.root}: there is no such directory")
    return _utf8(root, "--root")


def cache_directory(arguments: argparse.Namespace, configured: Path) -> Path:
    """Where the cache is.

    Args:
        configured: Directory= of the configuration, or its default. On a session bus the default is replaced
            by a directory of the user's.

    Raises:
        KheadersError: the user has no home directory, or the path is not UTF-8.
    """
    directory = configured
    if arguments.cache_directory is not None:
        directory = Path(os.path.abspath(arguments.cache_directory))  # noqa: PTH100 - links stay
    elif arguments.session and configured == Config().cache_directory:
        directory = _user_cache() / "kheaders"
    return _utf8(directory, "the cache directory")


def _user_cache() -> Path:
    """As the XDG Base Directory Specification has it, which ignores relative paths."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise KheadersError("there is no home directory; choose one with --cache-directory") from error


def _utf8(path: Path, what: str) -> Path:
    """``path``, if callers can be given it: D-Bus has no other text than UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise KheadersError(
            f"{what} {printable(str(path))}: its path is not UTF-8, as D-Bus needs it; rename it"
        ) from None
    return path
