"""Who reaches whom: pods that serve TCP, UDP, SCTP and ICMP echo, and that all ask each other at once.

All sockets are in this process, each in the namespace of its pod. SCTP is spoken over raw sockets, INIT and INIT ACK
alone, since many kernels do not have it.
"""

import bootstrap

import contextlib
import dataclasses
import errno
import itertools
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self

from underpass_lab.network import Lab

# What is served, and asked for; a port of `icmp` is none.
TCP_PORTS, UDP_PORTS, SCTP_PORTS = (80, 81, 8080), (80, 81), (80, 81)
SERVICES: tuple[tuple[str, int | None], ...] = (
    *(("tcp", port) for port in TCP_PORTS),
    *(("udp", port) for port in UDP_PORTS),
    *(("sctp", port) for port in SCTP_PORTS),
    ("icmp", None),
)
SOURCE_PORT = 40000
# So long a closed connection is waited for at its other end.
CLOSED_S = 0.5
_SCTP = 132
_INIT, _INIT_ACK = 1, 2
_ECHO = {4: (8, 0), 6: (128, 129)}
_BUFFER_BYTES = 4 << 20
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
# Closing a connection tells the other end at once, with a packet of the connection.
_ABORT = struct.pack("ii", 1, 0)


@dataclasses.dataclass(frozen=True)
class Probe:
    """One question: whether `source` gets an answer from `destination`, both (pod, address)."""

    source: tuple[str, str]
    destination: tuple[str, str]
    protocol: str
    port: int | None

    @property
    def version(self) -> int:
        return 6 if ":" in self.destination[1] else 4


