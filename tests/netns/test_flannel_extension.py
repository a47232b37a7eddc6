"""config/kubernetes/flannel-extension.json: the commands that stock flanneld runs with its `extension` backend, with
the environment and the input that it gives them, each of them twice."""

import bootstrap

import json
import os
import pathlib
import re
import unittest
from typing import Any

from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address, subnet
from underpass_lab.paths import REPO

CONFIGURATION = json.loads((REPO / "config/kubernetes/flannel-extension.json").read_text(encoding="utf-8"))
BACKEND = CONFIGURATION["Backend"]
SIZE = 4 << 20


class FlannelExtension(unittest.TestCase):
    """Two nodes, each with a flanneld that this test stands for."""

    lab: NodeLab

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(NodeLab("T2"))

    def runs(self, node: str, command: str, stdin: str = "", **variables: str) -> str:
        """What flanneld keeps of a command: stdin ends with a line feed, output is trimmed."""
        path = f"{pathlib.Path(binary()).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "NODE_NAME": node, "UNDERPASS_DIR": str(self.lab.dir / node)}
        return self.lab.exec(
            *(node, "sh", "-c", BACKEND[command]), input=f"{stdin}\n", env=os.environ | own | variables
        ).stdout.strip()

    def underpass(self, node: str, *words: str) -> Any:
        socket = self.lab.dir / node / "underpass.sock"
        return json.loads(self.lab.exec(node, binary(), *words, "-o", "json", "--socket", socket).stdout)

    def peers(self, node: str) -> list[tuple[str, str, list[str]]]:
        return [(one["name"], one["address"], one["subnets"]) for one in self.underpass(node, "peer", "list")]

    def counted(self, node: str) -> int:
        return int(self.underpass(node, "peer", "list")[0]["counters"]["rx_packets"])

    def test_two_nodes_join_move_and_leave(self) -> None:
        lab, data = self.lab, {}
        for node in ("n1", "n2"):
            data[node] = {self.runs(node, "PreStartupCommand") for _ in range(2)}.pop()
            own = {"NETWORK": CONFIGURATION["Network"], "SUBNET": subnet(node), "PUBLIC_IP": ADDRESSES[node]}
            for _ in range(2):
                self.runs(node, "PostStartupCommand", **own)
            self.assertEqual(self.underpass(node, "status")["node"], node)
        for node, other in (("n1", "n2"), ("n2", "n1")):
            lease = {"SUBNET": subnet(other), "PUBLIC_IP": ADDRESSES[other]}
            for _ in range(2):
                self.runs(node, "SubnetAddCommand", data[other], **lease)
            self.assertEqual(self.peers(node), [(other, ADDRESSES[other], [subnet(other)])])
        wait_until(lambda: lab.ping("podA", pod_address("n2"), count=1), 10, "a first answer")
        self.assertEqual(lab.ping("podA", pod_address("n2")), 3)
        lab.tcp_transfer("podA", "podB", pod_address("n2"), SIZE)
        lab.tcp_transfer("podB", "podA", pod_address("n1"), SIZE)

        # Once more under traffic, and to another subnet beside a flow that stays: nothing is lost.
        before = self.counted("n1")
        lease = {"SUBNET": subnet("n2"), "PUBLIC_IP": ADDRESSES["n2"]}
        ping = lab.popen("podA", "ping", "-n", "-c", 200, "-i", "0.01", "-W", 5, pod_address("n2"), stdout=-1)
        for _ in range(5):
            self.runs("n1", "SubnetAddCommand", "n2", **lease)
            self.runs("n1", "SubnetAddCommand", "n9", SUBNET="10.244.9.0/24", PUBLIC_IP="192.0.2.9")
            self.runs("n1", "SubnetAddCommand", "n9", SUBNET="10.244.8.0/24", PUBLIC_IP="192.0.2.8")
        output, _ = ping.communicate(timeout=30)
        found = re.search(r"(\d+) received", output)
        self.assertEqual(found and found[1], "200", output)
        self.assertGreaterEqual(self.counted("n1"), before + 200)
        self.assertEqual(self.peers("n1")[1:], [("n9", "192.0.2.8", ["10.244.8.0/24"])])

        # The lease that n9 had before expires late: n9 stays. Its own one takes it away, as often as one likes.
        self.runs("n1", "SubnetRemoveCommand", "n9", SUBNET="10.244.9.0/24", PUBLIC_IP="192.0.2.9")
        self.assertEqual(len(self.peers("n1")), 2)
        for _ in range(2):
            self.runs("n1", "SubnetRemoveCommand", "n9", SUBNET="10.244.8.0/24", PUBLIC_IP="192.0.2.8")
            self.assertEqual([name for name, *_ in self.peers("n1")], ["n2"])
        for _ in range(2):
            self.runs("n1", "SubnetRemoveCommand", data["n2"], **lease)
            self.assertEqual(self.peers("n1"), [])
        self.assertEqual(lab.ping("podA", pod_address("n2"), "-W", "1", count=1), 0)
        # flanneld starts again: it tells everything once more.
        own = {"NETWORK": CONFIGURATION["Network"], "SUBNET": subnet("n1"), "PUBLIC_IP": ADDRESSES["n1"]}
        self.runs("n1", "PostStartupCommand", **own)
        self.runs("n1", "SubnetAddCommand", data["n2"], **lease)
        self.assertEqual(lab.ping("podA", pod_address("n2")), 3)
