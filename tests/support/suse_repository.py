"""A small repository as openSUSE has them, served over HTTP, a host configured for it, and zypper.

Needs what `rpm_repository` needs. zypper is Debian's, unpacked and not installed: Debian 12's refuses to be
installed beside the plugins of dnf.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from kheadersd.host.host import Host
from tests.support import debian, store
from tests.support.apt_repository import generated_files, written_files
from tests.support.programs import run
from tests.support.rpm_repository import RpmKey, build_rpm
from tests.support.web_server import WebServer

# libzypp calls the second so where it is not in /usr/bin.
_PROGRAMS = {name: name.removesuffix(".sh") for name in ("zypper", "repo2solv.sh", "repo2solv", "rpmdb2solv")}
_WRAPPER = """\
#!/bin/sh
exec {loader} --library-path {libraries} {program} "$@"
"""


def programs(suite: str = "") -> Path:
    """A directory with zypper and what it runs of libsolv, made if it is not kept.

    Args:
        suite: of Debian; that of this machine if it is empty.

    Raises:
        CannotGet: it cannot be made.
    """
    wanted = suite or debian.suite()
    key = store.key_of(wanted, _WRAPPER, *_PROGRAMS)
    return store.kept("zypper", key, lambda made: _unpack(made, wanted)) / "bin"


def _unpack(made: Path, suite: str) -> None:
    root = made / "root"
    debian.make_root(root, suite, ["zypper"], variant="extract")
    final = store.directory("zypper") / made.name / "root"
    # Loaded with its own libraries, but runs the machine's gpg and rpm with theirs.
    loader, *_ = (path for path in root.rglob("ld-linux*.so.*") if not path.is_symlink())
    own = [loader, *root.rglob("libzypp.so.*")]
    libraries = sorted({path.parent.relative_to(root) for path in own})
    (made / "bin").mkdir()
    for name, program in _PROGRAMS.items():
        wrapper = made / "bin" / name
        wrapper.write_text(
            _WRAPPER.format(
                loader=final / loader.relative_to(root),
                libraries=":".join(str(final / path) for path in libraries),
                program=final / "usr/bin" / program,
            )
        )
        wrapper.chmod(0o755)


def objects_of(version: str, flavour: str = "default", *, of: str = "", variant: str = "") -> dict[str, str]:
    """The files of kernel-FLAVOUR-devel; they say that they are ``of`` another release."""
    below = f"usr/src/linux-{version}{variant}-obj/x86_64/{flavour}"
    files = {**generated_files(of or f"{version}-{flavour}"), "include/config/SMP": ""}
    return {f"{below}/{path}": text for path, text in files.items()}


def sources_of(version: str, *, variant: str = "") -> dict[str, str]:
    """The files of kernel-devel."""
    return {f"usr/src/linux-{version}{variant}/{path}": text for path, text in written_files().items()}


class SuseRepository:
    """A repository.

    Attributes:
        directory: where the packages are.
    """

    def __init__(self, directory: Path, key: RpmKey) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.key = key
        self.server = WebServer(directory)

    def close(self) -> None:
        self.server.stop()

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, str],
        *,
        rebuilt: str = ".1",
        key: RpmKey | None = None,
        signed: bool = True,
    ) -> Path:
        """Add a package that provides its name with a version such as 6.4.0-150600.23.47.

        Args:
            rebuilt: what the build service has put behind the version.
        """
        provides = f"{name} = {version}\nProvides: multiversion(kernel)"
        package = build_rpm(self.directory, name, version + rebuilt, files, provides=provides)
        if signed:
            (key or self.key).sign(package)
        return package

    def add_kernel(self, version: str, flavour: str = "default", *, rebuilt: str = ".1") -> list[Path]:
        """Add both packages of a kernel."""
        return [
            self.add(f"kernel-{flavour}-devel", version, objects_of(version, flavour), rebuilt=rebuilt),
            self.add("kernel-devel", version, sources_of(version), rebuilt=rebuilt),
        ]

    def publish(self, *, key: RpmKey | None = None, signed: bool = True) -> None:
        """Write the metadata of what is in the directory now, and sign them."""
        run("createrepo_c", "--quiet", "--general-compress-type=gz", str(self.directory))
        if signed:
            self.sign_lists(key)

    def sign_lists(self, key: RpmKey | None = None) -> None:
        """Sign the metadata as they are now."""
        (key or self.key).sign_lists(self.directory / "repodata/repomd.xml")


class SuseHost:
    """A root directory with a repository configured, whose key its database of rpm has."""

    def __init__(self, root: Path, repository: SuseRepository) -> None:
        self.root = root
        self._repository = repository
        for directory in ("etc/zypp/repos.d", "etc/zypp/vars.d", "usr/lib/sysimage/rpm"):
            (root / directory).mkdir(parents=True)
        (root / "etc/os-release").write_text(
            'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n'
            'PRETTY_NAME="openSUSE Leap 15.6"\n'
        )
        self.configure()
        self.import_key(repository.key)
        self.host = Host(root)

    def configure(self, address: str = "", more: str = "") -> None:
        """Write the host's one .repo file, with further lines."""
        (self.root / "etc/zypp/repos.d/repo-oss.repo").write_text(
            "[repo-oss]\nname=Main Repository\nenabled=1\nautorefresh=1\n"
            f"baseurl={address or self._repository.server.address}\n{more}"
        )

    def import_key(self, key: RpmKey) -> None:
        """Accept a key, as "rpm --import" does."""
        run("rpmkeys", "--dbpath", str(self.root / "usr/lib/sysimage/rpm"), "--import", str(key.public))

    def forget_keys(self) -> None:
        """Make it a host that has accepted no key."""
        shutil.rmtree(self.root / "usr/lib/sysimage/rpm")


@contextlib.contextmanager
def suse_served(directory: Path, key: RpmKey) -> Iterator[SuseRepository]:
    repository = SuseRepository(directory, key)
    try:
        yield repository
    finally:
        repository.close()
