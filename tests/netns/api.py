"""The control API of a daemon, spoken over one connection: a request costs no process."""

import http.client
import json
import socket
import time

# The daemon closes a connection that is idle for longer than twice this.
_IDLE_S = 1.0


class Api(http.client.HTTPConnection):
    """A kept-alive connection to the socket of a daemon."""

    def __init__(self, path):
        super().__init__("underpass", timeout=30)
        self._path = path
        self._used = 0.0

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method, target, body=None, kind="application/json"):
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

    def get(self, target):
        """The answer to a GET that succeeds."""
        status, answer = self.ask("GET", target)
        if status != 200:
            raise AssertionError(f"{target}: {status} {answer}")
        return answer

    def change(self, add=(), delete=(), wait=False):
        """Adds routes given as (prefix, peer…) and deletes prefixes; returns the status and the answer."""
        body = {"add": [{"prefix": prefix, "via": list(via)} for prefix, *via in add], "del": list(delete)}
        return self.ask("POST", "/v1/routes" + ("?wait=true" if wait else ""), body)
