"""A test with a lab of its own."""

import bootstrap

import sys
import unittest
from typing import Any

from underpass_lab.nodes import NodeLab


class LabTestCase(unittest.TestCase):
    """A test with a lab of its own in `self.lab`; a failure shows what the daemons have said."""

    lab: NodeLab
    topology = "T2"
    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.lab = NodeLab(self.topology, **self.options)
        self.enterContext(self.lab)

    def run(self, result: unittest.TestResult | None = None) -> Any:
        result = self.defaultTestResult() if result is None else result
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and hasattr(self, "lab"):
            for node, log in self.lab.logs.items():
                print(f"--- {self.id()}: log of {node}\n{log}", file=sys.stderr)
        return result
