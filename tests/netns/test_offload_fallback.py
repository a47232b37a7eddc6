"""What the kernel takes away at run time: the daemon goes on without it, says so and counts it."""

from fast import MIB, MODES, Stream, await_tap, bulk, metric_samples
from lab import wait_until
from shared import SharedLab

REFUSED = "off: refused by the kernel at run time"


class Fallbacks(SharedLab):
    daemons = ("n1", "n2")

    def assertGaveUp(self, offload, workers):
        """n1 has given up this offload and no other, in at most that many workers."""
        status = self.lab.status("n1")["offloads"]
        self.assertEqual(status[offload], REFUSED)
        self.assertEqual(metric_samples(self.lab, "n1", "offload_active")[offload], 0)
        counted = metric_samples(self.lab, "n1", "offload_fallbacks_total")
        self.assertTrue(1 <= counted.pop(offload) <= workers, counted)
        self.assertEqual(set(counted.values()), {0}, counted)

    def progress(self, stream):
        before = stream.received
        wait_until(lambda: stream.received > before + MIB, 10, "progress of the transfer")

    def test_a_tap_that_is_set_down(self):
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel={"workers": 2})
                await_tap(self.lab, "n1")
                stream = Stream(self.lab)
                self.progress(stream)
                self.lab.ip("n1", "link set up0-x down")
                wait_until(lambda: self.lab.status("n1")["offloads"]["tap"] == REFUSED, 5, "the fallback")
                self.progress(stream)
                received, sent = stream.finish()
                self.assertEqual(received, sent)
                self.assertGaveUp("tap", 2)
                self.assertIn("the TAP refused a super-packet", self.lab.daemons["n1"].log())

    def test_segmentation_that_no_longer_fits(self):
        self.restart(**MODES["vxlan"], tunnel={"workers": 2, "uplink": "socket"})
        bulk(self.lab, 4 * MIB)
        stream = Stream(self.lab)
        self.progress(stream)
        self.lab.ip("n1", "link set eth0 mtu 1300")
        try:
            wait_until(lambda: self.lab.status("n1")["offloads"]["udp_gso"] == REFUSED, 5, "the fallback")
            wait_until(lambda: self.lab.drops("n1")["too_big"] > 0, 5, "a segment that does not fit")
        finally:
            self.lab.ip("n1", "link set eth0 mtu 1500")
        self.progress(stream)
        received, sent = stream.finish()
        self.assertEqual(received, sent)
        self.assertGaveUp("udp_gso", 2)
        self.assertIn("the kernel refused UDP_SEGMENT", self.lab.daemons["n1"].log())
