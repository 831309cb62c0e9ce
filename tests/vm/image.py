"""Makes the guest's disk, kernel and initrd from the packages of one of Debian's suites.

The guest's kernel is the suite's stock cloud kernel, whose headers packages are not installed. Debian builds
it without kheaders, so the real module, made for exactly this kernel (support/kheaders.py), is put where a
distribution has it.

Needs root and the packages mmdebstrap, e2fsprogs, cpio, kmod.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.support import debian, store
from tests.support.kheaders import RealHeaders
from tests.support.programs import CannotRun, run
from tests.vm import building
from tests.vm.building import INSIDE, Bootable, add_kheaders, make_initrd

USER = "somebody"
"""An ordinary user of the guest."""

_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_DISK_SIZE = "4G"  # sparse

_PACKAGES = (
    # A usual small machine ...
    *("systemd", "systemd-sysv", "libpam-systemd", "dbus", "polkitd", "udev", "kmod", "procps", "util-linux"),
    # ... where kernels can be installed, ...
    "linux-base",
    # ... with the tracing tools that want headers, and two foreign clients of the bus.
    *("bpfcc-tools", "bpftrace", "libglib2.0-bin", "zstd", "xz-utils"),
    # Programs are compiled there, and loaded.
    *("clang", "bpftool", "libbpf-dev"),
)

# Emulation makes these expensive, and they have nothing to look after here.
_MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "getty@tty1.service", "systemd-timesyncd.service"),
    *("systemd-pstore.service", "modprobe@drm.service", "modprobe@efi_pstore.service"),
    *("modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@loop.service"),
    *("sys-kernel-config.mount", "serial-getty@ttyS0.service"),
    *("sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service"),
)


class Image(Bootable):
    """What a guest boots from; never written to."""

    @property
    def disk(self) -> Path:
        """A raw ext4 file system with a journal."""
        return self.directory / "root.ext4"

    @property
    def key(self) -> str:
        """Changes with everything that went into it."""
        return self.directory.name


def image(headers: RealHeaders) -> Image:
    """The image, made now (some minutes) if it was not made before.

    Args:
        headers: the real module; it decides which suite and kernel the guest has.

    Raises:
        CannotGet, CannotRun: something that is needed is missing, or a step failed.
    """
    packages = sorted({*_PACKAGES, *_daemon_packages()})
    sources = (Path(__file__), Path(building.__file__))
    key = store.key_of(
        " ".join(packages), headers.release, headers.module, *sources, *store.files_below(INSIDE)
    )
    kind = f"guest/image-{headers.suite}"
    made = store.kept(kind, key, lambda directory: _build(directory, packages, headers))
    return Image(made, headers.suite, headers.release)


def _daemon_packages() -> list[str]:
    """What `./dev` says the daemon needs."""
    found = re.search(r'^run_packages="([^"$]*)"$', (_REPOSITORY / "dev").read_text(), re.MULTILINE)
    if found is None:
        raise CannotRun('./dev has no line run_packages="..." with the daemon\'s packages')
    return found[1].split()


def _build(result: Path, packages: Sequence[str], headers: RealHeaders) -> None:
    root = result / "root"
    # Its own file system becomes another's: a copy of the kept root would take longer than making it.
    debian.make_root(root, headers.suite, packages)
    _install_kernel(result, root, headers)
    _configure(root)
    make_initrd(result, root, headers.suite, headers.release)
    run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "root", "-d", root, result / "root.ext4", _DISK_SIZE)
    shutil.rmtree(root)


def _install_kernel(result: Path, root: Path, headers: RealHeaders) -> None:
    """Unpack the kernel package beside the system: configured there, it would want an initrd generator."""
    release = headers.release
    unpacked = result / "kernel"
    try:
        package = debian.download(headers.suite, f"linux-image-{release}")
    except debian.CannotGet as error:
        raise CannotRun(
            f"{error}. If the suite no longer has this kernel, remove {headers.module.parent}: "
            "it is made again then, for the newest one"
        ) from None
    run("dpkg-deb", "-x", package, unpacked)
    shutil.copy(unpacked / f"boot/vmlinuz-{release}", result / "vmlinuz")
    run("cp", "-a", f"{unpacked}/boot/.", root / "boot")
    modules = root / "usr/lib/modules" / release
    modules.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "-a", next(unpacked.glob(f"**/lib/modules/{release}")), modules)
    add_kheaders(modules, headers.module)
    run("depmod", "-b", root, release)
    shutil.rmtree(unpacked)


def _configure(root: Path) -> None:
    for name, text in {
        "hostname": "guest\n",
        "hosts": "127.0.0.1 localhost guest\n",
        "fstab": "/dev/vda / ext4 rw,noatime 0 1\n",
        # It is not its first boot, whatever happens to it.
        "machine-id": "6b68656164657273646b686561646572\n",
    }.items():
        (root / "etc" / name).write_text(text)
    (root / "var/log/journal").mkdir(exist_ok=True)
    limits = root / "etc/systemd/system.conf.d/emulated.conf"
    limits.parent.mkdir()
    limits.write_text("# An emulated machine is slow.\n[Manager]\nDefaultTimeoutStartSec=300\n")
    shutil.copy(INSIDE / "agent.py", root / "usr/local/sbin/test-agent")
    (root / "usr/local/sbin/test-agent").chmod(0o755)
    shutil.copy(INSIDE / "agent.service", root / "etc/systemd/system/test-agent.service")
    run("chroot", root, "useradd", "--create-home", USER)
    run("chroot", root, "passwd", "-d", "root")
    run("chroot", root, "systemctl", "--quiet", "enable", "test-agent.service")
    run("chroot", root, "systemctl", "--quiet", "mask", *_MASKED)
