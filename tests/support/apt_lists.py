"""The lists of packages that apt has of a host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def apt_knows(root: Path, repository: Path, package: str) -> None:
    """Have the lists of a host tell of a package, which cannot be downloaded."""
    for directory in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists", "var/lib/dpkg"):
        (root / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    repository.mkdir()
    architecture = subprocess.run(
        ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
    )
    (repository / "Packages").write_text(
        f"Package: {package}\nVersion: 1.2-3\nArchitecture: {architecture.stdout.strip()}\nSize: 1000\n"
        f"Filename: ./{package}.deb\nSHA256: {'0' * 64}\nMaintainer: T <t@example.org>\nDescription: test\n"
    )
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    configuration = root / "admin.conf"
    configuration.write_text(f'Dir "{root}/";\nAPT::Sandbox::User "root";\n')
    subprocess.run(
        ["apt-get", "-qq", "update"],
        env={**os.environ, "APT_CONFIG": str(configuration)},
        check=True,
        capture_output=True,
    )
