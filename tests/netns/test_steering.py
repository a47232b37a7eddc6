"""Which worker has a flow: the documented hash says so, for what leaves by the TUN and for its answers."""

import bootstrap

import functools
import pathlib
import socket
import struct
from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from shared import SINK_PORT, SharedLab
from tunnel import VNI, inner, outer, outer_vxlan
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import pod_address
from underpass_lab.vtep import vtep_mac

WORKERS = 4
VXLAN_MODE: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
A, B = pod_address("n1"), pod_address("n2")
FACTOR = 0x9E37_79B1
ETHERTYPES = {4: 0x0800, 6: 0x86DD}


def queue(source: str, target: str, ports: Any = (0, 0)) -> Any:
    """The hash of src/dataplane/steering/mod.rs."""
    words = struct.unpack(">8I", b"".join(ip_address(each).packed.rjust(16, b"\0") for each in (source, target)))
    mixed = 0
    for word in words:
        mixed ^= word
    mixed = mixed * FACTOR % (1 << 32)
    mixed = (mixed ^ mixed >> 16 ^ ports[0] ^ ports[1]) * FACTOR % (1 << 32)
    return (mixed >> 16) % WORKERS


class Steering(SharedLab):
    """Packets that n1's kernel sends into the TUN. n2 is silent, so nothing else moves."""

    topology = "TS"
    config = VXLAN_MODE | {"tunnel": {"workers": WORKERS}}

    @classmethod
    def prepare(cls) -> None:
        # The daemon tells the senders of what is for its own pods that it knows no way to them; on their
        # way to n2 these errors would pass the TUN too.
        cls.lab.ip("n1", "rule add iif up0 to 10.244.2.0/24 blackhole")

    def setUp(self) -> None:
        self.assertEqual(self.lab.status("n1")["offloads"]["steering"], "active")
        self.to_tun = self.lab.socket("n1", socket.AF_PACKET, socket.SOCK_DGRAM)
        self.addCleanup(self.to_tun.close)

    def moved(self, edge: str, direction: str, count: int, action: Any) -> Any:
        """How many packets each worker counts at an edge while `action` lets `count` of them pass."""
        counters = self.counters("n1")
        before = counters.by_worker(edge, direction)

        def moved() -> list[Any]:
            now = counters.by_worker(edge, direction)
            return [after - first for after, first in zip(now, before, strict=True)]

        action()
        wait_until(lambda: sum(moved()) >= count, 3, f"{count} packets at {edge} {direction}")
        return moved()

    def assertQueue(self, expected: Any, packets: Any) -> None:
        """All of these packets come out of this queue."""
        packets = [bytes(packet) for packet in packets]

        def send() -> None:
            for packet in packets:
                self.to_tun.sendto(packet, ("up0", ETHERTYPES.get(packet[0] >> 4, 0x0800)))

        moved = self.moved("device", "rx", len(packets), send)
        self.assertEqual(moved, [len(packets) if worker == expected else 0 for worker in range(WORKERS)])

    def test_both_ways_of_a_flow_have_the_queue_of_its_hash(self) -> None:
        used = set()
        for n in range(12):
            ends, ports = (A, f"10.244.2.{2 + n % 3}"), (40000 + n, 53 + 7 * n)
            for transport in (UDP, TCP):
                with self.subTest(ports=ports, transport=transport.__name__):
                    there = IP(src=ends[0], dst=ends[1]) / transport(sport=ports[0], dport=ports[1]) / b"there"
                    back = IP(src=ends[1], dst=ends[0]) / transport(sport=ports[1], dport=ports[0]) / b"back"
                    self.assertQueue(queue(*ends, ports), [there, there, back])
            used.add(queue(*ends, ports))
        self.assertGreater(len(used), 1)

    def test_without_ports_the_addresses_decide(self) -> None:
        for n in range(2, 8):
            to = f"10.244.2.{n}"
            with self.subTest(to=to):
                pieces = fragment(IP(src=A, dst=to, id=n) / UDP(sport=n, dport=9) / Raw(bytes(3000)), 1000)
                echo = IP(src=A, dst=to) / ICMP()
                short = IP(src=A, dst=to, proto=6) / b"\1\2"
                self.assertQueue(queue(A, to), [*pieces, echo, short])

    def test_header_options_do_not_hide_the_ports(self) -> None:
        for sport in range(1, 5):
            packet = IP(src=A, dst=B, options=[b"\1\1\1\1"]) / TCP(sport=sport, dport=80)
            self.assertQueue(queue(A, B, (sport, 80)), [packet])

    def test_ipv6(self) -> None:
        ends = "fd00:1::2", "fd00:2::9876:2"
        for port in range(1, 6):
            with self.subTest(port=port):
                there = IPv6(src=ends[0], dst=ends[1]) / TCP(sport=port, dport=443)
                back = IPv6(src=ends[1], dst=ends[0]) / UDP(sport=443, dport=port)
                self.assertQueue(queue(*ends, (port, 443)), [there, back])
        self.assertQueue(queue(*ends), [IPv6(src=ends[0], dst=ends[1], nh=44) / bytes(16)])

    def test_errors_have_the_queue_of_the_flow_that_they_quote(self) -> None:
        used = set()
        for port in range(3000, 3008):
            expected = queue(A, B, (port, 443))
            used.add(expected)
            ours = IP(src=A, dst=B, options=[b"\1\1\1\1"]) / TCP(sport=port, dport=443)
            theirs = IP(src=B, dst=A) / UDP(sport=443, dport=port) / b"back"
            for quoted in (ours, theirs):
                with self.subTest(port=port, quoted=quoted.summary()):
                    unreachable = IP(src=A, dst="10.244.2.99") / ICMP(type=3, code=3) / bytes(quoted)
                    expired = IP(src=A, dst="10.244.2.98") / ICMP(type=11) / bytes(quoted)[:28]
                    self.assertQueue(expected, [unreachable, expired])
        self.assertGreater(len(used), 1)

    def test_ipv6_errors_have_the_queue_of_the_flow_that_they_quote(self) -> None:
        ends = "fd00:1::2", "fd00:2::9876:2"
        for port in range(1, 6):
            quoted = bytes(IPv6(src=ends[1], dst=ends[0]) / UDP(sport=443, dport=port))
            outer_header = IPv6(src=ends[0], dst="fd00:2::77")
            unreachable = outer_header / ICMPv6DestUnreach(code=4) / Raw(quoted)
            too_big = outer_header / ICMPv6PacketTooBig(mtu=1280) / Raw(quoted)
            with self.subTest(port=port):
                self.assertQueue(queue(*ends, (port, 443)), [unreachable, too_big])

    def test_errors_that_quote_too_little_or_nonsense_have_the_queue_of_what_they_show(self) -> None:
        to = "10.244.2.77"
        quoted = bytes(IP(src=B, dst=A) / UDP(sport=443, dport=3000) / b"back")
        header = IP(src=A, dst=to) / ICMP(type=3, code=3)
        self.assertQueue(queue(A, B), [header / quoted[:cut] for cut in range(20, 24)])
        without = [header / quoted[:cut] for cut in (0, 1, 19)]
        six = bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP())
        echo = IP(src=A, dst=to) / ICMP() / quoted
        piece = IP(src=A, dst=to, frag=3) / ICMP(type=3, code=3) / quoted
        self.assertQueue(queue(A, to), [*without, header / six, echo, piece])
        # A header that says it is shorter than it is has its ports in itself.
        self.assertQueue(queue(A, B, struct.unpack(">2H", quoted[4:8])), [header / (b"\x41" + quoted[1:])])

    def test_what_is_no_ip_packet_has_the_first_queue(self) -> None:
        header = bytes(IP(src=A, dst=B) / UDP())
        v6 = bytes(IPv6(src="fd00::1", dst="fd00::2"))
        self.assertQueue(0, [header[:1], header[:19], v6[:39], b"\x50" + header[1:], bytes(40)])

    def test_the_worker_of_a_flow_receives_its_answers(self) -> None:
        self.sink("podA")
        used = set()
        for port in range(2000, 2008):
            there = IP(src=A, dst=B) / UDP(sport=SINK_PORT, dport=port)
            expected = queue(A, B, (SINK_PORT, port))
            used.add(expected)
            for form in ("vxlan", "ipip"):
                with self.subTest(port=port, form=form):
                    self.assertReceives(expected, form, inner(sport=port))
                    self.assertReceives(expected, form, IP(src=B, dst=A) / ICMP(type=3, code=3) / bytes(there))
                    too_big = ICMP(type=3, code=4, nexthopmtu=1400) / bytes(there)
                    self.assertReceives(expected, form, IP(src="10.244.2.1", dst=A) / too_big)
                    self.assertQueue(expected, [there, there])
        self.assertGreater(len(used), 1)

    def assertReceives(self, expected: Any, form: str, packet: Any) -> None:
        """This worker gets this packet to podA from n2, whatever ports the sender uses."""
        frames = [self.from_n2(form, packet, outer_port) for outer_port in range(50000, 50016)]
        got = self.moved("underlay", "rx", len(frames), functools.partial(self.lab.send, "n2", "eth0", frames))
        self.assertEqual(got, [len(frames) if worker == expected else 0 for worker in range(WORKERS)])

    def from_n2(self, form: str, content: Any, outer_port: int) -> Any:
        """A packet to podA in a frame from n2; VXLAN from any port of a foreign sender."""
        if form == "ipip":
            return self.lab.frame("n2", "n1", outer("ipip", content))
        frame = Ether(src=vtep_mac("n2"), dst=vtep_mac("n1")) / content
        packet = outer_vxlan(bytes(VXLAN(flags=8, vni=VNI) / frame))
        packet[UDP].sport = outer_port
        return self.lab.frame("n2", "n1", packet)


class WithoutEbpf(SharedLab):
    """A daemon that may not load programs runs, and says how queues are chosen."""

    daemons = ("n2",)
    config = VXLAN_MODE

    def test_fallback(self) -> None:
        file = self.lab.dir / "n1.toml"
        file.write_text(self.lab.config("n1", **VXLAN_MODE, tunnel={"workers": 2}), encoding="utf-8")
        said = self.lab.dir / "said.log"
        log = self.enterContext(open(said, "w", encoding="utf-8"))
        wrapper = ("setpriv", "--bounding-set=-bpf,-sys_admin")
        process = self.lab.popen(*("n1", *wrapper, binary(), "run", "--config", file), stdout=log, stderr=log)
        wait_until(lambda: " ready; " in said.read_text(encoding="utf-8"), 5, "the daemon is ready")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        # Some kernels let everybody load programs that only look at packets.
        allowed = pathlib.Path("/proc/sys/kernel/unprivileged_bpf_disabled")
        expected = "active" if allowed.exists() and allowed.read_text(encoding="ascii").strip() == "0" else "off: eBPF"
        self.assertIn(f"offload steering: {expected}", said.read_text(encoding="utf-8"))
        process.terminate()
        self.assertEqual(process.wait(2), 0)
