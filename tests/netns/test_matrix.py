"""P6: data arrive in the shape in which they were sent, whatever uplinks join or leave and whatever MTU pods have."""

import bootstrap

from typing import Any

from fast import ADDRESS, BOTH_WAYS, MODES, Datagrams, await_tap
from matrix import judge, mtus, set_pod_mtu, set_uplink, transfer, uplinks
from shared import SharedLab
from underlay6 import FAMILIES, SixLab, pools
from underpass_lab.command import wait_until

THERE, _ = BOTH_WAYS
OVERHEAD = {"vxlan": 50, "ipip": 20, "direct": 0}
OVERHEAD6 = {"vxlan": 70, "ipip": 40}


class Matrix(SharedLab):
    """Underpass on both nodes."""

    options = {"virtual": True}

    def run_mode(self, mode: str, way_out: str, workers: int = 2) -> None:
        for node in ("n1", "n2"):
            self.start(node, **MODES[mode], tunnel={"uplink": way_out, "workers": workers})
        if way_out == "tap":
            for node in ("n1", "n2"):
                await_tap(self.lab, node)
        tun = 1500 - OVERHEAD[mode]
        judge(self, [(uplink, mtu, tun) for uplink in uplinks() for mtu in mtus(tun)], THERE)

    def test_vxlan_by_socket(self) -> None:
        self.run_mode("vxlan", "socket")

    def test_vxlan_by_tap(self) -> None:
        self.run_mode("vxlan", "tap")

    def test_ipip_by_socket(self) -> None:
        self.run_mode("ipip", "socket")

    def test_ipip_by_tap(self) -> None:
        self.run_mode("ipip", "tap", workers=1)

    def test_direct(self) -> None:
        self.run_mode("direct", "auto")


class Unknown(SharedLab):
    """Without the packet socket nobody knows the sizes."""

    options = {"virtual": True}

    def prepare_row(self, link: Any, way_out: str) -> None:
        for node in ("n1", "n2"):
            self.start(node, **MODES["ipip"], tunnel={"segment_sizes": "off", "workers": 1, "uplink": way_out})
        set_uplink(self.lab, link)
        set_pod_mtu(self.lab, 1479)

    def test_tcp_is_cut_to_what_every_path_carries(self) -> None:
        self.prepare_row("whole, gro off", "tap")
        for node in ("n1", "n2"):
            await_tap(self.lab, node)
        transfer(self.lab, THERE, ADDRESS)
        self.assertGreater(self.lab.status("n2")["recut_super_packets"], 0)
        self.assertEqual(sum(self.lab.drops("n2").values()), 0)
        self.accounts("n2")

    def test_datagrams_of_unknown_borders_are_dropped_by_name(self) -> None:
        self.prepare_row("cut, udp gro forwarding", "socket")
        with Datagrams(self.lab, *THERE) as datagrams:
            flow = datagrams.flow()

            def dropped() -> Any:
                datagrams.send_super(flow, 500, 40, 500)
                return self.lab.drops("n2")["unknown_segment_size"]

            wait_until(dropped, 10, "packets that were joined")
        self.accounts("n2")


class OverIpv6(SixLab):
    """The same over an IPv6 underlay, with pods of both families."""

    options = {"virtual": True, "ipv6": True}

    def run_mode(self, mode: str) -> None:
        for node in ("n1", "n2"):
            self.start(node, pools=pools(mode), tunnel={"workers": 2})
        tun = 1500 - OVERHEAD6[mode]
        rows = [(uplink, mtu, tun) for uplink in uplinks() for mtu in mtus(tun, 1280)]
        # With IPv6 the kernel announces multicast groups through the TUN.
        judge(self, rows, THERE, families=FAMILIES, unjudged=("too_big", "unsupported"))

    def test_vxlan(self) -> None:
        self.run_mode("vxlan")

    def test_ipip(self) -> None:
        self.run_mode("ipip")
