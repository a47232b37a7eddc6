"""`[direct] via = "kernel"`: direct destinations are kernel routes to their nodes, past the TUN."""

import bootstrap

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from pings import Pings
from shared import METRICS, SharedLab, own_routes
from test_reload import Flow
from underpass_lab.command import Failure, wait_until
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
KERNEL = '[direct]\nvia = "kernel"\n'
NEVER = {"ipip": "Never", "vxlan": "Never"}
NEAR = "10.244.2.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1"
BACK = "10.244.1.0/24 via 192.0.2.1 dev eth0 src 192.0.2.2"
FAR = "10.244.3.0/24 via 192.0.2.254 dev eth0 src 192.0.2.1"
# A change has to reach the kernel within this.
CHANGE_S = 3.0


def direct_routes(lab: NodeLab, node: str, family: str = "-4") -> list[str]:
    """The daemon's routes to other nodes, as `ip route` has them, with the next hops in the same line."""
    words = ("ip", "-n", lab.ns(node), family, "route", "show", "proto", "118")
    lines: list[str] = []
    for line in lab.tool(*words).stdout.splitlines():
        text = " ".join(line.split())
        if line[:1].isspace():
            lines[-1] += f" {text}"
        else:
            lines.append(text)
    return sorted(lines)


class DirectKernel(SharedLab):
    topology = "T3"
    daemons = ()

    def setUp(self) -> None:
        self.addCleanup(self.end)

    def end(self) -> None:
        """All daemons end, and leave nothing."""
        for node in self.lab.nodes:
            self.stop(node)
            self.assertEqual((direct_routes(self.lab, node), own_routes(self.lab, node)), ([], []), node)

    def start_all(self, via: str = KERNEL, **config: Any) -> None:
        config = {"ipip": "CrossSubnet", **config}
        for node in self.lab.nodes:
            self.start(node, extra=via, **config)
        for target in (B, C):
            self.reaches(target)

    def reaches(self, target: str) -> None:
        """Waits until podA reaches a pod."""
        wait_until(lambda: self.lab.ping("podA", target, count=1) == 1, 10, f"a ping to {target}")

    def settle(self, node: str, *routes: str, family: str = "-4") -> None:
        """Waits until a node has just these routes to others."""
        try:
            found = lambda: direct_routes(self.lab, node, family) == sorted(routes)  # noqa: E731
            wait_until(found, CHANGE_S, "the routes")
        except Failure:
            self.assertEqual(direct_routes(self.lab, node, family), sorted(routes))

    def reload(self, node: str, text: str) -> None:
        (self.lab.dir / f"{node}.toml").write_text(text, encoding="utf-8")
        self.lab.daemons[node].command("reload")

    def text_for(self, node: str, via: str, **config: Any) -> str:
        return self.lab.config(node, **{"ipip": "CrossSubnet", **config}) + via + METRICS

    def via(self, address: str, node: str = "n1") -> tuple[str | None, str | None]:
        entry = self.lab.daemons[node].json("route", "get", address)
        return entry.get("via"), entry.get("via_reason")

    @contextlib.contextmanager
    def by_the_kernel(self, target: str, node: str = "n1") -> Iterator[None]:
        """Packets of podA to `target` in the block leave n1 bare, and no daemon sees them."""
        wire = self.tap("sw", "port-n1")
        with self.moves("n1"):
            yield
        packets = [Ether(frame) for frame in wire.incoming() if frame[12:14] == b"\x08\x00"]
        bare = [packet for packet in packets if packet.haslayer(ICMP) and packet[IP].dst == target]
        self.assertTrue(bare, packets)
        self.assertEqual({packet[IP].src for packet in bare}, {A})

    def ip(self, node: str, *words: object) -> None:
        self.lab.exec(node, "ip", *" ".join(map(str, words)).split())


