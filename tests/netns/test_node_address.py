"""`[node] address` by Calico's words: which address each chooses, and that it is followed while traffic runs."""

import bootstrap

import re
import time
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from shared import METRICS, SINK_PORT, SharedLab
from underpass_lab.api import status
from underpass_lab.command import wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")
OWN = ADDRESSES["n1"]
# From a change to the last packet with the old address.
CHANGE_S = 5.0


class Addressed(SharedLab):
    """n1 has its address by a rule."""

    daemons = ()

    def source(self, node: str = "n1") -> dict[str, Any]:
        """What n1 says of its rule; empty while it does not answer."""
        answer = status(self.lab.daemons[node].socket)
        sources = answer["sources"] if answer else []
        return next((dict(source) for source in sources if source["name"] == "node-address"), {})

    def chosen(self) -> str:
        """The address and the interface."""
        found = re.match(r"(\S+ on \S+): ", self.source().get("detail", ""))
        return found[1] if found else ""

    def text(self, **config: Any) -> str:
        """The file of n1."""
        return self.lab.config("n1", extra=METRICS, **config)

    def waits(self, rule: str, **config: Any) -> Daemon:
        """Starts a daemon that has no address yet."""
        self.stop("n1")
        file = self.lab.dir / "n1.toml"
        file.write_text(self.text(address=rule, **config), encoding="utf-8")
        daemon = Daemon(self.lab, "n1", file)
        self.lab.daemons["n1"] = daemon
        wait_until(lambda: "waiting for an address of this node" in daemon.log(), 10, "a line in the log")
        self.assertIsNone(daemon.process.poll())
        return daemon


