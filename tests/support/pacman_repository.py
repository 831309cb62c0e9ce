"""A small repository of signed packages for pacman, served over HTTP, and a host configured for it.

Needs pacman-package-manager (pacman), makepkg (for repo-add), libarchive-tools, gnupg, fakeroot and zstd.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from kheadersd.host.host import Host
from tests.support.apt_repository import generated_files, written_files
from tests.support.gnupg import Keyring
from tests.support.programs import run
from tests.support.web_server import WebServer

_INFO = """\
pkgname = {name}
pkgbase = linux
pkgver = {version}
pkgdesc = Headers of a kernel
url = https://example.org
builddate = 1700000000
packager = T <test@example.org>
size = 1000
arch = {architecture}
"""


class PacmanKey:
    """A key that signs packages.

    Attributes:
        public: a file with the public key, in ASCII.
        fingerprint: in hex.
    """

    def __init__(self, home: Path, name: str = "test") -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._keyring = Keyring(home / f"{name}-secret", f"{name}@example.org")
        self.public = home / f"{name}.asc"
        self._keyring.run("--output", str(self.public), "--armor", "--export")
        printed = self._keyring.run("--list-keys", "--with-colons")
        self.fingerprint = next(
            line.split(":")[9] for line in printed.splitlines() if line.startswith("fpr:")
        )

    def sign(self, package: Path) -> None:
        """Write a signature beside a package."""
        self._keyring.run("--yes", "--output", f"{package}.sig", "--detach-sign", str(package))

    def close(self) -> None:
        self._keyring.close()


def headers_of(release: str, *, of: str = "") -> dict[str, str]:
    """The files of a headers package for a release; the generated ones say that they are ``of`` another."""
    files = {**generated_files(of or release), **written_files()}
    return {f"usr/lib/modules/{release}/build/{path}": text for path, text in files.items()}


def build_package(
    directory: Path, name: str, version: str, top: Path, *, architecture: str = "x86_64"
) -> Path:
    """Pack ``top``/usr, and return the path of the package."""
    (top / ".PKGINFO").write_text(_INFO.format(name=name, version=version, architecture=architecture))
    package = directory / f"{name}-{version}-{architecture}.pkg.tar.zst"
    run(
        *("tar", "--use-compress-program=zstd -1", "--owner=0", "--group=0", "--create"),
        *("--file", str(package), "--directory", str(top), ".PKGINFO", "usr"),
    )
    return package


class PacmanRepository:
    """The repository "core".

    Attributes:
        directory: where the packages are.
    """

    def __init__(self, directory: Path, key: PacmanKey) -> None:
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
        key: PacmanKey | None = None,
        signed: bool = True,
        architecture: str = "x86_64",
    ) -> Path:
        """Add a package."""
        top = self.directory / f".{name}"
        for path, text in files.items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(text)
        package = build_package(self.directory, name, version, top, architecture=architecture)
        shutil.rmtree(top)
        if signed:
            (key or self.key).sign(package)
        return package

    def publish(self) -> None:
        """Write the database of what is in the directory now."""
        for old in self.directory.glob("core.*"):
            old.unlink()
        packages = sorted(map(str, self.directory.glob("*.pkg.tar.zst")))
        run("repo-add", "--quiet", str(self.directory / "core.db.tar.gz"), *packages)


class PacmanHost:
    """A root directory with the repository configured."""

    def __init__(self, root: Path, repository: PacmanRepository) -> None:
        self.root = root
        self._repository = repository
        self._keyring = root / "etc/pacman.d/gnupg"
        self._keyring.mkdir(parents=True)
        self._keyring.chmod(0o755)
        (root / "etc/os-release").write_text('ID=arch\nPRETTY_NAME="Arch Linux"\n')
        # As pacman-key(8) does it.
        (self._keyring / "gpg.conf").write_text("no-greeting\nno-permission-warning\nlock-never\n")
        (self._keyring / "pubring.gpg").touch()
        self.trust(repository.key)
        self.configure()
        self.host = Host(root)

    def trust(self, key: PacmanKey) -> None:
        """Add a key to the host's keyring, fully trusted."""
        gpg = ("gpg", "--homedir", str(self._keyring), "--batch", "--quiet", "--no-autostart")
        trust = self.root / "trust"
        trust.write_text(f"{key.fingerprint}:6:\n")
        run(*gpg, "--import", str(key.public))
        run(*gpg, "--import-ownertrust", str(trust))
        run(*gpg, "--check-trustdb")
        trust.unlink()
        for path in self._keyring.glob("*.gpg"):
            path.chmod(0o644)

    def configure(self, address: str = "", options: str = "", core: str = "") -> None:
        """Write pacman.conf and a list of mirrors, with further lines of [options] and [core]."""
        (self.root / "etc/pacman.conf").write_text(
            "# A comment\n[options]\nHoldPkg = pacman\nArchitecture = x86_64\nIgnorePkg = linux-headers\n"
            f"CheckSpace\nLogFile = /var/log/pacman.log\nSigLevel = Required DatabaseOptional\n{options}"
            f"[core]\n{core}Include = /etc/pacman.d/mirror*\n"
        )
        (self.root / "etc/pacman.d/mirrorlist").write_text(
            f"#Server = https://nothing.example\nServer = {address or self._repository.server.address}\n"
        )


@contextlib.contextmanager
def pacman_served(directory: Path, key: PacmanKey) -> Iterator[PacmanRepository]:
    repository = PacmanRepository(directory, key)
    try:
        yield repository
    finally:
        repository.close()
