"""Verified direct paths: a network that drops addresses of pods between hosts of one subnet, as clouds do."""

import bootstrap

import contextlib
import re
import time
from collections.abc import Iterator
from typing import Any

from scapy.contrib.bfd import BFD
from scapy.layers.inet import IP, UDP

import cloud
from pings import Pings
from shared import METRICS, SharedLab, scrape
from underlay6 import B6, SixLab
from underpass_lab.bird import Bird
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
POOLS = [("10.244.0.0/16", "CrossSubnet", "Never", False, True)]
# A session comes up within two slow packets of each end, on a busy machine some more.
UP_S = 20.0
# What the configuration promises, and what a busy machine may add to it.
FALLBACK_S = 1.0
SLACK_S = 1.0
# The hold after the first failure, and again slow packets.
BACK_S = 30.0


class Verified(SharedLab):
    """n1 and n2 in one subnet, n3 behind a router; what n2 and n1 may receive is the test's."""

    topology = "T3"
    config = {"pools": POOLS}

    def setUp(self) -> None:
        self.addCleanup(self.unblock, "n1", "n2")

    def path(self, node: str, peer: str) -> Any:
        """What `node` says of its direct path to `peer`, if it is to be verified."""
        found = next(one for one in self.lab.status(node)["peers"] if one["name"] == peer)
        return next(iter(found.get("direct_paths", [])), None)

    def verified(self, *nodes: str) -> bool:
        others = {"n1": "n2", "n2": "n1"}
        return all((self.path(node, others[node]) or {}).get("verified") for node in nodes)

    def comes_up(self, timeout: float = UP_S) -> None:
        wait_until(lambda: self.verified("n1", "n2"), timeout, "verified paths")

    def has_path(self, there: bool) -> None:
        wait_until(lambda: bool(self.path("n1", "n2")) == there, 10, "other paths to verify")

    def block(self, *nodes: str) -> None:
        cloud.block(self.lab, *nodes)

    def unblock(self, *nodes: str) -> None:
        cloud.unblock(self.lab, *nodes)

    def decision(self, node: str, address: str) -> tuple[str, str]:
        route = self.lab.daemons[node].json("route", "get", address)
        return route["mode"], route["reason"]

    def wire(self) -> set[int]:
        """How pings from podA to podB leave n1: 1 bare, 4 in IP-in-IP."""
        tap = self.tap("sw", "port-n1")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        sent = [frame[14:] for frame in tap.incoming() if frame[12:14] == b"\x08\x00"]
        return {packet[9] for packet in sent if packet[9] in (1, 4)}

    def pings(self, target: str) -> Pings:
        return Pings(("ip", "netns", "exec", self.lab.ns("podA")), target, f"podA to {target}")

    @contextlib.contextmanager
    def loses_at_most(self, target: str, seconds: float) -> Iterator[None]:
        with self.pings(target) as pings:
            yield
        self.assertGreater(pings.sent, 20)
        self.assertLessEqual(pings.lost, 50 * seconds, f"{pings.lost} of {pings.sent} to {target}")