class CrossSubnet(DirectKernel):
    def test_direct_packets_never_enter_the_tun(self) -> None:
        self.start_all()
        self.settle("n1", NEAR)
        self.settle("n2", BACK)
        self.settle("n3")
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        with self.by_the_kernel(B), self.moves("n2"):
            self.assertEqual(self.lab.ping("podA", B), 3)
        with self.moves("n1", device_rx=3, device_tx=3, underlay_rx=3, underlay_tx=3):
            self.assertEqual(self.lab.ping("podA", C), 3)
        # The host itself speaks with its own address.
        self.assertEqual(self.lab.ping("n1", B), 3)
        # Large transfers in both directions.
        self.lab.tcp_transfer("podA", "podB", B, 1 << 20)
        self.lab.tcp_transfer("podB", "podA", A, 1 << 20)
        status = self.lab.status("n1")
        self.assertEqual(status["direct"], {"via": "kernel", "kernel_routes": 1, "pump_routes": 0})
        self.assertEqual(status["missing"], [])
        self.assertEqual((self.via(B), self.via(C)), (("kernel", None), (None, None)))
        said = self.lab.daemons["n1"].command("route", "get", B).stdout
        self.assertRegex(said, r"(?m)^via +kernel$")
        listed = {route["prefix"]: route.get("via") for route in self.lab.daemons["n1"].json("route", "list")}
        self.assertEqual(listed, {subnet("n1"): None, subnet("n2"): "kernel", subnet("n3"): None})

    def test_what_others_do_to_routes(self) -> None:
        self.start_all()
        self.settle("n1", NEAR)
        self.ip("n1", "route del", subnet("n2"))
        self.settle("n1", NEAR)
        # One of the same destination that is worse, one inside, one of somebody's elsewhere: none is touched.
        others = ["10.244.2.0/24 via 192.0.2.77 dev eth0 proto static metric 50", "10.9.9.0/24 dev eth0 proto static"]
        for other in others:
            self.ip("n1", "route add", other)
            self.addCleanup(self.ip, "n1", "route del", other)
        self.ip("n1", "route replace 10.244.2.0/24 via 192.0.2.77 dev eth0 proto static")
        wait_until(lambda: self.shows("packets for 10.244.2.0/24 are not sent to their node"), CHANGE_S, "a word of it")
        time.sleep(0.5)
        self.settle("n1")
        self.ip("n1", "route del 10.244.2.0/24 via 192.0.2.77 dev eth0 proto static metric 0")
        self.settle("n1", NEAR)
        wait_until(lambda: self.missing() == [], CHANGE_S, "nothing missing")
        shown = self.lab.tool("ip", "-n", self.lab.ns("n1"), "route", "show", "proto", "static").stdout
        self.assertIn("10.244.2.0/24 via 192.0.2.77 dev eth0 metric 50", " ".join(shown.split()))
        # An administrator's that leads there as well does.
        self.ip("n1", "route replace 10.244.2.0/24 via 192.0.2.2 dev eth0 proto static")
        self.addCleanup(self.ip, "n1", "route del 10.244.2.0/24 via 192.0.2.2 dev eth0 proto static")
        time.sleep(0.5)
        self.settle("n1")
        self.assertEqual(self.missing(), [])

    def test_a_start_beside_a_route_of_others(self) -> None:
        self.ip("n1", "route add 10.244.2.0/24 via 192.0.2.77 dev eth0 proto static")
        self.start("n1", ipip="CrossSubnet", extra=KERNEL)
        wait_until(lambda: self.shows("packets for 10.244.2.0/24 are not sent to their node"), CHANGE_S, "a word of it")
        self.ip("n1", "route del 10.244.2.0/24 via 192.0.2.77 dev eth0 proto static")
        self.settle("n1", NEAR)

    def test_one_of_ours_that_nobody_wants_goes(self) -> None:
        self.start_all()
        self.settle("n1", NEAR)
        self.ip("n1", "route add 10.244.8.0/24 via 192.0.2.9 dev eth0 proto 118")
        self.settle("n1", NEAR)
        self.ip("n1", "route replace", subnet("n2"), "via 192.0.2.9 dev eth0 proto 118")
        self.settle("n1", NEAR)

    def test_peers_come_move_and_go(self) -> None:
        self.start_all()
        daemon = self.lab.daemons["n1"]
        daemon.command("peer", "add", "late", "192.0.2.77", "--subnet", "10.244.77.0/24")
        late = "10.244.77.0/24 via 192.0.2.{} dev eth0 src 192.0.2.1"
        self.settle("n1", NEAR, late.format(77))
        daemon.command("peer", "add", "--replace", "late", "192.0.2.78", "--subnet", "10.244.77.0/24")
        self.settle("n1", NEAR, late.format(78))
        # Behind the router it is reached by the tunnel.
        daemon.command("peer", "add", "--replace", "late", "198.51.100.78", "--subnet", "10.244.77.0/24")
        self.settle("n1", NEAR)
        daemon.command("peer", "add", "--replace", "late", "192.0.2.77", "--subnet", "10.244.77.0/24")
        self.settle("n1", NEAR, late.format(77))
        daemon.command("peer", "del", "late")
        self.settle("n1", NEAR)

    def test_a_tunnel_inside_of_a_direct_subnet(self) -> None:
        self.start_all()
        daemon = self.lab.daemons["n1"]
        daemon.command("route", "add", "10.244.2.128/25", "--via", "n3")
        wait_until(lambda: own_routes(self.lab, "n1") == ["10.244.0.0/16", "10.244.2.128/25"], CHANGE_S, "its route")
        self.settle("n1", NEAR)
        with self.moves("n1", device_rx=1, underlay_tx=1):
            self.lab.ping("podA", "10.244.2.129", "-W", "0.3", count=1)
        daemon.command("route", "del", "10.244.2.128/25")
        wait_until(lambda: own_routes(self.lab, "n1") == ["10.244.0.0/16"], CHANGE_S, "its end")

    def test_a_reload_loses_nothing(self) -> None:
        self.start_all(via="")
        self.assertEqual((self.via(B), direct_routes(self.lab, "n1")), (("pump", None), []))
        flows = {B: Flow(self.lab, "podB", B), C: Flow(self.lab, "podC", C)}
        entry = ("ip", "netns", "exec", self.lab.ns("podB"))
        with Pings(entry, A, "podB to podA") as pings:
            for via in (KERNEL, "", KERNEL, "", KERNEL):
                for node in self.lab.nodes:
                    self.reload(node, self.text_for(node, via))
                    time.sleep(0.1)
                self.settle("n1", *([NEAR] if via else []))
                before = [flow.sent for flow in flows.values()]
                self.have_sent(flows, [count + 200 for count in before])
        for address, flow in flows.items():
            self.assertEqual(sorted(flow.finish()), list(range(flow.sent)), address)
        self.assertEqual(pings.lost, 0)
        self.assertGreater(pings.sent, 50)

    def have_sent(self, flows: dict[str, Flow], counts: list[int]) -> None:
        """Waits until each flow has sent so much."""

        def enough() -> bool:
            return all(flow.sent > count for flow, count in zip(flows.values(), counts, strict=True))

        wait_until(enough, 10, "some traffic")

    def test_a_daemon_that_was_killed_left_what_the_next_one_takes_over(self) -> None:
        self.start_all()
        self.settle("n1", NEAR)
        for via, expected in ((KERNEL, [NEAR]), ("", [])):
            daemon = self.lab.daemons.pop("n1")
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.process.wait(10)
            self.assertEqual(direct_routes(self.lab, "n1"), [NEAR])
            # The kernel goes on sending meanwhile.
            self.assertEqual(self.lab.ping("podA", B), 3)
            self.start("n1", ipip="CrossSubnet", extra=via)
            self.settle("n1", *expected)
            wait_until(lambda: self.lab.ping("podA", B) == 3, 10, "pings")

    def test_an_uplink_that_goes_and_comes_back(self) -> None:
        self.start_all()
        self.settle("n1", NEAR)
        self.ip("n1", "link set eth0 down")
        self.settle("n1")
        wait_until(lambda: self.via(B)[0] == "pump", CHANGE_S, "the pump")
        self.ip("n1", "link set eth0 up")
        self.ip("n1", "route add 198.51.100.0/24 via 192.0.2.254")
        self.settle("n1", NEAR)
        wait_until(lambda: self.lab.ping("podA", B) == 3, 10, "pings")

    def test_routes_of_a_table_that_is_followed(self) -> None:
        """What BIRD writes to a table of its own becomes routes of the main table, where it is near."""
        followed = '[source.kernel]\ntables = [100]\nprotocols = ["bird"]\n'
        self.ip("n1", "route add default dev eth0 scope link table 100")
        self.addCleanup(self.ip, "n1", "route flush table 100")
        peers: Any = {node: (ADDRESSES[node], []) for node in ("n2", "n3")}
        for node in ("n2", "n3"):
            self.start(node, ipip="CrossSubnet", extra=KERNEL)
        self.start("n1", ipip="CrossSubnet", peers=peers, extra=followed + KERNEL)
        for node in ("n2", "n3"):
            self.ip("n1", "route add", subnet(node), "via", ADDRESSES[node], "dev eth0 proto bird metric 32 table 100")
        self.settle("n1", NEAR)
        with self.by_the_kernel(B):
            self.assertEqual(self.lab.ping("podA", B), 3)
        wait_until(lambda: self.lab.ping("podA", C) == 3, CHANGE_S, "pings through the tunnel")
        self.ip("n1", "route del", subnet("n2"), "table 100")
        self.settle("n1")
        # In the main table BIRD's own is left to it.
        self.reload("n1", self.text_for("n1", followed.replace("[100]", '["main"]') + KERNEL, peers=peers))
        self.ip("n1", "route add", subnet("n2"), "via 192.0.2.2 dev eth0 proto bird metric 32")
        self.addCleanup(self.ip, "n1", "route del", subnet("n2"), "via 192.0.2.2 dev eth0 proto bird metric 32")
        wait_until(lambda: self.via(B) == ("kernel", None), CHANGE_S, "the kernel's")
        self.settle("n1")
        with self.by_the_kernel(B):
            self.assertEqual(self.lab.ping("podA", B), 3)
        self.assertEqual(self.missing(), [])


