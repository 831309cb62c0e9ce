"""Makes a real kheaders archive, and a real kheaders.ko around it, without building or installing a kernel.

Debian's kernels are built without CONFIG_IKHEADERS. But its ``linux-headers-*`` packages (the flavour's and
the common one) are just the object and source trees that the kernel's own ``kernel/gen_kheaders.sh`` expects,
and that script and ``kernel/kheaders.c`` are in ``linux-source-*``. So the archive is made by the kernel's
own generator, and the module by the kernel's own build system. It takes about a minute of CPU; the result is
kept in ``${XDG_CACHE_HOME:-~/.cache}/kheadersd-tests/<release>/``.

Needs nothing but packages: apt, dpkg, gcc (the version that the headers package names), make, perl, cpio,
xz-utils, kmod, libelf1, binutils, openssl. They are Debian's names; nothing is installed by this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# The flavour whose packages are the smallest, and the kernel's own name of the architecture.
_ARCHITECTURES = {"amd64": ("cloud-amd64", "x86"), "arm64": ("cloud-arm64", "arm64")}


class CannotMake(Exception):
    """A package or a program that is needed is not there; the message names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class RealHeaders:
    """What was made, all for one kernel release.

    Attributes:
        release: as ``uname -r`` would print it.
        archive: kheaders.tar.xz as the kernel would show it in /sys/kernel.
        module: kheaders.ko as a distribution ships it, after ``strip --strip-debug``.
        unstripped: kheaders.ko as the kernel's build leaves it.
        signed: `module` with a signature appended by the kernel's own ``sign-file``.
    """

    release: str
    archive: Path
    module: Path
    unstripped: Path
    signed: Path


def make_real_headers() -> RealHeaders:
    """The real archive and module, made now if they were not made before.

    Raises:
        CannotMake: something that is needed is missing.
    """
    store = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kheadersd-tests"
    store.mkdir(parents=True, exist_ok=True)
    with _alone(store):
        # Other things that tests keep are beside them.
        made = [
            entry for entry in store.iterdir() if (entry / "kheaders.ko").exists() and entry.name[0] != "."
        ]
        # Any kernel's will do: nobody has to wait again because the distribution has a newer one.
        result = (
            max(made, key=lambda entry: entry.stat().st_mtime)
            if made
            else _make(_Names.of_newest_kernel(), store)
        )
    return _found(result)


def make_real_headers_of(release: str, directory: Path) -> RealHeaders:
    """The same for a certain kernel, whose headers package the distribution has; nothing of it is kept.

    Args:
        release: as ``uname -r`` prints it.
        directory: where to, an empty one.

    Raises:
        CannotMake: something that is needed is missing.
    """
    return _found(_make(_Names.of_kernel(f"linux-headers-{release}"), directory))


def _found(result: Path) -> RealHeaders:
    return RealHeaders(
        release=result.name,
        archive=result / "kheaders.tar.xz",
        module=result / "kheaders.ko",
        unstripped=result / "kheaders.unstripped.ko",
        signed=result / "kheaders.signed.ko",
    )


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Two runs of the suite at once make it once."""
    with (store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program in the C locale and return what it printed."""
    environment = {**os.environ, "LC_ALL": "C", **(env or {})}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, check=False, text=True, errors="replace", capture_output=True
        )
    except FileNotFoundError as error:
        raise CannotMake(f"{command[0]} is not installed") from error
    if done.returncode != 0:
        words = " ".join(str(word) for word in command)
        raise CannotMake(f"'{words}' failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclasses.dataclass(frozen=True, slots=True)
class _Names:
    """The packages that belong to one kernel."""

    release: str
    srcarch: str
    headers: str
    common: str
    kbuild: str
    source: str
    compiler: str

    @classmethod
    def of_newest_kernel(cls) -> _Names:
        return cls.of_kernel(_depends(f"linux-headers-{_architecture()[0]}", r"linux-headers-[0-9]\S*"))

    @classmethod
    def of_kernel(cls, headers: str) -> _Names:
        version = re.search(r"^Version: ([0-9]+\.[0-9]+)", _run(["apt-cache", "show", headers]), re.MULTILINE)
        if version is None:
            raise CannotMake(f"apt knows no version of {headers}")
        compiler = _depends(headers, r"(?:linux-compiler-)?gcc-[0-9]+\S*")
        return cls(
            release=headers.removeprefix("linux-headers-"),
            srcarch=_architecture()[1],
            headers=headers,
            common=_depends(headers, r"linux-headers-\S*-common"),
            kbuild=_depends(headers, r"linux-kbuild-\S+"),
            source=f"linux-source-{version[1]}",
            compiler=re.sub(r".*(gcc-[0-9]+).*", r"\1", compiler),
        )


def _architecture() -> tuple[str, str]:
    architecture = _run(["dpkg", "--print-architecture"]).strip()
    if architecture not in _ARCHITECTURES:
        raise CannotMake(f"it is not known how kernels for {architecture} are packaged")
    return _ARCHITECTURES[architecture]


def _depends(package: str, wanted: str) -> str:
    listing = _run(["apt-cache", "depends", package])
    found = re.search(rf"Depends: ({wanted})$", listing, re.MULTILINE)
    if found is None:
        raise CannotMake(f"{package} does not depend on any {wanted}; is 'apt-get update' missing?")
    return found[1]


def _make(names: _Names, store: Path) -> Path:
    result = store / names.release
    with tempfile.TemporaryDirectory(prefix=".making-", dir=store) as scratch:
        work = Path(scratch)
        _unpack(names, work)
        archive = _generate(names, work)
        made = _build_module(names, work, archive)
        made.rename(result)
    return result


def _unpack(names: _Names, work: Path) -> None:
    """Put the headers packages below ``host``, and the kernel's two files below ``kernel``."""
    packages = work / "packages"
    packages.mkdir()
    wanted = [names.headers, names.common, names.kbuild, names.source]
    _run(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted], cwd=packages)
    for name in (names.headers, names.common, names.kbuild):
        _run(["dpkg-deb", "-x", _only(packages, f"{name}_*.deb"), work / "host"])
    kernel = work / "kernel"
    kernel.mkdir()
    # The source package is 140 MB, of which two small files are wanted.
    script = (
        'dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards "./usr/src/linux-source-*.tar.xz" | '
        'xz -dc | tar -x --strip-components=2 --wildcards --no-wildcards-match-slash -C "$2" '
        '"linux-source-*/kernel/kheaders.c" "linux-source-*/kernel/gen_kheaders.sh"'
    )
    _run(["bash", "-o", "pipefail", "-ec", script, "-", _only(packages, f"{names.source}_*.deb"), kernel])
    # The flavour's Makefile names the common tree by its installed path.
    makefile = work / "host/usr/src" / names.headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{work}/host/usr/src/"))


