# SPDX-License-Identifier: LGPL-2.1-or-later
"""All sources of a host, by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.distribution import how_to_install
from ..system.file_identity import stored_identity_at
from ..system.tasks import in_thread
from .installed_tree import TreeSource
from .loaded_module import ModuleSource
from .module_file import ModuleFileSource
from .package import PackageSource
from .registry import RegistrySource
from .registry_files import RegistryFiles
from .sysfs import SysfsSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..host.host import Host
    from ..host.kernel_module import KernelModule
    from ..release import Release
    from .source import Source


class Sources:
    """The sources that a request for headers can name.

    Attributes:
        tree: finds trees, which are served in place.
        files: fetches what other hosts made from headers.
        archives: the sources that find archives, by name; `sysfs`, `package` and `registry` are
            three of them.
    """

    def __init__(
        self,
        host: Host,
        module: KernelModule,
        package_directory: Path,
        extra_repositories: Sequence[str] = (),
    ) -> None:
        """
        Args:
            package_directory: a directory of the daemon's own for what the package manager writes;
                what is fetched from registries is written beside it.
            extra_repositories: see `Config.extra_repositories`.
        """
        self._host = host
        self.tree = TreeSource(host)
        self.sysfs = SysfsSource(host, module)
        self.package = PackageSource(host, package_directory, extra_repositories)
        self.registry = RegistrySource(host, package_directory.with_name(".registry"))
        self.files = RegistryFiles(self.registry.work)
        others = (ModuleFileSource(host), ModuleSource(host, module))
        self.archives: dict[str, Source] = {
            source.name: source for source in (self.sysfs, self.package, self.registry, *others)
        }

    def stamp(self, source: str, origin: str) -> str:
        """The present identity of the file or tree that a source found, "" if it is gone."""
        return self.tree.stamp(origin) if source == self.tree.name else stored_identity_at(origin)

    async def advice(self, release: Release) -> str:
        """How the headers of a kernel are installed on this host, see `how_to_install`."""
        return await in_thread(how_to_install, self._host, release)
