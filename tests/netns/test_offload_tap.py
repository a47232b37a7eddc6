"""The TAP uplink: that it carries, that a firewall turns it off and on again, its probes, its end."""

import bootstrap

import contextlib
import ctypes
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether

from fast import FORCED, MIB, MODES, Stream, await_tap, bulk, metric_samples, tap_packets
from shared import SharedLab
from startup import device_exists
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES

TAP = "up0-x"
PROBE = b"underpass probe "
NO_NEXT_HEADER = 59
# x86-64 and arm64; and of linux/bpf.h.
_NR_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
_BPF_PROG_GET_FD_BY_ID = 13
_LIBC = ctypes.CDLL(None, use_errno=True)
# Two failed tests, each a second after the other, the first up to five seconds after the cause.
GIVEN_UP_S = 10


# TCP doubles its retransmission timeout while the TAP is a black hole, so its next attempt may come as
# long after the end of that as the hole lasted.
RETRY_S = 60


class Carries(SharedLab):
    """With the TAP active, bulk TCP leaves through it."""

    def test_tcp_moves_through_it(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel=FORCED)
                await_tap(self.lab, "n1")
                before = tap_packets(self.lab, "n1")
                bulk(self.lab, 32 * MIB, [("podA", "podB")])
                # Super-packets hold 64 KiB at most, and most hold much.
                self.assertGreaterEqual(tap_packets(self.lab, "n1") - before, 32 * MIB // 65536)
                self.assertLess(tap_packets(self.lab, "n1") - before, 32 * MIB // 4096)
                self.assertEqual(metric_samples(self.lab, "n1", "offload_active")["tap"], 1)

    def test_the_socket_is_a_choice(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"uplink": "socket"})
        self.assertEqual(self.lab.status("n1")["offloads"]["tap"], "off: configured")
        self.assertFalse(device_exists(self.lab, "n1", TAP))


class Firewall(SharedLab):
    """A rule that keeps the TAP's packets from the uplink costs a pause, not the connection."""

    def tap_state(self) -> Any:
        return self.lab.status("n1")["offloads"]["tap"]

    def nft(self, *command: Any) -> None:
        self.lab.exec("n1", "nft", *command)

    def forbid(self) -> None:
        self.nft("add table ip test")
        self.nft("add chain ip test forward { type filter hook forward priority 0; }")
        self.nft(f"add rule ip test forward iifname {TAP} drop")

    def progress(self, stream: Any, timeout: float) -> None:
        before = stream.received
        wait_until(lambda: stream.received > before + MIB, timeout, "progress of the transfer")

    def test_back_to_the_socket_and_to_the_tap_again(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode], tunnel=FORCED)
                await_tap(self.lab, "n1")
                stream = Stream(self.lab)
                self.progress(stream, 5)
                self.forbid()
                try:
                    wait_until(lambda: self.tap_state().startswith("off: "), GIVEN_UP_S, "the socket")
                    reason = f"off: a {mode} probe to {ADDRESSES['n2']} did not reach the uplink; check the forward"
                    self.assertTrue(self.tap_state().startswith(reason), self.tap_state())
                    self.assertIn(f"uplink tap: {reason}", self.lab.daemons["n1"].log())
                    self.assertEqual(metric_samples(self.lab, "n1", "offload_active")["tap"], 0)
                    self.progress(stream, RETRY_S)
                    idle = tap_packets(self.lab, "n1")
                    self.progress(stream, 5)
                    # Only probes, two packets each.
                    self.assertLess(tap_packets(self.lab, "n1") - idle, 20)
                finally:
                    self.nft("delete table ip test")
                await_tap(self.lab, "n1")
                idle = tap_packets(self.lab, "n1")
                self.progress(stream, 5)
                self.assertGreater(tap_packets(self.lab, "n1"), idle)
                received, sent = stream.finish()
                self.assertEqual(received, sent)

    def test_never_used_where_it_cannot_work(self) -> None:
        """Forbidden by the firewall, or by the strict reverse path filter: not even used where it is demanded."""
        strict = {"ipv4/conf/all/rp_filter": 1}
        causes: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {
            "nft": (self.forbid, lambda: self.nft("delete table ip test")),
            "rp_filter": (
                lambda: self.lab.sysctl("n1", strict),
                lambda: self.lab.sysctl("n1", dict.fromkeys(strict, 0)),
            ),
        }
        for name, (make, undo) in causes.items():
            with self.subTest(name):
                make()
                try:
                    self.restart(**MODES["vxlan"], tunnel=FORCED)
                    wait_until(lambda: "did not reach the uplink" in self.tap_state(), 5, "a failed test")
                    bulk(self.lab, 16 * MIB)
                    self.assertIn("did not reach the uplink", self.tap_state())
                finally:
                    undo()
                await_tap(self.lab, "n1")


