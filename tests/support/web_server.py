"""A web server on the loopback interface, which can stop in the middle of a package."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

PACKAGES = (".deb", ".rpm", ".pkg.tar.zst")


class _Handler(http.server.SimpleHTTPRequestHandler):
    server: WebServer

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        if self.path.endswith(PACKAGES) and self.server.stalls:
            self.server.stalled.set()
            self.server.closing.wait(60)
            return
        if self.path.endswith(PACKAGES) and self.server.breaks:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class WebServer(http.server.ThreadingHTTPServer):
    """Serves the files of a directory.

    Attributes:
        requests: the paths asked for.
        stalls: whether it never delivers a package; ``stalled`` is set when one is asked for.
        breaks: whether the connection ends in the middle of each package.
    """

    daemon_threads = False

    def __init__(self, directory: Path) -> None:
        def handler(*arguments: object) -> _Handler:
            return _Handler(*arguments, directory=str(directory))  # type: ignore[arg-type]

        self.requests: list[str] = []
        self.stalls = self.breaks = False
        self.stalled = threading.Event()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
