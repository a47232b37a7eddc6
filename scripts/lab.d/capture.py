"""Writes the frames that pass an interface to standard output as pcap: `capture.py INTERFACE COUNT`.

tcpdump cannot do this as root of a user namespace: it insists on changing its groups, which is not
allowed there. Ends after COUNT frames (0: never), or with all it has seen when standard input is closed.
"""

import os
import select
import signal
import socket
import struct
import sys

_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS = 3, 263, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_BUFFER_BYTES = 32 << 20
SNAP_BYTES = 1 << 18
# https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html: nanoseconds, version 2.4, link type Ethernet.
_FILE = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP_BYTES, 1)
_TIME = struct.Struct("@ll")


def main():
    interface, count = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    receiver = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    try:
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        receiver.bind((interface, _ETH_P_ALL))
    except OSError as error:
        sys.exit(f"{interface}: {error.strerror}")
    receiver.setblocking(False)
    out, written, ending = sys.stdout.buffer, 0, False
    out.write(_FILE)
    out.flush()
    print(f"listening on {interface}", file=sys.stderr, flush=True)
    while not count or written < count:
        ready, _, _ = select.select([receiver] if ending else [receiver, sys.stdin], [], [], 0 if ending else None)
        if receiver in ready:
            frame, ancillary, _, _ = receiver.recvmsg(SNAP_BYTES, 64)
            seconds, nanoseconds = _TIME.unpack(ancillary[0][2])
            out.write(struct.pack("=IIII", seconds, nanoseconds, len(frame), len(frame)) + frame)
            out.flush()
            written += 1
        elif ending:
            break
        else:
            ending = not sys.stdin.buffer.read1(1)
    _, lost = struct.unpack("II", receiver.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    print(f"{written} frames captured, {lost} missed", file=sys.stderr, flush=True)
    return 1 if lost else 0


try:
    sys.exit(main())
except BrokenPipeError:
    # Who reads has seen enough. Nothing shall be written at the end either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
