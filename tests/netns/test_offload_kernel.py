"""W4: the kernel's VXLAN device on the far side, over links that carry super-packets uncut.

Such a device leaves inner checksums unfinished and sends inner super-packets as one datagram; the
segment size of TCP ones is not announced, that of UDP ones is.
"""

import bootstrap

import json
from typing import Any

from fast import BOTH_WAYS, MIB, Datagrams, await_tap, bulk
from shared import SharedLab
from underpass_lab.command import run


class KernelVxlan(SharedLab):
    """Bulk TCP both ways at once, then UDP super-packets each way, with and without outer checksums."""

    topology = "TK"
    options = {"virtual": True}
    daemons = ("n1",)
    CONFIG: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
    CASES: tuple[tuple[str, dict[str, Any]], ...] = (
        ("noudpcsum", {}),
        ("udpcsum", {}),
        ("udpcsum", {"uplink": "socket"}),
        ("noudpcsum", {"udp_gro": "off"}),
        ("noudpcsum", {"gro": "off", "uso": "off"}),
        ("noudpcsum", {"backend": "plain"}),
    )
    SIZE = 64 * MIB
    SHAPES = ((1200, 40, 1200), (1200, 1, 20), (20, 100, 20), (1372, 45, 700), (500, 1, 500), (100, 3, 50))

    def test_tcp(self) -> None:
        self.each(lambda: bulk(self.lab, self.SIZE))

    def test_udp_super_packets(self) -> None:
        self.each(self.exchange)

    def each(self, exchange: Any) -> None:
        """Runs `exchange` in every case, and judges the counters behind it."""
        for checksum, tunnel in self.CASES:
            with self.subTest(checksum, **tunnel):
                self.lab.ip("n2", "link delete vx0")
                self.lab.add_kernel_vxlan("n2", "n1", checksum)
                self.start("n1", **self.CONFIG, tunnel=tunnel)
                if "uplink" not in tunnel:
                    await_tap(self.lab, "n1")
                exchange()
                self.assertEqual({reason: n for reason, n in self.lab.drops("n1").items() if n}, {})
                self.accounts("n1")
                (link,) = json.loads(run("ip", "-n", self.lab.ns("n2"), "-s", "-j", "link", "show", "vx0").stdout)
                # Not its errors: the probes of the TAP are such to it.
                self.assertEqual([link["stats64"][way]["dropped"] for way in ("rx", "tx")], [0, 0])

    def exchange(self) -> None:
        for way in BOTH_WAYS:
            with self.subTest(way), Datagrams(self.lab, *way) as datagrams:
                flows = [datagrams.flow() for _ in range(3)]
                for _ in range(4):
                    for size, count, last in self.SHAPES:
                        for flow in flows:
                            datagrams.send_super(flow, size, count, last)
                datagrams.receive()
