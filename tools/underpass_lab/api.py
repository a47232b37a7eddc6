"""The control API of a daemon, spoken over its Unix socket: a request costs no process."""

import http.client
import json
import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

from underpass_lab.command import Failure

# The daemon closes a connection that is idle for longer than twice this.
_IDLE_S = 1.0


def connect(path: str | os.PathLike[str], timeout: float | None = None) -> socket.socket:
    """A connection to the control socket of a daemon."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        raise
    return connection


class Api(http.client.HTTPConnection):
    """A kept-alive connection to the socket of a daemon."""

    def __init__(self, path: str | os.PathLike[str], timeout: float = 30) -> None:
        super().__init__("underpass", timeout=timeout)
        self._path = path
        self._seconds = timeout
        self._used = 0.0

    def connect(self) -> None:
        """What http.client calls before the first request."""
        self.sock = connect(self._path, self._seconds)

    def ask(self, method: str, target: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        """(status, answer) of a request; a body that is no text is sent as JSON."""
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(body)
        if time.monotonic() - self._used > _IDLE_S:
            self.close()
        headers = {"Connection": "keep-alive"} | ({"Content-Type": kind} if body is not None else {})
        self.request(method, target, body, headers)
        response = self.getresponse()
        text = response.read()
        self._used = time.monotonic()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(text) if is_json else text.decode()

    def get(self, target: str) -> Any:
        """The answer to a GET that succeeds."""
        status, answer = self.ask("GET", target)
        if status != 200:
            raise Failure(f"{target}: {status} {answer}")
        return answer

    def change(
        self, add: Iterable[Sequence[str]] = (), delete: Iterable[str] = (), wait: bool = False
    ) -> tuple[int, Any]:
        """Adds routes given as (prefix, peer…) and deletes prefixes; returns the status and the answer."""
        body = {"add": [{"prefix": prefix, "via": list(via)} for prefix, *via in add], "del": list(delete)}
        return self.ask("POST", "/v1/routes" + ("?wait=true" if wait else ""), body)


def status(path: str | os.PathLike[str], timeout: float = 5) -> dict[str, Any] | None:
    """The status object of the daemon behind a control socket; None when it does not answer."""
    api = Api(path, timeout)
    try:
        answer: dict[str, Any] = api.get("/v1/status")
        return answer
    except (OSError, http.client.HTTPException, ValueError, Failure):
        return None
    finally:
        api.close()


def next_hop(path: str | os.PathLike[str], address: str) -> str | None:
    """Where the daemon behind a control socket sends packets for an address; None without a route or an answer."""
    api = Api(path, 5)
    try:
        code, answer = api.ask("GET", f"/v1/routes/get?address={address}")
        return str(answer["next_hop"]) if code == 200 else None
    except OSError:
        return None
    finally:
        api.close()


class Pipeline:
    """A kept-alive connection on which requests are sent before earlier ones are answered."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._socket = connect(path)
        self._unanswered = 0

    @staticmethod
    def post(target: str, body: str) -> bytes:
        """A request as bytes, so that it can be made beforehand."""
        headers = f"Host: x\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: {len(body)}"
        return f"POST {target} HTTP/1.1\r\n{headers}\r\n\r\n{body}".encode()

    def send(self, *requests: bytes) -> None:
        """Sends requests, whose answers `finish` reads."""
        self._socket.sendall(b"".join(requests))
        self._unanswered += len(requests)

    def finish(self) -> None:
        """Reads the answers to everything sent; raises unless each is 200."""
        answers = b""
        while self._unanswered and (answers.count(b"\r\n\r\n") < self._unanswered or not answers.endswith(b"}")):
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError(f"closed; so far {answers!r}")
            answers += piece
        if answers.count(b"HTTP/1.1 200") != self._unanswered:
            raise ConnectionError(answers.decode())
        self._unanswered = 0

    def ask(self, request: bytes) -> None:
        """Sends one request and waits for its answer."""
        self.finish()
        self.send(request)
        self.finish()
