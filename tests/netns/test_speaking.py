"""Who may speak for whom: nodes for themselves and for listed networks, nothing from the underlay for this host."""

import bootstrap

import socket
from typing import Any

from scapy.layers.inet import IP, UDP

from fast import MODES, listen
from shared import SINK_PORT, SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B = pod_address("n1"), pod_address("n2")
N1, N2 = ADDRESSES["n1"], ADDRESSES["n2"]


class OurHost(SilentPeer):
    """S2: n1 has addresses that its configuration does not name; n2 is scapy."""

    config = SilentPeer.config | {"node_keys": {"external_nodes": ["192.0.2.64/26"]}}
    EXTERNAL = "192.0.2.77"

    @classmethod
    def prepare(cls) -> None:
        cls.lab.ip("n1", "link add docker0 type bridge", "link set docker0 up", "address add 172.17.0.1/16 dev docker0")

    def test_no_packet_speaks_for_an_address_of_this_host(self) -> None:
        for form in FORMATS:
            for sender in (ADDRESSES["n2"], self.EXTERNAL):
                with self.subTest(form, sender=sender):
                    sources = ("172.17.0.1", N1, "10.244.1.0", "10.244.1.1")
                    packets = [outer(form, inner(source=source), source=sender) for source in sources]
                    self.refused(form, packets, spoofed_source=len(packets))
            self.accepted(form, [outer(form, inner(source="172.17.0.2"), source=self.EXTERNAL)])

    def test_addresses_that_come_and_go(self) -> None:
        packet = outer("ipip", inner(source="203.0.113.9"), source=self.EXTERNAL)
        self.accepted("ipip", [packet])
        self.lab.ip("n1", "address add 203.0.113.9/32 dev docker0")
        wait_until(lambda: self.is_refused(packet), 5, "an address that came")
        self.lab.ip("n1", "address del 203.0.113.9/32 dev docker0")
        wait_until(lambda: not self.is_refused(packet), 5, "an address that went")

    def test_an_address_inside_the_subnet_of_a_peer(self) -> None:
        self.accepted("vxlan", [outer("vxlan", inner(source="10.244.2.9"))])
        self.lab.ip("n1", "address add 10.244.2.9/32 dev docker0")
        packet = outer("vxlan", inner(source="10.244.2.9"))
        wait_until(lambda: self.is_refused(packet), 5, "an address that came")
        self.accepted("vxlan", [outer("vxlan", inner(source=B))])
        self.lab.ip("n1", "address del 10.244.2.9/32 dev docker0")

    def is_refused(self, packet: Any) -> bool:
        """Whether it is dropped; it is accounted for either way."""
        before = self.lab.drops("n1")["spoofed_source"]
        self.batch("ipip", [packet], silent=False)
        return bool(self.lab.drops("n1")["spoofed_source"] > before)


