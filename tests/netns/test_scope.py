"""Who may send, from where, to whom: S1 to S6, crossed routes, and no open relay. n2 is scapy only."""

import bootstrap

from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
STRANGER = "192.0.2.99"


class Inbound(SilentPeer):
    def test_s1_unknown_outer_source(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                self.refused(form, [outer(form, inner(), source=STRANGER)], unknown_peer=1)
                # What is wrong inside does not matter then: one packet, one reason.
                self.refused(form, [outer(form, b"", source=STRANGER)], unknown_peer=1)

    def test_s2_inner_source_of_another_node(self) -> None:
        nodes = [ADDRESSES["n3"], ADDRESSES["n1"]]
        sources = [C, "10.244.1.9", A, "10.244.1.1", *nodes, "8.8.8.8", "127.0.0.1", "0.0.0.0"]
        for form in FORMATS:
            with self.subTest(form):
                packets = [outer(form, inner(source=source)) for source in sources]
                self.refused(form, packets, spoofed_source=len(sources))

    def test_s2_a_node_that_speaks_for_its_neighbour(self) -> None:
        # n3 is a peer and 10.244.2.2 is n2's: each only for itself.
        for form in FORMATS:
            with self.subTest(form):
                self.refused(form, [outer(form, inner(), source=ADDRESSES["n3"])], spoofed_source=1)
                self.accepted(form, [outer(form, inner(source=C), source=ADDRESSES["n3"])])

    def test_s4_inner_destination_not_ours(self) -> None:
        targets = [
            *(C, B, "10.244.9.9", "8.8.8.8", ADDRESSES["n1"], ADDRESSES["n2"], "127.0.0.1", "224.0.0.1"),
            *("239.1.2.3", "255.255.255.255", "169.254.0.1", "169.254.169.254", "0.0.0.0", "192.0.2.255"),
        ]
        for form in FORMATS:
            with self.subTest(form):
                packets = [outer(form, inner(target=target)) for target in targets]
                self.refused(form, packets, not_local=len(targets))

    def test_s4_our_own_host_address_in_the_pod_subnet_is_ours(self) -> None:
        # The node's end of the pod's link and the TUN's own address: pods elsewhere may talk to them.
        with self.lab.socket("n1") as host:
            host.bind(("0.0.0.0", 9))
            host.settimeout(2)
            for form in FORMATS:
                for target in ("10.244.1.1", "10.244.1.0"):
                    with self.subTest(form=form, target=target), self.moves("n1", underlay_rx=1, device_tx=1):
                        self.inject([outer(form, inner(target=target, payload=form.encode()))])
                        self.assertEqual(host.recvfrom(100), (form.encode(), (B, 1000)))

    def test_s5_outer_destination_not_ours(self) -> None:
        # The last is another address of this node; for it the kernel answers that nobody listens.
        targets = ["192.0.2.255", "255.255.255.255", "224.0.0.1", "127.0.0.1", "10.244.1.1"]
        for form in FORMATS:
            for target in targets:
                with self.subTest(form=form, target=target):
                    # The kernel never hands these to a socket that is bound to the node address.
                    self.refused(form, [outer(form, inner(), target=target)], reach=0, silent=target != targets[-1])


class Outbound(SharedLab):
    def send(self, source: str, target: str = B) -> None:
        self.send_from_pod([IP(src=source, dst=target) / UDP(sport=1, dport=9) / Raw(b"s3")])

    def test_s3_pod_spoof(self) -> None:
        wire = self.tap("sw", "port-n1")
        for source in ("10.244.2.9", "8.8.8.8", C, B, ADDRESSES["n2"], "203.0.113.1"):
            with self.subTest(source), self.moves("n1", device_rx=1, spoofed_source=1):
                self.send(source)
        self.assertEqual(wire.incoming(), [])
        self.sink("podB")
        with self.moves("n1", device_rx=1, underlay_tx=1), self.moves("n2", underlay_rx=1, device_tx=1):
            self.send(A)

    def test_s6_tunnel_packets_made_by_a_pod(self) -> None:
        inside = self.tap("podB", "eth0")
        for form in FORMATS:
            forged = outer(form, inner(source=A, target=B), source=A, target=ADDRESSES["n2"])
            with self.subTest(form), self.moves("n2", underlay_rx=1, unknown_peer=1), self.moves("n1"):
                self.send_from_pod([forged])
        self.assertEqual([f for f in inside.incoming() if Ether(f).haslayer(UDP)], [])

    def test_s8_crossed_routes_end_at_the_second_node(self) -> None:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.start(node, peers={other: (ADDRESSES[other], [subnet(other), "10.244.9.0/24"])})
        self.addCleanup(self.restart)
        with self.moves("n1", device_rx=10, underlay_tx=10), self.moves("n2", underlay_rx=10, not_local=10):
            self.assertEqual(self.lab.ping("podA", "10.244.9.9", "-W", "0.1", count=10), 0)


class Loops(SharedLab):
    """S8: what would loop is refused before it can."""

    daemons = ()

    def check(self, **config: Any) -> Any:
        file = self.lab.dir / "loop.toml"
        file.write_text(self.lab.config("n1", **config), encoding="utf-8")
        result = self.lab.exec("n1", binary(), "check", file, check=False)
        self.assertEqual(result.returncode, 1, result.stdout)
        return result.stderr

    def test_a_node_address_inside_a_subnet(self) -> None:
        both = ["10.244.2.0/24", "192.0.2.0/29"]
        for config in (
            {"peers": {"n2": (ADDRESSES["n2"], both)}},
            {"peers": {"n2": ("10.244.2.7", ["10.244.2.0/24"])}},
        ):
            with self.subTest(config):
                self.assertRegex(self.check(**config), r"loop\.toml:\d+:\d+: .*(192\.0\.2|10\.244\.2\.7)")
