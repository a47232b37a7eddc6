"""`underpass capture`: scapy and tshark read the file, the bytes are those sent, the comment is the drop reason."""

import bootstrap

import json
import os
import signal
import subprocess
import time
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from scapy.utils import PcapNgReader

from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, VNI, inner
from underlay6 import ADDRESSES6, SilentPeer6, SixLab, pools
from underpass_lab.command import run, wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")
VXLAN: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
POINTS = ("device", "underlay", "drop")


class Running:
    """A capture on a node, from when the daemon has it until it is ended or has all packets."""

    def __init__(self, test: Any, node: str, *options: Any) -> None:
        self.file = test.lab.dir / f"capture-{len(list(test.lab.dir.glob('capture-*')))}.pcapng"
        environment = os.environ | {"UNDERPASS_SOCKET": test.lab.daemons[node].socket}
        command = [binary(), "capture", "-w", self.file, "-o", "json", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        test.addCleanup(self._close)
        # The head of the file comes with the start of the capture.
        wait_until(lambda: self.process.poll() is not None or self.size() > 100, 5, "the capture")

    def size(self) -> Any:
        return self.file.stat().st_size if self.file.exists() else 0

    def end(self) -> Any:
        """Interrupts it; returns what it says."""
        self.process.send_signal(signal.SIGINT)
        return self.result()

    def result(self) -> Any:
        out, error = self.process.communicate(timeout=10)
        if self.process.returncode:
            raise AssertionError(error.decode())
        return json.loads(out)

    def rows(self, *fields: Any) -> list[Any]:
        """One list of `fields` for each packet in the file so far, by tshark."""
        options = [word for field in fields for word in ("-e", field)]
        text = run("tshark", "-r", self.file, "-T", "fields", "-E", "occurrence=f", *options, timeout=30).stdout
        return [line.split("\t") for line in text.splitlines()]

    def packets(self) -> list[Any]:
        """Bytes of each packet, by scapy."""
        with PcapNgReader(str(self.file)) as reader:
            return [bytes(packet) for packet in reader]

    def _close(self) -> None:
        self.process.kill()
        self.process.communicate()


def udp(target: str = B, size: int = 100, sport: int = 1000, **ip: Any) -> Any:
    return IP(src=A, dst=target, **ip) / UDP(sport=sport, dport=9) / Raw(b"d" * size)


def forwarded(packet: Any) -> bytes:
    """The bytes of a packet after n1's kernel has forwarded it."""
    packet = IP(bytes(packet))
    packet.ttl -= 1
    del packet.chksum
    return bytes(packet)


def ten_outbound(test: Any) -> tuple[Any, Any]:
    """Ten datagrams from pod to pod, captured on their way; returns them, and what gives the packets of a point."""
    capture = Running(test, "n1", "--filter", "host 10.244.2.2 and udp and port 9", "--count", "20")
    sent = [udp(sport=2000 + n, size=n) for n in range(10)]
    test.send_from_pod(sent)
    test.assertEqual(capture.result(), {"packets": 20, "lost": 0})
    points = [row[0] for row in capture.rows("frame.interface_name")]
    packets = list(zip(points, capture.packets(), strict=True))
    return sent, lambda wanted: sorted(packet for point, packet in packets if point == wanted)


class Outbound(SharedLab):
    def setUp(self) -> None:
        self.sink("podB")

    def test_both_points_in_every_mode(self) -> None:
        for config in ({}, VXLAN, {"ipip": "Never"}):
            with self.subTest(config):
                self.restart(**config)
                self.addCleanup(self.restart)
                wire = self.tap("sw", "port-n1")
                sent, captured = ten_outbound(self)
                self.assertEqual(captured("device"), sorted(map(forwarded, sent)))
                outside = captured("underlay")
                frames = on_wire(wire, 10, lambda f: f[12:14] == b"\x08\x00")
                if config == VXLAN:
                    # The kernel's part of the header is rebuilt: addresses, ports and lengths are true.
                    def blank(p: Any) -> Any:
                        return p[:4] + b"....." + p[9:10] + b".." + p[12:26] + b".." + p[28:]
                else:
                    # IP identification of raw packets is the kernel's.
                    def blank(p: Any) -> Any:
                        return p[:4] + b".." + p[6:10] + b".." + p[12:]

                self.assertEqual(sorted(map(blank, outside)), sorted(map(blank, frames)))

    def test_drops_have_their_reason(self) -> None:
        capture = Running(self, "n1", "--point", "drop", "--count", "5")
        bad = [udp("10.244.9.9"), udp(options=[b"\x94\x04\0\0"]), IP(src="8.8.8.8", dst=B) / UDP(), udp(proto=4)]
        bad += [udp("10.244.9.9", size=1400), udp("10.244.7.7")]
        self.send_from_pod(bad)
        self.assertEqual(capture.result(), {"packets": 5, "lost": 0})
        rows = capture.rows("frame.comment", "ip.dst", "frame.interface_name", "frame.packet_flags_direction")
        reasons = {"no_route": 3, "spoofed_source": 1, "nested": 1}
        self.assertEqual({name: sum(row[0] == name for row in rows) for name in reasons}, reasons)
        self.assertEqual({row[2] for row in rows}, {"drop"})
        wanted = [forwarded(packet) for packet in bad if packet is not bad[1]]
        self.assertEqual(sorted(capture.packets()), sorted(wanted))

    def test_super_packets_are_whole_and_snaplen_cuts(self) -> None:
        capture = Running(self, "n1", "--point", "device", "--snaplen", "60", "--filter", "tcp")
        self.lab.tcp_transfer("podA", "podB", B, 1 << 20)
        settle(capture)
        capture.end()
        lengths = [tuple(map(int, row)) for row in capture.rows("frame.len", "frame.cap_len")]
        self.assertGreater(max(whole for whole, _ in lengths), 5000)
        self.assertEqual({kept for whole, kept in lengths if whole >= 60}, {60})

    def test_one_at_a_time_and_the_end_of_a_client_is_noticed(self) -> None:
        first = Running(self, "n1")
        refused = self.lab.daemons["n1"].command("capture", "-w", self.lab.dir / "second", check=False)
        self.assertEqual((refused.returncode, (self.lab.dir / "second").exists()), (1, False))
        self.assertIn("another capture is running", refused.stderr)
        first.process.kill()

        # No packet has to come along for that.
        def again() -> bool:
            return Running(self, "n1", "--filter", "icmp").process.poll() is None

        wait_until(again, 5, "the end of the first")

    def test_longer_than_any_other_answer_may_take(self) -> None:
        capture = Running(self, "n1", "--point", "device", "--filter", "udp and port 9")
        # Eleven seconds is more than the lifetime of a connection, and the daemon's clock to wait for.
        started = self.lab.status("n1")["uptime_seconds"]
        wait_until(lambda: self.lab.status("n1")["uptime_seconds"] >= started + 12, 20, "twelve seconds")
        self.send_from_pod([udp()])
        wait_until(lambda: capture.size() and len(capture.rows("ip.dst")) == 1, 5, "the packet")
        self.assertEqual(capture.end(), {"packets": 1, "lost": 0})

    def test_lost_packets_are_counted(self) -> None:
        # 128 buffers of 65535 bytes, which are emptied fifty times a second.
        before = self.counters("n1").status()["device_rx"]
        capture = Running(self, "n1", "--point", "device", "--snaplen", "65535", "--filter", "udp and port 9")
        self.send_from_pod([udp(sport=3000 + n % 100) for n in range(4000)])
        wait_until(lambda: self.counters("n1").status()["device_rx"] >= before + 3000, 5, "packets")
        settle(capture)
        said = capture.end()
        got = self.counters("n1").status()["device_rx"] - before
        self.assertEqual(said["packets"] + said["lost"], got)

    def test_the_daemons_end_ends_it(self) -> None:
        capture = Running(self, "n1", "--point", "drop")
        self.stop("n1")
        self.addCleanup(self.start, "n1")
        self.assertEqual(capture.result(), {"packets": 0, "lost": 0})


class Inbound(SilentPeer):
    network, nodes = IP, ADDRESSES
    # Bytes in front of what the socket hands over.
    in_front = {"ipip": 0, "vxlan": 28}

    def test_received_and_refused(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                capture = Running(self, "n1", "--filter", "net 10.244.0.0/16 or port 4789")
                good = self.outer(form, inner(payload=b"good"))
                bad = self.outer(form, inner(source="8.8.8.8", payload=b"bad"))
                self.refused(form, [bad], spoofed_source=1)
                self.accepted(form, [good])
                # The two, each at two points, and so each of the fences that come along.
                wait_until(lambda: len(capture.rows("frame.number")) >= 8, 5, "packets")
                self.assertEqual(capture.end(), {"packets": 8, "lost": 0})
                rows = capture.rows("frame.interface_name", "frame.comment", "frame.packet_flags_direction")
                packets = capture.packets()
                where = [(row[0], packet) for row, packet in zip(rows, packets, strict=True)]
                start = self.in_front[form]
                outside = [packet[start:] for point, packet in where if point == "underlay"]
                self.assertEqual([bytes(bad)[start:], bytes(good)[start:]], [outside[0], outside[2]])
                self.assertEqual([p for point, p in where if point == "device"][1], bytes(inner(payload=b"good")))
                dropped = [p for point, p in where if point == "drop"]
                self.assertEqual([packet[start:] for packet in dropped], [bytes(bad)[start:]])
                self.assertEqual([row[1] for row in rows if row[0] == "drop"], ["spoofed_source"])
                for packet in map(self.network, [p for point, p in where if point != "device"]):
                    self.assertEqual((packet.src, packet.dst), (self.nodes["n2"], self.nodes["n1"]))
                if form == "vxlan":
                    self.assertEqual(self.network(packets[0])[UDP].sport, 50000)
                    vnis = {row[0] for row in capture.rows("vxlan.vni") if row[0]}
                    self.assertEqual(vnis, {str(VNI)})


class InboundOverIpv6(SilentPeer6, Inbound):
    network, nodes = IPv6, ADDRESSES6
    # A raw socket hands over no IPv6 header, so all of it is made anew.
    in_front = {"ipip": 0, "vxlan": 48}


def settle(capture: Any) -> None:
    """Waits until the file has not grown for a second: what the daemon has still to send is in it."""
    last, since = None, 0.0

    def settled() -> bool:
        nonlocal last, since
        size, now = capture.size(), time.monotonic()
        if size != last:
            last, since = size, now
        return now - since >= 1

    wait_until(settled, 20, "the end of what is captured")


def on_wire(wire: Any, count: int, select: Any) -> list[Any]:
    """The packets in `count` frames; the kernel may still look for a neighbour when the sender is done."""

    def chosen() -> list[Any]:
        return [frame[14:] for frame in wire.incoming() if select(frame)]

    wait_until(lambda: len(chosen()) >= count, 10, f"{count} frames on the wire")
    return sorted(chosen())


class OutboundOverIpv6(SixLab):
    def setUp(self) -> None:
        self.sink("podB")

    def test_both_points(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(pools=pools(mode))
                self.addCleanup(self.restart)
                wire = self.tap("sw", "port-n1")
                _, captured = ten_outbound(self)
                outside = captured("underlay")
                protocol = {"vxlan": b"\x11", "ipip": b"\x04"}[mode]
                frames = on_wire(wire, 10, lambda f: f[12:14] == b"\x86\xdd" and f[20:21] == protocol)
                if mode == "vxlan":
                    # The kernel's flow label and UDP checksum are not known.
                    def blank(p: Any) -> Any:
                        return p[:1] + b"..." + p[4:46] + b".." + p[48:]

                    outside, frames = sorted(map(blank, outside)), sorted(map(blank, frames))
                self.assertEqual(outside, frames)
