"""Process 1 of a lab: makes it, starts the daemons, says so, and holds it up until it is killed.

    python3 -m underpass_lab.lab.keeper DIRECTORY

Runs in new namespaces (user, pid, mount, network) and is what they end with. `scripts/lab up` sets LAB_BINARY,
the daemon's program or nothing, and LAB_REPORT, the descriptor on which one line of JSON says how it went.
"""

import json
import os
import pathlib
import signal
import sys

from underpass_lab.command import Failure
from underpass_lab.lab import namespaces, running
from underpass_lab.lab import topology as topologies


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    binary = os.environ.pop("LAB_BINARY")
    started: dict[int, str] = {}
    with os.fdopen(int(os.environ.pop("LAB_REPORT")), "w", encoding="utf-8") as report:
        try:
            namespaces.hide_run(directory)
            topology = topologies.load(
                pathlib.Path("topology.toml"), (directory / "topology.toml").read_text(encoding="utf-8")
            )
            namespaces.build(topology)
            if binary:
                started = running.start([node.name for node in topology.daemons()], directory, binary)
            answer: dict[str, str] = {}
        except Failure as failure:
            answer = {"error": str(failure)}
        # Fails, and so ends the lab, when no process waits for it any more.
        report.write(json.dumps(answer) + "\n")
    if "error" not in answer:
        hold(started)


def hold(started: dict[int, str]) -> None:
    """Takes leave of every process that ends in here, as process 1 has to, until it is told to end."""
    numbers = (signal.SIGCHLD, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    number: int = signal.SIGCHLD
    while number != signal.SIGTERM:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if name := started.pop(ended[0], None):
                    code = os.waitstatus_to_exitcode(ended[1])
                    print(f"the daemon of {name} ended with status {code}", flush=True)
        except ChildProcessError:
            pass
        number = signal.sigwait(numbers)


if __name__ == "__main__":
    main()
