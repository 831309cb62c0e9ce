"""Runs tests where another suite of Debian has its Python, systemd and libraries: ``./dev suite``.

Two parts. First ``./dev test``, with a selection, in a root directory of the suite made by mmdebstrap: the
checkout is copied below root's home there, readable for root alone, and the D-Bus library is the newest
dbus-fast (dbus-next is what this machine's own run has, and the guests and containers). Then the tests of
the units, in containers that boot the suite's systemd.

Left out in the root is what the suite cannot break, or runs elsewhere: the matrix of compilers, kernels and
programs (the same compilers run on this machine), programs and sizes that are made to mislead, nodes that
share a registry (containers of the suite have some), trees of other distributions and architectures, strange
files, the packages of the project, the suite of tests itself, the benchmarks, and what needs a container, a
guest, pods, or the root directory of another host. Each of it can be named. Package managers and skopeo, of
which a suite has its own, run.

Where places of tests are named, as in ``./dev suite sid tests/unit``, only the part runs that has them,
without the checks. ``./dev suite sid tests/daemon/pch/test_precompiled_tools.py`` is for all of bcc's tools,
and ``./dev suite sid tests/systemd/test_install.py`` for the package in sid.

``./dev suite trixie bench [ROW…]`` measures there, as ``./dev bench`` does here.

``python -m tests.support.in_suite --python 3.15 sid [ARG…]`` runs the tests of units, or others, with another
Python of the suite and its dbus-fast: Debian builds the libraries for every Python that a suite has.
"""

from __future__ import annotations

import itertools
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
    *("bench", "bounds", "systemd", "test_suite.py", "vm"),
    "daemon/test_foreign_files.py",
    *(f"daemon/pch/test_{name}.py" for name in ("hostile_tools", "kernels")),
    "real/pch",
    *(f"real/registry/test_{name}.py" for name in ("nodes", "pchs")),
    *(f"real/test_{name}.py" for name in ("distributions", "hosts", "layouts", "package", "packages")),
    *(f"real/test_{name}.py" for name in ("pods", "trees")),
)
_IN_CONTAINERS = ("systemd",)
_COMPILER = "clang-19"
_KUBECTL = "kubectl"  # Debian 12's is older than what the manifests of `kubernetes/` are written for

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
# The lists of packages, of which a new root has none; without a network, those who need them say so.
apt-get -qq update || :
exec "$HOME/checkout/dev" "$@"
"""


# What the tests of units need besides, in the versions that pip finds.
_TOOLS = (
    *("pytest>=8", "pytest-asyncio>=0.24", "pytest-timeout>=2.3", "pytest-xdist>=3.5", "hypothesis>=6"),
    "prometheus-client",
)
_OF_UNITS = (
    *("python3-bpfcc", "python3-dbus-fast", "python3-pyelftools", "python3-pyudev", "python3-systemd"),
    *("python3-yaml", "python3-zstandard", "bpftool", "ccache", "clang", "dbus", "fish", "gcc", "groff-base"),
    *("meson", "procps", "util-linux", "xz-utils", "zsh", "zstd"),
)
_OTHER_PYTHON = """\
umask 077
mkdir -p "$HOME/checkout"
tar -C "$1" --exclude='./.git' --exclude='./.*_cache' --exclude=__pycache__ -c . | tar -C "$HOME/checkout" -x
cd "$HOME/checkout"
"/usr/bin/python$2" -m venv --system-site-packages "$HOME/venv"
"$HOME/venv/bin/pip" --quiet --disable-pip-version-check install $3
shift 3
exec "$HOME/venv/bin/python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
"""


def run_with_python(suite: str, version: str, arguments: Sequence[str]) -> int:
    """Run the tests of units with another Python of a suite; the exit status of pytest."""
    python = f"python{version}"
    root = debian.root(suite, [python, f"{python}-venv", *_OF_UNITS, _COMPILER])
    command = ["sh", "-ec", _OTHER_PYTHON, "sh", str(_REPOSITORY), version, " ".join(_TOOLS), *arguments]
    return subprocess.run([*_inside(root), *command], check=False).returncode


def run_in_root(suite: str, packages: Sequence[str], arguments: Sequence[str]) -> int:
    """Run a part of the suite in a root directory of a suite of Debian; the exit status of pytest.

    Args:
        packages: what ``./dev test`` installs.
        arguments: of pytest, besides those for what is left out.
    """
    selection = ["--hypothesis-profile=quick", *(f"--ignore=tests/{name}" for name in _LEFT_OUT)]
    what = "only" if any(argument.startswith("tests") for argument in arguments) else "test"
    return run_dev(suite, packages, what, *selection, *arguments)


def run_dev(suite: str, packages: Sequence[str], *words: str) -> int:
    """Run ``./dev`` in a root directory of a suite of Debian; its exit status."""
    root = debian.root(suite, {*packages, _COMPILER, _compiler(suite), _KUBECTL})
    hidden = Path(without_dbus_next(store.directory("without-dbus-next")))
    command = ["sh", "-ec", _SCRIPT, "sh", str(_REPOSITORY), str(hidden), *words]
    return subprocess.run([*_inside(root), *command], check=False).returncode


def _compiler(suite: str) -> str:
    """The package of the clang that makes what the suite's bcc takes."""
    llvm = debian.depends(suite, "libbpfcc", r"libllvm[0-9]+\S*")
    return "clang-" + "".join(itertools.takewhile(str.isdigit, llvm.removeprefix("libllvm")))


def _inside(root: Path) -> list[str]:
    """The beginning of a command line whose command sees the checkout, the network and what is kept."""
    certificates = {Path(os.environ[name]) for name in _CERTIFICATES if name in os.environ}
    return debian.inside(
        root,
        binds=[store.directory(".")],
        read_only=[_REPOSITORY, *certificates],
        environment=["XDG_CACHE_HOME", *_CERTIFICATES, *_OF_PIP],
    )


def run_in_containers(suite: str, arguments: Sequence[str], places: Sequence[str] = ()) -> int:
    """Run the tests that boot systemd in containers of a suite, or some; the exit status of pytest."""
    places = places or [str(_TESTS / name) for name in _IN_CONTAINERS]
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
    if suite == "--python":
        version, of_suite, *tests = arguments
        return run_with_python(of_suite, version, tests or ["tests/unit"])
    at = arguments.index("--")
    packages, more = arguments[:at], arguments[at + 1 :]
    if more[:1] == ("bench",):
        prepare(suite, containers=False)
        return run_dev(suite, packages, *more)
    options = [argument for argument in more if not argument.startswith("tests")]
    places = [argument for argument in more if argument.startswith("tests")]
    booted = [place for place in places if _is_in_containers(place)]
    others = [place for place in places if place not in booted]
    statuses = []
    if booted or not places or any(not place.startswith("tests/unit") for place in others):
        prepare(suite, containers=bool(booted) or not places)
    if others or not places:
        statuses.append(run_in_root(suite, packages, [*options, *others]))
    if booted or not places:
        statuses.append(run_in_containers(suite, options, booted))
    return int(any(statuses))


def _is_in_containers(place: str) -> bool:
    return any(place.startswith(f"tests/{name}") for name in _IN_CONTAINERS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
