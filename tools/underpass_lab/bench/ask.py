"""The near end of round trips by UDP: asks `netload serve`, as a UDP trial does at its end, and prints the JSON object
of `netload rtt`.

    ask.py ADDRESS --count N --gap-ms MS [--limit-ms MS] [--max-lost N]

One socket, so one flow, one question at a time; the answer comes from a process, not from the kernel. What is timed
begins when the flow is established. Standard library only; times have a few microseconds of the interpreter in them,
the same for every path.
"""

import argparse
import gc
import json
import socket
import struct
import sys
import time
from typing import Any

# Of `netload serve`: its port, and the number in place of a sequence number that makes a datagram a question
# (tools/src/bin/netload/trial.rs).
PORT = 7001
QUESTION = 0xFFFF_FFFF_FFFF_FFFF
# A round trip that takes longer is lost; seconds.
TIMEOUT_S = 1
# Questions before the first that counts, by which a flow is established, and the pause before each.
FIRST, FIRST_GAP_S = 100, 0.003


def main() -> None:
    parser = argparse.ArgumentParser(prog="ask.py")
    parser.add_argument("address")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--gap-ms", type=float, default=10)
    parser.add_argument("--limit-ms", type=float, default=60_000)
    parser.add_argument("--max-lost", type=int, default=3)
    parser.add_argument("--port", type=int, default=PORT)
    asked = parser.parse_args()
    try:
        print(json.dumps(round_trips(asked)))
    except OSError as error:
        sys.exit(f"{asked.address}: {error}")


def round_trips(asked: argparse.Namespace) -> dict[str, Any]:
    """Median and 99th percentile in microseconds, the number of round trips, and how many were lost."""
    gc.disable()
    times: list[int] = []
    lost = 0
    begun = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
        # A timeout of Python's would be one more system call.
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_S, 0))
        near.connect((asked.address, asked.port))
        for number in range(FIRST + asked.count):
            counts = number >= FIRST
            if number == FIRST:
                begun = time.monotonic()
            pause(asked.gap_ms / 1000 if counts else FIRST_GAP_S)
            if counts and time.monotonic() - begun >= asked.limit_ms / 1000:
                break
            taken = round_trip(near, number)
            if taken is None:
                lost += 1
                if lost > asked.max_lost:
                    raise OSError(f"{lost} round trips lost")
            elif counts:
                times.append(taken)
    if not times:
        raise OSError("no round trip came back")
    times.sort()

    def percentile(percent: int) -> float:
        return times[(len(times) - 1) * percent // 100] / 1000

    return {"p50_us": percentile(50), "p99_us": percentile(99), "count": len(times), "lost": lost}


def pause(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


def round_trip(near: socket.socket, number: int) -> int | None:
    """Nanoseconds of one; None when it was lost. Each question is a trial of its own, so that late answers to others
    are known as such."""
    trial = struct.pack("<I", number)
    question = trial + struct.pack("<Q", QUESTION)
    begun = time.perf_counter_ns()
    near.send(question)
    try:
        while near.recv(64)[:4] != trial:
            pass
    except BlockingIOError:
        return None
    return time.perf_counter_ns() - begun


if __name__ == "__main__":
    main()
