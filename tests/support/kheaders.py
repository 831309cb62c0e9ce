"""Makes a real kheaders archive, and a real kheaders.ko around it, without building or installing a kernel.

Debian's kernels are built without CONFIG_IKHEADERS. But its ``linux-headers-*`` packages (the flavour's and
the common one) are just the object and source trees that the kernel's own ``kernel/gen_kheaders.sh`` expects,
and that script and ``kernel/kheaders.c`` are in ``linux-source-*``. So the archive is made by the kernel's
own generator, and the module by the kernel's own build system, in a root directory of the kernel's suite,
which has the compiler that the headers package names. It takes about a minute of CPU; the result is kept in
``${XDG_CACHE_HOME:-~/.cache}/kheadersd-tests/kheaders/<suite>/<release>/``.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support import debian, store
from tests.support.programs import run

# The flavour whose packages are the smallest, and the kernel's own name of the architecture.
_FLAVOURS = {"amd64": ("cloud-amd64", "x86"), "arm64": ("cloud-arm64", "arm64")}

# Beside the compiler.
_BUILD_PACKAGES = ("make", "perl", "cpio", "xz-utils", "kmod", "libelf1", "binutils", "openssl", "pahole")


class CannotMake(Exception):
    """What is needed is not there; the message names it."""


@dataclasses.dataclass(frozen=True, slots=True)
class RealHeaders:
    """What was made, all for one kernel release.

    Attributes:
        suite: the suite of Debian that has the kernel.
        release: as ``uname -r`` would print it.
        archive: kheaders.tar.xz as the kernel would show it in /sys/kernel.
        module: kheaders.ko as a distribution ships it, after ``strip --strip-debug``.
        unstripped: kheaders.ko as the kernel's build leaves it.
        signed: `module` with a signature appended by the kernel's own ``sign-file``.
    """

    suite: str
    release: str
    archive: Path
    module: Path
    unstripped: Path
    signed: Path


def make_real_headers(suite: str = "") -> RealHeaders:
    """The real archive and module of a suite's kernel, made now if they were not made before.

    Args:
        suite: its code name; this machine's if it is empty.

    Raises:
        CannotMake, CannotGet, CannotRun: what is needed is missing.
    """
    suite = suite or debian.suite()
    place = store.directory(f"kheaders/{suite}")
    with store.locked(place, "all"):
        made = [entry for entry in place.iterdir() if entry.name[0] != "."]
        # Any kernel's will do: nothing is made again because the suite has a newer one.
        result = (
            max(made, key=lambda entry: entry.stat().st_mtime)
            if made
            else _make(_Names.of_newest_kernel(suite), place)
        )
    return _found(suite, result)


def make_real_headers_of(suite: str, release: str, directory: Path) -> RealHeaders:
    """The same for a certain kernel of a suite; nothing of it is kept.

    Args:
        release: as ``uname -r`` prints it.
        directory: where to, an empty one.

    Raises:
        CannotMake, CannotGet, CannotRun: what is needed is missing.
    """
    return _found(suite, _make(_Names.of_kernel(suite, f"linux-headers-{release}"), directory))


def _found(suite: str, result: Path) -> RealHeaders:
    return RealHeaders(
        suite=suite,
        release=result.name,
        archive=result / "kheaders.tar.xz",
        module=result / "kheaders.ko",
        unstripped=result / "kheaders.unstripped.ko",
        signed=result / "kheaders.signed.ko",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Names:
    """The packages that belong to one kernel."""

    suite: str
    release: str
    srcarch: str
    headers: str
    common: str
    kbuild: str
    source: str
    compiler: str

    @classmethod
    def of_newest_kernel(cls, suite: str) -> _Names:
        meta = f"linux-headers-{_flavour()[0]}"
        return cls.of_kernel(suite, debian.depends(suite, meta, r"linux-headers-[0-9]\S*"))

    @classmethod
    def of_kernel(cls, suite: str, headers: str) -> _Names:
        compiler = debian.depends(suite, headers, r"(?:linux-compiler-)?gcc-[0-9]+\S*")
        series = ".".join(debian.version(suite, headers).split(".")[:2])
        return cls(
            suite=suite,
            release=headers.removeprefix("linux-headers-"),
            srcarch=_flavour()[1],
            headers=headers,
            common=debian.depends(suite, headers, r"linux-headers-\S*-common\S*"),
            kbuild=debian.depends(suite, headers, r"linux-kbuild-\S+"),
            source=f"linux-source-{series}",
            compiler=re.sub(r".*(gcc-[0-9]+).*", r"\1", compiler),
        )


def _flavour() -> tuple[str, str]:
    architecture = debian.architecture()
    if architecture not in _FLAVOURS:
        raise CannotMake(f"it is not known how kernels for {architecture} are packaged")
    return _FLAVOURS[architecture]


@dataclasses.dataclass(frozen=True, slots=True)
class _Workshop:
    """A directory, and a root of the kernel's suite in which programs work on it."""

    root: Path
    directory: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> None:
        """Run a program in the root.

        Args:
            cwd: where, below the directory.
        """
        inside = debian.inside(self.root, binds=[self.directory])
        run(*inside, "env", "-C", cwd or self.directory, *command)