class ReversePath(DirectKernel):
    """One end by the kernel, the other by the pump, under each setting of the filter."""

    def filter(self, value: int) -> None:
        for node in ("n1", "n2"):
            self.lab.sysctl(node, {"ipv4/conf/all/rp_filter": value, "ipv4/conf/eth0/rp_filter": value})

    def test_all_four_under_every_filter(self) -> None:
        self.addCleanup(self.filter, 0)
        for value, near, far in itertools.product((0, 1, 2), ("kernel", "pump"), ("kernel", "pump")):
            with self.subTest(rp_filter=value, n1=near, n2=far):
                self.filter(value)
                refused = {node: value == 1 and via == "pump" for node, via in (("n1", near), ("n2", far))}
                for node, via in (("n1", near), ("n2", far)):
                    extra = f'[direct]\nvia = "{via}"\n'
                    if refused[node]:
                        with self.assertRaisesRegex(Failure, "strict reverse path filtering on eth0"):
                            self.start(node, ipip="CrossSubnet", extra=extra)
                        self.lab.daemons.pop(node, None)
                    else:
                        self.start(node, ipip="CrossSubnet", extra=extra)
                if not any(refused.values()):
                    wait_until(lambda: self.lab.ping("podA", B) == 3, 10, "pings")
                    self.assertEqual(self.lab.ping("podB", A), 3)
                    self.lab.tcp_transfer("podA", "podB", B, 1 << 18)
                for node in ("n1", "n2"):
                    self.stop(node)

    def test_what_is_refused_at_a_start_is_refused_later(self) -> None:
        self.filter(1)
        self.addCleanup(self.filter, 0)
        self.start("n1", ipip="CrossSubnet", extra=KERNEL)
        self.settle("n1", NEAR)
        self.assertEqual(self.missing(), [])
        with self.assertRaisesRegex(Failure, "rp_filter=2"):
            self.reload("n1", self.text_for("n1", ""))
        self.settle("n1", NEAR)
        # Forwarding is needed, and shown where it is off.
        self.lab.sysctl("n1", {"ipv4/conf/eth0/forwarding": 0})
        self.addCleanup(self.lab.sysctl, "n1", {"ipv4/conf/eth0/forwarding": 1})
        wait_until(lambda: self.shows("eth0 does not forward"), CHANGE_S, "a word of it")


