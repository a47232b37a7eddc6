"""Short of descriptors: what clients and watchers open is never what the packet path lacks, and a shortage of this
process says nothing about a way of packets."""

import bootstrap

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

from fast import FORCED, MIB, MODES, await_tap, bulk, tap_packets
from shared import METRICS, SharedLab
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary

CLIENTS = 64
SOFT = 1024


class Descriptors(SharedLab):
    daemons = ("n1", "n2")
    config = {**MODES["vxlan"], "tunnel": {"workers": 8} | FORCED}

    @classmethod
    def setUpClass(cls) -> None:
        # What a service gets where nobody says anything.
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, limits[1]))
        cls.addClassCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        super().setUpClass()

    @property
    def pid(self) -> int:
        return self.lab.daemons["n1"].pid

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @contextlib.contextmanager
    def crowd(self) -> Iterator[None]:
        """As many clients as both servers take, and a few more."""
        with contextlib.ExitStack() as clients:
            for _ in range(CLIENTS + 4):
                control = clients.enter_context(socket.socket(socket.AF_UNIX))
                control.connect(self.lab.daemons["n1"].socket)
                scraper = clients.enter_context(self.lab.socket("n1", kind=socket.SOCK_STREAM))
                scraper.connect(("127.0.0.1", 9091))
            yield

    def make_tap_again(self) -> None:
        """Takes the TAP away: what makes and tests another one opens files."""
        self.lab.ip("n1", "link del up0-x")
        wait_until(lambda: tap_packets(self.lab, "n1") > 0, 10, "another TAP")

    def carries(self) -> None:
        before = tap_packets(self.lab, "n1")
        bulk(self.lab, 4 * MIB, [("podA", "podB")])
        self.assertGreaterEqual(tap_packets(self.lab, "n1") - before, 4 * MIB // 65536)

    def test_clients_take_nothing_from_the_packet_path(self) -> None:
        await_tap(self.lab, "n1")
        self.assertGreater(self.open_files(), SOFT)
        with self.crowd():
            self.make_tap_again()
            # It answers a newcomer, too.
            await_tap(self.lab, "n1")
            self.carries()

    def test_a_shortage_is_no_verdict(self) -> None:
        await_tap(self.lab, "n1")
        limits = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        # Nothing can be opened any more: no watcher of a test, no file, no client.
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            # Refused by a TAP that is down, the workers want it tested again.
            self.lab.ip("n1", "link set up0-x down")
            bulk(self.lab, MIB, [("podA", "podB")])
            wait_until(self.tap_is_used, 10, "super-packets through the TAP")
            # One that is gone cannot be made again, and packets go by sockets.
            self.lab.ip("n1", "link del up0-x")
            bulk(self.lab, MIB, [("podA", "podB")])
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, limits)
        await_tap(self.lab, "n1")
        self.carries()
        self.assertEqual({name: n for name, n in self.lab.drops("n1").items() if n}, {})

    def tap_is_used(self) -> bool:
        before = tap_packets(self.lab, "n1")
        bulk(self.lab, MIB, [("podA", "podB")])
        return bool(tap_packets(self.lab, "n1") - before >= MIB // 65536)

    def test_a_limit_that_is_too_low_is_refused(self) -> None:
        self.stop("n1")
        config = self.lab.dir / "low.toml"
        config.write_text(self.lab.config("n1", **self.config, extra=METRICS), encoding="utf-8")
        try:
            command = ["prlimit", f"--nofile={SOFT}:{SOFT}", binary(), "run", "--config", str(config)]
            answer = self.lab.exec("n1", *command, check=False)
            self.assertEqual(answer.returncode, 1)
            self.assertIn(f"the limit of open files is {SOFT}, and", answer.stderr)
        finally:
            self.start("n1", **self.config)
