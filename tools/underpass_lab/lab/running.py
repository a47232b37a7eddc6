"""Starting daemons inside a lab; `running DIRECTORY NODE` ends the one of a node and starts it again."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from underpass_lab.command import Failure
from underpass_lab.daemon import Daemon
from underpass_lab.lab.state import ended

READY_S, END_S = 60, 5


class Inside:
    """Where the daemons of a lab run: in the keeper's namespaces, for longer than what starts them."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.dir = directory

    def popen(self, name: str, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a node, in a session of its own."""
        words = ("ip", "netns", "exec", name, *map(str, command))
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True, **options)


def start(names: list[str], directory: pathlib.Path, binary: str) -> dict[int, str]:
    """Starts the daemons of some nodes; returns {pid: name} when all of them answer."""
    inside = Inside(directory)
    daemons = [Daemon(inside, name, directory / f"{name}.toml", command=[binary]) for name in names]
    for daemon in daemons:
        daemon.wait_ready(READY_S)
    return {daemon.pid: daemon.node for daemon in daemons}


def find(name: str, directory: pathlib.Path) -> int | None:
    """The pid of the daemon that runs with the configuration of a node, or None."""
    wanted = [b"run", b"--config", os.fsencode(directory / f"{name}.toml")]
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().split(b"\0")[1:-1] == wanted:
                return int(entry.name)
    return None


def stop(name: str, directory: pathlib.Path) -> None:
    """SIGTERM to the daemon of a node, and SIGKILL when that does not help."""
    pid = find(name, directory)
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + END_S
        while pid and not ended(pid) and time.monotonic() < end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(0.02)


def main() -> None:
    directory, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    stop(name, directory)
    start([name], directory, os.path.realpath(directory / "bin" / "underpass"))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"error: {failure}")
