"""Captures that are complete: they begin when tcpdump listens and end when it has written every frame."""

import itertools
import re
import signal

from command import wait_until
from scapy.utils import rdpcap

_NUMBERS = itertools.count(1)


class Capture:
    """tcpdump on an interface, from entering the `with` block until leaving it, with nothing missed."""

    def __init__(self, lab, name, interface, expression):
        self._file = lab.dir / f"{name}-{interface}-{next(_NUMBERS)}.pcap"
        self._log = self._file.with_suffix(".log")
        self._start = lambda log: lab.popen(
            *(name, "tcpdump", "-Z", "root", "-n", "-p", "-U", "--immediate-mode", "-B", "16384"),
            *("-w", self._file, "-i", interface, expression),
            stderr=log,
        )

    def __enter__(self):
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = self._start(log)
        wait_until(lambda: "listening on" in self._said() or self._process.poll() is not None, 5, "tcpdump")
        if self._process.poll() is not None:
            raise AssertionError(f"tcpdump: {self._said()}")
        return self

    def __exit__(self, *_):
        try:
            wait_until(self._complete, 10, "a complete capture")
        finally:
            self._process.terminate()
            self._process.wait(5)

    def packets(self):
        """The captured frames so far, as scapy packets."""
        return list(rdpcap(str(self._file))) if self._file.stat().st_size > 24 else []

    def wait(self, count, timeout=5.0):
        """Waits until at least `count` frames are captured, returns all there are."""
        return wait_until(
            lambda: (packets := self.packets()) and len(packets) >= count and packets, timeout, f"{count} frames"
        )

    def _said(self):
        return self._log.read_text(encoding="utf-8")

    def _complete(self):
        """SIGUSR1 makes tcpdump say how many frames the kernel handed to it and how many it wrote."""
        before = self._said().count("\n")
        self._process.send_signal(signal.SIGUSR1)
        wait_until(lambda: self._said().count("\n") > before, 1, "tcpdump's statistics")
        counts = re.findall(r"(\d+) packets? (?:captured|received|dropped by kernel)", self._said())[-3:]
        return counts[0] == counts[1] and counts[2] == "0"
