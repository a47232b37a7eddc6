"""Nodes with underlay addresses of both families, and the kernel's VXLAN device over IPv6."""

import bootstrap

import json
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from fast import BOTH_WAYS, MIB, bulk
from tunnel import FORMATS, inner
from underlay6 import (
    ADDRESSES6,
    B6,
    FAMILIES,
    A,
    B,
    SilentPeer6,
    SixLab,
    add_kernel_vxlan6,
    inner6,
    outer6,
    pools,
    subnets,
)
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES

# By this a test knows its own pings on the wire.
PATTERN = "9d5be1377a"


class DualStack(SixLab):
    """IPv4 outside wherever both ends have it; bare packets go to the address of their family."""

    underlay = "both"

    def outer_families(self, address: str) -> set[Any]:
        """The families outside while podA pings an address, after the neighbours are resolved."""
        wait_until(lambda: self.lab.ping("podA", address, count=1), 10, "a first answer")
        wire = self.tap("sw", "port-n1")
        self.assertEqual(self.lab.ping("podA", address, "-p", PATTERN, count=3), 3)
        pattern = bytes.fromhex(PATTERN)
        frames = [Ether(frame) for frame in wire.incoming() + wire.outgoing() if pattern in frame]
        wire.close()
        self.assertEqual(len(frames), 6)
        return {IP if frame.haslayer(IP) and frame.type == 0x0800 else IPv6 for frame in frames}

    def next_hop(self, address: str) -> tuple[Any, Any, Any]:
        route = self.lab.daemons["n1"].json("route", "get", address)
        return route["mode"], route["next_hop"], route["mtu"]

    def test_tunnels_prefer_ipv4_and_bare_packets_their_family(self) -> None:
        for mode, mtu in (("ipip", 1480), ("vxlan", 1450)):
            self.restart(pools=pools(mode))
            for address in (B, B6):
                with self.subTest(mode, to=address):
                    self.assertEqual(self.outer_families(address), {IP})
                    self.assertEqual(self.next_hop(address), (mode, ADDRESSES["n2"], mtu))
            self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], mtu)
        self.restart(pools=pools("direct"))
        for address, family, hop in ((B, IP, ADDRESSES["n2"]), (B6, IPv6, ADDRESSES6["n2"])):
            with self.subTest("direct", to=address):
                self.assertEqual(self.outer_families(address), {family})
                self.assertEqual(self.next_hop(address), ("direct", hop, 1500))
        for addresses in FAMILIES:
            bulk(self.lab, 4 * MIB, addresses=addresses)

    def test_a_peer_without_ipv4_is_reached_over_ipv6(self) -> None:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.start(node, pools=pools("vxlan"), peers={other: (ADDRESSES6[other], subnets(other))})
        for address in (B, B6):
            self.assertEqual(self.outer_families(address), {IPv6})
            self.assertEqual(self.next_hop(address), ("vxlan", ADDRESSES6["n2"], 1430))
        status = self.lab.status("n1")
        self.assertEqual(status["tunnel"]["mtu"], 1430)
        self.assertEqual(status["peers"][0]["address"], ADDRESSES6["n2"])
        bulk(self.lab, 4 * MIB)

    def test_bare_ipv6_over_a_node_with_ipv4_alone(self) -> None:
        """The frame goes to the link address of the peer's IPv4 address."""
        for node, other in (("n1", "n2"), ("n2", "n1")):
            own = {"address": f"{ADDRESSES[node]}/24"}
            self.start(node, own=own, pools=pools("direct"), peers={other: (ADDRESSES[other], subnets(other))})
        self.assertEqual(self.outer_families(B6), {IPv6})
        self.assertEqual(self.next_hop(B6), ("direct", ADDRESSES["n2"], 1500))
        bulk(self.lab, 4 * MIB, addresses=FAMILIES[1])

    def test_an_address_may_be_new(self) -> None:
        """A daemon starts while the kernel still looks for duplicates of its IPv6 address."""
        self.start("n2", pools=pools("ipip"), peers={"n1": (ADDRESSES6["n1"], subnets("n1"))})
        self.stop("n1")
        self.lab.ip("n1", f"address del {ADDRESSES6['n1']}/64 dev eth0", f"address add {ADDRESSES6['n1']}/64 dev eth0")
        self.start("n1", pools=pools("ipip"), peers={"n2": (ADDRESSES6["n2"], subnets("n2"))})
        for address in (B, B6):
            self.assertEqual(self.outer_families(address), {IPv6})

    def test_cross_subnet_goes_by_the_prefix_of_the_family(self) -> None:
        cross = [("10.244.0.0/16", "CrossSubnet", "Never"), ("fd00:244::/32", "CrossSubnet", "Never")]
        own = {"address": f"{ADDRESSES['n1']}/32", "address6": f"{ADDRESSES6['n1']}/64"}
        self.start("n1", own=own, pools=cross)
        self.assertEqual(self.next_hop(B), ("ipip", ADDRESSES["n2"], 1480))
        self.assertEqual(self.next_hop(B6), ("direct", ADDRESSES6["n2"], 1500))
        self.start("n1", own=own | {"address6": f"{ADDRESSES6['n1']}/128"}, pools=cross)
        self.assertEqual(self.next_hop(B6), ("ipip", ADDRESSES["n2"], 1480))
        self.assertIn("CrossSubnet", self.lab.daemons["n1"].json("route", "get", B6)["reason"])


