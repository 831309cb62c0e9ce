"""A made-up registry over HTTPS that answers whatever a test tells it, at the pace that a test tells it."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from kheadersd.formats import oci

if TYPE_CHECKING:
    import ssl

MANIFEST = oci.MANIFEST_TYPE


class LyingRegistry(http.server.ThreadingHTTPServer):
    """A registry with one artifact under every name.

    Attributes:
        manifest: what is answered for every manifest.
        blobs: what is answered for each digest; a callable writes the answer itself.
        requests: the paths that were asked for.
        closing: set in the end, so that what waits for it ends.
    """

    daemon_threads = False

    def __init__(self, context: ssl.SSLContext) -> None:
        self.manifest: bytes | Callable[[http.server.BaseHTTPRequestHandler], None] = b""
        self.blobs: dict[str, bytes | Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.requests: list[str] = []
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def name(self) -> str:
        return f"localhost:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to tell."""

    def serve(self, manifest: oci.Manifest, layer: bytes | Callable[..., None]) -> None:
        """Serve an artifact, whose layer may be another than its manifest says."""
        self.manifest = manifest.encode()
        self.blobs = {oci.config().digest: oci.CONFIG, manifest.layer.digest: layer}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: LyingRegistry

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        kind, name = self.path.split("/")[-2:]
        if self.path == "/v2/":
            send(self, b"{}", "application/json")
        elif kind == "manifests":
            answer(self, self.server.manifest, MANIFEST)
        elif (found := self.server.blobs.get(name.removeprefix("sha256:"))) is not None:
            answer(self, found, "application/octet-stream")
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


def answer(
    handler: http.server.BaseHTTPRequestHandler,
    what: bytes | Callable[[http.server.BaseHTTPRequestHandler], None],
    kind: str,
) -> None:
    if callable(what):
        what(handler)
    else:
        send(handler, what, kind)


def send(
    handler: http.server.BaseHTTPRequestHandler, data: bytes, kind: str, length: int | None = None
) -> None:
    """Send an answer; the length that is told may be another than it has."""
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Docker-Distribution-Api-Version", "registry/2.0")
    handler.send_header("Content-Length", str(len(data) if length is None else length))
    handler.end_headers()
    handler.wfile.write(data)


def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Send bytes until the client hangs up."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/octet-stream")
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(1 << 16))


def redirect(address: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """Send the client elsewhere."""

    def to(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return to


@contextlib.contextmanager
def lying_registry(context: ssl.SSLContext) -> Iterator[LyingRegistry]:
    registry = LyingRegistry(context)
    thread = threading.Thread(target=registry.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield registry
    finally:
        registry.closing.set()
        registry.shutdown()
        thread.join()
        registry.server_close()


def artifact(release: str, architecture: str, layer: bytes) -> oci.Manifest:
    """The manifest of a layer."""
    blob = oci.Descriptor(next(iter(oci.HEADERS.layer_types)), hashlib.sha256(layer).hexdigest(), len(layer))
    return oci.Manifest(
        oci.config(), blob, {oci.RELEASE: release, oci.ARCHITECTURE: architecture, oci.CONTENT: "0" * 64}
    )
