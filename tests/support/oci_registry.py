"""A real registry, docker-registry, with TLS and passwords on loopback; and hosts that are configured for it.

The certificate authority, the passwords and the signing keys are made for the tests and thrown away.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kheadersd.repository import Repository, parse_repository
from kheadersd.sandbox.child import run
from kheadersd.sources.skopeo import Skopeo
from tests.support.gnupg import Keyring

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORDS = {"pusher": "may push", "fetcher": "may fetch"}
ANYTHING = {"type": "insecureAcceptAnything"}

CONFIGURATION = """\
version: 0.1
log: {{accesslog: {{disabled: false}}, level: error}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}}}
http:
  addr: 127.0.0.1:{port}
  secret: of the test
  tls: {{certificate: {directory}/server.crt, key: {directory}/server.key}}
auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}
"""
_REQUEST = re.compile(r'"([A-Z]+) (\S+) HTTP/[\d.]+" (\d+) (\d+)')


class Certificates:
    """A certificate authority, and the certificate of "localhost" that it has signed."""

    def __init__(self, directory: Path) -> None:
        self.authority, self.server, self.key = (
            directory / name for name in ("ca.crt", "server.crt", "server.key")
        )
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        own = directory / "ca.key"
        self._openssl(
            "req", "-x509", *new_key, "-keyout", own, "-out", self.authority, "-days", 2, "-subj", "/CN=t"
        )
        request, names = directory / "server.csr", directory / "names"
        self._openssl("req", *new_key, "-keyout", self.key, "-out", request, "-subj", "/CN=localhost")
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signer = ("-CA", self.authority, "-CAkey", own, "-CAcreateserial", "-days", 2, "-extfile", names)
        self._openssl("x509", "-req", "-in", request, *signer, "-out", self.server)

    @staticmethod
    def _openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        """What a made-up registry serves with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.key)
        return context


def write_passwords(path: Path) -> None:
    """Write a file as htpasswd(1) does."""
    path.touch()
    for user, password in PASSWORDS.items():
        command = ["htpasswd", "-Bb", "-C", "4", str(path), user, password]
        subprocess.run(command, check=True, capture_output=True)


class Registry:
    """docker-registry, started.

    Attributes:
        name: host and port.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.certificates = Certificates(directory)
        write_passwords(directory / "htpasswd")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.name = f"localhost:{self._port}"
        self._log = directory / "log"
        configuration = directory / "config.yml"
        configuration.write_text(CONFIGURATION.format(directory=directory, port=self._port))
        self._command = ["docker-registry", "serve", str(configuration)]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def repository(self, path: str, digest: str = "") -> Repository:
        return parse_repository(f"{self.name}/{path}" + (f"@{digest}" if digest else ""))

    def requests(self) -> list[tuple[str, str, int, int]]:
        """All requests so far: method, path, status and the bytes of the answer."""
        found = _REQUEST.findall(self._log.read_text(errors="replace"))
        return [
            (method, path.partition("?")[0], int(status), int(size)) for method, path, status, size in found
        ]

    def blob_file(self, digest: str) -> Path:
        """Where the registry keeps a blob: 64 hex digits."""
        return self._directory / f"data/docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"


@contextlib.contextmanager
def running_registry() -> Iterator[Registry]:
    directory = Path(tempfile.mkdtemp(prefix="kh-registry-"))
    registry = Registry(directory)
    try:
        yield registry
    finally:
        registry.stop()
        shutil.rmtree(directory)


class SigningKey:
    """A key of GnuPG's: the private one as a file, and the public one.

    Attributes:
        private: what PushSigningKey= names.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.private, self.public = directory / "private.asc", directory / "public.gpg"
        # Not in pytest's directory: a socket's name has at most 107 characters.
        with tempfile.TemporaryDirectory(prefix="kh-gpg-") as home:
            keyring = Keyring(Path(home, "keyring"), "push@example.org")
            keyring.run("--armor", "--output", str(self.private), "--export-secret-keys")
            keyring.run("--output", str(self.public), "--export")
            keyring.close()


class SigstoreKey:
    """A key pair of sigstore's, made by skopeo, with an empty passphrase.

    Attributes:
        private: what PushSigningKey= names; its passphrase is beside it.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.private, self.public = directory / "key.private", directory / "key.pub"
        passphrase = directory / "key.private.passphrase"
        passphrase.write_text("\n")
        words = [f"--passphrase-file={passphrase}", f"--output-prefix={directory / 'key'}"]
        subprocess.run(["skopeo", "generate-sigstore-key", *words], check=True, capture_output=True)


class ContainersDirectory:
    """A directory like /etc/containers, for one registry, with a lookaside on the disk.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: Path, registry: str, authority: Path, *, lookaside: Path | None = None) -> None:
        self.path = path
        self._registry = registry
        self.lookaside = lookaside or path / "lookaside"
        (path / "certs.d" / registry).mkdir(parents=True)
        shutil.copy(authority, path / "certs.d" / registry / "ca.crt")
        self.lookaside.mkdir(exist_ok=True)
        places = dict.fromkeys(("lookaside", "lookaside-staging"), f"file://{self.lookaside}")
        (path / "registries.d").mkdir()
        (path / "registries.d/default.yaml").write_text(json.dumps({"docker": {registry: places}}))
        self.trust(ANYTHING)

    def trust(self, requirement: dict[str, Any]) -> None:
        """Demand one thing of the registry; anything else is rejected."""
        policy = {"default": [{"type": "reject"}], "transports": {"docker": {self._registry: [requirement]}}}
        (self.path / "policy.json").write_text(json.dumps(policy))

    def trust_all(self) -> None:
        """Accept anything, from everywhere."""
        (self.path / "policy.json").write_text(json.dumps({"default": [ANYTHING]}))

    def use_attachments(self) -> None:
        """Look for signatures of sigstore's in the registry, and write them there."""
        values = {"docker": {self._registry: {"use-sigstore-attachments": True}}}
        (self.path / "registries.d/default.yaml").write_text(json.dumps(values))

    def trust_sigstore_key(self, key: SigstoreKey) -> None:
        self.trust({"type": "sigstoreSigned", "keyPath": str(key.public)})

    def trust_key(self, key: SigningKey) -> None:
        self.trust({"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key.public)})


def credentials(path: Path, registry: str, user: str) -> Path:
    """Write a file in the form of containers-auth.json(5)."""
    secret = base64.b64encode(f"{user}:{PASSWORDS[user]}".encode()).decode()
    path.write_text(json.dumps({"auths": {registry: {"auth": secret}}}))
    path.chmod(0o600)
    return path


def skopeo(containers: ContainersDirectory, credentials_file: Path) -> Skopeo:
    return Skopeo(run, credentials_file, containers.path)
