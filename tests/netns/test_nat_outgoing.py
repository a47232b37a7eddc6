"""`nat_outgoing`: what leaves the cluster from a pod has the node's address, and nothing else has."""

import bootstrap

import contextlib
import os
import socket
import time
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from rootless import AS_USER, NO_RIGHTS, OPEN_TUN, USER, hand_over, prepare_tun
from shared import METRICS, SharedLab
from underlay6 import A6, ADDRESSES6, B6, SixLab, pools, subnets
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B = pod_address("n1"), pod_address("n2")
OUT, OUT6 = "192.0.2.66", "2001:db8::66"
NEIGHBOUR = "10.244.11.2"
BESIDE, BESIDE_SUBNET = "172.16.2.2", "172.16.2.0/24"
TABLE = "inet underpass-up0"
FOREIGN = """
table ip foreign {
    set kept { type ipv4_addr; elements = { 203.0.113.7 } }
    chain post { type nat hook postrouting priority 110; policy accept; ip saddr @kept masquerade random; }
}
table inet underpass-up1 {
    chain other { type filter hook forward priority 5; policy accept; accept; }
}
"""


def natted(mode: str, on: bool = True) -> list[Any]:
    """Pools of both families."""
    return [(*pool, on) for pool in pools(mode)]


class Nat(SixLab):
    """podA on n1, podB on n2, a second pod on n1, and a host outside of the cluster that has routes to the pods."""

    underlay = "both"

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        lab = cls.lab
        lab.add_host("out", f"{OUT}/24")
        lab.ip("out", f"address add {OUT6}/64 dev eth0 nodad")
        for node in ("n1", "n2"):
            lab.ip("out", f"route add {subnet(node)} via {ADDRESSES[node]}")
            lab.ip("out", f"route add fd00:244:{node[1:]}::/64 via {ADDRESSES6[node]}")
        lab.add_namespace("podA2")
        lab.link("n1", "pod1", "podA2", "eth0")
        lab.ip("n1", "address add 10.244.11.1/24 dev pod1")
        lab.ip("podA2", f"address add {NEIGHBOUR}/24 dev eth0", "route add default via 10.244.11.1")
        # Pods of n2 that are in no pool.
        lab.ip("podB", f"address add {BESIDE}/32 dev lo")
        lab.ip("n2", f"route add {BESIDE_SUBNET} via {B}")

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        more = {"n1": "10.244.11.0/24", "n2": BESIDE_SUBNET}
        other = "n2" if node == "n1" else "n1"
        about = (ADDRESSES[other], [*subnets(other), more[other]], {"address6": ADDRESSES6[other]})
        here = {
            "local": [*subnets(node), more[node]],
            "peers": {other: about},
            "pools": natted(cls.mode),
            # Answers from a node's own IPv6 address.
            "local_keys": {"sends_for": [f"{ADDRESSES6[node]}/128"]},
        }
        return super().start(node, **here | config)

    # --- traffic ----------------------------------------------------------------------------------

    def seen(self, source: str, target: str, address: str) -> set[str]:
        """The sources that a namespace sees of ICMP, UDP and TCP from another one, each with its answer."""
        return {
            self.by_ping(source, target, address),
            self.by_socket(source, target, address, socket.SOCK_DGRAM),
            self.by_socket(source, target, address, socket.SOCK_STREAM),
        }

    def by_ping(self, source: str, target: str, address: str) -> str:
        tap = self.tap(target, "eth0")
        self.assertEqual(self.lab.ping(source, address, count=2), 2, f"{source} {address}")

        def request(packet: Any) -> bool:
            to_it = (IPv6 in packet and packet[IPv6].dst == address) or (IP in packet and packet[IP].dst == address)
            return to_it and (ICMPv6EchoRequest in packet or (ICMP in packet and packet[ICMP].type == 8))

        # A node sees its packets before they are taken out of the tunnel as well, but not as requests to it.
        sources = {packet[IPv6 if IPv6 in packet else IP].src for packet in tap.wait(2, request)}
        (seen,) = sources
        return str(seen)

    def by_socket(self, source: str, target: str, address: str, kind: int, port: int = 0) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server, client = self.lab.socket(target, family, kind), self.lab.socket(source, family, kind)
        with server, client, contextlib.ExitStack() as open_until_then:
            for end in (server, client):
                end.settimeout(5)
            server.bind((address, port))
            if kind == socket.SOCK_STREAM:
                server.listen()
            client.connect(server.getsockname()[:2])
            if kind == socket.SOCK_STREAM:
                accepted, sender = server.accept()
                open_until_then.enter_context(accepted)
                accepted.settimeout(5)
            client.send(b"question")
            if kind == socket.SOCK_STREAM:
                self.assertEqual(accepted.recv(100), b"question")
                accepted.send(b"answer")
            else:
                question, sender = server.recvfrom(100)
                self.assertEqual(question, b"question")
                server.sendto(b"answer", sender)
            self.assertEqual(client.recv(100), b"answer")
            return str(sender[0])

    def assertLeavesAs(self, address: str, address6: str | None = None) -> None:
        """The host outside sees podA with these addresses."""
        self.assertEqual(self.seen("podA", "out", OUT), {address})
        if address6:
            self.assertEqual(self.seen("podA", "out", OUT6), {address6})

    # --- nftables ---------------------------------------------------------------------------------

    def table(self, handles: bool = False) -> str:
        """The daemon's table on n1 as nft shows it; nothing where there is none."""
        words = ["-a"] if handles else []
        return self.lab.exec("n1", "nft", *words, f"list table {TABLE}", check=False).stdout

    def await_table(self, there: bool = True) -> None:
        wait_until(lambda: bool(self.table()) == there, 5, f"the table: {there}")


