"""A paced UDP flow: a thousand datagrams a second with the time they were sent at.

    flow.py send ADDRESS PORT SECONDS        flow.py receive ADDRESS PORT

The receiver ends with its standard input and prints JSON: how many came, and when those were sent.
"""

import json
import select
import socket
import struct
import sys
import time

PERIOD_S = 0.001


def send(address, port, seconds):
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.connect((address, port))
    begin = time.monotonic()
    count = 0
    while (now := time.monotonic()) - begin < seconds:
        try:
            out.send(struct.pack("!Id", count, now))
        except OSError:
            pass  # What comes back as ICMP is about a datagram before.
        count += 1
        time.sleep(max(0.0, begin + count * PERIOD_S - time.monotonic()))
    print(count)


def receive(address, port):
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    receiver.bind((address, port))
    print("ready", flush=True)
    numbers, times = set(), []
    while True:
        readable, _, _ = select.select([receiver, sys.stdin], [], [])
        if receiver in readable:
            number, sent = struct.unpack("!Id", receiver.recv(100))
            numbers.add(number)
            times.append(sent)
        elif sys.stdin in readable:
            break
    json.dump({"received": len(numbers), "sent_at": times}, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    else:
        receive(sys.argv[2], int(sys.argv[3]))
