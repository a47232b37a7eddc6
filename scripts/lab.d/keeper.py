"""Process 1 of a lab: makes it, starts the daemons, says so, and holds it up until it is killed.

    keeper.py DIRECTORY

Runs in new namespaces (user, pid, mount, network) and is what they end with. `scripts/lab up` sets LAB_BINARY,
the daemon's program or nothing, and LAB_REPORT, the descriptor on which one line of JSON says how it went.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import daemons
import namespaces
import topology as topologies
from state import Failure

READY_S = 60


def main():
    directory = pathlib.Path(sys.argv[1])
    binary = os.environ.pop("LAB_BINARY")
    started = {}
    with os.fdopen(int(os.environ.pop("LAB_REPORT")), "w", encoding="utf-8") as report:
        try:
            namespaces.hide_run(directory)
            topology = topologies.load("topology.toml", (directory / "topology.toml").read_text(encoding="utf-8"))
            namespaces.build(topology)
            if binary:
                started = start_all(topology, directory, binary)
            answer = {}
        except Failure as failure:
            answer = {"error": str(failure)}
        # Fails, and so ends the lab, when nobody waits for it any more.
        report.write(json.dumps(answer) + "\n")
    if "error" not in answer:
        hold(started)


def start_all(topology, directory, binary):
    """Starts a daemon on each node that shall have one; returns {pid: node} when all of them answer."""
    processes = {}
    for node in topology.daemons():
        file = directory / f"{node.name}.toml"
        with open(directory / f"{node.name}.log", "w", encoding="utf-8") as log:
            processes[node.name] = subprocess.Popen(
                ("ip", "netns", "exec", node.name, binary, "run", "--config", file),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + READY_S
    for name, process in processes.items():
        while daemons.status(directory / f"{name}.sock") is None:
            if process.poll() is not None or time.monotonic() > end:
                state = f"ended with status {process.returncode}" if process.poll() is not None else "does not answer"
                said = (directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise Failure(f"the daemon of {name} {state}; it said:\n{said}")
            time.sleep(0.02)
    return {process.pid: name for name, process in processes.items()}


def hold(started):
    """Takes leave of every process that ends in here, as process 1 has to, until it is told to end."""
    numbers = {signal.SIGCHLD, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    number = signal.SIGCHLD
    while number != signal.SIGTERM:
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if name := started.pop(ended[0], None):
                    code = os.waitstatus_to_exitcode(ended[1])
                    print(f"the daemon of {name} ended with status {code}", flush=True)
        except ChildProcessError:
            pass
        number = signal.sigwait(numbers)


main()
