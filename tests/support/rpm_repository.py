"""A small repository of signed rpm packages, served over HTTP, and a host configured for it.

Needs rpm (rpmbuild, rpmsign), createrepo-c, gnupg and dnf. The keys are made for the test session.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from kheadersd.host.host import Host
from tests.support.apt_repository import generated_files, written_files
from tests.support.gnupg import Keyring
from tests.support.programs import run
from tests.support.web_server import WebServer

_SPEC = """\
Name: {name}
Version: {version}
Release: {release}
Summary: Headers of a kernel
License: GPL-2.0-only
{provides}
AutoReqProv: no
%global debug_package %{{nil}}
%global __os_install_post %{{nil}}
%global _binary_payload {payload}
%description
Headers of a kernel.
%install
cp -a {root}/. %{{buildroot}}/
%pre
exit 99
%files
%defattr(-,root,root)
{files}
"""


class RpmKey:
    """A key that signs packages.

    Attributes:
        public: a file with the public key, in ASCII.
    """

    def __init__(self, home: Path, name: str = "test") -> None:
        self._user = f"{name}@example.org"
        home.mkdir(parents=True, exist_ok=True)
        self._keyring = Keyring(home / f"{name}-secret", self._user)
        self.public = home / f"{name}.asc"
        self._keyring.run("--output", str(self.public), "--armor", "--export")

    def sign(self, package: Path) -> None:
        """Sign a package, in place."""
        macros = {
            "_gpg_name": self._user,
            "_gpg_path": str(self._keyring.home),
            "__gpg": shutil.which("gpg") or "gpg",
        }
        defines = [word for name, text in macros.items() for word in ("--define", f"{name} {text}")]
        run("rpmsign", *defines, "--addsign", str(package))

    def sign_lists(self, repomd: Path) -> None:
        """Sign a repository's repomd.xml, as openSUSE does, with the key beside it."""
        for suffix in (".asc", ".key"):
            repomd.with_name(repomd.name + suffix).unlink(missing_ok=True)
        self._keyring.run("--output", f"{repomd}.asc", "--armor", "--detach-sign", str(repomd))
        shutil.copy(self.public, f"{repomd}.key")

    def close(self) -> None:
        self._keyring.close()


def large_keys(directory: Path, number: int) -> list[str]:
    """The files of public keys with long names, some 3 KiB each."""
    files = {str(directory / f"{index}.asc"): f"{index}-{'x' * 1900}@example.org" for index in range(number)}
    keyring = Keyring(directory / "secret", *files.values())
    for file, user in files.items():
        keyring.run("--output", file, "--armor", "--export", f"={user}")
    keyring.close()
    return list(files)


def build_rpm(
    directory: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    provides: str = "",
    more: str = "",
    payload: str = "w1.gzdio",
    tree: tuple[Path, str] | None = None,
) -> Path:
    """Build a package for x86_64 and return its path; its scriptlets would fail if anything ran them.

    Args:
        version: with the release: "6.1.99-200.fc37".
        more: further lines of %files.
        tree: a directory that is packed, and the path in it that has all files.
    """
    top = directory / f".{name}-{version}.build"
    root = top / "root"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    number, _, release = version.partition("-")
    # Each file by its name: directories that nothing needs are in no package.
    listed = "\n".join(f"/{path}" for path in files) + "\n" + more
    if tree is not None:
        root, listed = tree[0], f"/{tree[1]}"
    top.mkdir(exist_ok=True)
    (top / "a.spec").write_text(
        _SPEC.format(
            name=name,
            version=number,
            release=release,
            provides=f"Provides: {provides}" if provides else "",
            payload=payload,
            root=root,
            files=listed,
        )
    )
    run(
        *("rpmbuild", "-bb", "--quiet", "--target", "x86_64-linux"),
        *("--define", f"_topdir {top}", "--define", f"_rpmdir {directory}"),
        *("--define", "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"),
        *("--define", "_use_internal_dependency_generator 0", str(top / "a.spec")),
    )
    shutil.rmtree(top)
    return directory / f"{name}-{version}.x86_64.rpm"


def headers_of(release: str, *, of: str = "") -> dict[str, str]:
    """The files of kernel-devel for a release; those that are generated say that they are ``of`` another."""
    files = {**generated_files(of or release), **written_files(), "include/config/SMP": ""}
    return {f"usr/src/kernels/{release}/{path}": text for path, text in files.items()}