class Words(Addressed):
    """Each word on a node with several interfaces.

    n1: eth0 192.0.2.1/24, 192.0.2.9/24 (secondary); docker0, caliX (passed over); eth1 198.18.0.1/24; eth2, which is
    down, 198.19.0.1/24; pod0 in the pod subnet."""

    @classmethod
    def prepare(cls) -> None:
        lab = cls.lab
        lab.ip("n1", "address add 192.0.2.9/24 dev eth0")
        for name in ("docker0", "cali1"):
            lab.ip("n1", f"link add {name} type bridge", f"link set {name} up")
        lab.ip("n1", "address add 172.17.0.1/16 dev docker0", "address add 172.18.0.1/16 dev cali1")
        lab.link("n1", "eth1", "sw", "port-n1b", offloads=False)
        lab.ip("sw", "link set port-n1b master br0")
        lab.ip("n1", "address add 198.18.0.1/24 dev eth1", "route add 203.0.113.0/24 via 198.18.0.254 dev eth1")
        lab.ip("n1", "link add eth2 type bridge", "address add 198.19.0.1/24 dev eth2")

    def test_each_word_chooses_as_documented(self) -> None:
        for rule, chosen in (
            ("auto", f"{OWN}/24 on eth0"),
            ("first-found", f"{OWN}/24 on eth0"),
            ("interface=eth[1-9]", "198.18.0.1/24 on eth1"),
            ("interface=^docker0$,^eth2$", "172.17.0.1/16 on docker0"),
            ("skip-interface=^eth0$", "198.18.0.1/24 on eth1"),
            ("cidr=192.0.2.8/29", "192.0.2.9/24 on eth0"),
            ("cidr=198.19.0.0/16,198.18.0.0/16", "198.18.0.1/24 on eth1"),
            ("can-reach=203.0.113.9", "198.18.0.1/24 on eth1"),
            ("can-reach=192.0.2.2", f"{OWN}/24 on eth0"),
        ):
            with self.subTest(rule):
                self.start("n1", address=rule)
                self.assertEqual(self.chosen(), chosen)
                source = self.source()
                self.assertEqual((source["style"], source["state"]), (rule.replace("auto", "first-found"), "following"))
                log = self.lab.daemons["n1"].log()
                address, interface = chosen.split(" on ")
                self.assertIn(f"node n1 at {address} on {interface} ({source['style']})", log)
                self.assertIn(f"the address of this node is {source['detail']}", log)

    def test_the_reason_names_what_was_passed_over(self) -> None:
        self.lab.ip("n1", "link set eth0 down")
        self.addCleanup(self.lab.ip, "n1", "link set eth0 up")
        self.start("n1", address="auto")
        self.assertEqual(self.chosen(), "198.18.0.1/24 on eth1")
        self.assertRegex(
            self.source()["detail"],
            r"lo is a loopback interface, .*eth0 is down, pod0 has 10.244.1.1/24, which lies in the pod subnet "
            r"10.244.1.0/24 of this node, .*docker0 is passed over \(docker\.\*\), cali1 is passed over \(cali\.\*\)",
        )
        self.assertRegex(self.lab.daemons["n1"].command("status").stdout, r"node-address \(first-found\), following\n")

    def test_without_an_address_it_waits_and_says_why(self) -> None:
        daemon = self.waits("interface=^eth2$")
        self.assertRegex(daemon.log(), "no interface has such an IPv4 address: .*eth2 is down")
        self.lab.ip("n1", "link set eth2 up")
        self.addCleanup(self.lab.ip, "n1", "link set eth2 down")
        daemon.wait_ready()
        self.assertEqual(self.chosen(), "198.19.0.1/24 on eth2")

    def test_a_signal_ends_the_wait(self) -> None:
        daemon = self.waits("cidr=198.51.100.0/24")
        self.assertEqual(daemon.stop(), 0)

    def test_a_reload_may_change_the_rule_but_not_the_address(self) -> None:
        self.start("n1", address=f"{OWN}/24")
        daemon = self.lab.daemons["n1"]
        file = self.lab.dir / "n1.toml"
        self.assertEqual(self.source(), {})
        file.write_text(self.text(address="interface=eth0"), encoding="utf-8")
        daemon.command("reload")
        wait_until(lambda: self.source().get("style") == "interface=eth0", 3, "the rule")
        file.write_text(self.text(address="interface=eth1"), encoding="utf-8")
        refused = daemon.command("reload", check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("`address` under [node] has changed, which takes a restart", refused.stderr)
        self.assertEqual(self.source()["style"], "interface=eth0")
        file.write_text(self.text(address=f"{OWN}/24"), encoding="utf-8")
        daemon.command("reload")
        wait_until(lambda: self.source() == {}, 3, "no rule")

    def tearDown(self) -> None:
        super().tearDown()
        self.stop("n1")


class Followed(Addressed):
    """The address changes while packets flow from podA to podB: what is on the wire has the new one."""

    NEW = "192.0.2.11"

    @classmethod
    def prepare(cls) -> None:
        cls.lab.link("n1", "eth1", "sw", "port-n1b", offloads=False)
        cls.lab.ip("sw", "link set port-n1b master br0")

    def setUp(self) -> None:
        self.lab.ip("n1", "address flush dev eth0", "address flush dev eth1", "link set eth0 up", "link set eth1 up")

    def tearDown(self) -> None:
        super().tearDown()
        self.stop("n1")
        self.stop("n2")

    def both(self, rule: str, **config: Any) -> None:
        """n1 by a rule, and an n2 that takes packets from either address, and answers to the first."""
        self.start("n1", address=rule, **config)
        more = {"also_from": [self.NEW, "192.0.2.12"]}
        self.start("n2", peers={"n1": (OWN, ["10.244.1.0/24"], more)}, **config)

    def flow(self) -> None:
        """Sends packets to podB for as long as the test runs."""
        self.sink("podB")
        words = (
            "python3",
            "-c",
            f"import socket, time\ns = socket.socket(2, 2)\nwhile True:\n"
            f" s.sendto(bytes(100), ('{B}', {SINK_PORT}))\n time.sleep(0.01)",
        )
        process = self.lab.popen("podA", *words)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

    def sources(self, wire: Any) -> list[str]:
        """The outer sources of IP-in-IP from n1 since the tap was drained, in order."""
        packets = [Ether(frame) for frame in wire.incoming() if frame[12:14] == b"\x08\x00" and frame[23] == 4]
        return [packet[IP].src for packet in packets]

    def becomes(self, address: str, wires: list[Any], begun: float) -> None:
        """What leaves n1 has this address within time, and nothing else does after that."""

        def seen() -> bool:
            return any(address in self.sources(wire) for wire in wires)

        wait_until(seen, CHANGE_S + 15, f"packets from {address}")
        self.assertLess(time.monotonic() - begun, CHANGE_S)
        time.sleep(max(0.0, begun + CHANGE_S - time.monotonic()))
        for wire in wires:
            wire.drain()
        time.sleep(0.5)
        self.assertEqual({source for wire in wires for source in self.sources(wire)}, {address})

    def test_another_address_replaces_it(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto")
        pid = self.lab.daemons["n1"].pid
        self.assertEqual(self.lab.ping("podA", B), 3)
        wire = self.tap("sw", "port-n1")
        self.flow()
        wait_until(lambda: OWN in self.sources(wire), 5, "packets from the first address")
        begun = time.monotonic()
        self.lab.ip("n1", f"address del {OWN}/24 dev eth0", f"address add {self.NEW}/24 dev eth0")
        self.becomes(self.NEW, [wire], begun)
        self.assertIsNone(self.lab.daemons["n1"].process.poll())
        self.assertEqual(self.lab.daemons["n1"].pid, pid)
        self.assertEqual(self.chosen(), f"{self.NEW}/24 on eth0")
        log = self.lab.daemons["n1"].log()
        self.assertIn("beginning anew: `address` under [node] is another one now", log)
        # And the other way, once n2 knows it.
        n2 = self.lab.daemons["n2"]
        n2.command("peer", "del", "n1")
        n2.command("peer", "add", "n1", self.NEW, "--subnet", "10.244.1.0/24")
        wait_until(lambda: self.lab.ping("podA", B, count=1) == 1, 5, "answers")
        self.lab.tcp_transfer("podB", "podA", A, 1 << 20)

    def test_a_renewal_changes_nothing(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto")
        for _ in range(5):
            self.lab.ip("n1", f"address del {OWN}/24 dev eth0", f"address add {OWN}/24 dev eth0")
            time.sleep(0.3)
        time.sleep(2)
        self.assertNotIn("beginning anew", self.lab.daemons["n1"].log().split("ready;")[-1])
        self.assertEqual(self.source()["state"], "following")
        self.assertEqual(self.lab.ping("podA", B), 3)

    def test_one_that_is_found_earlier_changes_nothing(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth1")
        self.both("first-found")
        self.assertEqual(self.chosen(), f"{OWN}/24 on eth1")
        self.lab.ip("n1", f"address add {self.NEW}/24 dev eth0")
        time.sleep(3)
        self.assertEqual(self.chosen(), f"{OWN}/24 on eth1")
        wires = [self.tap("sw", port) for port in ("port-n1", "port-n1b")]
        self.flow()
        wait_until(lambda: any(self.sources(wire) for wire in wires), 5, "packets")
        self.assertEqual({source for wire in wires for source in self.sources(wire)}, {OWN})
        # Only when its interface goes down.
        begun = time.monotonic()
        self.lab.ip("n1", "link set eth1 down")
        self.becomes(self.NEW, wires, begun)
        self.assertEqual(self.chosen(), f"{self.NEW}/24 on eth0")

    def test_the_same_address_on_another_interface(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto")
        self.assertEqual(self.lab.ping("podA", B), 3)
        self.lab.ip("n1", f"address del {OWN}/24 dev eth0", f"address add {OWN}/24 dev eth1")
        wait_until(lambda: self.chosen() == f"{OWN}/24 on eth1", 5, "the interface")
        wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic")
        self.assertNotIn("beginning anew", self.lab.daemons["n1"].log().split("ready;")[-1])

    def test_without_another_one_the_last_stays_and_that_is_told(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto")
        self.lab.ip("n1", f"address del {OWN}/24 dev eth0")
        wait_until(lambda: self.source().get("state") == "degraded", 5, "degraded")
        self.assertRegex(self.source()["reason"], rf"{OWN}/24 stays .*eth0 has none")
        self.assertRegex(self.lab.daemons["n1"].command("status").stdout, r"node-address .*degraded: ")
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        wait_until(lambda: self.source().get("state") == "following", 5, "following")
        self.assertNotIn("beginning anew", self.lab.daemons["n1"].log().split("ready;")[-1])
        wait_until(lambda: self.lab.ping("podA", B, "-W", "0.2", count=1) == 1, 5, "traffic")

    def test_the_way_to_a_destination_is_followed(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0", "address add 198.18.0.1/24 dev eth1")
        self.lab.ip("n1", "route add 203.0.113.0/24 via 192.0.2.254 dev eth0")
        self.start("n1", address="can-reach=203.0.113.9")
        self.assertEqual(self.chosen(), f"{OWN}/24 on eth0")
        self.lab.ip("n1", "route replace 203.0.113.0/24 via 198.18.0.254 dev eth1")
        wait_until(lambda: self.chosen() == "198.18.0.1/24 on eth1", CHANGE_S, "the other way's address")
        # Without a way it stays.
        self.lab.ip("n1", "route del 203.0.113.0/24")
        time.sleep(3)
        self.assertEqual(self.chosen(), "198.18.0.1/24 on eth1")

    def test_a_broken_file_meanwhile_does_not_matter(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto")
        (self.lab.dir / "n1.toml").write_text("[nod", encoding="utf-8")
        self.lab.ip("n1", f"address del {OWN}/24 dev eth0", f"address add {self.NEW}/24 dev eth0")
        wait_until(lambda: self.chosen() == f"{self.NEW}/24 on eth0", CHANGE_S, "the new address")

    def test_another_length_of_the_subnet_decides_cross_subnet(self) -> None:
        self.lab.ip("n1", f"address add {OWN}/24 dev eth0")
        self.both("auto", ipip="CrossSubnet")
        n1 = self.lab.daemons["n1"]
        self.assertEqual(n1.json("route", "get", B)["mode"], "direct")
        self.lab.ip("n1", f"address add {OWN}/32 dev eth0", f"address del {OWN}/24 dev eth0")
        self.lab.ip("n1", "route add 192.0.2.2 dev eth0")
        wait_until(lambda: self.chosen() == f"{OWN}/32 on eth0", CHANGE_S, "the new length")
        self.assertEqual(n1.json("route", "get", B)["mode"], "ipip")


class Families(Addressed):
    """IPv6 beside IPv4: a link-local address is never one, and one that comes later is taken up."""

    options = {"ipv6": True}
    multicast_reports = True

    def test_link_local_is_none_and_the_second_family_may_come_later(self) -> None:
        self.start("n1", node_keys={"address6": "auto"})
        self.assertEqual(self.source()["state"], "degraded")
        self.assertRegex(self.source()["reason"], r"eth0 has fe80::\S+, which cannot be a node's: \S+ is link-local")
        self.lab.ip("n1", "address add 2001:db8::1/64 dev eth0")
        wait_until(lambda: self.chosen() == "2001:db8::1/64 on eth0", CHANGE_S + 3, "the IPv6 address")
        self.assertEqual(self.source()["state"], "following")
        self.assertIn(f"node n1 at {OWN}/24 on eth0 (configured)", self.lab.daemons["n1"].log())
        self.assertIn("node n1 at 2001:db8::1/64 on eth0 (first-found)", self.lab.daemons["n1"].log())

    def test_ipv6_alone(self) -> None:
        self.lab.ip("n1", "address add 2001:db8:1::1/64 dev eth0 nodad")
        self.addCleanup(self.lab.ip, "n1", "address del 2001:db8:1::1/64 dev eth0")
        self.start("n1", own={"address6": "cidr=2001:db8:1::/48"}, peers={})
        self.assertEqual(self.chosen(), "2001:db8:1::1/64 on eth0")
