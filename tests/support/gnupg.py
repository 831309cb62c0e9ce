"""Keyrings of GnuPG's own, for keys that sign what tests publish. Needs gnupg."""

from __future__ import annotations

from pathlib import Path

from tests.support.clients import wait_until
from tests.support.programs import run


class Keyring:
    """A directory of GnuPG's, with private keys that need no passphrase.

    Args:
        home: does not exist, unlike what it is in.
        users: whose keys these are, addresses of mail.
    """

    def __init__(self, home: Path, *users: str) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        for user in users:
            self.run("--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never")

    def run(self, *arguments: str) -> str:
        """What ``gpg`` prints."""
        return run("gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments)

    def close(self) -> None:
        """End what runs for it, so that the directory can be removed."""
        end_agents(self.home)


def end_agents(home: Path) -> None:
    """End the agents of a keyring, and wait until they have removed their sockets: gpgconf does not."""
    run("gpgconf", "--homedir", str(home), "--kill", "all")
    wait_until(lambda: not list(home.glob("S.*")))
