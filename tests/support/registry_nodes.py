"""Nodes with nothing in common but a registry: each has a bus, a daemon, a cache and an /etc of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.clients import Ctl
from tests.support.oci_registry import ContainersDirectory, Registry, SigningKey, credentials
from tests.support.own_etc import with_own_etc
from tests.support.running import Bus, Daemon
from tests.support.served_host import ServedHost

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass
class Node:
    """One node.

    Attributes:
        host: what it has of a kernel.
        ctl: its kheadersctl, as root.
    """

    host: ServedHost
    bus: Bus
    daemon: Daemon
    ctl: Ctl
    etc: Path
    containers: ContainersDirectory

    def configure(self, text: str) -> None:
        """Give kheadersd another configuration, which a daemon that runs does not know."""
        (self.etc / "kheadersd.conf").write_text(text)

    def do(self, *arguments: str) -> Any:
        """The JSON that kheadersctl prints."""
        done = self.ctl(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def configuration(repository: str, *settings: str, key: SigningKey | None = None) -> str:
    signing = (f"PushSigningKey={key.private}",) if key is not None else ()
    return "\n".join(("[Registry]", f"Registry={repository}", *settings, *signing, ""))


@contextlib.contextmanager
def running_node(
    directory: Path,
    registry: Registry,
    settings: str,
    *,
    trusted: SigningKey | None = None,
    lookaside: Path,
    patience: float = 20,
) -> Iterator[Node]:
    """A node with the credentials for pushing and for fetching.

    Args:
        settings: the text of kheadersd.conf.
        trusted: whose signatures it accepts; None to accept anything.
        lookaside: where signatures are, for all nodes.
        patience: seconds that a start of the daemon may take.
    """
    etc, root = directory / "etc", directory / "root"
    for path in (directory / "bus", etc / "kheadersd", root):
        path.mkdir(parents=True)
    for path in (directory, *directory.parents):  # every user comes to the socket
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o711)
    containers = ContainersDirectory(
        etc / "containers", registry.name, registry.certificates.authority, lookaside=lookaside
    )
    if trusted is not None:
        containers.trust_key(trusted)
    credentials(etc / "kheadersd/push-auth.json", registry.name, "pusher")
    credentials(etc / "kheadersd/registry-auth.json", registry.name, "fetcher")
    (etc / "kheadersd.conf").write_text(settings)
    host = ServedHost(root)
    bus = Bus(directory / "bus")
    prefix = with_own_etc(etc)
    arguments = ["--config=/etc/kheadersd.conf"]
    daemon = Daemon(bus, root, directory / "cache", directory / "log", arguments, prefix=prefix)
    daemon.patience = patience
    bus.start()
    try:
        daemon.start()
        yield Node(host, bus, daemon, Ctl(bus, prefix=prefix), etc, containers)
        assert daemon.stop() == 0, daemon.log.read_text()
        assert daemon.traceback() == ""
    finally:
        daemon.stop()
        bus.stop()
