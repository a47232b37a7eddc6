"""One test for each drop reason that can be provoked honestly and is not in test_scope or test_malformed,
and the books of the daemon after mixed traffic.

Not provoked: `loop` (a node address inside a pool or subnet, what it takes, is a configuration error, see
test_scope) and `bad_checksum` (nothing counts it). `nested` is in test_nested.
"""

import bootstrap

import json
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B = pod_address("n1"), pod_address("n2")
MODES = {
    "ipip": {"ipip": "Always", "vxlan": "Never"},
    "vxlan": {"ipip": "Never", "vxlan": "Always"},
    "direct": {"ipip": "Never", "vxlan": "Never"},
}


def udp(target: str, size: int = 100, source: str = A, sport: int = 1000, **ip: Any) -> Any:
    return IP(src=source, dst=target, **ip) / UDP(sport=sport, dport=9) / Raw(b"d" * size)


class Outbound(SharedLab):
    daemons = ("n1",)
    config = {"local": [subnet("n1"), "10.244.101.0/24"]}

    def setUp(self) -> None:
        self.wire = self.tap("sw", "port-n1")

    def nothing_sent(self) -> None:
        self.assertEqual([frame for frame in self.wire.incoming() if frame[12:14] == b"\x08\x00"], [])

    def test_no_route(self) -> None:
        with self.moves("n1", device_rx=5, no_route=5):
            self.send_from_pod([udp("10.244.9.9")] * 3 + [udp("10.244.255.255")] * 2)
        self.nothing_sent()

    def test_no_route_in_a_subnet_of_our_own(self) -> None:
        # The kernel has no such pod, so it follows the pool's route into the tunnel.
        with self.moves("n1", device_rx=4, no_route=4):
            self.send_from_pod([udp("10.244.101.7")] * 4)
        self.nothing_sent()

    def test_unsupported_destinations(self) -> None:
        self.lab.ip("n1", "route add 224.5.5.0/24 dev up0", "route add 169.254.7.0/24 dev up0")
        with self.lab.socket("n1") as host, self.moves("n1", device_rx=5, unsupported=5):
            for target in ("224.5.5.5", "224.5.5.6", "169.254.7.7", "169.254.7.8", "169.254.7.9"):
                host.sendto(b"x", (target, 9))
        self.nothing_sent()

    def test_too_big(self) -> None:
        # The TUN's MTU is set to more than the tunnel carries, so the kernel cannot say so first.
        for mode, fits in (("ipip", 1480), ("vxlan", 1450), ("direct", 1500)):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel={"mtu": 1500})
                self.addCleanup(self.restart, **self.config)
                sizes = [] if fits == 1500 else [fits + 1, 1500]
                large = [udp(B, size - 28, flags="DF") for size in sizes]
                with self.moves("n1", device_rx=1 + len(large), underlay_tx=1, too_big=len(large)):
                    self.send_from_pod([udp(B, fits - 28), *large])

    def test_underlay_down(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.restart(**config)
                self.addCleanup(self.restart, **self.config)
                self.lab.ip("n1", "link set eth0 down")
                with self.moves("n1", device_rx=7, underlay_down=7):
                    self.send_from_pod([udp(B, sport=1000 + n) for n in range(7)])
                self.lab.ip("n1", "link set eth0 up")
                wait_until(lambda: self.lab.ping("n1", ADDRESSES["n2"], count=1), 3, "the link")
                with self.moves("n1", device_rx=1, underlay_tx=1):
                    self.send_from_pod([udp(B)])

    def test_underlay_full(self) -> None:
        # A slow link with a long queue: the daemon's socket buffers fill up, which the kernel reports.
        ns = self.lab.ns("n1")
        for mode in ("ipip", "vxlan"):
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.addCleanup(self.restart, **self.config)
                self.lab.ping("n1", ADDRESSES["n2"], count=1)
                run("tc", "-n", ns, "qdisc", "replace", "dev", "eth0", "root", "tbf", *TBF)
                self.addCleanup(run, "tc", "-n", ns, "qdisc", "del", "dev", "eth0", "root", check=False)
                before = self.counters("n1").status()
                sent, batch = 0, [udp(B, 1400)] * 500
                while self.moved(before, "underlay_full") < 1000:
                    self.assertLess(sent, 40000, "the buffers never fill up")
                    self.send_from_pod(batch)
                    sent += len(batch)
                    wait_until(lambda: self.moved(before, "device_rx") == sent, 3, f"{sent} packets")
                self.accounts("n1")
                queued = json.loads(run("tc", "-n", ns, "-s", "-j", "qdisc", "show", "dev", "eth0").stdout)[0]
                self.assertEqual(queued["drops"], 0)
                # What was taken is on its way, and perhaps the kernel's own ARP with it.
                on_the_way = queued["packets"] + queued["qlen"]
                self.assertIn(on_the_way - self.moved(before, "underlay_tx"), range(4))
                self.assertEqual(self.moved(before, "underlay_tx") + self.moved(before, "underlay_full"), sent)
                run("tc", "-n", ns, "qdisc", "del", "dev", "eth0", "root")

    def moved(self, before: Any, counter: str) -> Any:
        return self.counters("n1").status()[counter] - before[counter]


TBF = ("rate", "1mbit", "burst", "2k", "limit", "200mb")


class Inbound(SilentPeer):
    def test_ttl(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                self.refused(form, [outer(form, inner(ttl=0))] * 2, ttl=2)

    def test_device_full(self) -> None:
        # With the TUN down the kernel takes nothing from the daemon.
        self.lab.ip("n1", "link set up0 down")
        self.addCleanup(self.restart, **self.config)
        for form in FORMATS:
            with self.subTest(form), self.moves("n1", underlay_rx=9, device_full=9):
                self.inject([outer(form, inner(sport=1000 + n)) for n in range(9)])
        self.assertIsNone(self.lab.daemons["n1"].process.poll(), "the daemon goes on")


class Books(SharedLab):
    """After mixed traffic everything adds up, on each way by itself and with what was on the wire."""

    def test_conservation(self) -> None:
        self.sink("podA"), self.sink("podB")
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.restart(**config)
                wire = self.tap("sw", "port-n1")
                self.mixed_traffic()
                one, two = self.accounts("n1"), self.accounts("n2")
                outbound = ("no_route", "spoofed_source")
                self.assertEqual(two["device_rx"], two["underlay_tx"] + sum(two[reason] for reason in outbound))
                # n1 drops spoofed packets of both directions: three of its own pod, two of the wire.
                self.assertEqual((one["no_route"], one["spoofed_source"]), (4, 5))
                self.assertEqual(one["device_rx"], one["underlay_tx"] + 4 + 3)
                inward = {reason: one[reason] for reason in ("bad_vni", "malformed", "not_local", "unknown_peer")}
                self.assertEqual(inward, {"bad_vni": 0, "malformed": 6, "not_local": 2, "unknown_peer": 2})
                direct = self.bare(wire.outgoing()) if mode == "direct" else 0
                self.assertEqual(one["underlay_rx"], one["device_tx"] + 6 + 2 + 2 + 2)
                self.assertEqual(two["underlay_tx"], one["underlay_rx"] - INJECTED + direct)
                self.wire_agrees(mode, wire)

    def mixed_traffic(self) -> None:
        """Pings and UDP both ways, 4 + 3 bad packets from podA, and 14 forged ones to n1."""
        self.assertEqual(self.lab.ping("podA", B, "-s", 900, count=20), 20)
        self.assertEqual(self.lab.ping("podB", A, count=10), 10)
        self.send_from_pod([udp(B, sport=2000 + n, size=n) for n in range(150)])
        self.send_from_pod([udp(A, sport=2000 + n, size=n, source=B) for n in range(70)], node="n2")
        self.send_from_pod([udp("10.244.9.9")] * 4 + [udp(B, source="10.244.2.9")] * 3)
        forged = []
        for form in FORMATS:
            forged += [outer(form, b"\x45\0\0"), outer(form, b""), outer(form, bytes(inner())[:-1])]
            forged += [outer(form, inner(source=A)), outer(form, inner(target="8.8.8.8"))]
            forged += [outer(form, inner(), source="192.0.2.99"), outer(form, inner())]
        self.assertEqual(len(forged), INJECTED)
        self.lab.send("n2", "eth0", [self.lab.frame("n2", "n1", packet) for packet in forged])
        for node, counter, least in (("n1", "unknown_peer", 2), ("n1", "no_route", 4), ("n1", "malformed", 6)):
            wait_until(lambda: self.counters(node).status()[counter] >= least, 3, counter)
        wait_until(lambda: self.counters("n1").status()["device_rx"] >= 20 + 10 + 150 + 7, 3, "outbound")
        wait_until(lambda: self.counters("n2").status()["device_rx"] >= 20 + 10 + 70, 3, "outbound of n2")

    @staticmethod
    def bare(frames: Any) -> int:
        """Frames that are no tunnel packets: direct traffic is the kernel's to receive, not the daemon's."""
        return sum(frame[12:14] == b"\x08\x00" and not tunnelled(frame) for frame in frames)

    def wire_agrees(self, mode: str, wire: Any) -> None:
        """Packets and bytes that left n1, as the daemon counts them and as they were on the wire."""
        frames = [frame for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
        self.assertNoOversize(frames)
        packets = len(frames)
        octets = sum(int.from_bytes(frame[16:18], "big") for frame in frames)
        counters = self.counters("n1")
        self.assertEqual((counters.status()["underlay_tx"], counters.status("bytes")["underlay_tx"]), (packets, octets))


INJECTED = 14


def tunnelled(frame: Any) -> Any:
    """Whether an Ethernet frame holds IPIP or VXLAN."""
    return frame[23] == 4 or (frame[23] == 17 and frame[36:38] == (4789).to_bytes(2, "big"))
