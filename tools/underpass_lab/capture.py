"""Captures that are complete: they begin when tcpdump listens and end when it has written every frame."""

import itertools
import re
import signal
import subprocess
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from scapy.utils import rdpcap

from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import Host

_NUMBERS = itertools.count(1)


class Capture:
    """tcpdump on an interface, from entering the `with` block until leaving it, with nothing missed."""

    def __init__(self, lab: Host, name: str, interface: str, expression: str) -> None:
        self._file = lab.dir / f"{name}-{interface}-{next(_NUMBERS)}.pcap"
        self._log = self._file.with_suffix(".log")
        self._start: Callable[[Any], subprocess.Popen[Any]] = lambda log: lab.popen(
            *(name, "tcpdump", "-Z", "root", "-n", "-p", "-U", "--immediate-mode", "-B", "16384"),
            *("-w", self._file, "-i", interface, expression),
            stderr=log,
        )

    def __enter__(self) -> Self:
        with open(self._log, "w", encoding="utf-8") as log:
            self._process = self._start(log)
        wait_until(lambda: "listening on" in self._said() or self._process.poll() is not None, 5, "tcpdump")
        if self._process.poll() is not None:
            raise Failure(f"tcpdump: {self._said()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            wait_until(self._complete, 10, "a complete capture")
        finally:
            self._process.terminate()
            self._process.wait(5)

    def packets(self) -> list[Any]:
        """The captured frames so far, as scapy packets."""
        return list(rdpcap(str(self._file))) if self._file.stat().st_size > 24 else []

    def wait(self, count: int, timeout: float = 5.0) -> list[Any]:
        """Waits until at least `count` frames are captured, returns all there are."""

        def enough() -> list[Any]:
            packets = self.packets()
            return packets if len(packets) >= count else []

        return wait_until(enough, timeout, f"{count} frames")

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def _complete(self) -> bool:
        """SIGUSR1 makes tcpdump say how many frames the kernel handed to it and how many it wrote."""
        before = self._said().count("\n")
        self._process.send_signal(signal.SIGUSR1)
        wait_until(lambda: self._said().count("\n") > before, 1, "tcpdump's statistics")
        counts = re.findall(r"(\d+) packets? (?:captured|received|dropped by kernel)", self._said())[-3:]
        return bool(counts[0] == counts[1] and counts[2] == "0")
