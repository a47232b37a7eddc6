"""Starting daemons inside a lab; `running DIRECTORY NODE` ends the one of a node and starts it again."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

from underpass_lab import api
from underpass_lab.command import Failure
from underpass_lab.lab.state import ended

READY_S, END_S = 60, 5


def start(names: list[str], directory: pathlib.Path, binary: str) -> dict[int, str]:
    """Starts the daemons of some nodes; returns {pid: name} when all of them answer."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for name in names:
        with open(directory / f"{name}.log", "a", encoding="utf-8") as log:
            processes[name] = subprocess.Popen(
                ("ip", "netns", "exec", name, binary, "run", "--config", directory / f"{name}.toml"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    end = time.monotonic() + READY_S
    for name, process in processes.items():
        while api.status(directory / f"{name}.sock") is None:
            if process.poll() is not None or time.monotonic() > end:
                state = f"ended with status {process.returncode}" if process.poll() is not None else "does not answer"
                said = (directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise Failure(f"the daemon of {name} {state}; it said:\n{said}")
            time.sleep(0.02)
    return {process.pid: name for name, process in processes.items()}


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
