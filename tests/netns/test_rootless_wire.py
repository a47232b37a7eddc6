"""C7: the wire cases W1 to W4 as they are, with namespaces and daemons of uid 1000 and no right of root."""

import bootstrap

import pathlib
import unittest
from typing import Any

import test_foreign
import test_wire
from public import everybody_may_run
from rootless import USER
from shared import SharedLab
from unprivileged import RootlessLab


class AsUser(SharedLab):
    """Before another class of tests: its lab is an ordinary user's."""

    lab_type = RootlessLab

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(everybody_may_run())
        super().setUpClass()

    def tearDown(self) -> None:
        super().tearDown()
        for daemon in self.lab.daemons.values():
            self.assertEqual({line.split()[1] for line in self.status_lines(daemon.pid, "Uid:")}, {str(USER)})

    @staticmethod
    def status_lines(pid: int, key: str) -> list[Any]:
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