class Routed(DirectKernel):
    """Pools that never encapsulate: nodes behind a router too are sent to by the kernel."""

    @classmethod
    def prepare(cls) -> None:
        for node in cls.lab.nodes:
            cls.lab.ip("R", f"route add {subnet(node)} via {ADDRESSES[node]}")

    def test_the_router_is_the_next_hop(self) -> None:
        self.start_all(**NEVER)
        self.settle("n1", NEAR, FAR)
        with self.by_the_kernel(C), self.moves("n3"):
            self.assertEqual(self.lab.ping("podA", C), 3)
        # Another router in front, a smaller MTU, none, and back.
        self.ip("n1", "route replace 198.51.100.0/24 via 192.0.2.253 mtu 1400")
        self.settle("n1", NEAR, FAR.replace("254", "253") + " mtu 1400")
        self.ip("n1", "route del 198.51.100.0/24")
        self.settle("n1", NEAR)
        self.assertEqual(self.via(C), ("pump", "the kernel has no way to the node"))
        self.ip("n1", "route add 198.51.100.0/24 via 192.0.2.254")
        self.settle("n1", NEAR, FAR)
        with self.by_the_kernel(C):
            self.assertEqual(self.lab.ping("podA", C), 3)

    def test_several_nodes_are_several_next_hops(self) -> None:
        self.start_all(**NEVER)
        daemon = self.lab.daemons["n1"]
        hops = [f"nexthop via {hop} dev eth0 weight 1" for hop in ("192.0.2.2", "192.0.2.254")]
        several = f"10.244.9.0/24 src 192.0.2.1 {' '.join(hops)}"
        daemon.command("route", "add", "10.244.9.0/24", "--via", "n2", "--via", "n3")
        self.settle("n1", NEAR, FAR, several)
        self.assertEqual(self.via("10.244.9.1"), ("kernel", None))
        wire = self.tap("sw", "port-n1")
        for host in range(64):
            self.say(f"10.244.9.{host + 1}")
        macs = {self.lab.mac("n2", "eth0"), self.lab.mac("R", "eth0")}
        seen = {
            frame[:6].hex(":")
            for frame in wire.incoming()
            if frame[12:14] == b"\x08\x00" and frame[30:33] == b"\x0a\xf4\x09"
        }
        self.assertEqual(seen, macs)
        # Taken away by somebody, it comes back.
        self.ip("n1", "route del 10.244.9.0/24")
        self.settle("n1", NEAR, FAR, several)
        daemon.command("route", "add", "10.244.9.0/24", "--via", "n2")
        self.settle("n1", NEAR, FAR, NEAR.replace("10.244.2.", "10.244.9."))
        daemon.command("route", "del", "10.244.9.0/24")
        self.settle("n1", NEAR, FAR)

    def say(self, address: str) -> None:
        with self.lab.socket("podA") as out:
            out.sendto(b"x", (address, 9))

    def test_outside_of_the_pools(self) -> None:
        """Without a pool around it, a destination has one route or the other."""
        peers = {"n2": (ADDRESSES["n2"], [subnet("n2"), "172.16.2.0/24"])}
        outside = NEAR.replace("10.244.2.", "172.16.2.")
        self.start("n1", peers=peers, extra=KERNEL, **NEVER)
        self.settle("n1", NEAR, outside)
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        self.reload("n1", self.text_for("n1", "", peers=peers, **NEVER))
        self.settle("n1")
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16", "172.16.2.0/24"])
        self.reload("n1", self.text_for("n1", KERNEL, peers=peers, **NEVER))
        self.settle("n1", NEAR, outside)
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])