class RpmRepository:
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

    def add_kernel(
        self,
        release: str,
        files: Mapping[str, str] | None = None,
        *,
        key: RpmKey | None = None,
        signed: bool = True,
        more: str = "",
        payload: str = "w1.gzdio",
    ) -> Path:
        """Add kernel-devel for a release such as 6.1.99-200.fc37.x86_64."""
        package = build_rpm(
            self.directory,
            "kernel-devel",
            release.removesuffix(".x86_64"),
            headers_of(release) if files is None else files,
            provides=f"kernel-devel-uname-r = {release}",
            more=more,
            payload=payload,
        )
        if signed:
            (key or self.key).sign(package)
        return package

    def publish(self) -> None:
        """Write the metadata of what is in the directory now."""
        run("createrepo_c", "--quiet", "--general-compress-type=gz", str(self.directory))


class RpmHost:
    """A root directory with a repository configured."""

    def __init__(self, root: Path, repository: RpmRepository) -> None:
        self.root = root
        self._repository = repository
        for directory in ("etc/yum.repos.d", "etc/pki/rpm-gpg", "var/lib/rpm"):
            (root / directory).mkdir(parents=True)
        (root / "etc/os-release").write_text('ID=fedora\nVERSION_ID=37\nPRETTY_NAME="Fedora Linux 37"\n')
        shutil.copy(repository.key.public, self.key_file)
        self.configure()
        self.host = Host(root)

    @property
    def key_file(self) -> Path:
        return self.root / "etc/pki/rpm-gpg/RPM-GPG-KEY-test-37-x86_64"

    def configure(self, address: str = "", more: str = "") -> None:
        """Write the host's one .repo file, with further lines."""
        (self.root / "etc/yum.repos.d/test.repo").write_text(
            "[test]\nname=Test $releasever\n"
            f"baseurl={address or self._repository.server.address}\n"
            "enabled=1\ngpgcheck=1\nretries=1\n"
            f"gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-test-$releasever-$basearch\n{more}"
        )

    def import_key(self, key: RpmKey) -> None:
        """Accept a key, as "rpm --import" does."""
        run("rpmkeys", "--dbpath", str(self.root / "var/lib/rpm"), "--import", str(key.public))


@contextlib.contextmanager
def rpm_served(directory: Path, key: RpmKey) -> Iterator[RpmRepository]:
    repository = RpmRepository(directory, key)
    try:
        yield repository
    finally:
        repository.close()


# Tags of include/rpm/rpmtag.h.
_MD5, _SHA1, _SHA256, _PAYLOAD_SHA256, _PLAIN_PAYLOAD_SHA256 = 1004, 269, 273, 5092, 5097
_LEAD = 96
_HEADER_MAGIC = b"\x8e\xad\xe8\x01"


def rename_in_rpm(package: Path, old: str, new: str) -> None:
    """Give files of an unsigned package, whose payload is not compressed, names that rpmbuild refuses.

    All digests become those of the new content.

    Args:
        old: a part of names.
        new: as long as ``old``.
    """
    assert len(old) == len(new)
    content = bytearray(package.read_bytes())
    signatures, header_at = _tags(content, _LEAD)
    header_at += -header_at % 8
    tags, payload_at = _tags(content, header_at)
    changed = bytes(content[header_at:]).replace(old.encode(), new.encode())
    assert changed != content[header_at:]
    content[header_at:] = changed
    payload = hashlib.sha256(content[payload_at:]).hexdigest().encode()
    for tag in (_PAYLOAD_SHA256, _PLAIN_PAYLOAD_SHA256):
        if tag in tags:
            content[tags[tag] : tags[tag] + len(payload)] = payload
    header = content[header_at:payload_at]
    for tag, digest in {
        _SHA1: hashlib.sha1(header).hexdigest().encode(),
        _SHA256: hashlib.sha256(header).hexdigest().encode(),
        _MD5: hashlib.md5(content[header_at:]).digest(),
    }.items():
        if tag in signatures:
            content[signatures[tag] : signatures[tag] + len(digest)] = digest
    package.write_bytes(content)


def _tags(content: bytearray, at: int) -> tuple[dict[int, int], int]:
    """Where the values of a header's tags are, and where the header ends (docs/manual/format_v4.md)."""
    assert content[at : at + 4] == _HEADER_MAGIC
    number, size = struct.unpack(">II", content[at + 8 : at + 16])
    store = at + 16 + 16 * number
    tags = {}
    for index in range(number):
        tag, _, offset, _ = struct.unpack(">IIII", content[at + 16 + 16 * index : at + 32 + 16 * index])
        tags[tag] = store + offset
    return tags, store + size
