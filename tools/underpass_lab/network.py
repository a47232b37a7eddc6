"""Lab: network namespaces, the links between them, the processes in them, and that all of it ends.

The namespaces are named IDENTITY-NAME, and all links are made inside them, so labs of several processes do not meet.
A lab cleans up when its `with` block ends, and when the process does; what interrupts that is heard afterwards.
"""

import atexit
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from underpass_lab import netns
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.paths import PYTHON, TRAFFIC

Value = TypeVar("Value")

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TCP_PORT = 5001

_LIVE: "list[Lab]" = []


class Lab:
    """A context manager; a kind of lab says in `build` what is in it."""

    # Where the names of namespaces are, and the words before a command that shall find them there.
    names: pathlib.Path = netns.NAMES
    entry: tuple[str, ...] = ()

    def __init__(
        self, identity: str, mtu: int = 1500, ipv6: bool = False, directory: pathlib.Path | None = None
    ) -> None:
        """`mtu` is that of the links between nodes. Without `ipv6` no interface has any IPv6, which keeps captures
        and counters free of what the kernel says by itself. `directory` is for files, by default a new one."""
        self.id, self.mtu, self.ipv6 = identity, mtu, ipv6
        self.dir = directory or pathlib.Path(tempfile.mkdtemp(prefix=f"{identity}-"))
        self.daemons: dict[str, Daemon] = {}
        self.logs: dict[str, str] = {}
        self._namespaces: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        _LIVE.append(self)
        try:
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- construction -----------------------------------------------------------------------------

    def build(self) -> None:
        """Makes the namespaces and the links between them."""
        raise NotImplementedError

    def add_namespace(self, name: str, forward: bool = False) -> None:
        """A new namespace, which forwards packets if asked to."""
        self._namespaces.append(name)
        self.tool("ip", "netns", "add", self.ns(name))
        self.sysctl(name, netns.sysctls(forward, self.ipv6))
        self.ip(name, "link set lo up")

    def link(
        self, near: str, near_interface: str, far: str, far_interface: str, mtu: int = 1500, offloads: bool = True
    ) -> None:
        """A veth pair between two namespaces, both ends up."""
        self.tool(
            *("ip", "link", "add", "name", near_interface, "mtu", mtu, "netns", self.ns(near), "type", "veth"),
            *("peer", "name", far_interface, "mtu", mtu, "netns", self.ns(far)),
        )
        self.ip(near, f"link set {near_interface} up")
        self.ip(far, f"link set {far_interface} up")
        if not offloads:
            self.offloads(near, near_interface, on=False)
            self.offloads(far, far_interface, on=False)

    # --- inside a namespace -----------------------------------------------------------------------

    def ns(self, name: str) -> str:
        """The name under which the kernel knows a namespace of this lab."""
        return f"{self.id}-{name}"

    def tool(self, *command: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end where the namespaces of this lab have their names."""
        return run(*self.entry, *command, **options)

    def ip(self, name: str, *commands: str) -> None:
        """Runs `ip` commands in a namespace, all of them in one process."""
        self.tool("ip", "-n", self.ns(name), "-batch", "-", input="\n".join(commands) + "\n")

    def exec(
        self, name: str, *command: object, check: bool = True, timeout: float = 30, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end in a namespace; a CompletedProcess with text in `stdout`, `stderr`."""
        return self.tool("ip", "netns", "exec", self.ns(name), *command, check=check, timeout=timeout, **options)

    def popen(self, name: str, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command in a namespace; it is ended with the lab at the latest."""
        words = [*self.entry, "ip", "netns", "exec", self.ns(name), *map(str, command)]
        process: subprocess.Popen[Any] = subprocess.Popen(
            words, **{"stdin": subprocess.DEVNULL, "text": True} | options
        )
        self._processes.append(process)
        return process

    def inside(self, name: str, function: Callable[[], Value]) -> Value:
        """Calls `function` in a thread that is in the namespace. A socket it returns stays in there."""
        return netns.inside(self.names / self.ns(name), function)

    def socket(
        self, name: str, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """A socket of this process in a namespace."""
        return self.inside(name, lambda: socket.socket(family, kind, protocol))

    def sysctl(self, name: str, values: Mapping[str, object]) -> None:
        """Writes to `/proc/sys/net` of a namespace; keys that this kernel does not have are left out."""
        self.inside(name, lambda: netns.write_sysctls(values))

    def mac(self, name: str, interface: str) -> str:
        """The MAC of an interface."""
        links = json.loads(self.tool("ip", "-n", self.ns(name), "-j", "link", "show", interface).stdout)
        return str(links[0]["address"])

    def offloads(self, name: str, interface: str, on: bool) -> None:
        """Switches checksum, segmentation and receive offloads of an interface."""
        self.exec(name, "ethtool", "-K", interface, *netns.offload_words(on))

    def ping(self, name: str, address: str, *options: object, count: int = 3) -> int:
        """How many of `count` pings from a namespace were answered."""
        # All at once: behind the last one it waits for as long as between two, once there was an answer.
        how = ("-c", count, "-l", count, "-i", 2, "-W", 5)
        output = self.exec(name, "ping", "-n", *how, *options, address, check=False)
        found = re.search(r"(\d+) received", output.stdout)
        return int(found[1]) if found else 0

    # --- daemons ----------------------------------------------------------------------------------

    def run_daemon(
        self,
        node: str,
        text: str,
        environment: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        stderr: Any = None,
    ) -> Daemon:
        """Starts the daemon of a node with this configuration and waits until it answers."""
        file = self.dir / f"{node}.toml"
        file.write_text(text, encoding="utf-8")
        daemon = Daemon(self, node, file, environment, command, stderr=stderr)
        self.daemons[node] = daemon
        daemon.wait_ready()
        return daemon

    # --- traffic ----------------------------------------------------------------------------------

    def listens(self, name: str, port: int, kind: str = "tcp") -> None:
        """Waits until something listens on a port."""
        words = ("ss", "-Hnl", f"--{kind}", f"sport = :{port}")
        wait_until(lambda: self.exec(name, *words).stdout, 5, f"a listener on {port}")

    def send(self, name: str, interface: str, packets: Any) -> None:
        """Sends scapy packets, or bytes, as they are: from the Ethernet header on."""
        with self.socket(name, socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((interface, 0))
            for packet in packets if isinstance(packets, (list, tuple)) else [packets]:
                out.send(bytes(packet))

    def tcp_transfer(self, source: str, target: str, address: str, size: int) -> str:
        """Sends `size` random bytes; Failure unless all arrive and both SHA-256 are equal; returns that."""
        receiver = self.popen(target, PYTHON, TRAFFIC, "tcp-receive", TCP_PORT, stdout=subprocess.PIPE)
        self.listens(target, TCP_PORT)
        sent = self.exec(source, PYTHON, TRAFFIC, "tcp-send", address, TCP_PORT, size, timeout=300).stdout
        received, _ = receiver.communicate(timeout=30)
        if sent != received or not sent.startswith(f"{size} "):
            raise Failure(f"sent {sent!r}, received {received!r}")
        return sent.split()[1]

    # --- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends all processes in the lab and removes it. The daemons' logs stay in `logs`."""
        if self in _LIVE:
            _LIVE.remove(self)
        # A Ctrl-C must not leave half of the namespaces behind; it is heard afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        try:
            self._remove()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _remove(self) -> None:
        self.logs |= {node: daemon.log() for node, daemon in self.daemons.items()}
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for name in self._namespaces:
            self._remove_namespace(name)
        self._namespaces.clear()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _remove_namespace(self, name: str) -> None:
        if not (self.names / self.ns(name)).exists():
            return
        for pid in self.tool("ip", "netns", "pids", self.ns(name)).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.tool("ip", "netns", "delete", self.ns(name))


@atexit.register
def _close_all() -> None:
    for lab in list(_LIVE):
        lab.close()