def _only(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


def _generate(names: _Names, work: Path) -> Path:
    """Make the archive as the kernel's build would: source tree and object tree apart."""
    source = work / "host/usr/src" / names.common
    flavour = work / "host/usr/src" / names.headers
    objects = work / "objects"
    for part in ("include", "arch"):
        shutil.copytree(flavour / part, objects / part, symlinks=True)
    (objects / "kernel").mkdir()
    shutil.copy(work / "kernel/gen_kheaders.sh", objects / "kernel")
    # A kernel's build makes this file only after the archive.
    (objects / "include/generated/utsversion.h").unlink(missing_ok=True)
    moment = int((objects / "include/generated/autoconf.h").stat().st_mtime)
    arguments = ["kernel/kheaders.tar.xz"]
    if "srclist=" in (work / "kernel/gen_kheaders.sh").read_text():
        # Since 6.17 or so it is kernel/Makefile that lists the files.
        arguments += [*_file_lists(names.srcarch, source, objects), f"@{moment}"]
    environment = {
        "SRCARCH": names.srcarch,
        "srctree": str(source),
        "building_out_of_srctree": "1",
        "XZ": "xz",
        "TAR": "tar",
        "KBUILD_BUILD_TIMESTAMP": f"@{moment}",
    }
    _run(["sh", "kernel/gen_kheaders.sh", *arguments], cwd=objects, env=environment)
    return objects / "kernel/kheaders.tar.xz"


def _file_lists(srcarch: str, source: Path, objects: Path) -> list[str]:
    parts = [Path("include"), Path("arch", srcarch, "include")]
    of_source = [
        str(header)
        for part in parts
        for header in sorted((source / part).rglob("*.h"))
        if not header.is_relative_to(source / part / "generated")
    ]
    of_objects = [
        str(header.relative_to(objects))
        for part in parts
        for header in sorted((objects / part / "generated").rglob("*.h"))
    ]
    for name, headers in (("srclist", of_source), ("objlist", of_objects)):
        (objects / "kernel" / name).write_text("".join(f"{header}\n" for header in headers))
    return ["kernel/srclist", "kernel/objlist"]


def _build_module(names: _Names, work: Path, archive: Path) -> Path:
    """Build the kernel's own kheaders.c, unmodified, as a module outside its tree."""
    module = work / "module"
    (module / "kernel").mkdir(parents=True)
    # This is the name in kheaders.c's .incbin, which is searched along the assembler's -I.
    shutil.copy(archive, module / "kernel/kheaders_data.tar.xz")
    shutil.copy(work / "kernel/kheaders.c", module)
    (module / "Kbuild").write_text("obj-m := kheaders.o\nCFLAGS_kheaders.o := -Wa,-I$(M)\n")
    flavour = work / "host/usr/src" / names.headers
    _run(["make", "-s", "-C", flavour, f"M={module}", f"CC={names.compiler}", "modules"])
    made = work / "made"
    made.mkdir()
    shutil.copy(archive, made / "kheaders.tar.xz")
    shutil.copy(module / "kheaders.ko", made / "kheaders.unstripped.ko")
    _run(["strip", "--strip-debug", "-o", made / "kheaders.ko", module / "kheaders.ko"])
    _sign(work, made)
    return made


def _sign(work: Path, made: Path) -> None:
    """Append a signature by a key of our own to a copy of the module."""
    key, certificate = work / "key.pem", work / "certificate.pem"
    _run(
        [
            *(
                "openssl",
                "req",
                "-new",
                "-x509",
                "-nodes",
                "-batch",
                "-sha256",
                "-subj",
                "/CN=kheadersd tests/",
            ),
            *("-keyout", key, "-out", certificate),
        ]
    )
    shutil.copy(made / "kheaders.ko", made / "kheaders.signed.ko")
    signer = next((work / "host/usr/lib").glob("linux-kbuild-*/scripts/sign-file"))
    _run([signer, "sha256", key, certificate, made / "kheaders.signed.ko"])


if __name__ == "__main__":
    sys.stdout.write(f"{make_real_headers()}\n")