class Listed(SilentPeer):
    """P3, P10: what a peer may send beside its pods, by the configuration and by the API."""

    config = SilentPeer.config | {
        "peers": {
            "n2": (N2, [subnet("n2")], {"sends_for": ["10.8.0.0/24"], "also_from": ["192.0.2.12"]}),
            "n3": (ADDRESSES["n3"], [subnet("n3")]),
        }
    }

    def test_a_peer_speaks_for_itself_and_what_is_listed(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                for sender in (N2, "192.0.2.12"):
                    sources = (B, N2, "192.0.2.12", "10.8.0.7")
                    self.accepted(form, [outer(form, inner(source=source), source=sender) for source in sources])
                wrong = [(N2, "10.8.1.7"), (N2, ADDRESSES["n3"]), (ADDRESSES["n3"], "10.8.0.7"), (N2, "192.0.2.13")]
                packets = [outer(form, inner(source=source), source=sender) for sender, source in wrong]
                self.refused(form, packets, spoofed_source=len(packets))
                self.refused(form, [outer(form, inner(), source="192.0.2.13")], unknown_peer=1)

    def test_by_reload_and_by_the_command(self) -> None:
        daemon = self.lab.daemons["n1"]
        packet = outer("ipip", inner(source="10.8.9.7"), source="192.0.2.14")
        self.refused("ipip", [packet], unknown_peer=1)
        daemon.command("peer", "add", "n4", "192.0.2.4", "--also-from", "192.0.2.14", "--sends-for", "10.8.9.0/24")
        self.accepted("ipip", [packet])
        listed = {peer["name"]: peer for peer in daemon.json("peer", "list")}
        self.assertEqual((listed["n4"]["also_from"], listed["n4"]["sends_for"]), (["192.0.2.14"], ["10.8.9.0/24"]))
        self.assertIn("10.8.9.0/24", daemon.command("peer", "list").stdout)
        daemon.command("peer", "del", "n4")
        self.refused("ipip", [packet], unknown_peer=1)
        refused = daemon.command("peer", "add", "n4", "192.0.2.4", "--sends-for", "10.244.1.0/25", check=False)
        self.assertIn("10.244.1.0/25 lies inside the route 10.244.1.0/24", refused.stderr)
        file = self.lab.dir / "n1.toml"
        text = file.read_text(encoding="utf-8")
        self.addCleanup(file.write_text, text)
        file.write_text(text.replace('"192.0.2.12"', '"192.0.2.15"').replace("10.8.0.0/24", "10.8.5.0/24"))
        daemon.command("reload")
        self.accepted("ipip", [outer("ipip", inner(source="10.8.5.7"), source="192.0.2.15")])
        self.refused("ipip", [outer("ipip", inner(source="10.8.0.7"))], spoofed_source=1)
        self.refused("ipip", [outer("ipip", inner(), source="192.0.2.12")], unknown_peer=1)
        file.write_text(text)
        daemon.command("reload")


class Honest(SharedLab):
    """P3: what kernel tunnels carry, between two daemons, end to end by real sockets."""

    @classmethod
    def prepare(cls) -> None:
        # Clients of n1, as behind a VPN server; the way back to them is not the tunnel's.
        cls.lab.add_namespace("client")
        cls.lab.link("n1", "vpn0", "client", "eth0")
        cls.lab.ip("n1", "address add 10.8.0.1/24 dev vpn0")
        cls.lab.ip("client", "address add 10.8.0.7/24 dev eth0", "route add default via 10.8.0.1")
        cls.lab.ip("n2", f"route add 10.8.0.0/24 via {N1}")

    def exchange(self, source: str, address: str, target: str, at: str) -> Any:
        """A UDP question and its answer between sockets of two namespaces; returns who seems to have asked."""
        with self.lab.socket(target) as server, self.lab.socket(source) as client:
            server.bind((at, 7777))
            client.bind((address, 0))
            for end in (server, client):
                end.settimeout(3)
            client.sendto(b"question", (at, 7777))
            question, asker = server.recvfrom(100)
            server.sendto(b"answer", asker)
            self.assertEqual((question, client.recvfrom(100)[0]), (b"question", b"answer"))
            return asker[0]

    def test_between_pods_and_the_addresses_of_nodes(self) -> None:
        for mode in FORMATS:
            self.restart(**MODES[mode])
            with self.subTest(mode, what="pod to another node, not masqueraded"):
                self.assertEqual(self.exchange("podA", A, "n2", N2), A)
            with self.subTest(mode, what="a socket bound to the node's address"):
                with self.moves("n1", device_rx=1, underlay_tx=1), self.moves("n2", underlay_rx=1, device_tx=1):
                    self.assertEqual(self.exchange("n1", N1, "podB", B), N1)
            with self.subTest(mode, what="a host-network pod that connects by TCP"):
                self.tcp("n1", N1, "podB", B)
                self.tcp("podA", A, "n2", N2)

    def tcp(self, source: str, address: str, target: str, at: str) -> None:
        with listen(self.lab, target, at, 7778) as server:
            server.settimeout(3)
            with self.lab.socket(source, kind=socket.SOCK_STREAM) as client:
                client.settimeout(3)
                client.bind((address, 0))
                client.connect((at, 7778))
                accepted, asker = server.accept()
                with accepted:
                    accepted.sendall(bytes(100_000))
                    received = 0
                    while received < 100_000:
                        received += len(client.recv(1 << 16))
                self.assertEqual(asker[0], address)

    def test_clients_routed_through_a_node_by_opting_in(self) -> None:
        listed = {"n2": (N2, [subnet("n2")])}
        here = {"peers": listed, "local_keys": {"sends_for": ["10.8.0.0/24"]}}
        there = {"peers": {"n1": (N1, [subnet("n1")], {"sends_for": ["10.8.0.0/24"]})}}
        self.addCleanup(self.restart)
        self.restart()
        sink = self.sink("podB")
        with self.moves("n1", device_rx=1, spoofed_source=1):
            self.from_client()
        self.start("n1", **here)
        with self.moves("n1", device_rx=1, underlay_tx=1), self.moves("n2", underlay_rx=1, spoofed_source=1):
            self.from_client()
        self.start("n2", **there)
        with self.moves("n2", underlay_rx=1, device_tx=1):
            self.from_client()
        self.assertEqual(sink.recvfrom(100)[1][0], "10.8.0.7")
        self.assertEqual(self.exchange("client", "10.8.0.7", "podB", B), "10.8.0.7")

    def from_client(self) -> None:
        with self.lab.socket("client") as client:
            client.sendto(b"from afar", (B, SINK_PORT))

    def test_a_pod_does_not_speak_for_its_node(self) -> None:
        """The kernel drops what comes from a pod with an address of the host; others the daemon drops."""
        self.restart()
        sink = self.sink("podB")
        with self.moves("n1"):
            self.send_from_pod([IP(src=N1, dst=B) / UDP(sport=1, dport=SINK_PORT) / b"forged"])
        with self.moves("n1", device_rx=1, spoofed_source=1):
            self.send_from_pod([IP(src=N2, dst=B) / UDP(sport=1, dport=SINK_PORT) / b"forged"])
        sink.setblocking(False)
        self.assertRaises(BlockingIOError, sink.recv, 100)
