"""A stream of pings, and how many of them were lost."""

import bootstrap

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence

from underpass_lab.command import wait_until


class Pings:
    """50 pings a second while in the `with` block; `sent` and `lost` afterwards."""

    def __init__(self, entry: Sequence[object], address: str, what: str) -> None:
        """`entry`: the words before a command that bring it to its place."""
        self._words = (*map(str, entry), "ping", "-n", "-i", "0.02", "-W", "3", address)
        self.what = what
        self.sent = self.lost = 0

    def __enter__(self) -> "Pings":
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(self._words, stdout=self._said, stderr=self._said)
        return self

    def __exit__(self, *_: object) -> None:
        # What is sent last is given the time to be answered.
        answered = self._answered()
        wait_until(lambda: len(self._answered()) > len(answered) or self._process.poll() is not None, 5, self.what)
        self._process.send_signal(signal.SIGINT)
        self._process.wait(10)
        numbers = self._answered()
        self._said.close()
        self.sent = max(numbers, default=0)
        self.lost = self.sent - len(numbers)

    def _answered(self) -> set[int]:
        self._said.flush()
        text = os.pread(self._said.fileno(), 64 << 20, 0).decode()
        return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", text)}
