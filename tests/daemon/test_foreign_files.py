"""What can be at the place of a file that the daemon reads below its root: nothing of it takes a worker away.

Four threads do all that blocks. One that waits for the writer of a FIFO never comes back, and with the fourth
the daemon would stand still.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.hosts import put_tree
from tests.support.needs import needs_root
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = needs_root("only root makes devices")

MEBIBYTE = 1 << 20
WORKERS = 4
MODULES = f"lib/modules/{RELEASE}"

FILES = [
    "proc/sys/kernel/osrelease",
    "proc/sys/kernel/random/boot_id",
    "sys/kernel/notes",
    "sys/kernel/kheaders.tar.xz",
    "sys/kernel/btf/vmlinux",
    "sys/module/kheaders",
    f"{MODULES}/modules.dep",
    f"{MODULES}/kernel/kernel/kheaders.ko",
    f"{MODULES}/kernel/kernel/kheaders.ko.gz",
    f"{MODULES}/kernel/kernel/kheaders.ko.xz",
    f"{MODULES}/kernel/kernel/kheaders.ko.zst",
    f"{MODULES}/build/include/linux/kconfig.h",
    f"{MODULES}/build/include/linux/types.h",
    f"{MODULES}/build/include/generated/autoconf.h",
    f"{MODULES}/build/include/generated/utsrelease.h",
    f"{MODULES}/vmlinux",
    f"{MODULES}/vmlinuz",
    f"boot/vmlinux-{RELEASE}",
    f"boot/vmlinuz-{RELEASE}",
    # Where a directory is expected:
    "lib/modules",
    MODULES,
    f"{MODULES}/build",
    f"{MODULES}/source",
    f"{MODULES}/kernel",
    "boot",
    "sys/kernel",
    "usr/src",
    f"usr/src/linux-headers-{RELEASE}",
]
APT = [
    "etc/apt",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/a.sources",
    "etc/apt/trusted.gpg.d/a.gpg",
    "etc/apt/auth.conf",
    "etc/apt/preferences",
    "var/lib/apt/lists/a_Packages",
]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:  # the name is too long for some paths
        directory = os.open(path.parent, os.O_PATH)
        try:
            server.bind(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "zero": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
    "tty": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(5, 0)),
    "socket": _socket,
    "sparse": _sparse,
    "bytes": lambda path: path.write_bytes(bytes(range(255, -1, -1)) * 64),
    "loop": lambda path: path.symlink_to(path.name),
    "out": lambda path: path.symlink_to("../" * 30 + "dev/zero"),
}


def _put(path: Path, put: Callable[[Path], object]) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A host that has headers in every place."""
    root = tmp_path / "template"
    host = ServedHost(root)
    host.show(make_kheaders(RELEASE))
    put_tree(root / MODULES / "build")
    for name in ("boot", "usr/src", "etc/apt", "var/lib/apt/lists", "sys/kernel/btf", "sys/module"):
        (root / name).mkdir(parents=True)
    return root


def _ask(bus: Bus, *sources: str) -> list[object]:
    """Answers of any kind, to as many calls as take all workers."""
    chosen = ("2", "refresh", "b", "true", "sources", "as", str(len(sources)), *sources)
    calls = [
        *[("GetHeaders", "sa{sv}", RELEASE, *chosen), ("GetTypes", "sa{sv}", RELEASE, "0")] * (WORKERS - 1),
        ("GetHeaders", "sa{sv}", "", *chosen),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: bus.call(*call), calls))


def _check(daemon: Daemon, bus: Bus, answers: list[object], where: str) -> None:
    for answer in answers:
        if isinstance(answer, Refused):
            assert "timed out" not in answer.message.lower(), where
            assert "took longer" not in answer.message, where
    assert bus.get("Version"), where
    assert daemon.memory("VmHWM") < 250 * MEBIBYTE, where


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_at_the_place_of_a_file(
    bus: Bus, make_daemon: MakeDaemon, template: Path, tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(template, root, symlinks=True)
    daemon = make_daemon(bus, root=root)
    for name in FILES:
        shutil.rmtree(root)
        shutil.copytree(template, root, symlinks=True)
        _put(root / name, KINDS[kind])
        _check(daemon, bus, _ask(bus, "tree", "sysfs", "module-file"), f"{kind} as {name}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_starts_and_ends_whatever_is_at_the_place_of_a_file(
    bus: Bus, make_daemon: MakeDaemon, template: Path, kind: str
) -> None:
    """All of them at once; the directories above them stay."""
    for name in [*FILES[:19], *APT[1:]]:
        _put(template / name, KINDS[kind])
    daemon = make_daemon(bus, root=template)
    assert bus.get("RunningRelease") == ""
    _check(daemon, bus, _ask(bus, "tree", "sysfs", "module-file"), kind)
    assert daemon.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_at_the_place_of_apt_s_files(
    bus: Bus, make_daemon: MakeDaemon, template: Path, tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(template, root, symlinks=True)
    daemon = make_daemon(bus, root=root)
    for name in APT:
        shutil.rmtree(root)
        shutil.copytree(template, root, symlinks=True)
        _put(root / name, KINDS[kind])
        answer = bus.call(
            "GetHeaders", "sa{sv}", RELEASE, "2", "refresh", "b", "true", "sources", "as", "1", "package"
        )
        assert isinstance(answer, Refused)
        if kind in ("fifo", "socket", "zero", "tty") and name != "etc/apt":
            assert "it is no file and no directory" in answer.message, name
        _check(daemon, bus, [answer], f"{kind} as {name}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_at_the_place_of_a_file_of_the_cache(
    bus: Bus, make_daemon: MakeDaemon, template: Path, kind: str
) -> None:
    daemon = make_daemon(bus, root=template)
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "1", "sources", "as", "1", "sysfs")
    tree = Path(path)
    for name in ("entry.json", "manifest", "durable", "tree", "tree/include/linux/kconfig.h", "pch", ""):
        assert daemon.stop() == 0
        _put(tree.parent / name, KINDS[kind])
        daemon.start()
        answer = bus.call("GetHeaders", "sa{sv}", "", "1", "sources", "as", "1", "sysfs")
        assert not isinstance(answer, Refused), (kind, name, answer)
        assert Path(answer[0], "include/linux/kconfig.h").read_bytes(), (kind, name)
        _check(daemon, bus, [bus.call("Verify", "sa{sv}", "", "0")], f"{kind} as {name}")
        tree = Path(answer[0])


@pytest.mark.parametrize("option", ["--cache-directory", "--root"])
def test_a_path_that_no_caller_can_be_told_is_refused_at_start(tmp_path: Path, option: str) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\x1b"
    os.mkdir(path)
    done = subprocess.run(
        [sys.executable, "-m", "kheadersd", "--config=/dev/null", option, path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "/\\xff\\x1b: its path is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