class Masquerading(Nat):
    def test_what_leaves_the_cluster_has_the_address_of_the_node(self) -> None:
        wire = self.tap("out", "eth0")
        self.assertLeavesAs(ADDRESSES["n1"], ADDRESSES6["n1"])
        self.assertEqual(self.seen("podA2", "out", OUT), {ADDRESSES["n1"]})
        self.assertEqual(self.seen("podB", "out", OUT6), {ADDRESSES6["n2"]})
        sources = set()
        for packet in map(Ether, wire.incoming()):
            sources |= {packet[kind].src for kind in (IP, IPv6) if kind in packet}
        self.assertFalse([source for source in sources if source.startswith(("10.244.", "fd00:244:"))], sources)
        # What comes from outside and is answered keeps its address: only who speaks first gets another one.
        self.assertEqual(self.seen("out", "podA", A), {OUT})
        self.assertEqual(self.seen("out", "podA", A6), {OUT6})
        self.assertEqual(self.missing(), [])

    def test_pods_among_themselves_keep_their_addresses(self) -> None:
        self.addCleanup(self.restart)
        for mode in ("ipip", "vxlan", "direct"):
            for packet_socket in ("auto", "off") if mode == "direct" else ("auto",):
                # Bare IPv6 packets leave by the packet socket alone.
                targets = ((B, A), (B6, A6)) if packet_socket == "auto" else ((B, A),)
                with self.subTest(mode, packet_socket=packet_socket):
                    self.restart(pools=natted(mode), tunnel={"packet_socket": packet_socket})
                    self.await_table()
                    for address, _ in targets:
                        wait_until(lambda: self.lab.ping("podA", address, "-W", "0.3", count=1) == 1, 5, mode)
                    for address, own in targets:
                        self.assertEqual(self.seen("podA", "podB", address), {own})
                    self.assertEqual(self.seen("podB", "podA", A), {B})
                    # By no pool, which is direct.
                    self.assertEqual(self.seen("podA", "podB", BESIDE), {A})
                    self.assertEqual(self.seen("podA2", "podB", B), {NEIGHBOUR})
                    # On one node.
                    self.assertEqual(self.seen("podA", "podA2", NEIGHBOUR), {A})
                    self.assertEqual(self.seen("podA2", "podA", A), {NEIGHBOUR})
                    self.assertLeavesAs(ADDRESSES["n1"])

    def test_nodes_are_reached_with_and_without(self) -> None:
        self.addCleanup(self.restart)
        for on, expected, expected6 in ((True, ADDRESSES["n1"], ADDRESSES6["n1"]), (False, A, A6)):
            with self.subTest(on):
                self.restart(pools=natted("vxlan", on))
                self.await_table(on)
                self.assertEqual(self.seen("podA", "n2", ADDRESSES["n2"]), {expected})
                self.assertEqual(self.seen("podA", "n2", ADDRESSES6["n2"]), {expected6})
                # Its own node is no way out.
                self.assertEqual(self.by_socket("podA", "n1", ADDRESSES["n1"], socket.SOCK_DGRAM), A)
                self.assertLeavesAs(expected, expected6)

    def test_tunnel_packets_of_pods_do_not_speak_for_the_node(self) -> None:
        """n2 takes what comes from n1's address."""
        wire = self.tap("n2", "eth0")
        outer = IP(src=A, dst=ADDRESSES["n2"], ttl=64)
        forged = IP(src="10.244.1.77", dst=B) / UDP(sport=7, dport=9) / b"forged"
        sink = self.tap("podB", "eth0")
        vxlan = bytes.fromhex("0800000000100000") + bytes(Ether(dst="66:00:00:00:00:01", type=0x0800) / forged)
        with self.lab.expect_drops("n2", unknown_peer=2):
            self.send_from_pod([outer / UDP(sport=50000, dport=4789) / vxlan, outer / forged])
        sources = [packet[IP].src for packet in map(Ether, wire.incoming()) if IP in packet]
        self.assertEqual(sources.count(A), 2, sources)
        self.assertEqual([frame for frame in sink.incoming() if b"forged" in frame], [])


