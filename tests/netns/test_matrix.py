"""P6: data arrive in the shape in which they were sent, whatever uplinks join or leave whole and whatever MTU pods have."""

from fast import BOTH_WAYS, MODES, await_tap
from matrix import judge, mtus, set_uplink, uplinks
from shared import SharedLab

OVERHEAD = {"vxlan": 50, "ipip": 20, "direct": 0}


class Matrix(SharedLab):
    """Underpass on both nodes."""

    options = {"virtual": True}

    def run_mode(self, mode, way_out, wait_for_tap=False, workers=2):
        tunnel = {"uplink": way_out, "workers": workers}
        for node in ("n1", "n2"):
            self.start(node, **MODES[mode], tunnel=tunnel)
        if wait_for_tap:
            for node in ("n1", "n2"):
                await_tap(self.lab, node)
        tun = 1500 - OVERHEAD[mode]
        rows = [(uplink, mtu, tun) for uplink in uplinks() for mtu in mtus(tun)]
        judge(self, rows, BOTH_WAYS[:1], lambda uplink: set_uplink(self.lab, uplink))

    def test_vxlan_by_socket(self):
        self.run_mode("vxlan", "socket")

    def test_vxlan_by_tap(self):
        self.run_mode("vxlan", "tap", wait_for_tap=True)

    def test_ipip_by_socket(self):
        self.run_mode("ipip", "socket")

    def test_ipip_by_tap(self):
        self.run_mode("ipip", "tap", wait_for_tap=True, workers=1)

    def test_direct(self):
        self.run_mode("direct", "auto")
