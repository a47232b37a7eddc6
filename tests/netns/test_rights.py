"""C4 and C5, without another user and without seccomp: what the daemon may still do after its start. That it does
everything with that is what all other tests show, whose daemons of root have given up the same."""

import bootstrap

import os
import pathlib

from rootless import rights
from shared import SharedLab
from startup import refused
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import pod_address

DAC_OVERRIDE, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, BPF = 1, 10, 12, 13, 39
KEPT = 1 << NET_ADMIN | 1 << NET_RAW | 1 << BPF


class Rights(SharedLab):
    daemons = ("n1", "n2")

    def assert_given_up(self, node: str, kept: int = KEPT) -> None:
        """Every thread has these rights at most, and a program that it runs the one that nft takes."""
        names = set()
        capabilities = {"CapInh": 1 << NET_ADMIN, "CapPrm": kept, "CapEff": kept, "CapBnd": 0, "CapAmb": 0}
        expected = {**capabilities, "Uid": 0, "NoNewPrivs": 1}
        for thread in pathlib.Path(f"/proc/{self.lab.daemons[node].pid}/task").iterdir():
            name = (thread / "comm").read_text(encoding="utf-8").strip()
            names.add(name)
            self.assertEqual(rights(int(thread.name)), expected, name)
        self.assertGreaterEqual(len(names), 4, names)

    def test_c4_every_thread_keeps_only_what_is_needed(self) -> None:
        self.restart(tunnel={"workers": 2})
        self.assert_given_up("n1")
        # Threads that are made for a request have no more.
        for _ in range(3):
            self.lab.daemons["n1"].command("reload")
        self.assert_given_up("n1")
        # Not dumpable: a process of the same user with all its rights but the one to trace does not look into it.
        look = ("setpriv", "--inh-caps=-sys_ptrace", "--bounding-set=-sys_ptrace", "readlink")
        other = self.lab.popen("n1", "setpriv", "--inh-caps=-all", "--bounding-set=-all", "sleep", "60")
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        wait_until(lambda: run(*look, f"/proc/{other.pid}/fd/0", check=False).returncode == 0, 3, "the comparison")
        self.assertNotEqual(run(*look, f"/proc/{self.lab.daemons['n1'].pid}/fd/0", check=False).returncode, 0)

    def test_c5_a_reserved_port_is_no_obstacle(self) -> None:
        self.restart(ipip="Never", vxlan="Always", port=500)
        self.addCleanup(self.restart)
        self.assert_given_up("n1", KEPT | 1 << NET_BIND_SERVICE)
        self.assertTrue(self.lab.ping("podA", pod_address("n2")))

    def test_c5_files_of_another_user_are_no_obstacle(self) -> None:
        self.addCleanup(self.restart)
        self.addCleanup(os.chown, self.lab.dir, 0, 0)
        os.chown(self.lab.dir, 1000, 1000)
        self.restart()
        self.assert_given_up("n1", KEPT | 1 << DAC_OVERRIDE)
        self.lab.daemons["n1"].command("reload")

    def test_without_any_rights_it_says_what_it_needs(self) -> None:
        self.stop("n1")
        self.addCleanup(self.restart)
        self.lab.dir.chmod(0o1777)
        wrapper = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")
        said = refused(self.lab, "n1", self.lab.config("n1"), wrapper)
        self.assertIn("CAP_NET_ADMIN", said)
        self.assertNotIn("cannot give up", said)
