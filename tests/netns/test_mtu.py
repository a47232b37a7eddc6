"""The TUN's MTU follows the uplink (P1); the path MTU of a peer is learned from routers (P5)."""

import bootstrap

import contextlib
import json
import re
import socket
import struct
from collections.abc import Sequence
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

import fast
from fast import MIB, Stream, await_tap
from shared import SharedLab
from tunnel import FORMATS, VXLAN_PORT, outer
from underlay6 import ADDRESSES6, ROUTER6, add_addresses6, over6, pools, receiver, subnets
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
MODES = {mode: (fast.MODES[mode], fast.OVERHEAD[mode]) for mode in FORMATS}
FLOOR = 646  # docs/mtu.md


class Follows(SharedLab):
    def uplink(self, mtu: int) -> None:
        for node, port in (("n1", "port-n1"), ("n2", "port-n2")):
            self.lab.ip(node, f"link set eth0 mtu {mtu}")
            self.lab.ip("sw", f"link set {port} mtu {mtu}")

    def tun_mtu(self, node: str = "n1") -> Any:
        links = json.loads(run("ip", "-n", self.lab.ns(node), "-j", "link", "show", "up0").stdout)
        return links[0]["mtu"]

    def expect(self, mtu: int) -> None:
        for node in ("n1", "n2"):
            wait_until(lambda: self.tun_mtu(node) == mtu, 5, f"mtu {mtu}, not {self.tun_mtu(node)}, on {node}")
            self.assertEqual(self.lab.status(node)["tunnel"]["mtu"], mtu)
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", B)["mtu"], mtu)

    def test_p1_at_start_and_live(self) -> None:
        self.addCleanup(self.uplink, 1500)
        for mode, (config, overhead) in MODES.items():
            for start, live in ((1500, 1400), (9000, 1500), (1400, 9000)):
                with self.subTest(mode, start=start, live=live):
                    self.uplink(start)
                    self.restart(**config)
                    self.expect(start - overhead)
                    self.uplink(live)
                    self.expect(live - overhead)
                    self.assertEqual(self.lab.ping("podA", B, "-M", "dont", "-s", "3000"), 3)

    def test_a_configured_mtu_stays_and_routes_follow(self) -> None:
        self.addCleanup(self.uplink, 1500)
        self.restart(vxlan="Always", ipip="Never", tunnel={"mtu": 1450})
        self.uplink(1400)
        wait_until(lambda: self.lab.daemons["n1"].json("route", "get", B)["mtu"] == 1350, 5, "the route's MTU")
        self.assertEqual(self.tun_mtu(), 1450)

    def test_a_transfer_survives_with_its_offloads(self) -> None:
        self.addCleanup(self.uplink, 1500)
        for mode, (config, overhead) in MODES.items():
            for uplink in ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    self.uplink(1500)
                    self.restart(**config, tunnel={"uplink": uplink})
                    if uplink == "tap":
                        await_tap(self.lab, "n1")
                    offloads = self.lab.status("n1")["offloads"]
                    stream = Stream(self.lab)
                    self.progress(stream)
                    for mtu in (1300, 1500):
                        self.uplink(mtu)
                        self.expect(mtu - overhead)
                        self.progress(stream)
                    received, sent = stream.finish()
                    self.assertEqual(received, sent)
                    self.assertEqual(self.lab.status("n1")["offloads"], offloads)

    def progress(self, stream: Any) -> None:
        before = stream.received
        wait_until(lambda: stream.received > before + MIB, 20, "progress of the transfer")


class Shrinking(SharedLab):
    """Three nodes, n3 behind a router."""

    topology = "T3"
    daemons: Sequence[str] = ("n1", "n3")

    def link_to_n3(self, mtu: int) -> None:
        self.lab.ip("R", f"link set eth1 mtu {mtu}")
        self.lab.ip("n3", f"link set eth0 mtu {mtu}")

    def route_mtu(self, target: str = C) -> Any:
        return self.lab.daemons["n1"].json("route", "get", target)["mtu"]

    def pod_mtu(self) -> Any:
        words = self.lab.exec("podA", "ip", "route", "get", C).stdout.split()
        return int(words[words.index("mtu") + 1]) if "mtu" in words else None