class Probes(SharedLab):
    """Probes are no traffic to the receiver, and nobody answers them."""

    # Both formats at once: each has its probe.
    config = {"pools": [("10.244.2.0/25", "Never", "Always"), ("10.244.2.128/25", "Always", "Never")], "tunnel": FORCED}

    @staticmethod
    def is_probe(frame: Any) -> Any:
        ip = Ether(frame).getlayer(IP)
        if ip is None:
            return False
        return ip.haslayer(UDP) and bytes(ip)[28:] == PROBE or ip.proto == 4 and ip[IP:2].proto == NO_NEXT_HEADER

    def test_unseen_and_unanswered(self) -> None:
        wire = self.tap("n2", "eth0", probes=True)

        def probes(protocol: int) -> list[Any]:
            return [f for f in wire.incoming() if f[23:24] == bytes([protocol]) and self.is_probe(f)]

        with self.moves("n2"):
            # A node that starts tests its TAP in both formats, and again only once it has carried any.
            self.start("n1", **self.config)
            for protocol in (17, 4):
                wait_until(lambda: probes(protocol), 15, "a probe")
        for frame in probes(17) + probes(4):
            packet = Ether(frame)[IP]
            self.assertEqual((packet.src, packet.dst, packet.ttl), (ADDRESSES["n1"], ADDRESSES["n2"], 64))
        frames = [Ether(frame) for frame in wire.incoming() + wire.outgoing()]
        self.assertEqual([frame for frame in frames if frame.haslayer(ICMP)], [])
        others = [f for f in wire.incoming() if f[12:14] == b"\x08\x00" and not self.is_probe(f)]
        self.assertEqual(others, [])


class End(SharedLab):
    """Neither the TAP nor the eBPF program outlives the daemon, however it ends."""

    daemons = ("n1",)
    config = MODES["ipip"] | {"tunnel": FORCED}

    @staticmethod
    def programs(pid: int) -> set[int]:
        """Ids of the eBPF programs that a process holds by a link or directly."""
        lines = []
        for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
            # Some are open for a moment only.
            with contextlib.suppress(FileNotFoundError):
                lines += info.read_text(encoding="ascii").splitlines()
        return {int(line.split()[1]) for line in lines if line.startswith("prog_id:")}

    @staticmethod
    def exists(program: int) -> bool:
        """Whether the kernel still has an eBPF program."""
        attr = (ctypes.c_uint32 * 3)(program, 0, 0)
        fd = _LIBC.syscall(_NR_BPF, _BPF_PROG_GET_FD_BY_ID, ctypes.byref(attr), ctypes.sizeof(attr))
        if fd >= 0:
            os.close(fd)
        return bool(fd >= 0)

    def test_nothing_is_left(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(number):
                daemon = self.start("n1", **self.config)
                await_tap(self.lab, "n1")
                programs = self.programs(daemon.pid)
                self.assertNotEqual(programs, set())
                self.assertTrue(all(map(self.exists, programs)))
                self.assertTrue(device_exists(self.lab, "n1", TAP))
                daemon.process.send_signal(number)
                daemon.process.wait(5)
                self.lab.daemons.pop("n1")
                wait_until(lambda: not device_exists(self.lab, "n1", TAP), 3, "the TAP to go")
                wait_until(lambda: not any(map(self.exists, programs)), 3, "the programs to go")
                self.assertFalse(device_exists(self.lab, "n1"))
