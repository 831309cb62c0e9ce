# SPDX-License-Identifier: LGPL-2.1-or-later
"""The private key that signs what is pushed, for skopeo: one of GnuPG's, or one of sigstore's.

A signature of GnuPG's ("simple signing") goes to the lookaside-staging of containers-registries.d(5), one of
sigstore's into the registry.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..sandbox.child import run
from ..sandbox.command import Command
from ..system.files import read_start
from ..system.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    Signing = tuple[Sequence[str], Mapping[str, str]]

_GNUPG = b"-----BEGIN PGP PRIVATE KEY BLOCK-----"
_SIGSTORE = (
    b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----",
    b"-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----",
)
_LONGEST = max(map(len, (_GNUPG, *_SIGSTORE)))
_SECONDS = 30.0
_SHOWN = 200


@contextlib.asynccontextmanager
async def signing_options(
    key: Path | None, directory: Path, setting: str = "PushSigningKey="
) -> AsyncIterator[Signing]:
    """The options with which ``skopeo copy`` signs, and variables of its environment; none without a key.

    The passphrase is the content of the file with the key's name and ``.passphrase``, if there is one.

    Args:
        directory: a private one, for a keyring.
        setting: what names the key.

    Raises:
        KheadersError: the key cannot be read or used.
    """
    if key is None:
        yield (), {}
        return
    try:
        start = read_start(key, _LONGEST)
    except OSError as error:
        raise KheadersError(f"{setting}{key} cannot be read: {error.strerror}") from error
    passphrase = key.with_name(key.name + ".passphrase")
    options = [f"--sign-passphrase-file={passphrase}"] if os.access(passphrase, os.R_OK) else []
    if start.startswith(_SIGSTORE):
        yield (f"--sign-by-sigstore-private-key={key}", *options), {}
    elif start.startswith(_GNUPG):
        variables = {"GNUPGHOME": str(directory)}
        try:
            yield (f"--sign-by={await _imported(key, variables)}", *options), variables
        finally:
            await _gnupg(("gpgconf", "--kill", "all"), variables)
    else:
        raise KheadersError(
            f"{setting}{key} is no private key that is known here: neither one of GnuPG's, exported "
            "in ASCII, nor one of sigstore's"
        )


async def _imported(key: Path, variables: Mapping[str, str]) -> str:
    """The fingerprint of a key that is imported into a keyring of its own."""
    await _gnupg(("gpg", "--batch", "--quiet", "--import", str(key)), variables)
    listed = await _gnupg(("gpg", "--batch", "--with-colons", "--list-secret-keys"), variables)
    for line in listed.splitlines():
        if line.startswith("fpr:"):
            return line.split(":")[9]
    raise KheadersError(f"{key} has no private key")


async def _gnupg(words: Sequence[str], variables: Mapping[str, str]) -> str:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **variables}
    try:
        done = await run(Command(words, environment, _SECONDS))
    except OSError as error:
        raise KheadersError(f"cannot run {words[0]}, which signs: {error.strerror}") from error
    if done.status != 0:
        raise KheadersError(
            f"{words[0]} cannot use the signing key: {printable(done.stderr.strip(), _SHOWN)}"
        )
    return done.stdout