class PathShrinks(Shrinking):
    """P5: a link behind the router is smaller than the uplink."""

    def test_p5_the_pod_learns_and_the_transfer_goes_on(self) -> None:
        self.addCleanup(self.link_to_n3, 1500)
        for mode, (config, overhead) in MODES.items():
            for uplink in ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    self.link_to_n3(1500)
                    self.restart(**config, tunnel={"uplink": uplink})
                    if uplink == "tap":
                        await_tap(self.lab, "n1")
                    self.lab.ip("podA", "route flush cache")
                    offloads = self.lab.status("n1")["offloads"]
                    self.lab.tcp_transfer("podA", "podC", C, MIB)
                    self.assertEqual(self.route_mtu(), 1500 - overhead)
                    self.link_to_n3(1300)
                    self.lab.tcp_transfer("podA", "podC", C, 4 * MIB)
                    self.assertEqual(self.route_mtu(), 1300 - overhead)
                    self.assertEqual(self.pod_mtu(), 1300 - overhead)
                    self.assertEqual(self.route_mtu(B), 1500 - overhead)
                    self.assertGreater(self.lab.drops("n1")["too_big"], 0)
                    self.assertEqual(self.lab.status("n1")["offloads"], offloads)
                    self.assertEqual(self.lab.ping("podA", C, "-M", "dont", "-s", "3000"), 3)

    def test_direct_routers_talk_to_the_pods(self) -> None:
        self.addCleanup(self.link_to_n3, 1500)
        self.addCleanup(self.forget_pods)
        for node in ("n1", "n3"):
            self.lab.ip("R", f"route replace 10.244.{node[1:]}.0/24 via {ADDRESSES[node]}")
        self.restart(ipip="Never", vxlan="Never")
        self.lab.ip("podA", "route flush cache")
        self.link_to_n3(1300)
        self.lab.tcp_transfer("podA", "podC", C, MIB)
        self.assertEqual((self.pod_mtu(), self.route_mtu()), (1300, 1500))

    def forget_pods(self) -> None:
        for node in ("n1", "n3"):
            with contextlib.suppress(AssertionError):
                self.lab.ip("R", f"route del 10.244.{node[1:]}.0/24")


class PathShrinks6(Shrinking):
    """P5 over an IPv6 underlay, pods with IPv4."""

    options = {"ipv6": True}
    multicast_reports = True
    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, "n1", "n3")

    def start_both(self, config: Any) -> None:
        for node, other in (("n1", "n3"), ("n3", "n1")):
            self.start(node, **over6(node, other), **config)

    def test_p5_the_pod_learns_and_the_transfer_goes_on(self) -> None:
        self.addCleanup(self.link_to_n3, 1500)
        for mode, (config, overhead4) in MODES.items():
            with self.subTest(mode):
                overhead = overhead4 + 20
                self.link_to_n3(1500)
                self.start_both(config)
                self.lab.ip("podA", "route flush cache")
                self.lab.tcp_transfer("podA", "podC", C, MIB)
                self.assertEqual(self.route_mtu(), 1500 - overhead)
                self.link_to_n3(1300)
                self.lab.tcp_transfer("podA", "podC", C, 4 * MIB)
                self.assertEqual((self.route_mtu(), self.pod_mtu()), (1300 - overhead, 1300 - overhead))
                # n3 looks at its own uplink once a second.
                whole = lambda: self.lab.ping("podA", C, "-M", "dont", "-s", "3000", "-W", "0.5", count=1)  # noqa: E731
                wait_until(whole, 5, "a large ping that is answered")
                self.assertEqual(self.lab.ping("podA", C, "-M", "dont", "-s", "3000"), 3)

    def test_what_ipv6_demands_of_every_link_crosses_one_that_has_no_more(self) -> None:
        """Pods with IPv6: packets of 1280 bytes need fragments outside where a link behind the first has 1280 bytes."""
        address = {"podA": "fd00:244:1::2", "podC": "fd00:244:3::2"}
        for node, pod in (("n1", "podA"), ("n3", "podC")):
            self.lab.ip(node, f"address add fd00:244:{node[1:]}::1/64 dev pod0 nodad")
            gateway = f"route add default via fd00:244:{node[1:]}::1"
            self.lab.ip(pod, f"address add {address[pod]}/64 dev eth0 nodad", gateway)
        self.addCleanup(self.link_to_n3, 1500)
        data = bytes(1280 - 48)
        for mode in MODES:
            with self.subTest(mode):
                self.link_to_n3(1280)
                for node, other in (("n1", "n3"), ("n3", "n1")):
                    own = {"address6": f"{ADDRESSES6[node]}/64"}
                    peers = {other: (ADDRESSES6[other], subnets(other))}
                    self.start(node, own=own, local=subnets(node), peers=peers, pools=pools(mode))
                server = receiver(self, "podC", address["podC"], 5300)
                server.settimeout(0.2)
                client = self.lab.socket("podA", socket.AF_INET6)
                self.addCleanup(client.close)

                def crosses(server: Any = server, client: Any = client) -> bool:
                    client.sendto(data, (address["podC"], 5300))
                    try:
                        return bool(server.recv(2000) == data)
                    except TimeoutError:
                        return False

                wait_until(crosses, 10, "a datagram of 1280 bytes")
                self.assertTrue(all(crosses() for _ in range(5)))
                server.close()

    def test_forged_reports_are_refuted(self) -> None:
        """S3 over IPv6: the quoted packet looks like those that n1 sends, but n3 answers to a probe of its size."""
        self.start_both(MODES["ipip"][0])
        quoted = IPv6(src=ADDRESSES6["n1"], dst=ADDRESSES6["n3"], nh=4) / Raw(b"\x45\0\x05\xb4" + bytes(1456))
        self.lab.tcp_transfer("podA", "podC", C, MIB)
        wire = self.tap("n3", "eth0")
        self.forge(quoted, 1300)
        echo_request = (b"\x3a", b"\x80")
        wait_until(lambda: echo_request in [(one[20:21], one[54:55]) for one in wire.incoming()], 3, "a probe")
        self.assertEqual(self.route_mtu(), 1500 - 40)
        self.lab.tcp_transfer("podA", "podC", C, MIB)
        self.assertEqual(self.route_mtu(), 1500 - 40)

    def forge(self, quoted: Any, mtu: int) -> None:
        error = IPv6(src=ROUTER6, dst=ADDRESSES6["n1"]) / ICMPv6PacketTooBig(mtu=mtu) / Raw(bytes(quoted)[:1200])
        self.lab.send("R", "eth0", self.lab.frame("R", "n1", error))


