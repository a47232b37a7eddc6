"""A worker that makes no progress is shown, and ends the daemon when that lasts."""

import bootstrap

import os
import subprocess
import sys

from fast import MODES
from shared import SharedLab
from underpass_lab.command import wait_until

# Stops one thread of a process, as no signal can, for as long as this runs; a tracer also has to take note of its end.
_STOP = """
import ctypes, os, sys
SEIZE, INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000
thread, libc = int(sys.argv[1]), ctypes.CDLL(None)
if libc.ptrace(SEIZE, thread, None, None) or libc.ptrace(INTERRUPT, thread, None, None):
    sys.exit("ptrace")
print("stopped", flush=True)
while True:
    os.waitpid(thread, WALL)
"""


def worker_of(pid: int) -> int:
    """The thread of the first worker."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii") as name:
            if name.read().strip() == "worker-0":
                return int(thread)
    raise AssertionError("no worker")


class Stuck(SharedLab):
    config = {**MODES["vxlan"], "tunnel": {"workers": 2}}

    def stuck(self, node: str) -> list[int]:
        found: list[int] = self.lab.status(node)["stuck_workers"]
        return found

    def stopped(self, thread: int) -> subprocess.Popen[str]:
        """Stops a thread until the process that this returns is killed."""
        command = [sys.executable, "-c", _STOP, str(thread)]
        tracer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(tracer.communicate)
        self.addCleanup(tracer.kill)
        assert tracer.stdout
        self.assertEqual(tracer.stdout.readline(), "stopped\n")
        return tracer

    def test_d9_a_worker_that_is_stopped(self) -> None:
        first, second = (self.lab.daemons[node] for node in ("n1", "n2"))
        threads = {node: worker_of(self.lab.daemons[node].pid) for node in ("n1", "n2")}
        tracers = {node: self.stopped(thread) for node, thread in threads.items()}
        for node in threads:
            wait_until(lambda: self.stuck(node) == [0], 8, f"a word about the worker of {node}")
        self.assertIn("worker 0 makes no progress", first.log())
        # One is only late.
        tracers["n2"].kill()
        wait_until(lambda: self.stuck("n2") == [], 8, "progress")
        self.assertIn("worker 0 makes progress again", second.log())
        wait_until(lambda: first.process.poll() is not None, 20, "the end of the daemon")
        self.assertEqual(first.process.returncode, 1)
        self.assertIn("worker 0 has made no progress for 1", first.log())
        # It has left nothing behind, and another one starts.
        self.lab.daemons.pop("n1")
        self.start("n1", **self.config)
        wait_until(lambda: self.lab.ping("podA", "10.244.2.2", count=1) == 1, 5, "a ping")
