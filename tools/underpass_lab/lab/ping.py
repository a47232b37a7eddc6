"""Every pod pings every other, from one process: `ping TRIES` with lines `POD ADDRESS` on standard input.

A socket belongs to the namespace it was made in, so this makes one in each pod and then serves all of
them. Ends with status 1 unless all pairs were answered.
"""

import contextlib
import os
import selectors
import socket
import statistics
import struct
import sys
import time
from collections.abc import Sequence

from underpass_lab import netns

WAIT_S = 1.0
# Questions on the way at once: more than some hundred overflow the kernel's own queues.
WINDOW = 100
SHOWN = 20
BODY = b"underpass lab"
_ECHO = struct.Struct(">BBHHH")
_SECOND = 1_000_000_000


Pair = tuple[int, int]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) % 2 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def question(identifier: int, number: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    head = _ECHO.pack(8, 0, 0, identifier, number)
    return _ECHO.pack(8, 0, checksum(head + BODY), identifier, number) + BODY


class Pings:
    """All pairs, each asked until it is answered or has been asked often enough."""

    def __init__(self, pods: Sequence[tuple[str, str]], sockets: Sequence[socket.socket]) -> None:
        self.pods, self.sockets = pods, sockets
        self.identifier = os.getpid() & 0xFFFF
        self.owner = {address: index for index, (_, address) in enumerate(pods)}
        self.waiting: dict[Pair, int] = {}  # (from, to) → when it was asked last
        self.times: dict[Pair, int] = {}  # (from, to) → nanoseconds
        self.selector = selectors.DefaultSelector()
        for index, one in enumerate(sockets):
            self.selector.register(one, selectors.EVENT_READ, index)

    def round(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Asks each pair once and waits for the answers; returns those that did not come."""
        left = list(reversed(pairs))
        while left or self.waiting:
            while left and len(self.waiting) < WINDOW:
                self._ask(left.pop())
            for key, _ in self.selector.select(0.05):
                self._answers(key.data)
            late = time.monotonic_ns() - int(WAIT_S * _SECOND)
            for pair in [pair for pair, asked in self.waiting.items() if asked < late]:
                del self.waiting[pair]
        return [pair for pair in pairs if pair not in self.times]

    def _ask(self, pair: Pair) -> None:
        source, target = pair
        self.waiting[pair] = time.monotonic_ns()
        # An unreachable pod is one that does not answer.
        with contextlib.suppress(OSError):
            self.sockets[source].sendto(question(self.identifier, target), (self.pods[target][1], 0))

    def _answers(self, source: int) -> None:
        while True:
            try:
                packet, sender = self.sockets[source].recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                continue
            now = time.monotonic_ns()
            head = packet[(packet[0] & 15) * 4 :]
            if len(head) < _ECHO.size + len(BODY):
                continue
            kind, _, _, identifier, number = _ECHO.unpack_from(head)
            if (kind, identifier) != (0, self.identifier) or self.owner.get(sender[0]) != number:
                continue
            asked = self.waiting.pop((source, number), None)
            if asked is not None and head[_ECHO.size :] == BODY:
                self.times[source, number] = now - asked


def open_sockets(pods: Sequence[tuple[str, str]]) -> list[socket.socket]:
    sockets: list[socket.socket] = []

    def make(_: object) -> None:
        one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        one.setblocking(False)
        sockets.append(one)

    netns.each_inside([netns.NAMES / name for name, _ in pods], make)
    return sockets


def summary(
    pods: Sequence[tuple[str, str]], rounds: Sequence[Sequence[Pair]], times: Sequence[int], begun: float
) -> str:
    """The last lines, from the pairs that were still unanswered after each round."""
    count = len(pods)
    total, missing = count * (count - 1), rounds[-1]
    again = "".join(
        f", {len(before) - len(after)} at try {number}"
        for number, (before, after) in enumerate(zip(rounds, rounds[1:], strict=False), 2)
        if len(before) > len(after)
    )
    lines = [f"no answer: {pods[source][0]} to {' '.join(pods[target])}" for source, target in missing[:SHOWN]]
    if len(missing) > SHOWN:
        lines.append(f"… and {len(missing) - SHOWN} more")
    if times:
        values = sorted(time_ns / 1e6 for time_ns in times)
        p99 = values[min(len(values) - 1, int(len(values) * 0.99))]
        median = statistics.median(values)
        lines.append(f"round trip: median {median:.2f} ms, p99 {p99:.2f} ms, max {values[-1]:.2f} ms")
    lines.append(
        f"{total - len(missing)} of {total} pairs of {count} pods answered{again} ({time.monotonic() - begun:.1f} s)"
    )
    return "\n".join(lines)


def main() -> int:
    begun, tries = time.monotonic(), int(sys.argv[1])
    pods = [(name, address) for name, address in (line.split() for line in sys.stdin)]
    pings = Pings(pods, open_sockets(pods))
    # Neighbours in this order have neither sender nor receiver in common.
    count = len(pods)
    pairs = [(index, (index + step) % count) for step in range(1, count) for index in range(count)]
    rounds: list[list[Pair]] = []
    for _ in range(tries):
        pairs = pings.round(pairs)
        rounds.append(pairs)
        if not pairs:
            break
    print(summary(pods, rounds, list(pings.times.values()), begun))
    return 1 if pairs else 0


if __name__ == "__main__":
    sys.exit(main())
