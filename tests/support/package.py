"""The Debian package of the repository's present tree, as ``./dev package`` builds it: once for all tests."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support import store
from tests.support.programs import run
from tests.support.running import REPOSITORY

KIND = "deb"
"""Where the packages are in the store."""

_BUILT_BY = ("dpkg-buildpackage", "-us", "-uc", "-b")
# The tests of units run elsewhere.
_WITHOUT_TESTS = {
    "DEB_BUILD_OPTIONS": "nocheck",
    "DEB_BUILD_PROFILES": "nocheck",
    "PATH": "/usr/sbin:/usr/bin",
}


def project_files() -> list[Path]:
    """The files of the repository that take part in the package."""
    files = store.files_below(REPOSITORY, leave_out=("tests", "build", "dist", "stubs", "examples"))
    others = [REPOSITORY / "packaging" / name for name in ("arch", "nix", "rpm")]
    return [file for file in files if file.parent not in others]


def package() -> Path:
    """The package's file for this machine's suite, built now (some seconds) if it was not built before."""
    return _package({})


OLDER = "0.0.9"
"""The version of `older_package`."""


def older_package() -> Path:
    """The same as a lower version, with another version of the records of entries."""
    return _package(
        {
            "kheadersd/__init__.py": (r'(?m)^(__version__ = ").*(")$', OLDER),
            "debian/changelog": (r"\A(kheadersd \().*?(\))", OLDER),
            "kheadersd/cache/entry.py": (r"(?m)^(_VERSION = )\d+()$", "1"),
        }
    )


def _package(changes: Mapping[str, tuple[str, str]]) -> Path:
    files = project_files()
    names = "\n".join(str(file.relative_to(REPOSITORY)) for file in files)
    # Another suite's tools put files elsewhere.
    key = store.key_of(repr(changes), names, Path("/etc/os-release"), Path(__file__), *files)
    return next(store.kept(KIND, key, lambda made: _build(made, changes), keep=6).glob("*.deb"))


def _build(made: Path, changes: Mapping[str, tuple[str, str]]) -> None:
    tree = made / "tree"
    copy_tree(tree)
    for name, (pattern, value) in changes.items():
        text, count = re.subn(pattern, rf"\g<1>{value}\g<2>", (tree / name).read_text())
        assert count == 1, f"{name} has no {pattern}"
        (tree / name).write_text(text)
    build(tree)
    shutil.rmtree(tree)


def copy_tree(target: Path) -> None:
    """Copy what takes part in the package to a directory that is made for it."""
    for file in project_files():
        copy = target / file.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)


def build(tree: Path, **environment: str) -> None:
    """Build the package of a tree beside it, without the tests of units.

    Raises:
        CannotRun: it cannot be built; the message has the end of what the tools say.
    """
    run(*_BUILT_BY, cwd=tree, env={**_WITHOUT_TESTS, **environment})
