"""HTTP on 127.0.0.1 for tools that cannot speak to a Unix socket, passed on to the control socket of a daemon."""

import bootstrap

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable
from typing import Any, Self

from underpass_lab.api import Api
from underpass_lab.nodes import NodeLab

_PCAPNG = "application/x-pcapng"


class Bridge:
    """A context manager; `url` is where the API is inside the namespace of a node.

    A capture does not end by itself, so only the first piece of one is passed on.
    """

    def __init__(self, lab: NodeLab, node: str, path: str) -> None:
        self._server = lab.inside(node, lambda: _Server(path))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def statuses(self) -> dict[tuple[str, str, int], int]:
        """What was answered: (method, path without query, status) → how often."""
        return self._server.statuses


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.statuses: dict[tuple[str, str, int], int] = {}
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def note(self, method: str, target: str, status: int) -> None:
        key = (method, target.partition("?")[0], status)
        with self._lock:
            self.statuses[key] = self.statuses.get(key, 0) + 1


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        # Every method, also unknown ones.
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def log_message(self, *_: Any) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding"):
            raise ValueError("chunked bodies are not passed on")
        kind = self.headers.get("Content-Type")
        daemon = Api(self.server.path)
        with contextlib.closing(daemon):
            # A refused query is answered before the body is read; the answer is there all the same.
            with contextlib.suppress(BrokenPipeError):
                daemon.request(self.command, self.path, body or None, {"Content-Type": kind} if kind else {})
            answer = daemon.getresponse()
            is_capture = answer.headers.get("Content-Type") == _PCAPNG
            content = answer.read1(1 << 16) if is_capture else answer.read()
        self.server.note(self.command, self.path, answer.status)
        self._answer(answer, content)

    def _answer(self, answer: http.client.HTTPResponse, content: bytes) -> None:
        self.send_response(answer.status)
        for name in ("Content-Type", "Allow"):
            if value := answer.headers.get(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            # The client may have given up meanwhile, which it reports itself.
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(content)