class Failing(Verified):
    def setUp(self) -> None:
        super().setUp()
        # Whose paths have not failed yet.
        for node in ("n1", "n2"):
            self.start(node, **self.config)

    def test_1_the_direct_path_is_taken_once_it_is_verified(self) -> None:
        self.comes_up()
        self.assertEqual(self.wire(), {1})
        mode, reason = self.decision("n1", B)
        self.assertEqual(mode, "direct")
        self.assertIn("192.0.2.2 get through directly", reason)
        self.assertEqual(self.decision("n1", C)[0], "ipip")
        self.assertIsNone(self.path("n1", "n3"))
        self.assertEqual(self.path("n1", "n2")["next_hop"], ADDRESSES["n2"])
        self.assertIn('underpass_direct_paths{state="verified"} 1', scrape(self.lab, "n1"))
        # The MTU fits both ways.
        self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], 1480)

    def test_2_the_tunnel_is_taken_within_a_second_whichever_direction_fails(self) -> None:
        for direction in (("n1",), ("n2",), ("n1", "n2")):
            with self.subTest(direction):
                self.setUp()
                self.comes_up()
                with self.loses_at_most(B, FALLBACK_S + SLACK_S), self.loses_at_most(C, 0):
                    time.sleep(0.5)
                    begun = time.monotonic()
                    self.block(*direction)
                    wait_until(lambda: not self.verified("n1") and not self.verified("n2"), 10, "the tunnel")
                    print(f"{direction} fails: the tunnel after {time.monotonic() - begun:.2f} s")
                    time.sleep(2)
                self.assertEqual(self.wire(), {4})
                mode, reason = self.decision("n1", B)
                self.assertEqual(mode, "ipip")
                self.assertIn("do not get through", reason)
                self.assertEqual(self.path("n1", "n2")["failures"], 1)
                text = scrape(self.lab, "n1")
                self.assertIn('underpass_direct_paths{state="unverified"} 1', text)
                self.assertRegex(text, r"underpass_direct_path_failures_total 1\n")
                # And back, without a loss, but not at once.
                with self.loses_at_most(B, 0):
                    begun = time.monotonic()
                    self.unblock(*direction)
                    self.comes_up(BACK_S)
                    self.assertGreater(time.monotonic() - begun, 4)
                    time.sleep(0.5)
                self.assertEqual(self.wire(), {1})

    def test_3_what_is_sent_is_bfd_between_addresses_of_pods(self) -> None:
        self.comes_up()
        with self.lab.capture("sw", "port-n1", "udp dst port 3784") as capture:
            packets = capture.wait(16)
        seen = set()
        for packet in packets:
            bfd = packet[BFD]
            self.assertEqual((packet[IP].ttl, bfd.version, bfd.sta, bfd.detect_mult), (255, 1, 3, 3))
            self.assertGreaterEqual(packet[UDP].sport, 49152)
            seen.add((packet[IP].src, packet[IP].dst))
        self.assertEqual(seen, {("10.244.1.0", "10.244.2.0"), ("10.244.2.0", "10.244.1.0")})
        ours = [packet for packet in packets if packet[IP].src == "10.244.1.0"]
        self.assertEqual(len({packet[UDP].sport for packet in ours}), 1)
        times = [float(packet.time) for packet in ours]
        pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        self.assertLess(min(pauses), 0.3)
        self.assertGreater(min(pauses), 0.1)

    def test_4_packets_of_others_change_nothing(self) -> None:
        self.comes_up()
        mac = self.lab.mac("n1", "eth0")
        down = BFD(sta=1, my_discriminator=1, your_discriminator=0)
        for source, ttl in (("10.244.1.9", 255), ("10.99.0.1", 255), ("10.244.3.0", 255), ("10.244.2.0", 254)):
            packet = IP(src=source, dst="10.244.1.0", ttl=ttl) / UDP(sport=49999, dport=3784) / down
            frame = self.lab.frame("n2", "n1", packet)
            self.assertEqual(frame.dst, mac)
            self.lab.send("n2", "eth0", [bytes(frame)] * 5)
        time.sleep(1.5)
        self.assertTrue(self.verified("n1", "n2"))

    def test_5_a_peer_that_is_gone_and_comes_back(self) -> None:
        self.comes_up()
        self.lab.daemons["n2"].process.kill()
        wait_until(lambda: not self.verified("n1"), 10, "the tunnel")
        self.start("n2", **self.config)
        self.comes_up(BACK_S)
        self.assertEqual(self.wire(), {1})

    def test_6_reload(self) -> None:
        self.comes_up()
        without = [("10.244.0.0/16", "CrossSubnet", "Never")]
        with self.loses_at_most(B, 0):
            for pools in (without, POOLS):
                text = self.lab.config("n1", pools=pools) + METRICS
                (self.lab.dir / "n1.toml").write_text(text, encoding="utf-8")
                self.lab.daemons["n1"].command("reload")
                self.assertEqual(self.decision("n1", B)[0], "direct" if pools == without else "ipip")
                self.has_path(pools == POOLS)
            self.comes_up(BACK_S)
            self.assertEqual(self.decision("n1", B)[0], "direct")

    def test_7_a_node_that_does_not_verify_is_reached_through_the_tunnel(self) -> None:
        self.start("n2", pools=[("10.244.0.0/16", "CrossSubnet", "Never")])
        self.addCleanup(self.start, "n2", **self.config)
        self.start("n1", **self.config)
        time.sleep(4)
        self.assertFalse(self.verified("n1"))
        self.assertIn("nothing was heard", self.path("n1", "n2")["reason"])
        self.assertEqual(self.wire(), {4})


