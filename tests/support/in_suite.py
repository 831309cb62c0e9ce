"""Runs tests where another suite of Debian has its Python, systemd and libraries: ``./dev suite``.

Two parts. First ``./dev test``, with a selection, in a root directory of the suite made by mmdebstrap: the
checkout is copied below root's home there, readable for root alone, and the D-Bus library is the newest
dbus-fast (dbus-next is what this machine's own run has, and the guests and containers). Then the tests of
the units, in containers that boot the suite's systemd.

Left out in the root is what its Python cannot break, or runs elsewhere: the matrix of compilers, kernels and
programs (the same compilers run on this machine), the benchmarks, and what needs a container or a guest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import debian, store
from tests.support.libraries import without_dbus_next
from tests.support.prepare import prepare

_REPOSITORY = Path(__file__).resolve().parents[2]
_TESTS = _REPOSITORY / "tests"

_LEFT_OUT = (
    *("bench", "systemd", "vm"),
    *("daemon/pch/test_kernels.py", "real/pch/test_corpus.py", "real/pch/test_matrix.py"),
)
_IN_CONTAINERS = ("systemd",)
_COMPILER = "clang-19"

# Of this machine, for pip in the root.
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_OF_PIP = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)

# A newcomer's checkout is below root's home, which others cannot read.
_SCRIPT = """\
umask 077
mkdir -p "$HOME/checkout"
tar -C "$1" --exclude='./.git' --exclude='./.*_cache' --exclude=__pycache__ -c . | tar -C "$HOME/checkout" -x
export PYTHONPATH="$2"
shift 2
exec "$HOME/checkout/dev" test "$@"
"""


def run_in_root(suite: str, packages: Sequence[str], arguments: Sequence[str]) -> int:
    """Run a part of the suite in a root directory of a suite of Debian; the exit status of pytest.

    Args:
        packages: what ``./dev test`` installs.
        arguments: of pytest, besides those for what is left out.
    """
    root = debian.root(suite, [*packages, _COMPILER])
    hidden = Path(without_dbus_next(store.directory("without-dbus-next")))
    certificates = {Path(os.environ[name]) for name in _CERTIFICATES if name in os.environ}
    inside = debian.inside(
        root,
        binds=[store.directory(".")],
        read_only=[_REPOSITORY, *certificates],
        environment=["XDG_CACHE_HOME", *_CERTIFICATES, *_OF_PIP],
    )
    selection = [f"--ignore=tests/{name}" for name in _LEFT_OUT]
    command = ["sh", "-ec", _SCRIPT, "sh", str(_REPOSITORY), str(hidden), *selection, *arguments]
    return subprocess.run([*inside, *command], check=False).returncode


def run_in_containers(suite: str, arguments: Sequence[str]) -> int:
    """Run the tests that boot systemd in containers of a suite of Debian; the exit status of pytest."""
    places = [str(_TESTS / name) for name in _IN_CONTAINERS]
    options = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--expected-skips")
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(
        [*command, *places, *arguments],
        cwd=_REPOSITORY,
        env={**os.environ, "KHEADERSD_CONTAINER_SUITE": suite},
        check=False,
    )
    return done.returncode


def main(suite: str, *arguments: str) -> int:
    """The exit status. The arguments are the packages up to ``--``, and those of pytest."""
    at = arguments.index("--")
    packages, more = arguments[:at], arguments[at + 1 :]
    prepare(suite)
    statuses = run_in_root(suite, packages, more), run_in_containers(suite, more)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
