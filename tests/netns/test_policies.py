"""What an administrator has decided about packets holds for the tunnel too: IPsec policies (P7). And what the reverse
path filter drops of a peer's bare packets is shown (P9)."""

import bootstrap

import time
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from fast import MODES, await_tap
from shared import SharedLab
from tunnel import FORMATS
from underlay6 import ADDRESSES6, add_addresses6, over6
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")
N1, N2 = ADDRESSES["n1"], ADDRESSES["n2"]
UPLINKS = ("auto", "socket", "tap")


class Policies(SharedLab):
    """P7: this kernel need not have ESP: a policy that blocks says as well what passes it."""

    options = {"ipv6": True}
    multicast_reports = True
    daemons: Sequence[str] = ("n1", "n2")

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, "n1", "n2")

    def policy(self, verb: str, source: str, target: str, *more: str) -> None:
        self.lab.exec("n1", "ip", "xfrm", "policy", verb, "src", source, "dst", target, *more)

    def block(self, source: str = N1, target: str = N2) -> None:
        self.policy("add", source, target, "dir", "out", "action", "block")
        self.addCleanup(self.lab.exec, "n1", "ip", "xfrm", "policy", "flush")

    def sent(self, wire: Any) -> list[bytes]:
        """Tunnel packets from n1 that passed so far, over IPv4."""
        return [frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00" and frame[23] in (4, 17)]

    def sent6(self, wire: Any) -> list[bytes]:
        """And over IPv6."""
        return [frame for frame in wire.incoming() if frame[12:14] == b"\x86\xdd" and frame[20] in (4, 41, 17)]

    def test_p7_nothing_leaves_past_a_policy(self) -> None:
        for mode in FORMATS:
            for uplink in UPLINKS:
                with self.subTest(mode, uplink=uplink):
                    self.block()
                    self.restart(**MODES[mode], tunnel={"uplink": uplink})
                    wire = self.tap("sw", "port-n1")
                    self.assertEqual(self.lab.ping("podA", B, "-W", "0.2"), 0)
                    self.assertEqual(self.sent(wire), [])
                    self.assertGreaterEqual(self.lab.drops("n1")["underlay_down"], 3)
                    self.policy("delete", N1, N2, "dir", "out")
                    wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic without it")
                    wire.close()

    def test_one_that_comes_later(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel={"uplink": "tap"})
                await_tap(self.lab, "n1")
                self.assertEqual(self.lab.ping("podA", B), 3)
                self.block()
                # Policies are looked at once a second.
                wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 0, 5, "the policy to hold")
                wire = self.tap("sw", "port-n1")
                self.lab.ping("podA", B, "-W", "0.2", "-s", "1000")
                self.assertEqual(self.sent(wire), [])
                wire.close()
                self.policy("delete", N1, N2, "dir", "out")
                wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic without it")

    def test_over_ipv6(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.block(ADDRESSES6["n1"], ADDRESSES6["n2"])
                for node, other in (("n1", "n2"), ("n2", "n1")):
                    self.start(node, **over6(node, other), **MODES[mode])
                wire = self.tap("sw", "port-n1")
                self.assertEqual(self.lab.ping("podA", B, "-W", "0.2"), 0)
                self.assertEqual(self.sent6(wire), [])
                self.lab.exec("n1", "ip", "xfrm", "policy", "flush")
                wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic without it")
                wire.close()

    def test_what_cannot_be_obeyed_is_shown(self) -> None:
        self.restart(**MODES["ipip"])
        self.policy("add", N1, N2, "proto", "4", "dir", "out", "action", "block")
        self.addCleanup(self.lab.exec, "n1", "ip", "xfrm", "policy", "flush")
        wait_until(lambda: any("xfrm policy delete" in one for one in self.missing("command")), 5, "the requirement")
        (command,) = self.missing("command")
        self.lab.exec("n1", *command.split())
        wait_until(lambda: self.missing() == [], 5, "nothing missing")


class Strays(SharedLab):
    """P9: n2 takes both nodes for neighbours and sends bare packets, n1 encapsulates and filters strictly."""

    daemons = ()

    def test_p9_the_receiver_says_what_is_wrong(self) -> None:
        self.lab.ip("n2", "address del 192.0.2.2/24 dev eth0", "address add 192.0.2.2/16 dev eth0")
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1})
        self.start("n1", ipip="CrossSubnet", address=f"{N1}/32")
        self.start("n2", ipip="CrossSubnet", address=f"{N2}/16")
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", B)["mode"], "ipip")
        self.assertEqual(self.lab.daemons["n2"].json("route", "get", A)["mode"], "direct")
        self.assertEqual(self.missing(), [])

        def shown() -> Any:
            self.lab.ping("podB", A, "-W", "0.2", "-i", "0.1", count=5)
            return self.missing()

        wait_until(shown, 15, "the requirement")
        (what,), (command,) = self.missing(), self.missing("command")
        self.assertIn("peer n2 sends without encapsulation", what)
        self.lab.exec("n1", *command.split())
        self.assertEqual(self.lab.ping("podB", A), 3)
        wait_until(lambda: self.missing() == [], 5, "nothing missing")

    def test_the_noise_of_others_is_not(self) -> None:
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1})
        self.start("n1", ipip="Always")
        stranger = self.lab.frame("n2", "n1", IP(src="203.0.113.5", dst=N1) / UDP(dport=9) / Raw(b"noise"))
        before = self.dropped()
        # The way to this source is not eth0.
        self.lab.ip("n1", "route add 203.0.113.0/24 dev pod0")
        self.addCleanup(self.lab.ip, "n1", "route del 203.0.113.0/24 dev pod0")
        for _ in range(20):
            self.lab.send("n2", "eth0", [stranger] * 5)
            time.sleep(0.1)
        self.assertEqual(self.dropped(), before + 100)
        self.assertEqual(self.missing(), [])

    def dropped(self) -> int:
        lines = self.lab.exec("n1", "cat", "/proc/net/netstat").stdout.splitlines()
        names, values = [line.split() for line in lines if line.startswith("TcpExt:")]
        return int(dict(zip(names, values, strict=True))["IPReversePathFilter"])
