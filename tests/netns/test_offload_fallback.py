"""What the kernel takes away at run time: the daemon goes on without it, says so and counts it."""

import bootstrap

from typing import Any

from fast import FORCED, MIB, MODES, Stream, await_tap, bulk, metric_samples
from shared import SharedLab
from underpass_lab.command import wait_until

REFUSED = "off: refused by the kernel at run time"


class Fallbacks(SharedLab):
    daemons = ("n1", "n2")

    def assertGaveUp(self, offload: Any, workers: int) -> None:
        """n1 has given up this offload and no other, in at most that many workers."""
        status = self.lab.status("n1")["offloads"]
        self.assertEqual(status[offload], REFUSED)
        self.assertEqual(metric_samples(self.lab, "n1", "offload_active")[offload], 0)
        counted = metric_samples(self.lab, "n1", "offload_fallbacks_total")
        self.assertTrue(1 <= counted.pop(offload) <= workers, counted)
        self.assertEqual(set(counted.values()), {0}, counted)

    def progress(self, stream: Any) -> None:
        before = stream.received
        wait_until(lambda: stream.received > before + MIB, 10, "progress of the transfer")

    def test_a_tap_that_is_set_down_is_up_again(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"workers": 2} | FORCED)
        await_tap(self.lab, "n1")
        stream = Stream(self.lab)
        self.progress(stream)
        self.lab.ip("n1", "link set up0-x down")
        wait_until(lambda: ",UP" in self.lab.exec("n1", "ip", "link", "show", "up0-x").stdout, 2, "the TAP")
        self.progress(stream)
        received, sent = stream.finish()
        self.assertEqual(received, sent)

    def test_a_tap_that_is_deleted(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel={"workers": 2} | FORCED)
                await_tap(self.lab, "n1")
                stream = Stream(self.lab)
                self.progress(stream)
                self.lab.ip("n1", "link del up0-x")
                wait_until(lambda: self.lab.status("n1")["offloads"]["tap"] == REFUSED, 5, "the fallback")
                self.progress(stream)
                received, sent = stream.finish()
                self.assertEqual(received, sent)
                self.assertGaveUp("tap", 2)
                said = "the TAP refused a super-packet"
                log = self.lab.daemons["n1"].log
                wait_until(lambda: said in log().split("ready;")[-1], 5, "a line in the log")
                self.assertEqual(log().split("ready;")[-1].count(said), 1, "told once")

    def shrink(self, stream: Any) -> bool:
        """Makes the uplink smaller for a while; whether a segment was on its way that no longer fits. The daemon may
        be faster than the stream: it hears of the change at once."""
        self.lab.ip("n1", "link set eth0 mtu 1300")
        self.progress(stream)
        self.lab.ip("n1", "link set eth0 mtu 1500")
        # What the sender has learned from an ICMP error it forgets, or its segments stay small.
        self.lab.ip("podA", "route flush cache")
        self.progress(stream)
        return self.lab.drops("n1")["too_big"] > 0

    def test_packets_that_no_longer_fit_take_no_offload_away(self) -> None:
        # The link shrinks under load: until the daemon has seen it, what it sends is refused.
        cases = {"udp_gso": ("vxlan", {"uplink": "socket"}), "packet_socket": ("ipip", {"uplink": "socket"})}
        for offload, (mode, tunnel) in cases.items():
            with self.subTest(offload):
                self.restart(**MODES[mode], tunnel={"workers": 2} | tunnel)
                self.lab.ip("podA", "route flush cache")
                bulk(self.lab, 4 * MIB)
                stream = Stream(self.lab)
                self.progress(stream)
                wait_until(lambda: self.shrink(stream), 30, "a segment that does not fit")
                self.progress(stream)
                received, sent = stream.finish()
                self.assertEqual(received, sent)
                self.assertEqual(self.lab.status("n1")["offloads"][offload], "active")
                self.assertEqual(metric_samples(self.lab, "n1", "offload_fallbacks_total")[offload], 0)