class EitherAddress(SilentPeer6):
    """A dual-stack peer may send from both of its addresses."""

    underlay = "both"

    def test_both_are_the_peers(self) -> None:
        for form in FORMATS:
            for make in (inner, inner6):
                self.fence = make
                self.assertEqual(len(self.accepted(form, [outer6(form, make())])), 1)
            self.refused(form, [outer6(form, inner(), source="2001:db8::3")], unknown_peer=1)


class KernelVxlan6(SixLab):
    """W4 over IPv6: the kernel's VXLAN device on n2, over links that carry super-packets uncut."""

    options = {"ipv6": True, "virtual": True}
    daemons = ("n1",)
    # (options of the kernel's device, [vxlan], [tunnel])
    CASES: tuple[tuple[tuple[str, ...], dict[str, Any], dict[str, Any]], ...] = (
        ((), {}, {}),
        ((), {}, {"udp_gso": "off", "udp_gro": "off"}),
        ((), {}, {"backend": "plain"}),
        (("udp6zerocsumtx", "udp6zerocsumrx"), {"udp6_zero_checksum": True}, {}),
    )

    def test_w4_both_ways(self) -> None:
        for options, vxlan, tunnel in self.CASES:
            with self.subTest(options, **tunnel):
                run("ip", "-n", self.lab.ns("n2"), "link", "delete", "vx0", check=False)
                add_kernel_vxlan6(self.lab, "n2", "n1", *options)
                self.start("n1", vxlan_keys=vxlan, tunnel=tunnel)
                for addresses in FAMILIES:
                    for source, target in BOTH_WAYS:
                        self.assertEqual(self.lab.ping(source, addresses[target], "-s", 1300, count=3), 3)
                    bulk(self.lab, 16 * MIB, addresses=addresses)
                self.judge()

    def test_zero_checksums_are_refused_by_default(self) -> None:
        run("ip", "-n", self.lab.ns("n2"), "link", "delete", "vx0", check=False)
        add_kernel_vxlan6(self.lab, "n2", "n1", "udp6zerocsumtx")
        self.start("n1")
        self.assertEqual(self.lab.ping("podB", A, "-W", "0.2", count=3), 0)
        self.assertEqual(self.counters("n1").status()["underlay_rx"], 0)

    def judge(self) -> None:
        drops = {reason: n for reason, n in self.lab.drops("n1").items() if n and reason != "unsupported"}
        self.assertEqual(drops, {})
        (link,) = json.loads(run("ip", "-n", self.lab.ns("n2"), "-s", "-j", "link", "show", "vx0").stdout)
        # Not what it dropped itself on the way out: multicast of its own IPv6, which has no entry.
        errors = [link["stats64"][way][kind] for way, kind in (("rx", "errors"), ("rx", "dropped"), ("tx", "errors"))]
        self.assertEqual(errors, [0] * 3)