class Ipv6(SharedLab):
    """IPv6 by IPv6, IPv4 by IPv6, and IPv6 to a node with an IPv4 address alone, which the pump sends."""

    options = {"ipv6": True}
    daemons = ()
    multicast_reports = True

    OWN = {"n1": "2001:db8::1", "n2": "2001:db8::2"}
    PODS6 = {"n1": "fd00:244:1::2", "n2": "fd00:244:2::2"}
    LOCAL = {"n1": ["10.244.1.0/24", "fd00:244:1::/64"], "n2": ["10.244.2.0/24", "fd00:244:2::/64"]}
    POOLS = [("10.244.0.0/16", "CrossSubnet", "Never"), ("fd00:244::/32", "CrossSubnet", "Never")]

    @classmethod
    def prepare(cls) -> None:
        for node, pod in (("n1", "podA"), ("n2", "podB")):
            prefix = f"fd00:244:{node[1:]}::"
            cls.lab.sysctl(node, {"ipv6/conf/all/forwarding": 1})
            cls.lab.ip(
                node, f"address add {cls.OWN[node]}/64 dev eth0 nodad", f"address add {prefix}1/64 dev pod0 nodad"
            )
            cls.lab.ip(pod, f"address add {prefix}2/64 dev eth0 nodad", f"route add default via {prefix}1")

    def begin(self, own: Any, other: Any) -> None:
        """`own`: the keys of an address of a node under [node]; `other`: the address by which peers know it."""
        for node, peer in (("n1", "n2"), ("n2", "n1")):
            peers = {peer: (other[peer][0], self.LOCAL[peer], *other[peer][1:])}
            keys = {"own": own[node], "local": self.LOCAL[node], "pools": self.POOLS, "peers": peers}
            self.start(node, extra=KERNEL, **keys)
        self.addCleanup(self.end)

    def end(self) -> None:
        for node in ("n1", "n2"):
            self.stop(node)
            for family in ("-4", "-6"):
                self.assertEqual(direct_routes(self.lab, node, family), [])

    def routes(self, family: str) -> list[str]:
        # What the kernel adds by itself to IPv6 routes.
        return [
            route.replace(" metric 1024", "").replace(" pref medium", "")
            for route in direct_routes(self.lab, "n1", family)
        ]

    def expect(self, *four: str, six: tuple[str, ...] = ()) -> None:
        found = lambda: (self.routes("-4"), self.routes("-6")) == ([*four], [*six])  # noqa: E731
        try:
            wait_until(found, CHANGE_S, "the routes")
        except Failure:
            self.assertEqual((self.routes("-4"), self.routes("-6")), ([*four], [*six]))

    def test_each_family_by_its_own(self) -> None:
        own = {node: {"address": f"{ADDRESSES[node]}/24", "address6": f"{self.OWN[node]}/64"} for node in ("n1", "n2")}
        self.begin(own, {node: (ADDRESSES[node], {"address6": self.OWN[node]}) for node in ("n1", "n2")})
        six = "fd00:244:2::/64 via 2001:db8::2 dev eth0 src 2001:db8::1"
        self.expect(NEAR, six=(six,))
        with self.moves("n1"):
            self.assertEqual((self.lab.ping("podA", B), self.lab.ping("podA", self.PODS6["n2"])), (3, 3))
        self.lab.exec("n1", "ip", "-6", "route", "del", "fd00:244:2::/64")
        self.expect(NEAR, six=(six,))

    def test_ipv4_by_a_node_with_ipv6_alone(self) -> None:
        own = {node: {"address6": f"{self.OWN[node]}/64"} for node in ("n1", "n2")}
        self.begin(own, {node: (self.OWN[node],) for node in ("n1", "n2")})
        self.expect(
            "10.244.2.0/24 via inet6 2001:db8::2 dev eth0",
            six=("fd00:244:2::/64 via 2001:db8::2 dev eth0 src 2001:db8::1",),
        )
        with self.moves("n1"):
            self.assertEqual((self.lab.ping("podA", B), self.lab.ping("podA", self.PODS6["n2"])), (3, 3))

    def test_ipv6_by_a_node_with_ipv4_alone(self) -> None:
        own = {node: {"address": f"{ADDRESSES[node]}/24"} for node in ("n1", "n2")}
        self.begin(own, {node: (ADDRESSES[node],) for node in ("n1", "n2")})
        self.expect(NEAR)
        status = self.lab.status("n1")
        self.assertEqual(status["direct"], {"via": "kernel", "kernel_routes": 1, "pump_routes": 1})
        entry = self.lab.daemons["n1"].json("route", "get", self.PODS6["n2"])
        self.assertEqual(entry["via"], "pump")
        self.assertIn("the kernel cannot send IPv6 by way of 192.0.2.2", entry["via_reason"])
        wait_until(lambda: self.lab.ping("podA", self.PODS6["n2"]) == 3, 10, "pings by the pump")
