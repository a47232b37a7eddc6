"""A worker that makes no progress is shown, and ends the daemon when that lasts."""

import bootstrap

from fast import MODES
from shared import SharedLab
from stopped import stopped, worker_of
from underpass_lab.command import wait_until


class Stuck(SharedLab):
    config = {**MODES["vxlan"], "tunnel": {"workers": 2}}

    def stuck(self, node: str) -> list[int]:
        found: list[int] = self.lab.status(node)["stuck_workers"]
        return found

    def test_d9_a_worker_that_is_stopped(self) -> None:
        first, second = (self.lab.daemons[node] for node in ("n1", "n2"))
        threads = {node: worker_of(self.lab.daemons[node].pid) for node in ("n1", "n2")}
        tracers = {node: stopped(self, thread) for node, thread in threads.items()}
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
