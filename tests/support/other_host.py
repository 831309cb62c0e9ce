"""Hosts of another suite of Debian or another architecture: a root directory, and programs that run in it.

Programs of another architecture are run by qemu-user, which the kernel starts by binfmt_misc. What is in the
root was unpacked, and never configured: no program of its packages runs before the test's own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support import debian, store
from tests.support.programs import CannotRun, run

_PACKAGES = (
    *("base-files", "coreutils", "dash", "util-linux", "dbus-daemon", "libbpf-dev"),
    *("python3", "python3-dbus-next", "python3-pyudev", "python3-systemd", "python3-zstandard"),
)
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# As systemd-binfmt does it at boot; here there may be no systemd.
_REGISTRATIONS = Path("/usr/lib/binfmt.d")
_ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"


def machine(architecture: str) -> str:
    """What ``uname -m`` prints where Debian's architecture is this one."""
    return _MACHINES[architecture]


def why_not(architecture: str) -> str:
    """Why this machine cannot run programs of an architecture of Debian's; "" if it can."""
    if architecture == debian.architecture():
        return ""
    name = f"qemu-{machine(architecture)}"
    try:
        if not (_BINFMT / "register").exists():
            run("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT)
        if not (_BINFMT / name).exists():
            (_BINFMT / "register").write_bytes((_REGISTRATIONS / f"{name}.conf").read_bytes().strip())
    except (CannotRun, OSError) as error:
        return f"no programs of {architecture} here: {error}"
    return ""


def root(suite: str, architecture: str, packages: Sequence[str]) -> Path:
    """The root directory of a host with a D-Bus daemon, kheadersd's dependencies and these packages.

    Nothing may be written to it: use `inside`.

    Raises:
        debian.CannotGet: it cannot be had.
    """
    wanted = sorted({*_PACKAGES, *packages})

    def make(made: Path) -> None:
        debian.make_root(
            made,
            suite,
            wanted,
            variant="extract",
            options=(f"--architectures={architecture}", f"--hook-dir={_MERGED_USR}"),
        )
        for name in ("proc", "sys", "run", "root"):
            (made / name).mkdir(exist_ok=True)
        (made / "etc/passwd").write_text(_ACCOUNTS)

    key = store.key_of(suite, architecture, "extracted", *wanted)
    return store.kept(f"hosts/{suite}-{architecture}", key, make, keep=2)


def python(
    root: Path, module: str, *arguments: str, binds: Sequence[Path], read_only: Sequence[Path], seconds: float
) -> str:
    """What a module of the tests prints that the host's own Python runs as root in the root directory.

    Args:
        binds: the directories that it may write to.
        read_only: those that it may read, besides the repository.
    """
    repository = Path(__file__).resolve().parents[2]
    command = debian.inside(root, binds=binds, read_only=[repository, *read_only])
    done = subprocess.run(
        [*command, "env", f"PYTHONPATH={repository}", "python3", "-B", "-m", module, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
