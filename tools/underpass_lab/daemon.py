"""The daemon: finding its program, running it on a node of a lab, asking and ending it."""

import contextlib
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any, Protocol

from underpass_lab import api
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.paths import REPO


class Host(Protocol):
    """What a daemon needs of the lab that it runs in."""

    dir: pathlib.Path

    def popen(self, name: str, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command in a namespace."""


def binary() -> str:
    """The daemon's program: UNDERPASS_BIN, or what cargo has built."""
    named = os.environ.get("UNDERPASS_BIN")
    built = [REPO / "target" / profile / "underpass" for profile in ("release", "debug")]
    for path in [pathlib.Path(named)] if named else built:
        if path.exists():
            return str(path)
    raise FileNotFoundError("no daemon to test: run `cargo build`, or name one with UNDERPASS_BIN")


class Daemon:
    """A running daemon of one node."""

    def __init__(
        self,
        lab: Host,
        node: str,
        config_file: object,
        environment: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        namespace: str | None = None,
        stderr: Any = None,
    ) -> None:
        """`command` replaces the program, as by one that gives its rights away first; `namespace` is where it
        runs, if not in that of the node; `stderr` takes the log instead of a file."""
        self.node = node
        self.socket = str(lab.dir / f"{node}.sock")
        self._log = lab.dir / f"{node}.log"
        with open(self._log, "a", encoding="utf-8") as log:
            self.process = lab.popen(
                namespace or node,
                *(command or [binary()]),
                *("run", "--config", config_file),
                stdout=log,
                stderr=subprocess.STDOUT if stderr is None else stderr,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """The daemon's process id: `ip netns exec` replaces itself by the command."""
        return self.process.pid

    def log(self) -> str:
        """All that the daemons of this node have printed so far."""
        with contextlib.suppress(FileNotFoundError):
            return self._log.read_text(encoding="utf-8", errors="replace")
        return ""

    def command(self, *arguments: object, check: bool = True, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """Runs a client command against this daemon."""
        environment = os.environ | {"UNDERPASS_SOCKET": self.socket}
        return run(binary(), *arguments, check=check, timeout=timeout, env=environment)

    def json(self, *arguments: object) -> Any:
        """What a reading command prints with `-o json`."""
        return json.loads(self.command(*arguments, "-o", "json").stdout)

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Waits until the daemon answers; Failure with its log when it does not."""
        with contextlib.suppress(Failure):
            wait_until(lambda: self.process.poll() is not None or self._answers(), timeout)
        status = self.process.poll()
        if status is not None or not self._answers():
            ended = "" if status is None else f": the daemon of {self.node} ended with status {status}"
            raise Failure(f"{self.node} does not answer{ended}; it said:\n{self.log()}")

    def _answers(self) -> bool:
        return api.status(self.socket) is not None

    def stop(self, timeout: float = 5.0) -> int:
        """SIGTERM; returns the exit status, Failure when it takes longer than `timeout` s."""
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure(f"the daemon on {self.node} ignored SIGTERM for {timeout} s") from None
