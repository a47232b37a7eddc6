"""Somebody who is at a TUN or TAP that is not his: `attach` runs this file as a process of its own.

    stranger.py DEVICE tun|tap one|several [owner=UID]

Prints `attached` and waits for the end of its input, or prints the name of the kernel's error. Apart from
this module nothing is imported that an ordinary user may not be able to read.
"""

import errno
import fcntl
import os
import struct
import sys

_TUNSETIFF, _TUNSETOWNER = 0x400454CA, 0x400454CC
_FLAGS = {"tun": 0x0001, "tap": 0x0002, "one": 0, "several": 0x0100}
_NO_PI, _VNET_HDR = 0x1000, 0x4000


def main(device: str, kind: str, queues: str, *more: str) -> tuple[str, int]:
    """Tries it; returns the line to print and what has to stay open."""
    handle = os.open("/dev/net/tun", os.O_RDWR)
    flags = _FLAGS[kind] | _FLAGS[queues] | _NO_PI | (_VNET_HDR if queues == "several" else 0)
    try:
        fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
        for word in more:
            fcntl.ioctl(handle, _TUNSETOWNER, int(word.removeprefix("owner=")))
    except OSError as error:
        return errno.errorcode[error.errno or 0], handle
    return "attached", handle


if __name__ == "__main__":
    said, _kept = main(*sys.argv[1:])
    print(said, flush=True)
    if said == "attached":
        sys.stdin.read()
