# SPDX-License-Identifier: LGPL-2.1-or-later
"""skopeo, which speaks to registries and checks signatures; it is run with the host's configuration.

It takes containers-policy.json(5), containers-registries.d(5), containers-registries.conf(5) and
containers-certs.d(5) of this machine, and of credentials only the file that it is given.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, NoSpace, Timeout
from ..formats.oci import IN_LAYOUT, MAX_MANIFEST
from ..sandbox.command import Command, Finished
from ..system.printable import printable, without_secrets
from .package_work import clean_environment
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..repository import Repository
    from ..sandbox.command import Run

CREDENTIALS = "REGISTRY_AUTH_FILE"
"""The variable with the file of credentials, in the form of containers-auth.json(5)."""

LOOKED_AT = "looked at"
"""The verb of `failure` for a manifest that is not parsed by skopeo."""

LOOK_SECONDS = 60.0
COPY_SECONDS = 600.0

_CONFIGURATION = Path("/etc/containers")
_POLICY = "containers-policy.json(5)"
_NOWHERE = "/nonexistent"
_STDIN = Path("/dev/stdin")
_SHOWN = 300  # characters of skopeo's message
_SPARE_BYTES = 64 << 10  # of a file, besides a blob: manifests, and what skopeo writes of its own
_ADDRESS = re.compile(r"[a-z]{1,16}://[^\s\"]*")
_MESSAGE = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"')

# What skopeo 1.9 to 1.18 and the registries say, in lower case. The first one that is found counts.
_UNKNOWN = ("manifest unknown", "name unknown", "repository name not known", "name_unknown")
_FULL = r"\S*: (?:no space left on device|disk quota exceeded)"  # after a directory of ours
_TOO_LARGE = ("file too large", "exceeded maximum allowed size")
# What keeps a policy from being followed says nothing of who has signed.
_NOT_FOLLOWED = (
    *("x509:", "dial tcp", "connection refused", "no such host", "i/o timeout", "unexpected http status"),
    *("permission denied", "no such file or directory"),
)
_UNTRUSTED = ("source image rejected", "invalid signature", "signature")
_OTHER_CONTENT = ("did not match", "does not match", "digest invalid")
_NO_JSON = ("unexpected end of json", "invalid character")
_SIGNING = re.compile(r"\b(?:sign|passphrase|gpg)")
_UNAUTHORISED = ("unauthorized", "authentication required", "access to the resource is denied", "forbidden")


@dataclasses.dataclass(frozen=True, slots=True)
class Skopeo:
    """Runs skopeo.

    Attributes:
        run: what runs it.
        credentials: a file, which need not exist; a unit that runs it may have another one.
        configuration: the directory with the policy, and the configuration of registries and certificates.
    """

    run: Run
    credentials: Path
    configuration: Path = _CONFIGURATION

    @property
    def policy(self) -> Path:
        """The file that says what is trusted."""
        return self.configuration / "policy.json"

    @staticmethod
    def is_installed() -> bool:
        """Whether there is a skopeo."""
        return shutil.which("skopeo", path=clean_environment()["PATH"]) is not None

    async def manifest(self, repository: Repository, reference: str, seconds: float | None = None) -> bytes:
        """The bytes of a manifest, unchecked.

        Args:
            reference: ":" and a tag, or "@" and a digest.
            seconds: the time limit; `LOOK_SECONDS` if it is None.

        Raises:
            NotFound: there is none, or the registry cannot be reached.
            Corrupt: it has more than `MAX_MANIFEST` bytes, or is no text.
            Timeout: there is no answer.
            KheadersError: skopeo cannot be run.
        """
        name = f"{repository.name}{reference}"
        words = [
            *self._skopeo(self.policy),
            "inspect",
            "--raw",
            *self._certificates(repository, "--cert-dir"),
            f"docker://{name}",
        ]
        limit = LOOK_SECONDS if seconds is None else seconds
        done = await self._run(name, words, limit, Path("/"))
        if done.status != 0:
            raise failure(done.stderr, repository, reference, LOOKED_AT)
        if len(done.stdout) > MAX_MANIFEST:
            raise Corrupt(f"the manifest of {name} has more than {MAX_MANIFEST} bytes")
        if "\ufffd" in done.stdout:
            raise Corrupt(f"the manifest of {name} is no text in UTF-8")
        return done.stdout.encode()

    async def fetch(
        self,
        repository: Repository,
        digest: str,
        directory: Path,
        largest: int,
        *,
        policy: bytes = b"",
        seconds: float | None = None,
    ) -> None:
        """Copy a manifest and its blobs into a directory, which skopeo makes, if the policy accepts them.

        Args:
            digest: "sha256:…" of the manifest.
            largest: bytes of the largest blob; no file gets more, whatever the registry sends.
            policy: that of ``PchKey=``; the host's if it is empty.
            seconds: the time limit; `COPY_SECONDS` if it is None.

        Raises:
            NotFound: they are not there any more, or the registry cannot be reached.
            Corrupt: the policy does not accept them, or they are not what the digests promise.
            NoSpace: the file system is full.
            Timeout: it takes longer.
            KheadersError: skopeo cannot be run.
        """
        name = f"{repository.name}@{digest}"
        words = ["prlimit", f"--fsize={largest + _SPARE_BYTES}", "--core=0", "--"]
        # Not as a file: other runs at the same time could write to it.
        words += [
            *self._skopeo(_STDIN if policy else self.policy),
            "copy",
            "--quiet",
            "--preserve-digests",
            "--remove-signatures",
        ]
        words += [*self._certificates(repository, "--src-cert-dir"), f"docker://{name}", f"dir:{directory}"]
        limit = COPY_SECONDS if seconds is None else seconds
        done = await self._run(name, words, limit, directory.parent, stdin=policy)
        if done.status != 0:
            demanding = "PchKey=" if policy else _POLICY
            raise failure(
                done.stderr, repository, f"@{digest}", "fetched", directory.parent, demanding=demanding
            )

    async def push(
        self,
        layout: Path,
        policy: Path,
        repository: Repository,
        reference: str,
        sign: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Copy the one manifest of an OCI layout, and what the registry lacks of its blobs.

        Args:
            policy: one that accepts the layout; that of this host is one of what it fetches.
            reference: ":" and a tag, or "@" and its digest.
            sign: options of ``skopeo copy``.
            variables: of the environment, besides the usual ones.

        Raises:
            NotFound: the registry cannot be reached, or does not take it.
            KheadersError: it cannot be signed, or skopeo cannot be run.
            Timeout: it takes more than ten minutes.
        """
        name = f"{repository.name}{reference}"
        words = [*self._skopeo(policy), "copy", "--quiet", "--preserve-digests", *sign]
        words += [
            *self._certificates(repository, "--dest-cert-dir"),
            f"oci:{layout}:{IN_LAYOUT}",
            f"docker://{name}",
        ]
        done = await self._run(name, words, COPY_SECONDS, layout, variables=variables)
        if done.status != 0:
            raise push_failure(done.stderr, repository, reference)

    def _skopeo(self, policy: Path) -> tuple[str, ...]:
        return "skopeo", f"--policy={policy}", f"--registries.d={self.configuration / 'registries.d'}"

    async def _run(
        self,
        name: str,
        words: Sequence[str],
        seconds: float,
        directory: Path,
        *,
        stdin: bytes = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Finished:
        environment = {**clean_environment(), "XDG_RUNTIME_DIR": _NOWHERE, "TMPDIR": str(directory)}
        if os.access(self.credentials, os.R_OK):
            environment[CREDENTIALS] = str(self.credentials)
        environment |= variables or {}
        try:
            return await self.run(
                Command(words, environment, seconds, directory, stdin=stdin, max_output=MAX_MANIFEST + 1)
            )
        except Timeout:
            raise Timeout(f"{name}: skopeo took longer than {seconds:g} s and was stopped") from None
        except OSError as error:
            raise KheadersError(f"cannot run skopeo: {error.strerror}") from error

    def _certificates(self, repository: Repository, option: str) -> tuple[str, ...]:
        directory = self.configuration / "certs.d" / repository.registry
        return (f"{option}={directory}",) if directory.is_dir() else ()


def failure(
    stderr: str,
    repository: Repository,
    reference: str,
    verb: str,
    directory: Path | None = None,
    *,
    demanding: str = _POLICY,
) -> NotFound | KheadersError:
    """Why skopeo failed, as it says itself.

    Much of what it says is the registry's: names and addresses are not looked at, and a disk is full where a
    file in ``directory`` could not be written, whose name no registry knows.

    Args:
        reference: ":" and a tag, or "@" and a digest.
        verb: completes "… cannot be …".
        directory: that skopeo writes to.
        demanding: what says which signature is accepted.
    """
    name = f"{repository.name}{reference}"
    told = _summary(stderr)
    text = _without_names(stderr, repository, reference)
    if directory is not None and re.search(re.escape(str(directory)) + _FULL, stderr, re.IGNORECASE):
        return NoSpace(f"{name} does not fit on the disk: {told}")
    if _has(text, _TOO_LARGE):
        return Corrupt(f"{name} has more bytes than its manifest says, or than are accepted: {told}")
    if _has(text, _UNKNOWN):
        return NotFound(Reason.MISSING, f"there is no {name}")
    if _has(text, _UNAUTHORISED):
        return _unauthorised(name, told)
    # Before its last message, it may have warned of files that are not there.
    last = _without_names(_last_message(stderr), repository, reference)
    if _has(text, _UNTRUSTED) and not _has(last, _NOT_FOLLOWED):
        return Corrupt(f"{name} is not signed as {demanding} demands: {told}")
    # What is only looked at is not read: then the registry itself, or what is before it, talks nonsense.
    if _has(text, _OTHER_CONTENT) or (_has(text, _NO_JSON) and verb != LOOKED_AT):
        return Corrupt(f"{name} is not what its digest promises: {told}")
    return NotFound(Reason.UNREADABLE, f"{name} cannot be {verb}: {told}")


def push_failure(stderr: str, repository: Repository, reference: str) -> NotFound | KheadersError:
    """Why skopeo failed to push, as it says itself."""
    name, told = f"{repository.name}{reference}", _summary(stderr)
    text = _without_names(stderr, repository, reference)
    if _has(text, _UNAUTHORISED):
        return _unauthorised(name, told)
    if _SIGNING.search(text):
        return KheadersError(f"{name} cannot be signed: {told}")
    return NotFound(Reason.UNREADABLE, f"{name} cannot be pushed: {told}")


def _unauthorised(name: str, told: str) -> NotFound:
    return NotFound(
        Reason.UNREADABLE, f"the registry of {name} wants other credentials, see kheadersd(8): {told}"
    )


def _without_names(stderr: str, repository: Repository, reference: str) -> str:
    return _ADDRESS.sub("", stderr).replace(repository.name, "").replace(reference[1:], "").lower()


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text for word in words)


def _summary(stderr: str) -> str:
    told = _last_message(stderr).replace('\\"', '"')
    return printable(without_secrets(told) or "no reason given", _SHOWN)


def _last_message(stderr: str) -> str:
    messages = _MESSAGE.findall(stderr)
    return str(messages[-1]) if messages else stderr.strip()
