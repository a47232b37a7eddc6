"""W9, W10: what the wire shows of transfers that enter and leave as super-packets; UDP super-packets."""

import bootstrap

from collections.abc import Mapping
from typing import Any

from fast import ADDRESS, BOTH_WAYS, FORCED, MIB, MODES, A, Datagrams, await_tap, bulk, inner_offset, judge_frame
from shared import SharedLab
from underpass_lab.nodes import ADDRESSES, subnet

# TCP sequence numbers of which one in 64 is taken, whatever the segment size.
SEQUENCE_BITS = 0x3F0
ENOUGH = 100


class GsoPath(SharedLab):
    """W9: 64 MiB out of a pod with TSO and GSO on; every frame fits the wire, the sampled ones are right."""

    SIZE = 64 * MIB

    CASES = (
        *((mode, {"uplink": uplink}) for mode in ("ipip", "vxlan") for uplink in ("socket", "tap")),
        *((mode, {"backend": "plain", "uplink": "socket"}) for mode in ("vxlan", "direct")),
        ("direct", {}),
    )

    def test_w9(self) -> None:
        for mode, tunnel in self.CASES:
            with self.subTest(mode, **tunnel):
                self.restart(**MODES[mode], tunnel=tunnel)
                if tunnel.get("uplink") == "tap":
                    await_tap(self.lab, "n1")
                self.transfer(mode)

    def transfer(self, mode: str) -> None:
        sequence = inner_offset(mode) + 20 + 4
        sample = f"ip[{sequence - 4}:2] != 0 and ip[{sequence}:4] & {SEQUENCE_BITS} = 0 and greater 1000"
        with (
            self.lab.capture("sw", "port-n2", "greater 1515") as oversize,
            self.lab.capture("sw", "port-n2", sample) as sampled,
        ):
            bulk(self.lab, self.SIZE, [("podA", "podB")])
        self.assertEqual(oversize.packets(), [])
        frames = sampled.packets()
        self.assertGreater(len(frames), ENOUGH)
        for frame in frames[:: len(frames) // ENOUGH]:
            judge_frame(mode, frame)


class ChecksumOffload(SharedLab):
    """W10: inner checksums are right on the wire, whoever was to compute them."""

    def test_w10(self) -> None:
        for mode, config in MODES.items():
            self.restart(**config, tunnel=FORCED)
            if mode != "direct":
                await_tap(self.lab, "n1")
            for state in ("on", "off"):
                with self.subTest(mode=mode, tx=state):
                    self.lab.exec("podA", "ethtool", "-K", "eth0", "tx", state)
                    self.addCleanup(self.lab.exec, "podA", "ethtool", "-K", "eth0", "tx", "on")
                    wire = self.tap("sw", "port-n1")
                    self.udp()
                    self.judge(wire, mode, 17, 100)
                    wire.drain()
                    bulk(self.lab, MIB // 4, [("podA", "podB")])
                    self.judge(wire, mode, 6, MIB // 4 // 1500)

    def udp(self) -> None:
        with Datagrams(self.lab, "podA", "podB") as datagrams:
            flow = datagrams.flow()
            for number in range(100):
                datagrams.send(flow, 20 + 13 * number)
            datagrams.receive()

    def judge(self, wire: Any, mode: str, protocol: int, count: int) -> None:
        """All frames that podA has sent with this inner protocol, at least `count`."""
        at, source = 14 + inner_offset(mode), bytes(map(int, A.split(".")))
        wanted = bytes([protocol]), source
        frames = [f for f in wire.incoming() if (f[at + 9 : at + 10], f[at + 12 : at + 16]) == wanted]
        self.assertGreaterEqual(len(frames), count)
        self.assertNoOversize(frames)
        for frame in frames:
            judge_frame(mode, frame)


class UdpSuperPackets(SharedLab):
    """UDP_SEGMENT in a pod: every datagram arrives once, in order, with its own bytes and size."""

    # Payload bytes of each datagram but the last, how many of them, bytes of the last.
    SHAPES: tuple[tuple[int, int, int], ...] = (
        (1200, 40, 1200),
        (1200, 1, 20),
        (20, 100, 20),
        (1372, 46, 700),
        (500, 1, 500),
        (1000, 60, 999),
    )

    def test_all_modes_and_switches(self) -> None:
        for mode, config in MODES.items():
            for uso, gro in (("auto", "auto"), ("off", "auto"), ("auto", "off"), ("off", "off")):
                with self.subTest(mode=mode, uso=uso, gro=gro):
                    self.restart(**config, tunnel={"uso": uso, "gro": gro})
                    self.exchange()

    def exchange(self, addresses: Mapping[str, str] = ADDRESS) -> None:
        dropped = self.dropped()
        for way in BOTH_WAYS:
            with Datagrams(self.lab, *way, addresses) as datagrams:
                flows = [datagrams.flow() for _ in range(3)]
                for _ in range(4):
                    for size, count, last in self.SHAPES:
                        for flow in flows:
                            datagrams.send_super(flow, size, count, last)
                            # A plain one between them must not overtake either.
                            datagrams.send(flow, min(size, 700))
                datagrams.receive()
        self.assertEqual(self.dropped(), dropped)

    def dropped(self) -> list[Any]:
        """Packets dropped for any reason that has to do with the exchange, on both nodes."""
        unrelated = {"unsupported"} if self.multicast_reports else set()
        return [n for node in ("n1", "n2") for why, n in self.lab.drops(node).items() if why not in unrelated]


class Uncut(UdpSuperPackets):
    """UDP super-packets and bulk TCP over underlay links that never cut anything, through either uplink."""

    options = {"virtual": True}

    def test_all_modes_and_switches(self) -> None:
        for mode, config in MODES.items():
            for uplink in ("socket",) if mode == "direct" else ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    self.restart(**config, tunnel={"uplink": uplink})
                    if uplink == "tap":
                        for node in ("n1", "n2"):
                            await_tap(self.lab, node)
                    self.exchange()
                    bulk(self.lab, 32 * MIB)
                    self.books(mode)

    def books(self, mode: str) -> None:
        """What one daemon has sent the other has received, counted as if it had been cut."""
        for node in ("n1", "n2"):
            self.accounts(node)
        for unit in ("packets", "bytes") if mode != "direct" else ():
            near, far = (self.counters(node).status(unit) for node in ("n1", "n2"))
            self.assertEqual(near["underlay_tx"], far["underlay_rx"], unit)
            self.assertEqual(far["underlay_tx"], near["underlay_rx"], unit)


class Ipv6(UdpSuperPackets):
    """The same for IPv6 pods, whose headers are longer and whose checksums know no exception."""

    options = {"ipv6": True}
    multicast_reports = True
    PODS = {"podA": "fd00:244:1::2", "podB": "fd00:244:2::2"}
    SHAPES = ((1200, 40, 1200), (1200, 1, 20), (20, 100, 20), (1372, 46, 700), (1000, 60, 999))

    @classmethod
    def prepare(cls) -> None:
        for (pod, address), node in zip(cls.PODS.items(), ("n1", "n2"), strict=True):
            gateway = address[:-1] + "1"
            cls.lab.sysctl(node, {"ipv6/conf/all/forwarding": 1})
            cls.lab.ip(node, f"address add {gateway}/64 dev pod0 nodad")
            cls.lab.ip(pod, f"address add {address}/64 dev eth0 nodad", f"route add default via {gateway}")

    def start_both(self, mode: str, uplink: str) -> None:
        how = [MODES[mode][key] for key in ("ipip", "vxlan")]
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.start(
                node,
                pools=[("10.244.0.0/16", *how), ("fd00:244::/32", *how)],
                local=[subnet(node), f"fd00:244:{node[1:]}::/64"],
                peers={other: (ADDRESSES[other], [subnet(other), f"fd00:244:{other[1:]}::/64"])},
                tunnel={"uplink": uplink},
            )

    def test_all_modes_and_switches(self) -> None:
        for mode in ("ipip", "vxlan"):
            for uplink in ("socket", "tap"):
                with self.subTest(mode, uplink=uplink):
                    self.start_both(mode, uplink)
                    if uplink == "tap":
                        await_tap(self.lab, "n1")
                    with self.lab.capture("sw", "port-n2", "greater 1515") as oversize:
                        bulk(self.lab, 32 * MIB, addresses=self.PODS)
                        self.exchange(self.PODS)
                    self.assertEqual(oversize.packets(), [])