class Table(Nat):
    """The table of n1, and what others do to it."""

    daemons = ("n1",)

    def tearDown(self) -> None:
        super().tearDown()
        self.restart()
        self.await_table()

    def test_what_others_do_to_it_is_mended(self) -> None:
        self.lab.exec("n1", "nft", "-f", "-", input=FOREIGN)
        self.addCleanup(self.lab.exec, "n1", "nft", "delete table ip foreign; delete table inet underpass-up1")
        good = self.table()
        foreign = self.foreign()
        for change in (
            f"delete table {TABLE}",
            f"insert rule {TABLE} postrouting accept",
            f"add rule {TABLE} postrouting ip saddr 10.0.0.0/8 masquerade",
            f"flush chain {TABLE} postrouting",
            f"add chain {TABLE} more",
            f"add set {TABLE} more {{ type ipv4_addr; }}",
        ):
            with self.subTest(change):
                self.lab.exec("n1", "nft", change)
                self.assertNotEqual(self.table(), good)
                wait_until(lambda: self.table() == good, 5, "the table as it was")
                self.assertLeavesAs(ADDRESSES["n1"])
        self.assertEqual(self.foreign(), foreign)
        self.assertEqual(self.missing(), [])
        # And what is as it should be stays as it is, with the numbers that the kernel gave its parts.
        before = self.table(handles=True)
        time.sleep(3)
        self.assertEqual(self.table(handles=True), before)

    def foreign(self) -> str:
        """The tables of others, with the numbers that the kernel gave their parts."""
        tables = ("ip foreign", "inet underpass-up1")
        return "".join(self.lab.exec("n1", "nft", "-a", f"list table {table}").stdout for table in tables)

    def test_a_reload_turns_it_off_and_on(self) -> None:
        daemon = self.lab.daemons["n1"]
        file = self.lab.dir / "n1.toml"
        on = file.read_text(encoding="utf-8")
        off = on.replace("nat_outgoing = true", "nat_outgoing = false")
        for text, there, expected in ((off, False, A), (on, True, ADDRESSES["n1"])) * 2:
            file.write_text(text, encoding="utf-8")
            daemon.command("reload")
            self.await_table(there)
            self.assertLeavesAs(expected)
            self.assertEqual(self.missing(), [])
        # One pool of two.
        file.write_text(on.replace("nat_outgoing = true", "nat_outgoing = false", 1), encoding="utf-8")
        daemon.command("reload")
        wait_until(lambda: "ip saddr" not in self.table(), 5, "no word of IPv4")
        self.assertLeavesAs(A, ADDRESSES6["n1"])

    def test_an_end_removes_it_and_a_start_what_was_left(self) -> None:
        self.stop("n1")
        self.assertEqual(self.table(), "")
        self.assertNotIn("underpass", self.lab.exec("n1", "nft", "list", "tables").stdout)
        self.start("n1")
        self.await_table()
        self.kill("n1")
        self.assertNotEqual(self.table(), "")
        self.start("n1", pools=natted("vxlan", on=False))
        self.await_table(there=False)

    def test_without_the_program_it_is_off_and_shown(self) -> None:
        self.start("n1", command=["env", f"PATH={self.lab.dir}", binary()])
        self.start("n2")
        self.addCleanup(self.stop, "n2")
        self.assertTrue(self.shows("without this node's address.*no program `nft` in PATH"), self.missing())
        self.assertLeavesAs(A)
        self.assertEqual(self.seen("podA", "podB", B), {A})
        # What is shown helps.
        (command,) = self.missing("command")
        self.lab.exec("n1", "sh", "-c", command)
        self.assertLeavesAs(ADDRESSES["n1"], ADDRESSES6["n1"])
        self.assertEqual(self.seen("podA", "podB", B), {A})

    def test_a_user_with_capabilities_may(self) -> None:
        """As a service manager starts a daemon that is not root's."""
        self.stop("n1")
        program = hand_over(self.lab)
        rights = ("--inh-caps=-all,+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw")
        try:
            self.start("n1", command=[*OPEN_TUN, *AS_USER, *rights, program])
            self.await_table()
            self.assertLeavesAs(ADDRESSES["n1"], ADDRESSES6["n1"])
            self.assertEqual(self.missing(), [])
        finally:
            self.stop("n1")
            os.chown(self.lab.dir, 0, 0)
        self.assertEqual(self.table(), "")


class Unprivileged(SharedLab):
    """A prepared TUN and no right at all."""

    daemons = ()

    def test_it_is_off_and_shown(self) -> None:
        program = hand_over(self.lab)
        for node in ("n1", "n2"):
            prepare_tun(self.lab, node)
            pool = ("10.244.0.0/16", "Never", "Always", True)
            text = self.lab.config(node, pools=[pool]) + METRICS
            self.lab.start_daemon(node, text, command=[*NO_RIGHTS, program])
        wait_until(lambda: self.shows("nat_outgoing"), 5, "a word about it")
        self.assertEqual(self.lab.ping("podA", B), 3)
        (command,) = [command for command in self.missing("command") if command.startswith("nft")]
        self.lab.exec("n1", "sh", "-c", command)
        self.lab.add_host("out", f"{OUT}/24")
        tap = self.tap("out", "eth0")
        self.assertEqual(self.lab.ping("podA", OUT, count=1), 1)
        (request,) = tap.wait(1, lambda packet: ICMP in packet)
        self.assertEqual((request[IP].src, os.stat(self.lab.dir).st_uid), (ADDRESSES["n1"], USER))
        self.assertEqual(self.lab.ping("podA", B), 3)
