"""What moves while traffic runs: a peer to another subnet (D6), this node's address to another interface (D7)."""

import bootstrap

import subprocess
import time
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from fast import FORCED, MIB, await_tap
from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")


class NodeMoves(SharedLab):
    """D6: n2 gets an address behind the router."""

    topology = "T3"
    daemons = ()
    NEW = "203.0.113.2"

    def test_d6_the_decision_follows_within_a_second(self) -> None:
        peers = {"n1": (ADDRESSES["n1"], ["10.244.1.0/24"])}
        self.start("n1", ipip="CrossSubnet", peers={"n2": (ADDRESSES["n2"], ["10.244.2.0/24"])})
        self.start("n2", ipip="CrossSubnet", peers=peers)
        n1 = self.lab.daemons["n1"]
        self.assertEqual(self.lab.ping("podA", B), 3)
        self.assertEqual(n1.json("route", "get", B)["mode"], "direct")
        self.lab.link("n2", "eth1", "R", "eth2", offloads=False)
        self.lab.ip("n2", f"address add {self.NEW}/24 dev eth1", "route replace 192.0.2.1 via 203.0.113.254")
        self.lab.ip("R", "address add 203.0.113.254/24 dev eth2")
        self.lab.ip("n1", "route add 203.0.113.0/24 via 192.0.2.254")
        self.start("n2", ipip="CrossSubnet", address=f"{self.NEW}/24", peers=peers)
        wire = self.tap("sw", "port-n1")
        begin = time.monotonic()
        n1.command("peer", "del", "n2")
        n1.command("peer", "add", "n2", self.NEW, "--subnet", "10.244.2.0/24")
        wait_until(lambda: self.lab.ping("podA", B, "-W", "0.1", count=1) == 1, 3, "an answer from the new place")
        self.assertLess(time.monotonic() - begin, 1)
        route = n1.json("route", "get", B)
        self.assertEqual((route["mode"], route["next_hop"]), ("ipip", self.NEW))
        self.lab.tcp_transfer("podA", "podB", B, 4 * MIB)
        packets = [Ether(frame) for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
        ways = {(packet[IP].proto, packet[IP].dst) for packet in packets}
        # Bare packets, if any, were those under way; nothing went to the old address.
        self.assertLessEqual(ways, {(4, self.NEW), (1, B)})
        self.assertIn((4, self.NEW), ways)


class AddressMoves(SharedLab):
    """D7: n1's address moves to another interface on the same bridge, and back."""

    daemons = ("n1", "n2")
    MODES = {
        "direct": {"ipip": "Never", "vxlan": "Never"},
        "ipip": {"ipip": "Always", "vxlan": "Never"},
        "vxlan": {"ipip": "Never", "vxlan": "Always"},
    }

    @classmethod
    def prepare(cls) -> None:
        cls.lab.link("n1", "eth1", "sw", "port-n1b", 1400, offloads=False)
        cls.lab.ip("sw", "link set port-n1b master br0")

    def move(self, there: Any, back: Any) -> None:
        address = f"{ADDRESSES['n1']}/24"
        self.lab.ip("n1", f"address del {address} dev {back}", f"address add {address} dev {there}")

    def test_d7_everything_follows(self) -> None:
        for mode, config in self.MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel=FORCED)
                self.assertEqual(self.lab.ping("podA", B), 3)
                if mode != "direct":
                    await_tap(self.lab, "n1")
                offloads = self.lab.status("n1")["offloads"]
                overhead = {"direct": 0, "ipip": 20, "vxlan": 50}[mode]
                ports = {"eth0": "port-n1", "eth1": "port-n1b"}
                for there, back, mtu in (("eth1", "eth0", 1400), ("eth0", "eth1", 1500)):
                    self.move(there, back)
                    self.follows(mtu - overhead)
                    wires = {name: self.tap("sw", port) for name, port in ports.items()}
                    self.lab.tcp_transfer("podA", "podB", B, 4 * MIB)
                    self.lab.tcp_transfer("podB", "podA", A, 4 * MIB)
                    sent = {name: sum(len(f) > 1000 for f in wire.incoming()) for name, wire in wires.items()}
                    self.assertGreater(sent[there], 4 * MIB // 1500)
                    self.assertEqual(sent[back], 0)
                    for wire in wires.values():
                        wire.close()
                wait_until(lambda: self.lab.status("n1")["offloads"] == offloads, 10, "offloads")

    def follows(self, mtu: int) -> None:
        """Traffic is back within 5 s, and n1 knows its new link."""
        wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic within 5 s")
        n1 = self.lab.daemons["n1"]
        wait_until(lambda: n1.json("route", "get", B)["mtu"] == mtu, 5, f"the new link's MTU, {mtu}")

    def test_h9_another_name_of_the_uplink(self) -> None:
        for mode, config in self.MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel=FORCED)
                if mode != "direct":
                    await_tap(self.lab, "n1")
                offloads = self.lab.status("n1")["offloads"]
                overhead = {"direct": 0, "ipip": 20, "vxlan": 50}[mode]
                pings = self.lab.popen("podA", "ping", "-i", "0.01", "-c", "100", B, stdout=subprocess.PIPE)
                self.lab.ip("n1", "link set eth0 name wan0")
                self.addCleanup(self.lab.exec, "n1", "ip", "link", "set", "wan0", "name", "eth0", check=False)
                self.assertRegex(pings.communicate(timeout=20)[0], r"100 packets transmitted, 100 received")
                for mtu in (1400, 1500):
                    self.lab.ip("n1", f"link set wan0 mtu {mtu}")
                    self.follows(mtu - overhead)
                    self.assertIn(f"wan0 has an MTU of {mtu}", self.lab.daemons["n1"].log())
                if mode == "direct":
                    # What an administrator is told names it.
                    self.lab.sysctl("n1", {"ipv4/conf/wan0/rp_filter": 1})
                    wait_until(lambda: self.shows("strict reverse path filtering on wan0"), 5, "the new name")
                    self.lab.sysctl("n1", {"ipv4/conf/wan0/rp_filter": 0})
                    wait_until(lambda: not self.missing(), 5, "nothing missing")
                self.assertEqual(self.lab.status("n1")["offloads"], offloads)
                self.lab.ip("n1", "link set wan0 name eth0")
                self.lab.tcp_transfer("podA", "podB", B, 4 * MIB)
