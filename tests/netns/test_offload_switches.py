"""Every switch of the fast path, alone and all together: equal bytes, a true status, balanced books."""

import bootstrap

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fast import FORCED, MIB, MODES, bulk, metric_samples
from shared import SharedLab
from underpass_lab.command import wait_until

TUNNELS = {"vxlan": "UDP tunnels", "ipip": "IP-in-IP"}
SWITCHES = ("tso", "uso", "gro", "udp_gso", "udp_gro", "segment_sizes", "packet_socket")
# By itself a daemon would leave the TAP alone here.
CASES = (
    {},
    *({switch: "off"} | FORCED for switch in SWITCHES),
    dict.fromkeys(SWITCHES, "off") | {"uplink": "socket"},
    dict.fromkeys(SWITCHES, "on") | FORCED,
    {"uplink": "socket"},
    {"backend": "plain"} | FORCED,
)


def expected(mode: str, tunnel: Any, workers: int) -> Any:
    """What `status` must say of every offload."""
    plain = tunnel.get("backend") == "plain"
    said = {}
    for switch in SWITCHES:
        said[switch] = "off: configured" if tunnel.get(switch) == "off" else "active"
        if plain and switch in ("tso", "uso", "gro"):
            said[switch] = "off: not available"
    said["tap"] = "active"
    if "uplink" not in tunnel:
        said["tap"] = f"off: eth0 does not segment {TUNNELS.get(mode)} (tx-tcp-segmentation off)"
    if mode == "direct":
        said["tap"] = "off: no pool encapsulates"
    if tunnel.get("uplink") == "socket":
        said["tap"] = "off: configured"
    said["kernel_path"] = "off: configured"
    said["steering"] = "active" if workers > 1 else "off: one queue"
    return said


class Matrix(SharedLab):
    """16 MiB of TCP each way at once, for every case; UNDERPASS_BULK_MIB says another size."""

    SIZE = int(os.environ.get("UNDERPASS_BULK_MIB", "16")) * MIB

    def cases(self, mode: str) -> None:
        for tunnel in CASES:
            with self.subTest(mode=mode, **tunnel):
                # The pump shall carry every byte.
                self.restart_together(**MODES[mode], tunnel={"kernel_path": "off"} | tunnel)
                wanted = expected(mode, tunnel, self.lab.status("n1")["workers"])
                for node in ("n1", "n2"):
                    self.await_offload(node, "tap", wanted["tap"])
                bulk(self.lab, self.SIZE)
                for node in ("n1", "n2"):
                    self.check(node, mode, wanted)

    def restart_together(self, **config: Any) -> None:
        with ThreadPoolExecutor(2) as threads:
            for started in [threads.submit(self.start, node, **config) for node in ("n1", "n2")]:
                started.result()

    def await_offload(self, node: str, name: str, state: Any) -> None:
        wait_until(lambda: self.lab.status(node)["offloads"][name] == state, 8, f"{name} {state} on {node}")

    def check(self, node: str, mode: str, wanted: Any) -> None:
        self.assertEqual(self.lab.status(node)["offloads"], wanted)
        active = {name: int(state == "active") for name, state in wanted.items()}
        self.assertEqual(metric_samples(self.lab, node, "offload_active"), active)
        fallbacks = metric_samples(self.lab, node, "offload_fallbacks_total")
        self.assertEqual(fallbacks, dict.fromkeys(("udp_gso", "tap", "packet_socket", "gro"), 0))
        self.accounts(node)
        carried = self.counters(node).status("bytes")
        for edge in ("device_rx", "underlay_tx") + (() if mode == "direct" else ("device_tx", "underlay_rx")):
            self.assertGreater(carried[edge], self.SIZE, edge)
        self.assertEqual({reason: n for reason, n in self.lab.drops(node).items() if n}, {})

    def test_vxlan(self) -> None:
        self.cases("vxlan")

    def test_ipip(self) -> None:
        self.cases("ipip")

    def test_direct(self) -> None:
        self.cases("direct")