def _make(names: _Names, base: Path) -> Path:
    result = base / names.release
    with tempfile.TemporaryDirectory(prefix=".making-", dir=base) as scratch:
        work = Path(scratch)
        root = debian.root(names.suite, [names.compiler, *_BUILD_PACKAGES])
        workshop = _Workshop(root, work)
        _unpack(names, work)
        archive = _generate(names, workshop)
        made = _build_module(names, workshop, archive)
        made.rename(result)
    return result


def _unpack(names: _Names, work: Path) -> None:
    """Put the headers packages below ``host``, and the kernel's two files below ``kernel``."""
    for name in (names.headers, names.common, names.kbuild):
        run("dpkg-deb", "-x", debian.download(names.suite, name), work / "host")
    kernel = work / "kernel"
    kernel.mkdir()
    # The source package is 140 MB, of which two small files are wanted.
    script = (
        'dpkg-deb --fsys-tarfile "$1" | tar -xO --wildcards "./usr/src/linux-source-*.tar.xz" | '
        'xz -dc | tar -x --strip-components=2 --wildcards --no-wildcards-match-slash -C "$2" '
        '"linux-source-*/kernel/kheaders.c" "linux-source-*/kernel/gen_kheaders.sh"'
    )
    source = debian.download(names.suite, names.source)
    run("bash", "-o", "pipefail", "-ec", script, "-", source, kernel)
    # The flavour's Makefile names the common tree by its installed path.
    makefile = work / "host/usr/src" / names.headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{work}/host/usr/src/"))


def _generate(names: _Names, workshop: _Workshop) -> Path:
    """Make the archive as the kernel's build would: source tree and object tree apart."""
    work = workshop.directory
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
    environment = [
        f"SRCARCH={names.srcarch}",
        f"srctree={source}",
        "building_out_of_srctree=1",
        "XZ=xz",
        "TAR=tar",
        f"KBUILD_BUILD_TIMESTAMP=@{moment}",
    ]
    workshop.run("env", *environment, "sh", "kernel/gen_kheaders.sh", *arguments, cwd=objects)
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


def _build_module(names: _Names, workshop: _Workshop, archive: Path) -> Path:
    """Build the kernel's own kheaders.c, unmodified, as a module outside its tree."""
    work = workshop.directory
    module = work / "module"
    (module / "kernel").mkdir(parents=True)
    # This is the name in kheaders.c's .incbin, which is searched along the assembler's -I.
    shutil.copy(archive, module / "kernel/kheaders_data.tar.xz")
    shutil.copy(work / "kernel/kheaders.c", module)
    (module / "Kbuild").write_text("obj-m := kheaders.o\nCFLAGS_kheaders.o := -Wa,-I$(M)\n")
    flavour = work / "host/usr/src" / names.headers
    workshop.run("make", "-s", "-C", flavour, f"M={module}", f"CC={names.compiler}", "modules")
    made = work / "made"
    made.mkdir()
    shutil.copy(archive, made / "kheaders.tar.xz")
    shutil.copy(module / "kheaders.ko", made / "kheaders.unstripped.ko")
    workshop.run("strip", "--strip-debug", "-o", made / "kheaders.ko", module / "kheaders.ko")
    _sign(workshop, made)
    return made


def _sign(workshop: _Workshop, made: Path) -> None:
    """Append a signature by a key of our own to a copy of the module."""
    work = workshop.directory
    key, certificate = work / "key.pem", work / "certificate.pem"
    options = ["req", "-new", "-x509", "-nodes", "-batch", "-sha256", "-subj", "/CN=tests/"]
    workshop.run("openssl", *options, "-keyout", key, "-out", certificate)
    shutil.copy(made / "kheaders.ko", made / "kheaders.signed.ko")
    signer = next((work / "host/usr/lib").glob("linux-kbuild-*/scripts/sign-file"))
    workshop.run(signer, "sha256", key, certificate, made / "kheaders.signed.ko")


if __name__ == "__main__":
    sys.stdout.write(f"{make_real_headers()}\n")