class Reports(Shrinking):
    """S3: reports that R makes up, and who may be believed."""

    def restart_idle(self, mode: str, **config: Any) -> None:
        self.restart(**MODES[mode][0], **config)
        # Without what the kernels have learned before, from reports that a daemon of before did not believe.
        for name in ("podA", "n1"):
            self.lab.ip(name, "route flush cache")

    def forge(self, quoted: Any, mtu: int, quote: int = 548) -> None:
        """R sends n1 a "fragmentation needed" that quotes `quote` bytes of a packet which n1 may have sent."""
        icmp = ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(bytes(quoted)[:quote])
        packet = IP(src="192.0.2.254", dst=ADDRESSES["n1"]) / icmp
        self.lab.send("R", "eth0", self.lab.frame("R", "n1", packet))

    def sent_packet(self, wire: Any) -> Any:
        """The largest packet that n1 has sent to n3 by now."""
        frames = [frame for frame in wire.incoming() if frame[30:34] == socket.inet_aton(ADDRESSES["n3"])]
        return max(frames, key=len)[14:]

    def echoes(self, wire: Any) -> list[Any]:
        """Probes of n1 that passed: echo requests, as large as the link."""
        frames = wire.incoming()
        return [frame for frame in frames if frame[23:24] == b"\x01" and frame[34:35] == b"\x08" and len(frame) > 1200]

    def carried(self, mode: str, uplink: str) -> tuple[Any, bytes]:
        """A tap on the wire of n1, which has just sent a transfer this way, and one of the packets there."""
        self.restart_idle(mode, tunnel={"uplink": uplink})
        if uplink == "tap":
            await_tap(self.lab, "n1")
        wire = self.tap("sw", "port-n1")
        self.lab.tcp_transfer("podA", "podC", C, MIB)
        return wire, self.sent_packet(wire)

    def test_s3_what_the_peer_refutes_changes_nothing(self) -> None:
        """The stranger even knows a packet: the peer answers to a probe as large as it."""
        for mode, (_, overhead) in MODES.items():
            for uplink in ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    wire, known = self.carried(mode, uplink)
                    far = self.tap("n3", "eth0")
                    self.forge(known, 600)
                    self.forge(known, 100, quote=28)
                    wait_until(lambda: self.echoes(far), 3, "a probe that arrives")
                    self.lab.tcp_transfer("podA", "podC", C, MIB)
                    self.assertEqual(self.route_mtu(), 1500 - overhead)
                    self.assertEqual(self.pod_mtu(), 1500 - overhead)
                    far.close()
                    wire.close()

    def test_s3_what_was_not_sent_is_not_even_probed(self) -> None:
        n1, n2, n3 = (ADDRESSES[node] for node in ("n1", "n2", "n3"))
        # Each mode has its own number for the report that is probed, so that what it is about shows in the log.
        for mode, good in (("ipip", 690), ("vxlan", 691)):
            self.restart_idle(mode)
            wire = self.tap("sw", "port-n1")
            self.lab.ping("podA", C, "-s", "1000")
            sent = self.sent_packet(wire)
            other = "vxlan" if mode == "ipip" else "ipip"
            sport = struct.unpack("!H", sent[20:22])[0]
            cases = {
                "larger than what was sent": (self.ours(mode, n1, n3, sport), 700, {}),
                "unknown peer": (self.ours(mode, n1, "198.51.100.77", sport), 700, {}),
                "not from us": (self.ours(mode, n2, n3, sport), 700, {}),
                "nothing was sent to that peer": (self.ours(mode, n1, n2, sport), 700, {}),
                "the other mode": (self.ours(other, n1, n3, sport), 700, {}),
                "no MTU": (sent, 0, {}),
                "an impossible MTU": (sent, 67, {}),
                "a short quote": (sent, 700, {"quote": 27}),
                "another length": (
                    sent[:24] + b"\x01" + sent[25:] if mode == "vxlan" else sent[:22] + sent[23:],
                    700,
                    {},
                ),
            }
            if mode == "vxlan":
                cases["unknown port"] = (sent[:20] + struct.pack("!H", sport ^ 1) + sent[22:], 700, {})
                cases["unknown target port"] = (sent[:22] + b"\0\x35" + sent[24:], 700, {})
            for quoted, mtu, more in cases.values():
                self.forge(quoted, mtu, **more)
            # Behind all these one that is probed: the others have been judged by then. After a probe for one of
            # them it would be passed over.
            self.forge(sent, good)
            wait_until(lambda: str(good) in self.refuted(), 3, f"a probe for none but the last of {list(cases)}")
            self.assertEqual(self.refuted(), [str(good)])
            self.assertEqual(len(self.echoes(wire)), 1)
            wire.close()

    def refuted(self) -> list[str]:
        """The MTUs of the reports that n1 has found to be wrong since its start."""
        return re.findall(r"a report of (\d+) was wrong", self.lab.daemons["n1"].log().split("ready;")[-1])

    def test_s3_source_ports_are_not_predictable(self) -> None:
        """256 of 16384, and one for what leaves in fragments, others at each start."""
        seen = []
        for _ in range(2):
            self.restart_idle("vxlan", tunnel={"uplink": "socket"})
            said = self.lab.exec("n1", "ss", "-Hnulp", f"src {ADDRESSES['n1']} and sport >= :49152").stdout
            seen.append({int(line.split()[3].rsplit(":", 1)[1]) for line in said.splitlines()})
        self.assertEqual([len(ports) for ports in seen], [257, 257])
        self.assertLess(len(seen[0] & seen[1]), 64)
        self.assertGreater(max(seen[0]) - min(seen[0]), 8192)

    def test_s3_where_nobody_answers_the_third_report_holds_for_a_short_time(self) -> None:
        rules = "table ip deaf { chain in { type filter hook input priority 0; icmp type echo-request drop; }; }"
        self.lab.exec("n3", "nft", rules)
        self.addCleanup(self.lab.exec, "n3", "nft", "delete table ip deaf")
        for mode, (_, overhead) in MODES.items():
            for uplink in ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    wire, known = self.carried(mode, uplink)

                    def believed() -> bool:
                        self.lab.ping("podA", C, "-s", 1500 - overhead - 28, "-M", "dont", count=1)
                        self.forge(known, 600)
                        return bool(self.route_mtu() == FLOOR - overhead)

                    wait_until(believed, 15, "a report that is believed")
                    # Three trials of two probes each.
                    self.assertEqual(len(self.echoes(wire)), 6)
                    # As small as paths are believed to be, and nothing is lost.
                    self.lab.tcp_transfer("podA", "podC", C, MIB)
                    self.assertEqual(self.route_mtu(), FLOOR - overhead)
                    wire.close()

    def ours(self, mode: str, source: str, target: str, sport: int) -> Any:
        if mode == "ipip":
            return bytes(outer("ipip", b"\x45\0\x05\xc8" + bytes(1476), source=source, target=target))
        return bytes(IP(src=source, dst=target, flags="DF") / UDP(sport=sport, dport=VXLAN_PORT) / Raw(bytes(1472)))
