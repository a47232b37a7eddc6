"""A worker that makes no progress is shown, and ends the daemon when that lasts."""

import bootstrap

import ctypes
import os

from fast import MODES, metric_samples
from shared import SharedLab
from underpass_lab.command import wait_until

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000


def ptrace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def worker_of(pid: int) -> int:
    """The thread of the first worker."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/comm", encoding="ascii") as name:
            if name.read().strip() == "worker-0":
                return int(thread)
    raise AssertionError("no worker")


def stop(thread: int) -> None:
    """Stops one thread of a process, as no signal can."""
    ptrace(_PTRACE_SEIZE, thread)
    ptrace(_PTRACE_INTERRUPT, thread)
    os.waitpid(thread, _WALL)


class Stuck(SharedLab):
    config = {**MODES["vxlan"], "tunnel": {"workers": 2}}

    def stuck(self, node: str) -> list[int]:
        found: list[int] = self.lab.status(node)["stuck_workers"]
        return found

    def test_d9_a_worker_that_is_stopped(self) -> None:
        first, second = (self.lab.daemons[node] for node in ("n1", "n2"))
        threads = {node: worker_of(self.lab.daemons[node].pid) for node in ("n1", "n2")}
        for thread in threads.values():
            stop(thread)
        for node in threads:
            wait_until(lambda: self.stuck(node) == [0], 8, f"a word about the worker of {node}")
        self.assertEqual(metric_samples(self.lab, "n1", "stuck_workers"), {})
        self.assertIn("worker 0 makes no progress", first.log())
        # One is only late.
        ptrace(_PTRACE_DETACH, threads["n2"])
        wait_until(lambda: self.stuck("n2") == [], 8, "progress")
        self.assertIn("worker 0 makes progress again", second.log())
        wait_until(lambda: first.process.poll() is not None, 20, "the end of the daemon")
        self.assertEqual(first.process.returncode, 1)
        self.assertIn("worker 0 has made no progress for 1", first.log())
        # It has left nothing behind, and another one starts.
        self.lab.daemons.pop("n1")
        self.start("n1", **self.config)
        wait_until(lambda: self.lab.ping("podA", "10.244.2.2", count=1) == 1, 5, "a ping")
