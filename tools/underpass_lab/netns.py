"""Network namespaces from the inside: entering them, their sysctls, mounts of a mount namespace."""

import contextlib
import ctypes
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from underpass_lab.command import Failure

Value = TypeVar("Value")

# Where `ip netns` keeps their names.
NAMES = pathlib.Path("/run/netns")
OFFLOADS = ("rx", "tx", "sg", "tso", "gso", "gro")

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def enter(path: pathlib.Path) -> None:
    """Moves the calling thread into a network namespace."""
    with open(path, encoding="ascii") as handle:
        if _LIBC.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise Failure(f"cannot enter {path.name}: {os.strerror(ctypes.get_errno())}")


def inside(path: pathlib.Path, function: Callable[[], Value]) -> Value:
    """Calls `function` in a thread that is in the namespace. A socket it returns stays in there."""

    def visit() -> Value:
        enter(path)
        return function()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(visit).result()


def each_inside(paths: Iterable[pathlib.Path], function: Callable[[pathlib.Path], None]) -> None:
    """Calls `function(path)` in each of many namespaces, from one thread that ends afterwards."""

    def visit() -> None:
        for path in paths:
            enter(path)
            function(path)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(visit).result()


def sysctls(forward: bool, ipv6: bool) -> dict[str, int]:
    """{file under /proc/sys/net: value} of a namespace of a lab; written before any interface exists, which takes its
    settings from `default` when it is made."""
    settings = {"rp_filter": 0, "send_redirects": 0, "accept_redirects": 0}
    scopes = ("all", "default")
    values = {f"ipv4/conf/{scope}/{key}": value for scope in scopes for key, value in settings.items()}
    values |= {f"ipv6/conf/{scope}/disable_ipv6": int(not ipv6) for scope in scopes}
    return values | {"ipv4/ip_forward": int(forward), "bridge/bridge-nf-call-iptables": 0}


def write_sysctls(values: Mapping[str, object]) -> None:
    """Writes to /proc/sys/net of the calling thread; keys that this kernel does not have are left out: some have no
    IPv6 or no bridge filter."""
    for key, value in values.items():
        with contextlib.suppress(FileNotFoundError):
            pathlib.Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")


def offload_words(on: bool) -> list[str]:
    """What `ethtool -K INTERFACE` takes to switch checksum, segmentation and receive offloads."""
    return [word for feature in OFFLOADS for word in (feature, "on" if on else "off")]


def mount(source: object, target: object, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2) in the mount namespace of this process."""
    words = [word.encode() for word in (str(source), str(target), kind)]
    if _LIBC.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        raise Failure(f"cannot mount {kind or source} on {target}: {os.strerror(ctypes.get_errno())}")
