"""W8: TCP by iperf3, few streams and many, both directions, every mode; the books against the kernel's own count."""

import bootstrap

import json
import subprocess
from typing import Any

from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import pod_address

B = pod_address("n2")
SIZE, SEGMENT = 64 << 20, 1400
MODES = {
    "ipip": ({"ipip": "Always", "vxlan": "Never"}, "ip protocol 4"),
    "vxlan": ({"ipip": "Never", "vxlan": "Always"}, "udp dport 4789"),
}
# Counts what comes into the bridge from each node: frames as they are on the wire, from the IP header on.
COUNTERS = """
table netdev books {{
    chain n1 {{
        type filter hook ingress device "port-n1" priority 0;
        {match} counter
    }}
    chain n2 {{
        type filter hook ingress device "port-n2" priority 0;
        {match} counter
    }}
}}
"""


class TcpMix(SharedLab):
    def test_w8_streams_both_ways(self) -> None:
        self.lab.popen("podB", "iperf3", "-s", stdout=subprocess.DEVNULL)
        wait_until(lambda: self.lab.exec("podB", "ss", "-Hnlt", "sport = :5201").stdout, 5, "iperf3")
        for mode, (config, match) in MODES.items():
            # The TAP's probes are on the wire but in no book.
            self.restart(**config, tunnel={"uplink": "socket"})
            again, sent = 0, 0
            for streams in (1, 4, 50):
                for direction in ([], ["-R"]):
                    with self.subTest(mode, streams=streams, direction=direction):
                        total = self.one_run(match, streams, direction)
                        again, sent = again + total["retransmits"], sent + total["bytes"] // SEGMENT
            with self.subTest(mode, what="sent again"):
                self.assertLess(again, sent * 0.001)

    def one_run(self, match: Any, streams: int, direction: list[str]) -> Any:
        self.lab.exec("sw", "nft", "-f", "-", input=COUNTERS.format(match=match))
        self.addCleanup(self.lab.exec, "sw", "nft", "delete", "table", "netdev", "books", check=False)
        before = {node: self.books(node) for node in ("n1", "n2")}
        load = ["iperf3", "-c", B, "-P", streams, "-n", SIZE, "-J", *direction]
        report = json.loads(self.lab.exec("podA", *load, timeout=120).stdout)
        self.assertNotIn("error", report)
        # That much in all streams together.
        self.assertGreaterEqual(report["end"]["sum_sent"]["bytes"], SIZE)
        self.assertEqual(len(report["end"]["streams"]), streams)
        self.assertTrue(all(one["receiver"]["bytes"] > 0 for one in report["end"]["streams"]))
        wait_until(lambda: self.settled(before), 5, "the same books at both ends and on the wire")
        self.lab.exec("sw", "nft", "delete", "table", "netdev", "books")
        return report["end"]["sum_sent"]

    def settled(self, before: Any) -> bool:
        """What each daemon sent, in packets and bytes, is what the bridge saw and the other received."""
        wire = self.wire()
        for node, other in (("n1", "n2"), ("n2", "n1")):
            sent = tuple(now - then for now, then in zip(self.books(node)[:2], before[node][:2], strict=True))
            received = tuple(now - then for now, then in zip(self.books(other)[2:], before[other][2:], strict=True))
            if not sent == received == wire[node]:
                return False
        return True

    def books(self, node: str) -> Any:
        """Packets and bytes sent, packets and bytes received, at the underlay."""
        edge = self.lab.status(node)["counters"]["underlay"]
        return tuple(edge[f"{way}_{unit}"] for way in ("tx", "rx") for unit in ("packets", "bytes"))

    def wire(self) -> Any:
        rules = json.loads(self.lab.exec("sw", "nft", "-j", "list", "table", "netdev", "books").stdout)["nftables"]
        found = {}
        for rule in (entry["rule"] for entry in rules if "rule" in entry):
            (counter,) = (part["counter"] for part in rule["expr"] if "counter" in part)
            found[rule["chain"]] = (counter["packets"], counter["bytes"])
        return found
