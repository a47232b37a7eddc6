"""Process 1 of a machine: makes its root directory, then starts and ends services for who asks, until it is killed.

    python3 -m underpass_lab.kubernetes.keeper MACHINE PROGRAMS GROUP STATE

Runs in new mount, pid and control group namespaces in the machine's network namespace. Listens on STATE/MACHINE.sock:
a line of JSON comes in, a line goes back. A machine with a directory STATE/MACHINE gets its root directory from there.
What a service says goes to STATE/MACHINE.SERVICE.log.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
from typing import Any

from underpass_lab import netns
from underpass_lab.command import Failure
from underpass_lab.kubernetes import root


class Keeper:
    def __init__(self, machine: str, state: pathlib.Path) -> None:
        self.machine = machine
        # Paths of the host are gone once the machine has its own root; this stays.
        self.directory = os.open(state, os.O_PATH | os.O_DIRECTORY)
        self.services: dict[str, int] = {}
        self.socket = socket.socket(socket.AF_UNIX)
        path = state / f"{machine}.sock"
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))

    def serve(self) -> None:
        """Answers requests, and takes leave of every process that ends in here, as process 1 has to."""
        self.socket.listen(8)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: self._reap())
        while True:
            connection, _ = self.socket.accept()
            with connection, connection.makefile("rw", encoding="utf-8") as stream, contextlib.suppress(OSError):
                stream.write(json.dumps(self._answer(json.loads(stream.readline()))) + "\n")

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        self.services = {name: pid for name, pid in self.services.items() if os.path.exists(f"/proc/{pid}")}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._reap()
        name = request.get("name", "")
        try:
            match request["do"]:
                case "start" if name not in self.services:
                    self.services[name] = self._start(name, request["command"])
                case "signal" if name in self.services:
                    os.kill(self.services[name], request["number"])
        except OSError as error:
            return {"error": f"{request['do']} of {name} on {self.machine}: {error.strerror}"}
        return {"services": self.services}

    def _start(self, name: str, command: list[str]) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(f"{self.machine}.{name}.log", flags, 0o600, dir_fd=self.directory)
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.posix_spawnp(
                command[0],
                command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, old, new) for old, new in ((nothing, 0), (log, 1), (log, 2))],
                setsid=True,
                setsigmask=[],
            )
        finally:
            os.close(log)
            os.close(nothing)


def main() -> None:
    machine, programs, group, state = sys.argv[-4:]
    keeper = Keeper(machine, pathlib.Path(state))
    directory = pathlib.Path(state, machine)
    if directory.is_dir():
        root.enter(directory, pathlib.Path(programs), pathlib.PurePath(group))
        programs = "/opt/kubernetes"
    else:
        netns.mount("proc", "/proc", "proc")
    os.environ["PATH"] = f"{programs}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    keeper.serve()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
