"""Writes the frames that pass an interface to standard output as pcap: `ring INTERFACE COUNT [SNAP]`.

tcpdump cannot do this as root of a user namespace: it insists on changing its groups, which is not
allowed there. Ends after COUNT frames (0: never), or with all it has seen on SIGTERM and when the pipe at standard
input is closed. Writes SNAP bytes of a frame at most.

The kernel writes the frames into a ring of blocks that this shares with it (packet(7), TPACKET_V3); the
size of such a ring is not limited as that of a socket's buffer is.
"""

import ctypes
import io
import mmap
import os
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Iterator

_ETH_P_ALL, _SOL_PACKET, _SO_ATTACH_FILTER = 3, 263, 26
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _TPACKET_V3 = 5, 6, 10, 2
# A block passes to us when it is full or this old.
BLOCK_BYTES, BLOCKS, BLOCK_MS = 1 << 20, 32, 10
_FRAME_BYTES = 1 << 11
_STATUS, _OURS, _THEIRS = struct.Struct("=I"), 1, 0
_COUNT_AND_FIRST = struct.Struct("=II")
_FRAME = struct.Struct("=IIIIIIH")  # tpacket3_hdr: next, seconds, nanoseconds, captured, length, status, where
SNAP_BYTES = 1 << 18
# https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html: nanoseconds, version 2.4, link type Ethernet.
_FILE_HEAD = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, SNAP_BYTES, 1)
_FRAME_HEAD = struct.Struct("=IIII")


class Ring:
    """The frames of an interface from now on, the first `snap` bytes of each."""

    def __init__(self, interface: str, snap: int) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
        frames = BLOCK_BYTES // _FRAME_BYTES * BLOCKS
        self.socket.setsockopt(
            _SOL_PACKET, _PACKET_RX_RING, struct.pack("7I", BLOCK_BYTES, BLOCKS, _FRAME_BYTES, frames, BLOCK_MS, 0, 0)
        )
        # A filter that accepts everything says how much of it (BPF_RET in linux/filter.h).
        program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, snap))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
        self.memory = mmap.mmap(self.socket.fileno(), BLOCK_BYTES * BLOCKS)
        self.socket.bind((interface, _ETH_P_ALL))
        self.block = 0

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(seconds, nanoseconds, length, bytes) of each frame in the blocks that are ready."""
        while self._status() & _OURS:
            base = self.block * BLOCK_BYTES
            count, offset = _COUNT_AND_FIRST.unpack_from(self.memory, base + 12)
            for _ in range(count):
                head = _FRAME.unpack_from(self.memory, base + offset)
                following, seconds, nanoseconds, captured, length, _, where = head
                begin = base + offset + where
                yield seconds, nanoseconds, length, self.memory[begin : begin + captured]
                offset += following
            _STATUS.pack_into(self.memory, base + 8, _THEIRS)
            self.block = (self.block + 1) % BLOCKS

    def _status(self) -> int:
        return int(_STATUS.unpack_from(self.memory, self.block * BLOCK_BYTES + 8)[0])

    def lost(self) -> int:
        return int(struct.unpack("III", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 12))[1])


def end_signal() -> io.FileIO:
    """A file that is at its end after SIGTERM."""
    reading, writing = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.close(writing))
    return io.FileIO(reading, "rb")


def main() -> int:
    interface, limit, snap = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else SNAP_BYTES
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends: list[socket.socket | io.FileIO] = [end_signal()]
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        ends.append(io.FileIO(sys.stdin.fileno(), closefd=False))
    try:
        ring = Ring(interface, snap)
    except OSError as error:
        sys.exit(f"{interface}: {error.strerror}")
    out, written, ending = sys.stdout.buffer, 0, False
    out.write(_FILE_HEAD)
    out.flush()
    print(f"listening on {interface}", file=sys.stderr, flush=True)
    while not limit or written < limit:
        watched: list[socket.socket | io.FileIO] = [ring.socket]
        ready, _, _ = select.select(
            watched if ending else watched + ends, [], [], BLOCK_MS / 1000 * 5 if ending else None
        )
        for seconds, nanoseconds, length, frame in ring.frames():
            if not limit or written < limit:
                out.write(_FRAME_HEAD.pack(seconds, nanoseconds, len(frame), length) + frame)
                written += 1
        out.flush()
        if ending and not ready:
            break
        ending = ending or any(end in ready and isinstance(end, io.FileIO) and not end.read(1) for end in ends)
    lost = ring.lost()
    print(f"{written} frames captured, {lost} missed", file=sys.stderr, flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Who reads has seen enough. Nothing shall be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
