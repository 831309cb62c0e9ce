"""A small signed Debian repository, served over HTTP, and a host configured for it.

Needs dpkg-deb (dpkg), gpg (gnupg) and apt. The key is made for the test session and thrown away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from kheadersd.host.host import Host
from tests.support.gnupg import Keyring
from tests.support.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ARCHITECTURE = subprocess.run(
    ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
).stdout.strip()


def generated_files(release: str) -> dict[str, str]:
    """What the build of a kernel generates, as small as possible."""
    return {
        "include/generated/autoconf.h": "#define CONFIG_X86 1\n#define CONFIG_64BIT 1\n",
        "include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n',
        "arch/x86/include/generated/asm/unistd.h": "#define NR 1\n",
    }


def written_files() -> dict[str, str]:
    """What the source of a kernel has, as small as possible."""
    return {
        "include/linux/kconfig.h": "#define KCONFIG\n",
        "include/linux/types.h": "#define TYPES\n",
        "arch/x86/include/asm/ptrace.h": "#define PTRACE\n",
        "arch/arm64/include/asm/ptrace.h": "#define OTHER\n",
        "Makefile": "all:\n",
    }


def build_deb(
    target: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    *,
    links: Mapping[str, str] | None = None,
    depends: str = "",
    compression: str = "xz",
) -> None:
    """Build a package of architecture amd64, whose maintainer scripts would fail if anybody ran them."""
    tree = target.parent / f".{target.name}.tree"
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    fields = [
        f"Package: {name}",
        f"Version: {version}",
        "Architecture: amd64",
        "Maintainer: T <t@example.org>",
    ]
    if depends:
        fields.append(f"Depends: {depends}")
    (control / "control").write_text("\n".join([*fields, "Description: test", ""]))
    (control / "preinst").write_text("#!/bin/sh\nexit 99\n")
    (control / "preinst").chmod(0o755)
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(content)
    for path, link in (links or {}).items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).symlink_to(link)
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(["rm", "-r", "--", str(tree)], check=True)


class Key:
    """A signing key in a keyring of its own."""

    def __init__(self, home: Path) -> None:
        self.public = home / "public.gpg"
        home.mkdir(mode=0o755, exist_ok=True)
        self._keyring = Keyring(home / "secret", "test@example.org")
        self._keyring.run("--output", str(self.public), "--export")

    def sign(self, source: Path, target: Path) -> None:
        target.unlink(missing_ok=True)
        self._keyring.run("--output", str(target), "--clearsign", str(source))

    def close(self) -> None:
        self._keyring.close()


class Repository:
    """One suite, "stable", with one component, "main".

    Attributes:
        pool: where the packages are.
        server: whose ``requests`` are the paths asked for; with ``stalls`` it never delivers a package.
    """

    def __init__(self, directory: Path, key: Key) -> None:
        self._directory = directory
        self._key = key
        self._published = 1_700_000_000
        self.pool = directory / "pool"
        self.pool.mkdir(parents=True)
        self.server = WebServer(directory)

    def close(self) -> None:
        self.server.stop()

    def sources_line(self, options: str = "") -> str:
        uri = f"http://127.0.0.1:{self.server.server_port}"
        return f"deb [arch=amd64 signed-by={self._key.public} {options}] {uri} stable main\n"

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, str],
        *,
        links: Mapping[str, str] | None = None,
        depends: str = "",
        compression: str = "xz",
    ) -> Path:
        path = self.pool / f"{name}_{version}_amd64.deb"
        build_deb(path, name, version, files, links=links, depends=depends, compression=compression)
        return path

    def add_split(self, release: str, version: str) -> None:
        """A kernel's packages as Debian makes them."""
        common = f"linux-headers-{release.removesuffix('-amd64')}-common"
        own = f"linux-headers-{release}"
        self.add(
            own,
            version,
            {f"usr/src/{own}/{path}": text for path, text in generated_files(release).items()}
            | {f"usr/src/{own}/include/config/SMP": "", f"usr/src/{own}/Module.symvers": ""},
            links={
                f"usr/src/{own}/scripts": "../../lib/linux-kbuild-6.1/scripts",
                f"lib/modules/{release}/build": f"/usr/src/{own}",
            },
            depends=f"{common} (= {version}), linux-kbuild-6.1 (>= {version}), linux-compiler-gcc-12-x86",
        )
        self.add(
            common,
            version,
            {f"usr/src/{common}/{path}": text for path, text in written_files().items()},
            links={f"usr/src/{common}/include/linux/alias.h": "types.h"},
        )

    def publish(self, *, signed: bool = True) -> None:
        """Write the indexes of what is in the pool now."""
        suite = self._directory / "dists" / "stable"
        binary = suite / "main" / "binary-amd64"
        binary.mkdir(parents=True, exist_ok=True)
        stanzas = "\n".join(self._stanza(path) for path in sorted(self.pool.glob("*.deb")))
        (binary / "Packages").write_text(stanzas)
        packages = (binary / "Packages").read_bytes()
        digest = hashlib.sha256(packages).hexdigest()
        lines = [
            "Origin: test",
            "Suite: stable",
            "Codename: stable",
            "Architectures: amd64",
            "Components: main",
            "Date: Thu, 01 Jan 2026 00:00:00 UTC",
            "SHA256:",
            f" {digest} {len(packages)} main/binary-amd64/Packages",
            "",
        ]
        (suite / "Release").write_text("\n".join(lines))
        (suite / "InRelease").unlink(missing_ok=True)
        if signed:
            self._key.sign(suite / "Release", suite / "InRelease")
        # apt asks for what is newer than what it has, in whole seconds.
        self._published += 10
        for path in (suite / "Release", suite / "InRelease", binary / "Packages"):
            if path.exists():
                os.utime(path, (self._published, self._published))

    def _stanza(self, path: Path) -> str:
        control = subprocess.run(
            ["dpkg-deb", "--field", str(path)], check=True, capture_output=True, text=True
        ).stdout
        content = path.read_bytes()
        return (
            f"{control}Filename: pool/{path.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )


class AptHost:
    """A root directory with an apt configuration, whose own lists are as new as its last `update`."""

    def __init__(self, root: Path, repository: Repository) -> None:
        self.root = root
        for directory in (
            "etc/apt/apt.conf.d",
            "etc/apt/preferences.d",
            "var/lib/apt/lists/partial",
            "var/lib/dpkg",
        ):
            (root / directory).mkdir(parents=True)
        (root / "var/lib/dpkg/status").touch()
        self.configure(repository.sources_line())
        (root / "etc/apt/apt.conf.d/50hooks").write_text(
            f'APT::Update::Pre-Invoke {{"touch {root}/hook-ran"; }};\n'
            f'APT::Update::Post-Invoke {{"touch {root}/hook-ran"; }};\n'
            'Acquire::Retries "0";\n'
            'Acquire::AllowInsecureRepositories "true";\nAPT::Get::AllowUnauthenticated "true";\n'
        )
        self.host = Host(root)

    def configure(self, sources: str) -> None:
        (self.root / "etc/apt/sources.list").write_text(sources)

    def update(self) -> None:
        """The host's own ``apt-get update``, as its administrator would run it."""
        configuration = self.root / "admin.conf"
        configuration.write_text(f'Dir "{self.root}/";\n')
        subprocess.run(
            ["apt-get", "-qq", "update", "--option=Acquire::AllowInsecureRepositories=true"],
            env={**os.environ, "APT_CONFIG": str(configuration), "LC_ALL": "C"},
            check=True,
            capture_output=True,
        )
        (self.root / "hook-ran").unlink(missing_ok=True)

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """All files below the root, with mode, time of change and content."""
        return {
            str(path): (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in sorted(self.root.rglob("*"))
            for status in [path.lstat()]
        }


@contextlib.contextmanager
def served(directory: Path, key: Key) -> Iterator[Repository]:
    repository = Repository(directory, key)
    try:
        yield repository
    finally:
        repository.close()
