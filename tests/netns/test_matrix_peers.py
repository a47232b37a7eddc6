"""P6 beside the kernel's own VXLAN device, which leaves inner checksums unfinished and super-packets whole."""

import bootstrap

from typing import Any

from fast import BOTH_WAYS
from matrix import judge, mtus, uplinks
from shared import SharedLab


class KernelPeer(SharedLab):
    """Underpass on one node, kernel VXLAN on the other."""

    topology = "TK"
    options = {"virtual": True}
    daemons = ("n1",)

    def run_peer(self, checksum: str, **tunnel: Any) -> None:
        self.lab.ip("n2", "link delete vx0")
        self.lab.add_kernel_vxlan("n2", "n1", checksum)
        self.start("n1", ipip="Never", vxlan="Always", tunnel={"workers": 2, **tunnel})
        rows = [(uplink, mtu, 1450) for uplink in uplinks() for mtu in mtus(1450)]
        judge(self, rows, BOTH_WAYS[1])

    def test_without_outer_checksums(self) -> None:
        self.run_peer("noudpcsum")

    def test_with_outer_checksums(self) -> None:
        self.run_peer("udpcsum")

    def test_without_receive_offload(self) -> None:
        self.run_peer("noudpcsum", udp_gro="off")
