"""A paced UDP flow: a thousand datagrams a second with the time they were sent at.

    flow send ADDRESS PORT SECONDS        flow receive ADDRESS PORT

The sender prints when each was sent, as JSON; the receiver ends with its standard input and prints the numbers of
those that came.
"""

import contextlib
import json
import select
import socket
import struct
import sys
import time

PERIOD_S = 0.001


def send(address: str, port: int, seconds: float) -> None:
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((address, port))
    begin = time.monotonic()
    times: list[float] = []
    while (now := time.monotonic()) - begin < seconds:
        # What comes back as ICMP is about a datagram before.
        with contextlib.suppress(OSError):
            out.send(struct.pack("!I", len(times)))
        times.append(now)
        time.sleep(max(0.0, begin + len(times) * PERIOD_S - time.monotonic()))
    json.dump(times, sys.stdout)


def receive(address: str, port: int) -> None:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.bind((address, port))
    print("ready", flush=True)
    numbers: set[int] = set()
    while True:
        readable, _, _ = select.select([receiver, sys.stdin], [], [])
        if receiver in readable:
            numbers.update(struct.unpack("!I", receiver.recv(100)))
        elif sys.stdin in readable:
            break
    json.dump(sorted(numbers), sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        receive(sys.argv[2], int(sys.argv[3]))
