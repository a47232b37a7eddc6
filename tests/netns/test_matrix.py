"""P6: data arrive in the shape in which they were sent, whatever uplinks join or leave whole and whatever MTU pods have."""

from fast import BOTH_WAYS, MODES, await_tap
from matrix import judge, mtus, uplinks
from shared import SharedLab
from underlay6 import FAMILIES, SixLab, pools

THERE, _ = BOTH_WAYS
OVERHEAD = {"vxlan": 50, "ipip": 20, "direct": 0}
OVERHEAD6 = {"vxlan": 70, "ipip": 40}


class Matrix(SharedLab):
    """Underpass on both nodes."""

    options = {"virtual": True}

    def run_mode(self, mode, way_out, workers=2):
        for node in ("n1", "n2"):
            self.start(node, **MODES[mode], tunnel={"uplink": way_out, "workers": workers})
        if way_out == "tap":
            for node in ("n1", "n2"):
                await_tap(self.lab, node)
        tun = 1500 - OVERHEAD[mode]
        judge(self, [(uplink, mtu, tun) for uplink in uplinks() for mtu in mtus(tun)], THERE)

    def test_vxlan_by_socket(self):
        self.run_mode("vxlan", "socket")

    def test_vxlan_by_tap(self):
        self.run_mode("vxlan", "tap")

    def test_ipip_by_socket(self):
        self.run_mode("ipip", "socket")

    def test_ipip_by_tap(self):
        self.run_mode("ipip", "tap", workers=1)

    def test_direct(self):
        self.run_mode("direct", "auto")


class OverIpv6(SixLab):
    """The same over an IPv6 underlay, with pods of both families."""

    options = {"virtual": True, "ipv6": True}

    def run_mode(self, mode):
        for node in ("n1", "n2"):
            self.start(node, pools=pools(mode), tunnel={"workers": 2})
        tun = 1500 - OVERHEAD6[mode]
        rows = [(uplink, mtu, tun) for uplink in uplinks() for mtu in mtus(tun, 1280)]
        # With IPv6 the kernel announces multicast groups through the TUN.
        judge(self, rows, THERE, families=FAMILIES, unjudged=("too_big", "unsupported"))

    def test_vxlan(self):
        self.run_mode("vxlan")

    def test_ipip(self):
        self.run_mode("ipip")