class Pods:
    """The sockets of some pods, given as {namespace: its addresses}; for a `with` block."""

    def __init__(self, lab: Lab, pods: Mapping[str, Sequence[str]]) -> None:
        self._lab, self.pods = lab, pods
        self._stack = contextlib.ExitStack()
        self._selector = selectors.DefaultSelector()
        self._tokens = itertools.count(1)
        self._asking: dict[tuple[str, str, int], socket.socket] = {}
        self._waiting: dict[int, Probe] = {}
        self._answered: set[Probe] = set()
        # Connections that were taken, until the one that asked has closed them.
        self._taken: set[socket.socket] = set()

    def __enter__(self) -> Self:
        self._stack.callback(self._selector.close)
        try:
            for pod in self.pods:
                self._lab.inside(pod, lambda: self._open(pod))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._taken:
            connection.close()
        self._stack.close()

    def _open(self, pod: str) -> None:
        """Everything of one pod but the connections that it asks for."""
        for port in TCP_PORTS:
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
            self._add(listener, self._accept)
        for port in UDP_PORTS:
            for family in _FAMILY.values():
                self._add(self._bound(family, port), self._answer_udp)
        for version, family in _FAMILY.items():
            client = self._bound(family, SOURCE_PORT)
            self._asking[pod, "udp", version] = self._add(client, self._hear_udp)
            raw = socket.socket(family, socket.SOCK_RAW, _SCTP)
            self._asking[pod, "sctp", version] = self._add(raw, self._sctp6 if version == 6 else self._sctp4)
            protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
            echo = socket.socket(family, socket.SOCK_RAW, protocol)
            self._asking[pod, "icmp", version] = self._add(echo, self._hear_echo6 if version == 6 else self._hear_echo4)

    @staticmethod
    def _bound(family: int, port: int) -> socket.socket:
        """A UDP socket at this port, for one family of addresses."""
        one = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("", port))
        return one

    def _add(self, one: socket.socket, readable: Callable[[socket.socket], None]) -> socket.socket:
        one.setblocking(False)
        with contextlib.suppress(PermissionError):
            one.setsockopt(socket.SOL_SOCKET, 33, _BUFFER_BYTES)  # SO_RCVBUFFORCE
        self._stack.enter_context(one)
        self._selector.register(one, selectors.EVENT_READ, readable)
        return one

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, probes: Iterable[Probe], enough: Callable[[set[Probe]], bool], timeout: float) -> set[Probe]:
        """Sends one packet for each probe and returns those that were answered once that is `enough`, or the time is
        over."""
        self._answered = set()
        self._waiting.clear()
        by_pod: dict[str, list[Probe]] = {}
        for probe in probes:
            by_pod.setdefault(probe.source[0], []).append(probe)
        connections: list[socket.socket] = []
        try:
            for pod, its in by_pod.items():
                connections += self._connect(pod, [probe for probe in its if probe.protocol == "tcp"])
                for probe in its:
                    if probe.protocol != "tcp":
                        self._send(pod, probe)
                self._turn(0)
            end = time.monotonic() + timeout
            while not enough(self._answered) and time.monotonic() < end:
                self._turn(0.01)
        finally:
            for connection in connections:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(connection)
                connection.close()
            # What the ends still say to each other about closed connections is said before the next question.
            end = time.monotonic() + CLOSED_S
            while (self._turn(0) or self._taken) and time.monotonic() < end:
                self._turn(0.01)
        return self._answered

    def _turn(self, wait: float) -> int:
        """Hears what there is, and how many sockets had something."""
        ready = self._selector.select(wait)
        for key, _ in ready:
            with contextlib.suppress(BlockingIOError):
                key.data(key.fileobj)
        return len(ready)

    def _connect(self, pod: str, probes: list[Probe]) -> list[socket.socket]:
        """A connection for each of the probes, all from one pod."""

        def open_all() -> list[socket.socket]:
            return [socket.socket(_FAMILY[probe.version], socket.SOCK_STREAM) for probe in probes]

        connections = self._lab.inside(pod, open_all) if probes else []
        for connection, probe in zip(connections, probes, strict=True):
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            status = connection.connect_ex((probe.destination[1], probe.port))
            if status not in (0, errno.EINPROGRESS):
                raise OSError(status, f"{probe}: {errno.errorcode[status]}")
            self._selector.register(connection, selectors.EVENT_WRITE, lambda one, probe=probe: self._made(one, probe))
        return connections

    def _made(self, connection: socket.socket, probe: Probe) -> None:
        self._selector.unregister(connection)
        status = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status != 0:
            raise OSError(status, f"{probe}: {errno.errorcode[status]}")
        self._answered.add(probe)

    def _send(self, pod: str, probe: Probe) -> None:
        token = next(self._tokens) & 0xFFFFFFFF
        self._waiting[token] = probe
        sender = self._asking[pod, probe.protocol, probe.version]
        if probe.protocol == "udp":
            packet = struct.pack("!I", token)
        elif probe.protocol == "sctp":
            packet = _sctp(SOURCE_PORT, probe.port or 0, 0, _INIT, token)
        else:
            packet = _echo(probe.version, token)
        sender.sendto(packet, (probe.destination[1], (probe.port or 0) if probe.protocol == "udp" else 0))

    def _heard(self, token: int) -> None:
        probe = self._waiting.get(token)
        if probe is not None:
            self._answered.add(probe)

    # --- answering --------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            self._taken.add(connection)
            self._selector.register(connection, selectors.EVENT_READ, self._ended)

    def _ended(self, connection: socket.socket) -> None:
        """The one that asked closes first."""
        self._selector.unregister(connection)
        self._taken.discard(connection)
        connection.close()

    @staticmethod
    def _answer_udp(server: socket.socket) -> None:
        while True:
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)

    def _hear_udp(self, client: socket.socket) -> None:
        while True:
            self._heard(struct.unpack("!I", client.recv(100)[:4])[0])

    def _sctp4(self, raw: socket.socket) -> None:
        while True:
            data, (address, _) = raw.recvfrom(2000)
            self._sctp(raw, data[(data[0] & 15) * 4 :], address)

    def _sctp6(self, raw: socket.socket) -> None:
        while True:
            data, (address, *_) = raw.recvfrom(2000)
            self._sctp(raw, data, address)

    def _sctp(self, raw: socket.socket, packet: bytes, sender: str) -> None:
        """An INIT is answered, an INIT ACK is an answer."""
        source, destination, tag, _, kind, _, _, initiate = struct.unpack("!HHIIBBHI", packet[:20])
        if kind == _INIT and destination in SCTP_PORTS:
            raw.sendto(_sctp(destination, source, initiate, _INIT_ACK, initiate), (sender, 0))
        elif kind == _INIT_ACK and destination == SOURCE_PORT:
            self._heard(tag)

    def _hear_echo4(self, raw: socket.socket) -> None:
        while True:
            data = raw.recv(2000)
            self._echo(data[(data[0] & 15) * 4 :], _ECHO[4][1])

    def _hear_echo6(self, raw: socket.socket) -> None:
        while True:
            self._echo(raw.recv(2000), _ECHO[6][1])

    def _echo(self, packet: bytes, answer: int) -> None:
        if packet[0] == answer and len(packet) >= 12:
            self._heard(struct.unpack("!I", packet[8:12])[0])


def _sctp(source: int, destination: int, tag: int, kind: int, initiate: int) -> bytes:
    """A packet with an INIT or INIT ACK chunk. Its checksum is left out: nobody here looks at it."""
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, initiate, 65536, 1, 1, 1)
    return struct.pack("!HHII", source, destination, tag, 0) + chunk


def _echo(version: int, token: int) -> bytes:
    """An echo request; the kernel adds the checksum of ICMPv6."""
    packet = struct.pack("!BBHHHI", _ECHO[version][0], 0, 0, SOURCE_PORT, 1, token)
    if version == 6:
        return packet
    total = sum(struct.unpack("!6H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return packet[:2] + struct.pack("!H", checksum) + packet[4:]
