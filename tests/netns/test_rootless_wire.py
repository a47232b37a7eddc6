"""C7: the wire cases W1 to W4 as they are, with namespaces and daemons of uid 1000 and no right of root."""

import bootstrap

import pathlib
import unittest

import test_foreign
import test_wire
from public import everybody_may_run
from unprivileged import UID, RootlessLab


class AsUser:
    """Before another class of tests: its lab is an ordinary user's."""

    lab_type = RootlessLab

    @classmethod
    def setUpClass(cls):
        cls.enterClassContext(everybody_may_run())
        super().setUpClass()

    def tearDown(self):
        super().tearDown()
        for daemon in self.lab.daemons.values():
            self.assertEqual({line.split()[1] for line in self.status_lines(daemon.pid, "Uid:")}, {str(UID)})

    @staticmethod
    def status_lines(pid, key):
        text = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return [line for line in text.splitlines() if line.startswith(key)]


class Ipip(AsUser, test_wire.Ipip):
    """W1."""


class Vxlan(AsUser, test_wire.Vxlan):
    """W2."""


class VxlanPort(AsUser, test_wire.VxlanPort):
    """W2 on another port."""


class Flows(AsUser, test_wire.Flows):
    """W3."""


class KernelVxlan(AsUser, test_foreign.KernelVxlan):
    """W4."""


if __name__ == "__main__":
    unittest.main()
