# SPDX-License-Identifier: LGPL-2.1-or-later
"""All sources of a host, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.file_identity import stored_identity_at
from .installed_tree import TreeSource
from .loaded_module import ModuleSource
from .module_file import ModuleFileSource
from .package import PackageSource
from .sysfs import SysfsSource

if TYPE_CHECKING:
    from pathlib import Path

    from ..host.host import Host
    from ..host.kernel_module import KernelModule
    from .source import Source


class Sources:
    """The sources that a request for headers can name.

    Attributes:
        tree: finds trees, which are served in place.
        archives: the sources that find archives, by name; `sysfs` and `package` are two of them.
    """

    def __init__(self, host: Host, module: KernelModule, package_directory: Path) -> None:
        """
        Args:
            package_directory: a directory of the daemon's own for what the package manager writes.
        """
        self.tree = TreeSource(host)
        self.sysfs = SysfsSource(host, module)
        self.package = PackageSource(host, package_directory)
        others = (ModuleFileSource(host), ModuleSource(host, module))
        self.archives: dict[str, Source] = {
            source.name: source for source in (self.sysfs, self.package, *others)
        }

    def stamp(self, source: str, origin: str) -> str:
        """The present identity of the file or tree that a source found, "" if it is gone."""
        return self.tree.stamp(origin) if source == self.tree.name else stored_identity_at(origin)
