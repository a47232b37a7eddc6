"""What the kernel takes away at run time: the daemon goes on without it, counts it, and takes it up again as soon as
that is possible. What `status` says of it is what is."""

import bootstrap

import os
import signal
import time
from typing import Any

from fast import FORCED, MIB, MODES, Stream, await_tap, bulk, metric_samples, tap_packets
from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES

REFUSED = "off: refused by the kernel at run time"


class Fallbacks(SharedLab):
    daemons = ("n1", "n2")

    def offload(self, name: str) -> Any:
        return self.lab.status("n1")["offloads"][name]

    def assertBack(self, offload: str, most: int) -> None:
        """n1 gave up this offload at most so often and no other, and has it again."""
        self.assertEqual(self.offload(offload), "active")
        self.assertEqual(metric_samples(self.lab, "n1", "offload_active")[offload], 1)
        counted = metric_samples(self.lab, "n1", "offload_fallbacks_total")
        self.assertTrue(1 <= counted.pop(offload) <= most, counted)
        self.assertEqual(set(counted.values()), {0}, counted)

    def assertTapCarries(self, stream: Any) -> None:
        before = tap_packets(self.lab, "n1")
        wait_until(lambda: tap_packets(self.lab, "n1") > before + 20, 10, "super-packets through the TAP")
        self.progress(stream)

    def progress(self, stream: Any) -> None:
        before = stream.received
        wait_until(lambda: stream.received > before + MIB, 10, "progress of the transfer")

    def test_a_tap_that_is_set_down_is_up_again(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"workers": 2} | FORCED)
        await_tap(self.lab, "n1")
        stream = Stream(self.lab)
        self.progress(stream)
        for _ in range(2):
            self.lab.ip("n1", "link set up0-x down")
            wait_until(lambda: ",UP" in self.lab.exec("n1", "ip", "link", "show", "up0-x").stdout, 2, "the TAP")
            await_tap(self.lab, "n1")
            self.assertTapCarries(stream)
        received, sent = stream.finish()
        self.assertEqual(received, sent)

    def test_a_tap_that_is_deleted_is_made_again(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel={"workers": 2} | FORCED)
                await_tap(self.lab, "n1")
                stream = Stream(self.lab)
                self.progress(stream)
                self.lab.ip("n1", "link del up0-x")
                wait_until(lambda: tap_packets(self.lab, "n1") > 0, 10, "another TAP")
                await_tap(self.lab, "n1")
                self.assertTapCarries(stream)
                received, sent = stream.finish()
                self.assertEqual(received, sent)
                self.assertBack("tap", 4)
                said = "the TAP refused a super-packet"
                log = self.lab.daemons["n1"].log
                wait_until(lambda: said in log().split("ready;")[-1], 5, "a line in the log")
                self.assertEqual(log().split("ready;")[-1].count(said), 1, "told once")

    def test_a_device_of_others_in_place_of_the_tap(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"workers": 2} | FORCED)
        await_tap(self.lab, "n1")
        stream = Stream(self.lab)
        self.progress(stream)
        # Or the daemon is faster.
        pid = self.lab.daemons["n1"].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.lab.ip("n1", "link del up0-x", "link add up0-x type bridge")
        finally:
            os.kill(pid, signal.SIGCONT)
        self.addCleanup(self.lab.exec, "n1", "ip", "link", "del", "up0-x", check=False)
        wait_until(lambda: self.offload("tap") == "off: a device up0-x exists already", 5, "a word about it")
        self.progress(stream)
        self.assertIn("bridge", self.lab.exec("n1", "ip", "-d", "link", "show", "up0-x").stdout)
        self.assertNotIn(",UP", self.lab.exec("n1", "ip", "link", "show", "up0-x").stdout, "it was touched")
        self.lab.ip("n1", "link del up0-x")
        await_tap(self.lab, "n1")
        self.assertTapCarries(stream)
        received, sent = stream.finish()
        self.assertEqual(received, sent)

    def test_an_uplink_that_was_away(self) -> None:
        self.restart(**MODES["ipip"], tunnel={"workers": 2, "uplink": "socket"})
        stream = Stream(self.lab)
        self.progress(stream)
        begun = time.monotonic()
        self.lab.ip("n1", f"link set eth0 netns {self.lab.ns('sw')} name away0")
        wait_until(lambda: self.offload("packet_socket") == REFUSED, 5, "the fallback")
        self.lab.ip("sw", f"link set away0 netns {self.lab.ns('n1')} name eth0")
        self.lab.ip("n1", f"address add {ADDRESSES['n1']}/24 dev eth0", "link set eth0 up")
        self.progress(stream)
        wait_until(lambda: self.offload("packet_socket") == "active", 10, "the packet socket")
        # It is offered at once, and again after 1 s, 2 s, 4 s and so on; both workers may refuse it each time.
        offers = (int(time.monotonic() - begun) + 1).bit_length()
        self.assertBack("packet_socket", 2 * (1 + offers))
        received, sent = stream.finish()
        self.assertEqual(received, sent)

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
