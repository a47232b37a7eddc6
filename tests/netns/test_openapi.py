"""The API keeps what its OpenAPI document says, asked by schemathesis with requests good and bad.

schemathesis speaks TCP, so a proxy leads it to the control socket, on the loopback of the node's namespace. Left out is
`/v1/capture`, whose answer has no end.
"""

import bootstrap

import contextlib
import os
import pathlib
import socket
import subprocess
import threading

from shared import SharedLab
from underpass_lab.api import Api, connect
from underpass_lab.command import Failure, run
from underpass_lab.paths import REPO

ADDRESS = ("127.0.0.1", 8017)
LIMIT_S = 60
EXAMPLES = 40
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


def schemathesis() -> str:
    """The command, from what scripts/test installs."""
    named = os.environ.get("DEV_TOOLS")
    if named is None:
        # Cargo's own answer, since the target directory may be elsewhere.
        words = ("cargo", "metadata", "--format-version", "1", "--no-deps", "--locked", "--offline")
        found = run("sh", "-c", f"{' '.join(words)} | jq -r .target_directory", cwd=REPO).stdout.strip()
        named = str(pathlib.Path(found) / "tools-venv" / "bin")
    command = pathlib.Path(named) / "st"
    if not command.exists():
        raise Failure(f"{command} is missing: scripts/test installs it, from tools/requirements-dev.txt")
    return str(command)


class Proxy:
    """Leads TCP connections in a namespace to a Unix socket; a context manager."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener, self._path = listener, path
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        with client, connect(self._path) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


class OpenApi(SharedLab):
    daemons = ("n1",)

    def listener(self) -> socket.socket:
        listener = self.lab.socket("n1", kind=socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(ADDRESS)
        listener.listen(16)
        return listener

    def ask(self, *more: object) -> subprocess.CompletedProcess[str]:
        """Runs schemathesis in the namespace of the node."""
        base = f"http://{ADDRESS[0]}:{ADDRESS[1]}"
        words = (
            *(schemathesis(), "run", f"{base}/v1/openapi.json", "--url", base, "--checks", ",".join(CHECKS)),
            *("--exclude-path", "/v1/capture", "--phases", "examples,coverage,fuzzing"),
            *("--max-examples", EXAMPLES, "--generation-deterministic"),
            *("--request-timeout", 3, "--max-time", 40, "--continue-on-failure", "--no-color"),
        )
        # Its files go where the lab's go.
        return self.lab.exec("n1", *words, *more, check=False, timeout=LIMIT_S, cwd=self.lab.dir)

    def test_answers_are_as_the_document_says(self) -> None:
        daemon = self.lab.daemons["n1"]
        with Proxy(self.listener(), daemon.socket):
            result = self.ask()
        self.assertEqual(result.returncode, 0, f"\n{result.stdout}{result.stderr}")
        print(result.stdout.strip().splitlines()[-1])
        # It is the same daemon still, and answers.
        self.assertIsNone(daemon.process.poll())
        api = Api(daemon.socket)
        self.addCleanup(api.close)
        self.assertEqual(api.get("/v1/status")["node"], "n1")
        self.assertNotIn("panicked", daemon.log())


if __name__ == "__main__":
    import unittest

    unittest.main()