class Strict(Verified):
    """Strict reverse path filtering drops bare packets of pods: it is shown, and the tunnel is taken."""

    def test_strict_reverse_path_filtering(self) -> None:
        self.comes_up()
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1})
        self.addCleanup(self.lab.sysctl, "n1", {"ipv4/conf/eth0/rp_filter": 0})
        with self.loses_at_most(B, FALLBACK_S + SLACK_S):
            wait_until(lambda: not self.verified("n1") and not self.verified("n2"), 10, "the tunnel")
            time.sleep(1)
        self.assertEqual(self.wire(), {4})
        wait_until(lambda: self.shows("reverse path"), 10, "a word about it")
        # A start has nothing against it either.
        self.start("n1", **self.config)
        self.assertEqual(self.wire(), {4})
        self.assertTrue(self.shows("reverse path"))


class ByKernel(Verified):
    """The kernel sends what is direct: only while the path is verified it has a route."""

    config = {"pools": POOLS, "extra": '[direct]\nvia = "kernel"\n'}

    def bare_routes(self) -> str:
        return self.lab.exec("n1", "ip", "route", "show", "proto", "118").stdout.strip()

    def test_the_route_to_the_node_goes_with_its_path(self) -> None:
        self.comes_up()
        wait_until(lambda: self.bare_routes().startswith("10.244.2.0/24 via 192.0.2.2 dev eth0"), 5, "the route")
        self.assertEqual(self.wire(), {1})
        with self.loses_at_most(B, FALLBACK_S + SLACK_S), self.loses_at_most(C, 0):
            self.block("n2")
            wait_until(lambda: not self.bare_routes(), 10, "the end of the route")
            time.sleep(1)
        self.assertEqual(self.wire(), {4})
        with self.loses_at_most(B, 0):
            self.unblock("n2")
            self.comes_up(BACK_S)
            wait_until(self.bare_routes, 5, "the route again")
        self.assertEqual(self.wire(), {1})


class Six(Verified, SixLab):
    """Pods of both families, each with a path of its own."""

    topology = "T2"
    underlay = "both"
    config = {"pools": [*POOLS, ("fd00:244::/32", "Never", "CrossSubnet", False, True)]}

    def families(self, node: str) -> dict[str, bool]:
        peer = next(iter(self.lab.status(node)["peers"]))
        return {path["family"]: path["verified"] for path in peer.get("direct_paths", [])}

    def test_each_family_has_its_path(self) -> None:
        both = {"ipv4": True, "ipv6": True}
        # Link addresses of neighbours are known once there was traffic.
        wait_until(lambda: self.lab.ping("podA", B6, count=1) and self.families("n1") == both, UP_S * 2, "both")
        self.assertEqual((self.decision("n1", B)[0], self.decision("n1", B6)[0]), ("direct", "direct"))
        self.assertEqual(self.lab.ping("podA", B6, count=3), 3)
        self.block("n2")
        wait_until(lambda: self.families("n1") == {"ipv4": False, "ipv6": True}, 10, "IPv4 by the tunnel")
        self.assertEqual((self.decision("n1", B)[0], self.decision("n1", B6)[0]), ("ipip", "direct"))
        self.assertEqual((self.lab.ping("podA", B, count=3), self.lab.ping("podA", B6, count=3)), (3, 3))


class WithBird(Verified):
    """BIRD's own BFD at the other end: a node that is no underpass."""

    daemons = ("n1",)
    bird: Bird

    @classmethod
    def prepare(cls) -> None:
        cls.lab.ip(
            "n2",
            # A neighbour is for BIRD who has an address of a link's.
            "address add 10.244.2.0 peer 10.244.1.0/32 dev eth0",
            f"route add 10.244.1.0/24 via {ADDRESSES['n1']} dev eth0",
        )
        text = (
            "log stderr all;\nrouter id 192.0.2.2;\nprotocol device { }\n"
            'protocol bfd { strict bind yes; interface "eth0" { min rx interval 200 ms; min tx interval 200 ms; };\n'
            '  neighbor 10.244.1.0 dev "eth0" local 10.244.2.0; }\n'
        )
        cls.bird = Bird(cls.lab, "n2", text)

    def test_bird_and_we_understand_each_other(self) -> None:
        wait_until(lambda: self.verified("n1"), UP_S, "a verified path")
        wait_until(
            lambda: re.search(r"10\.244\.1\.0 +eth0 +Up", self.bird.ask("show", "bfd", "sessions")), 10, "BIRD's word"
        )
        self.assertEqual(self.wire(), {1})
        self.block("n2")
        wait_until(lambda: not self.verified("n1"), 10, "the tunnel")
        self.assertIn("Down", self.bird.ask("show", "bfd", "sessions"))
