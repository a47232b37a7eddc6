"""Who reaches whom: TCP connections and UDP datagrams between ends in network namespaces, all at once."""

import bootstrap

import contextlib
import itertools
import pathlib
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from underpass_lab import netns

# Longer than the first retransmission of a SYN: what is let through meanwhile counts.
PROBE_S = 1.3
_PROTOCOLS = ("tcp", "udp")


class Probe(NamedTuple):
    """A question: whether `source` reaches a port of `target`."""

    source: str
    target: str
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.source} to {self.target} {self.protocol} {self.port}"


@dataclass(frozen=True)
class End:
    """Something that sends and listens: where it is, in which network namespace, and its address."""

    node: str
    namespace: pathlib.Path
    address: str

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


class Reachability:
    """Listens on the ports of all ends, and asks from each of them for all on other nodes."""

    def __init__(self, ends: Mapping[str, End], ports: Sequence[int]) -> None:
        self._ends, self._ports = ends, ports
        self._stack = contextlib.ExitStack()
        self._listeners: list[socket.socket] = []
        self._datagrams: list[socket.socket] = []
        self._number = itertools.count()

    def __enter__(self) -> Self:
        for end in self._ends.values():
            for listener in netns.inside(end.namespace, lambda end=end: self._listen(end)):  # type: ignore[misc]
                self._stack.enter_context(listener)
                (self._datagrams if listener.type == socket.SOCK_DGRAM else self._listeners).append(listener)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all listeners."""
        self._stack.close()

    def _listen(self, end: End) -> list[socket.socket]:
        found = []
        for port in self._ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                listener = socket.socket(end.family, kind | socket.SOCK_NONBLOCK)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((end.address, port))
                if kind == socket.SOCK_STREAM:
                    listener.listen(1024)
                found.append(listener)
        return found

    def probes(self) -> Iterator[Probe]:
        """All questions."""
        for source, target in itertools.permutations(self._ends, 2):
            if self._ends[source].node != self._ends[target].node:
                for protocol, port in itertools.product(_PROTOCOLS, self._ports):
                    yield Probe(source, target, protocol, port)

    def reached(self) -> set[Probe]:
        """The questions that are answered: connections that are made, datagrams that arrive and whose answers do."""
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            sockets = {probe: stack.enter_context(one) for probe, one in self._send()}
            for probe, one in sockets.items():
                what = selectors.EVENT_WRITE if probe.protocol == "tcp" else selectors.EVENT_READ
                selector.register(one, what, (None, probe))
            for listener in self._datagrams:
                selector.register(listener, selectors.EVENT_READ, (listener, None))
            found: set[Probe] = set()
            end = time.monotonic() + PROBE_S
            while len(found) < len(sockets) and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    listener, probe = key.data
                    if probe is None:
                        self._answer(listener)
                        continue
                    selector.unregister(key.fileobj)
                    if sockets[probe].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                        found.add(probe)
            self._accept()
            return found

    def _send(self) -> Iterator[tuple[Probe, socket.socket]]:
        """A first packet for each question."""
        for source, group in itertools.groupby(self.probes(), lambda probe: probe.source):
            probes = list(group)
            yield from zip(
                probes,
                netns.inside(self._ends[source].namespace, lambda probes=probes: [self._ask(one) for one in probes]),  # type: ignore[misc]
                strict=True,
            )

    def _ask(self, probe: Probe) -> socket.socket:
        kind = socket.SOCK_STREAM if probe.protocol == "tcp" else socket.SOCK_DGRAM
        target = self._ends[probe.target]
        one = socket.socket(target.family, kind | socket.SOCK_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            one.connect((target.address, probe.port))
        if probe.protocol == "udp":
            one.send(f"{probe} {next(self._number)}".encode())
        return one

    def _answer(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, source = listener.recvfrom(2048)
                listener.sendto(data, source)

    def _accept(self) -> None:
        """Ends the connections that were made, so that the queues of listeners stay empty."""
        for listener in self._listeners:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()


def difference(found: Collection[Probe], expected: Callable[[Probe], bool], all_of: Collection[Probe]) -> str:
    """What is not as expected, in words; empty when all is."""
    wrong = [probe for probe in all_of if (probe in found) != expected(probe)]
    lines = [f"{probe}: {'passes' if probe in found else 'does not pass'}" for probe in sorted(wrong)]
    return "\n".join(lines[:20])
