"""Fragments inside and outside (P7, P8) and the DF rule (P4)."""

import bootstrap

import os
import random
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import IP, UDP, fragment
from scapy.packet import Raw

from fast import MODES, resident_bytes
from shared import SharedLab
from silent import SilentPeer
from tunnel import FORMATS, inner, outer, strip
from underpass_lab.command import wait_until
from underpass_lab.nodes import pod_address

A, B = pod_address("n1"), pod_address("n2")


class Inside(SharedLab):
    """P4 and P7: what pods have cut, or forbidden to cut."""

    def setUp(self) -> None:
        self.wire = self.tap("sw", "port-n1")

    def sent(self, mode: str) -> list[Any]:
        """The outer packets and inner bytes that left n1."""
        frames = [frame for frame in self.wire.incoming() if frame[12:14] == b"\x08\x00"]
        return [strip(mode, frame) for frame in frames]

    def test_p4_df_is_always_set_outside(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.wire.drain()
                for flags in ("DF", 0):
                    self.send_from_pod([IP(src=A, dst=B, flags=flags, id=7) / UDP(sport=5, dport=9) / Raw(b"x")])
                wait_until(lambda: len(self.sent(mode)) == 2, 3, "two packets")
                self.assertEqual([(int(ip.flags), ip.frag) for ip, _ in self.sent(mode)], [(2, 0)] * 2)
                # Inside it stays as the pod wants it.
                self.assertEqual([int(IP(packet).flags) for _, packet in self.sent(mode)], [2, 0])

    def test_p7_fragments_travel_in_order_on_one_path(self) -> None:
        self.lab.ip("podA", "link set eth0 mtu 1400")
        self.addCleanup(self.lab.ip, "podA", "link set eth0 mtu 1500")
        sink = self.sink("podB")
        sink.settimeout(3)
        for mode in FORMATS:
            with self.subTest(mode):
                self.restart(**MODES[mode])
                self.wire.drain()
                payload = os.urandom(8000)
                with self.moves("n1", device_rx=6, underlay_tx=6), self.lab.socket("podA") as client:
                    client.sendto(payload, (B, 9))
                self.assertEqual(sink.recvfrom(9000)[0], payload)
                sent = self.sent(mode)
                self.assertEqual([IP(packet).frag for _, packet in sent], [n * 1376 // 8 for n in range(6)])
                self.assertEqual(len({ip.sport if mode == "vxlan" else 0 for ip, _ in sent}), 1)


class Fragments(SilentPeer):
    """Outer packets in fragments, as another implementation may send them."""

    def pieces(self, form: str, payload: bytes, size: int = 600, number: int | None = None) -> Any:
        whole = outer(form, inner(payload=payload), flags=0, id=number or random.randrange(1, 1 << 16))
        if form == "vxlan":
            whole = IP(bytes(whole))
        pieces = fragment(whole, fragsize=size)
        self.assertGreaterEqual(len(pieces), 2)
        return pieces


class Outside(Fragments):
    """P8, but for the flood."""

    def expect(self, form: str, frames: Any, *payloads: Any) -> None:
        """These frames bring exactly these payloads to the pod."""
        with self.moves("n1", underlay_rx=len(payloads) + 1, device_tx=len(payloads) + 1):
            arrived = self.batch(form, frames)
        self.assertEqual([bytes(IP(packet)[UDP].payload) for packet in arrived[:-1]], list(payloads))

    def test_p8_whole_ones_are_delivered_once(self) -> None:
        for form in FORMATS:
            payload = os.urandom(1400)
            orders: dict[str, Callable[[list[Any]], list[Any]]] = {
                "in order": lambda pieces: pieces,
                "reversed": lambda pieces: pieces[::-1],
                "duplicated": lambda pieces: [pieces[0], pieces[0], *pieces[1:]],
            }
            for number, (what, order) in enumerate(orders.items()):
                with self.subTest(form, order=what):
                    self.expect(form, order(self.pieces(form, payload, number=1000 + number)), payload)

    def test_p8_larger_than_the_tun(self) -> None:
        payload = os.urandom(4000)
        for form in FORMATS:
            with self.subTest(form):
                with self.moves("n1", underlay_rx=2, device_tx=2):
                    arrived = self.batch(form, self.pieces(form, payload, 1400))
                # The kernel of n1 has cut it anew for the pod's link.
                whole = b"".join(bytes(IP(packet).payload) for packet in arrived[:-1])
                self.assertEqual((len(arrived), whole[8:]), (4, payload))

    def test_p8_incomplete_or_overlapping_ones_never(self) -> None:
        for form in FORMATS:
            payload = os.urandom(1400)
            pieces = self.pieces(form, payload, number=2000)
            with self.subTest(form, what="the last is missing"):
                self.expect(form, pieces[:-1])
            pieces = self.pieces(form, payload, number=2001)
            with self.subTest(form, what="overlapping"):
                evil = pieces[1].copy()
                evil.frag -= 1
                del evil.len, evil.chksum
                self.expect(form, [pieces[0], IP(bytes(evil)), *pieces[2:]])


class Incomplete(Fragments):
    """A flood of incomplete ones, in a lab of its own: they fill what the kernel has for fragments for a while."""

    def test_p8_incomplete_ones_cost_nothing(self) -> None:
        pid = self.lab.daemons["n1"].pid
        before = resident_bytes(pid)
        first = self.pieces("ipip", os.urandom(1400), number=1)[0]
        frames = []
        for number in range(20_000):
            first.id = number
            del first.chksum
            frames.append(bytes(first))
        self.refused("ipip", frames, reach=0)
        self.assertLess(resident_bytes(pid), before + (4 << 20))
