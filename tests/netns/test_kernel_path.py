"""The kernel path: established flows are carried by eBPF programs at the TUN and at the uplink, which do what the pump
would. Every change after which it would do something else, and every capture, has their packets back in the pump.

An entry is one direction of a flow at one node: a connection through a tunnel has two at each node, and one where
packets travel bare, because those reach the pods past the daemon.
"""

import bootstrap

import collections
import contextlib
import functools
import hashlib
import itertools
import json
import os
import select
import socket
import struct
import threading
import time
import unittest
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

import policy_lab

# As a module: the test cases in it are not for this file.
import test_offload_tap
from fast import (
    ADDRESS,
    MIB,
    MODES,
    OVERHEAD,
    bulk,
    datagram,
    inner_offset,
    judge_frame,
    keep_order,
    listen,
    overtaken,
    paced,
    pod_socket,
    read_datagram,
)
from shared import METRICS, SharedLab, large_buffer
from startup import device_exists, refused
from stopped import stopped, worker_of
from test_capture import Running
from test_policy_changes import CLIENT, SERVER, STOPS_S, Talk, kubernetes
from test_tcp_mix import COUNTERS
from tunnel import FORMATS, inner, outer, outer_vxlan
from underlay6 import FAMILIES, SixLab, pools
from underpass_lab import api
from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address, subnet
from underpass_lab.vtep import vtep_mac

A, B = pod_address("n1"), pod_address("n2")
A_TO_B, B_TO_A = (socket.inet_aton(one) + socket.inet_aton(other) for one, other in ((A, B), (B, A)))
NODES = ("n1", "n2")
ON = {"kernel_path": "on"}
# Packets each way after which a flow is handed over, by default.
AFTER = 16
# Entries of one connection at each of the two nodes.
FLOWS = {"vxlan": 2, "ipip": 2, "direct": 1}
# What matches the packets of pods on the wire, for each family.
ON_WIRE = {
    "vxlan": ("udp dport 4789",) * 2,
    "ipip": ("ip protocol 4", "ip protocol 41"),
    "direct": ("ip saddr 10.244.0.0/16", "ip6 saddr fd00:244::/32"),
}
# By then a change has reached every packet, and nothing has been handed over that should not be.
FOLLOWS_S = 0.3
_TCP_PORT, _UDP_PORT = 7400, 7401
_TIMEOUT_S = 20
_SOL_UDP, _UDP_SEGMENT = 17, 103
_RESET = b"\1\0\0\0\0\0\0\0"


# --- flows --------------------------------------------------------------------------------------------


class Closing:
    """What a `with` block closes at its end."""

    _stack: contextlib.ExitStack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Connection(Closing):
    """A TCP connection from podA to podB with both ends in this process; for a `with` block."""

    def __init__(self, lab: NodeLab, addresses: Mapping[str, str] = ADDRESS, port: int = 0) -> None:
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(listen(lab, "podB", addresses["podB"], _TCP_PORT))
            client = stack.enter_context(pod_socket(lab, "podA", addresses["podA"], socket.SOCK_STREAM))
            self.client: socket.socket = client
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((addresses["podA"], port))
            client.settimeout(_TIMEOUT_S)
            client.connect((addresses["podB"], _TCP_PORT))
            self.server: socket.socket = stack.enter_context(listener.accept()[0])
            for end in (self.client, self.server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.patience()
            self._stack = stack.pop_all()

    def patience(self, seconds: float = _TIMEOUT_S) -> None:
        """How long the ends wait for each other."""
        for end in (self.client, self.server):
            end.settimeout(seconds)

    def talk(self, rounds: int = 1) -> None:
        """So many small messages to podB, each of which comes back before the next one."""
        for _ in range(rounds):
            message = os.urandom(16)
            for source, target in ((self.client, self.server), (self.server, self.client)):
                source.sendall(message)
                took = take(target, len(message))
                if took != message:
                    raise AssertionError(f"sent {message.hex()}, received {took.hex()}")

    def bulk(self, size: int) -> None:
        """Sends random bytes each way at once; AssertionError unless what arrives has the same SHA-256."""
        ways = ((self.client, self.server), (self.server, self.client))
        with ThreadPoolExecutor(4) as threads:
            sent = [threads.submit(self._send, source, size) for source, _ in ways]
            received = [threads.submit(self._receive, target, size) for _, target in ways]
            for what, begin, end in zip(("podA to podB", "podB to podA"), sent, received, strict=True):
                if begin.result() != end.result():
                    raise AssertionError(f"{what}: sent {begin.result()}, received {end.result()}")

    @staticmethod
    def _send(source: socket.socket, size: int) -> str:
        data = os.urandom(size)
        source.sendall(data)
        return hashlib.sha256(data).hexdigest()

    @staticmethod
    def _receive(target: socket.socket, size: int) -> str:
        digest, buffer = hashlib.sha256(), bytearray(MIB)
        while size:
            count = target.recv_into(buffer, min(size, len(buffer)))
            if not count:
                raise AssertionError(f"the connection ended {size} bytes too early")
            digest.update(memoryview(buffer)[:count])
            size -= count
        return digest.hexdigest()


def take(end: socket.socket, size: int) -> bytes:
    """Exactly so many bytes of a stream."""
    data = b""
    while len(data) < size:
        piece = end.recv(size - len(data))
        if not piece:
            raise AssertionError(f"the connection ended after {len(data)} of {size} bytes")
        data += piece
    return data


class Calls(Closing):
    """Numbered datagrams from podA to podB, which answers every `answered`th with the same bytes, or none with 0.

    Both ends are in this process. What arrives is checked to be whole, and its number kept in the order of arrival.
    For a `with` block.
    """

    SIZE = 200

    def __init__(self, lab: NodeLab, addresses: Mapping[str, str] = ADDRESS, answered: int = 1) -> None:
        self.answered, self.sent = answered, 0
        self.requests: list[int] = []
        self.answers: list[int] = []
        self._to = (addresses["podB"], _UDP_PORT)
        with contextlib.ExitStack() as stack:
            ends = [pod_socket(lab, pod, address, socket.SOCK_DGRAM) for pod, address in addresses.items()]
            self.client, self.server = (stack.enter_context(large_buffer(end)) for end in ends)
            self.server.bind(self._to)
            self.client.bind((addresses["podA"], 0))
            for end in (self.client, self.server):
                end.setblocking(False)
            self._stack = stack.pop_all()

    @property
    def port(self) -> int:
        """The client's port."""
        return int(self.client.getsockname()[1])

    def send(self, size: int = SIZE) -> None:
        """The next request."""
        self.client.sendto(datagram(0, self.sent, size), self._to)
        self.sent += 1

    def hear(self) -> None:
        """Takes what has arrived, and answers requests."""
        for data, sender in drained(self.server):
            number = read_datagram(data)[1]
            self.requests.append(number)
            if self.answered and number % self.answered == 0:
                self.server.sendto(data, sender)
        self.answers += [read_datagram(data)[1] for data, _ in drained(self.client)]

    def step(self) -> None:
        """A request, and whatever has arrived meanwhile."""
        self.send()
        self.hear()

    def talk(self, rounds: int = 1, size: int = SIZE) -> None:
        """So many requests, each of which is answered before the next one."""
        for _ in range(rounds):
            self.send(size)
            while self.answers[-1:] != [self.sent - 1]:
                if not select.select([self.server, self.client], [], [], 5)[0]:
                    raise AssertionError(f"request {self.sent - 1} of {size} bytes is not answered")
                self.hear()

    def forget(self) -> int:
        """Passes over datagrams that have arrived and are none of these; returns how many there were."""
        return sum(1 for end in (self.client, self.server) for _ in drained(end))

    @contextlib.contextmanager
    def running(self, rate: float) -> Iterator[None]:
        """So many requests a second from a thread within the block, which all have time to be answered."""
        stop = threading.Event()

        def run() -> None:
            begin, first = time.monotonic(), self.sent
            while not stop.is_set():
                self.step()
                time.sleep(max(0.0, begin + (self.sent - first) / rate - time.monotonic()))

        with ThreadPoolExecutor(1) as threads:
            thread = threads.submit(run)
            try:
                yield
            finally:
                stop.set()
            thread.result()
        self.settle()

    def goes_on(self, timeout: float = 10) -> None:
        """Waits, while others send, for an answer to what is sent from now on."""
        since = self.sent
        wait_until(lambda: self.answers and self.answers[-1] >= since, timeout, "an answer")

    def sends(self, count: int) -> None:
        """Waits, while others send, for so many further requests."""
        since = self.sent
        wait_until(lambda: self.sent >= since + count, 10, f"{count} requests")

    def settle(self) -> None:
        """Waits until all has arrived that was sent, or until nothing more comes."""

        def complete() -> bool:
            self.hear()
            expected = -(-self.sent // self.answered) if self.answered else 0
            return len(self.requests) >= self.sent and len(self.answers) >= expected

        with contextlib.suppress(Failure):
            wait_until(complete, 3)

    def faults(self) -> list[str]:
        """What was lost or came twice, in words; nothing if all is well."""
        answered = range(0, self.sent, self.answered) if self.answered else ()
        return faults("request", self.requests, range(self.sent)) + faults("answer", self.answers, answered)


def faults(what: str, numbers: Sequence[int], due: Iterable[int]) -> list[str]:
    """Those due that did not come exactly once, the first of many."""
    counts = collections.Counter(numbers)
    return [f"{what} {number} came {counts[number]} times" for number in due if counts[number] != 1][:10]


def drained(end: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """All datagrams that a socket has now."""
    with contextlib.suppress(BlockingIOError):
        while True:
            yield end.recvfrom(1 << 16)


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """Keeps this thread to one processor: otherwise any veth pair may swap what it sends."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


# --- what daemons say ---------------------------------------------------------------------------------


class Path(SharedLab):
    """Tests of the kernel path, by default of two nodes with IPv4."""

    daemons: Sequence[str] | None = NODES
    config = {**MODES["vxlan"], "tunnel": ON}

    @classmethod
    def pools_of(cls, mode: str) -> dict[str, Any]:
        """The configuration of pools that travel in this mode."""
        return MODES[mode]

    @classmethod
    def in_mode(cls, mode: str, **tunnel: Any) -> None:
        """Starts all daemons anew; `tunnel` has keys of [tunnel]."""
        cls.restart(**cls.pools_of(mode), tunnel=ON | tunnel)

    def status(self, node: str) -> dict[str, Any]:
        """The status of a daemon, without a process."""
        status = api.status(self.lab.daemons[node].socket)
        if status is None:
            raise AssertionError(f"{node} does not answer")
        return status

    def path(self, node: str = "n1") -> dict[str, Any]:
        """What a daemon says of its kernel path."""
        found: dict[str, Any] = self.status(node)["kernel_path"]
        return found

    def drops(self, node: str) -> dict[str, int]:
        """What a daemon has dropped: {reason: count}, without zeros and the kernel's own multicast."""
        return {reason: n for reason, n in self.lab.drops(node).items() if n and reason != "unsupported"}

    def await_flows(self, flows: int, nodes: Sequence[str] = NODES, flow: Connection | Calls | None = None) -> None:
        """Waits until programs carry exactly so many entries on each of the nodes, while others send, or `flow`."""

        def carried() -> bool:
            if flow is not None:
                flow.talk(4)
            return all(self.path(node)["flows"] == flows for node in nodes)

        try:
            wait_until(carried, 10)
        except Failure:
            found = {node: (self.path(node), self.lab.exec(node, "ip", "neigh").stdout) for node in nodes}
            self.fail(f"not {flows} entries: {found}")

    def hand_over(self, flow: Connection | Calls, flows: int) -> None:
        """Has a flow go on until programs carry exactly so many entries on both nodes."""
        self.await_flows(flows, flow=flow)

    def await_return(self, node: str, before: int) -> None:
        """Waits until more entries than before were given back; they are counted when their places are free again."""
        wait_until(lambda: self.path(node)["returned"] > before, 3, f"entries of {node} that are given back")

    def nothing_carried(self) -> None:
        """Programs have never had an entry, also a moment later."""
        time.sleep(FOLLOWS_S)
        for node in NODES:
            path = self.path(node)
            self.assertEqual((path["flows"], path["handed_over"], path["packets"]), (0, 0, 0), node)

    def carry_away(self, exchange: Callable[[int], None]) -> None:
        """Waits until the packets out of an exchange are carried by programs on both nodes. It is told how many
        messages each way to exchange."""

        def all_of_it() -> bool:
            before = {node: self.path(node)["packets"] for node in NODES}
            exchange(20)
            # The last one may be under way.
            return all(self.path(node)["packets"] - before[node] >= 19 for node in NODES)

        wait_until(all_of_it, 10, "packets that programs carry")

    @contextlib.contextmanager
    def carries(self, packets: Mapping[str, int]) -> Iterator[None]:
        """Programs carry exactly so many packets on each of these nodes within the block."""
        before = {node: self.path(node)["packets"] for node in packets}

        def moved() -> dict[str, int]:
            return {node: self.path(node)["packets"] - before[node] for node in packets}

        yield
        try:
            wait_until(lambda: moved() == packets, 3)
        except Failure:
            self.fail(f"programs carried {moved()}, expected {packets}")

    @contextlib.contextmanager
    def mostly_carries(self) -> Iterator[None]:
        """Most packets at the devices of both nodes are carried by programs within the block."""

        def counts(node: str) -> tuple[int, int]:
            status = self.status(node)
            device = status["counters"]["device"]
            return status["kernel_path"]["packets"], device["rx_packets"] + device["tx_packets"]

        before = {node: counts(node) for node in NODES}
        yield
        for node in NODES:
            by_programs, in_all = (now - then for now, then in zip(counts(node), before[node], strict=True))
            self.assertGreater(in_all, 0, node)
            self.assertGreater(2 * by_programs, in_all, node)

    def connected(self, node: str = "n1") -> api.Api:
        """A connection to the API of a daemon, closed with the test."""
        connection = api.Api(self.lab.daemons[node].socket)
        self.addCleanup(connection.close)
        return connection

    def mtu_of(self, address: str, node: str = "n1") -> int:
        """The MTU of the route to an address."""
        return int(self.lab.daemons[node].json("route", "get", address)["mtu"])


class Families(SixLab, Path):
    """The same with pods of both families, and nodes with addresses of both."""

    underlay = "both"

    @classmethod
    def pools_of(cls, mode: str) -> dict[str, Any]:
        return {"pools": pools(mode)}


def imbalance(status: Mapping[str, Any], overhead: int, early: int) -> list[str]:
    """What does not agree in the books of a node with one peer of which nothing may be dropped, in words, but for
    `early` packets before its first hop was known."""
    device, underlay = status["counters"]["device"], status["counters"]["underlay"]
    peer = status["peers"][0]["counters"]
    drops = {reason: count for reason, count in status["drops"].items() if count}
    # The kernel's own multicast, which is dropped.
    reports = drops.pop("unsupported", 0)
    pairs = {
        "packets outbound": (device["rx_packets"] - reports - early, underlay["tx_packets"]),
        "packets to the peer": (peer["tx_packets"], underlay["tx_packets"]),
        "bytes outbound": (peer["tx_bytes"] + overhead * underlay["tx_packets"], underlay["tx_bytes"]),
        "packets inbound": (underlay["rx_packets"], device["tx_packets"]),
        "packets of the peer": (underlay["rx_packets"], peer["rx_packets"]),
        "bytes inbound": (underlay["rx_bytes"], device["tx_bytes"] + overhead * device["tx_packets"]),
        "bytes of the peer": (device["tx_bytes"], peer["rx_bytes"]),
        "drops": (drops, {"underlay_down": early} if early else {}),
    }
    return [f"{what}: {one} and {other}" for what, (one, other) in pairs.items() if one != other]


# --- what is carried ----------------------------------------------------------------------------------


class Carried(Families):
    """A TCP connection of each family in each mode, on links that carry frames as a real wire does."""

    SIZE = 4 * MIB

    @classmethod
    def overhead(cls, mode: str) -> int:
        """Bytes in front of an inner packet."""
        return OVERHEAD[mode]

    @classmethod
    def on_wire(cls, mode: str, place: int) -> str:
        """What matches the packets of pods of a family."""
        return ON_WIRE[mode][place]

    def test_tcp_is_carried_and_the_books_balance(self) -> None:
        for mode, (place, addresses) in itertools.product(MODES, enumerate(FAMILIES)):
            with self.subTest(mode, inner=("IPv4", "IPv6")[place]):
                self.in_mode(mode, uplink="socket")
                with self.wire(mode, place) as wire, Connection(self.lab, addresses) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    before = {node: self.path(node) for node in NODES}
                    # Bare packets wait for nobody to find the first hop, which is known by now.
                    early = {node: self.drops(node).get("underlay_down", 0) for node in NODES}
                    self.assertTrue(mode == "direct" or not any(early.values()), early)
                    with self.mostly_carries():
                        connection.bulk(self.SIZE)
                    for node in NODES:
                        now = self.path(node)
                        self.assertEqual(now["state"], "active", node)
                        # Nothing went back to the pump in the meantime.
                        self.assertEqual(now["returned"], before[node]["returned"], node)
                    self.await_flows(FLOWS[mode])
                    self.balanced(mode, wire, early)

    @contextlib.contextmanager
    def wire(self, mode: str, place: int) -> Iterator[Callable[[], dict[str, tuple[int, int]]]]:
        """Within the block the switch counts what pods say; gives {node: (packets, bytes) that left it}."""
        self.lab.exec("sw", "nft", "-f", "-", input=COUNTERS.format(match=self.on_wire(mode, place)))
        try:
            yield self._wire
        finally:
            self.lab.exec("sw", "nft", "delete", "table", "netdev", "books")

    def _wire(self) -> dict[str, tuple[int, int]]:
        found = {}
        said = self.lab.exec("sw", "nft", "-j", "list", "table", "netdev", "books").stdout
        for entry in json.loads(said)["nftables"]:
            for part in entry.get("rule", {}).get("expr", ()):
                if "counter" in part:
                    found[entry["rule"]["chain"]] = (part["counter"]["packets"], part["counter"]["bytes"])
        return found

    def balanced(self, mode: str, wire: Callable[[], dict[str, tuple[int, int]]], early: Mapping[str, int]) -> None:
        """Nothing is dropped, but for what was `early`, and to the packet and the byte: what came in at one edge of a
        daemon went out at the other, what it sent was on the wire, and the other received it, unless it was bare."""
        wrong: list[str] = []

        def agree() -> bool:
            wrong.clear()
            status, seen = {node: self.lab.status(node) for node in NODES}, wire()
            for node, other in (("n1", "n2"), ("n2", "n1")):
                wrong.extend(f"{node}: {what}" for what in imbalance(status[node], self.overhead(mode), early[node]))
                edges = [status[name]["counters"]["underlay"] for name in (node, other)]
                sent = (edges[0]["tx_packets"], edges[0]["tx_bytes"])
                received = (edges[1]["rx_packets"], edges[1]["rx_bytes"])
                expected = (0, 0) if mode == "direct" else sent
                if (seen[node], received) != (sent, expected):
                    wrong.append(f"{node} to {other}: sent {sent}, on the wire {seen[node]}, received {received}")
            return not wrong

        try:
            wait_until(agree, 5)
        except Failure:
            self.fail("\n".join(wrong))


class CarriedWhole(Carried):
    """The same on links that carry super-packets uncut, as between containers of one host."""

    options = {"ipv6": True, "virtual": True}

    @contextlib.contextmanager
    def wire(self, mode: str, place: int) -> Iterator[Callable[[], dict[str, tuple[int, int]]]]:
        """Nobody counts: what is on this wire is no packet."""
        yield dict

    def balanced(self, mode: str, wire: Callable[[], dict[str, tuple[int, int]]], early: Mapping[str, int]) -> None:
        for node in NODES:
            books, lost = self.accounts(node), early[node]
            self.assertEqual(self.drops(node), {"underlay_down": lost} if lost else {}, node)
            self.assertEqual(books["device_rx"] - books["unsupported"] - lost, books["underlay_tx"], node)
            self.assertEqual(books["underlay_rx"], books["device_tx"], node)


class Full(Path):
    """More flows than there are places."""

    PLACES = 8192
    # Each has two directions.
    FLOWS, TOGETHER, ROUNDS = 5600, 40, 40

    def test_idle_flows_make_room_and_the_books_balance(self) -> None:
        self.in_mode("vxlan")
        count = self.FLOWS * self.ROUNDS
        moves = dict.fromkeys(("device_rx", "device_tx", "underlay_rx", "underlay_tx"), count)
        with self.silent("podA", A) as a, self.silent("podB", B) as b:
            with self.moves("n1", 20, **moves), self.moves("n2", 20, **moves):
                for first in range(10_000, 10_000 + self.FLOWS, self.TOGETHER):
                    for _ in range(self.ROUNDS):
                        for port in range(first, first + self.TOGETHER):
                            a.sendto(struct.pack("!4H", port, 9, 8, 0), (B, 0))
                            b.sendto(struct.pack("!4H", 9, port, 8, 0), (A, 0))
                        # No queue is to overflow.
                        time.sleep(0.002)
        for node in NODES:
            path = self.path(node)
            self.assertGreater(path["handed_over"], self.PLACES, path)
            self.assertLessEqual(path["flows"], self.PLACES, path)
            self.assertGreater(path["returned"], 0, path)
            self.assertGreater(path["packets"], count / 4, path)

    @contextlib.contextmanager
    def silent(self, pod: str, address: str) -> Iterator[socket.socket]:
        """A socket that sends UDP headers from a pod which does not answer any."""
        quiet = "add table ip quiet; add chain ip quiet in { type filter hook input priority 0; }; "
        self.lab.exec(pod, "nft", quiet + "add rule ip quiet in meta l4proto udp drop")
        try:
            with self.lab.socket(pod, kind=socket.SOCK_RAW, protocol=socket.IPPROTO_UDP) as end:
                end.bind((address, 0))
                yield end
        finally:
            self.lab.exec(pod, "nft", "delete table ip quiet")


class WithoutWorkers(Path):
    """What is carried needs nobody but the kernel."""

    def test_flows_go_on_while_the_workers_stand_still(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode, workers=1)
                with Connection(self.lab) as connection, Calls(self.lab) as calls:
                    self.hand_over(connection, FLOWS[mode])
                    self.hand_over(calls, 2 * FLOWS[mode])
                    # A worker that stands still for ten seconds ends its daemon.
                    connection.patience(4)
                    tracers = [stopped(self, worker_of(self.lab.daemons[node].pid)) for node in NODES]
                    try:
                        connection.talk(50)
                        calls.talk(50)
                        connection.bulk(MIB)
                    finally:
                        for tracer in tracers:
                            tracer.kill()
                            tracer.wait()
                    self.assertEqual(calls.faults(), [])
                    for node in NODES:
                        wait_until(lambda: self.lab.status(node)["stuck_workers"] == [], 8, f"the worker of {node}")


class Frames(Path):
    """What a program sends looks as what the pump sends, on the wire and in the pod."""

    TOS = 46 << 2 | 2
    ROUNDS = AFTER // 2

    def test_frames_are_those_of_the_pump(self) -> None:
        wire, inside = self.tap("sw", "port-n1"), self.tap("podA", "eth0")
        for mode, dscp in itertools.product(MODES, (0, "inherit")):
            with self.subTest(mode, dscp=dscp):
                self.in_mode(mode, dscp=dscp)
                with Calls(self.lab) as calls:
                    for end in (calls.client, calls.server):
                        end.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, self.TOS)
                    # The neighbours know each other from then on, which changes how bare packets are sent.
                    self.lab.ping("podA", B)
                    time.sleep(FOLLOWS_S)
                    with self.carries(dict.fromkeys(NODES, 0)):
                        by_pump = self.seen(mode, calls, wire, inside)
                    self.hand_over(calls, FLOWS[mode])
                    with self.carries(dict.fromkeys(NODES, self.ROUNDS * FLOWS[mode])):
                        by_program = self.seen(mode, calls, wire, inside)
                self.assertEqual(by_program, by_pump)

    def seen(self, mode: str, calls: Calls, wire: Any, inside: Any) -> list[list[str]]:
        """The headers of requests as they leave n1, and of answers as podA gets them, each form of them once."""
        wire.drain(), inside.drain()
        calls.talk(self.ROUNDS)
        requests = [frame for frame in wire.incoming() if A_TO_B in frame]
        answers = [frame for frame in inside.incoming() if B_TO_A in frame]
        self.assertEqual((len(requests), len(answers)), (self.ROUNDS, self.ROUNDS))
        for frame in requests:
            judge_frame(mode, frame)
        seen = ((mode, requests), ("direct", answers))
        return [sorted({self.headers(form, frame) for frame in frames}) for form, frames in seen]

    @staticmethod
    def headers(mode: str, frame: bytes) -> str:
        """All headers but for what each packet has of its own: identifications and checksums."""
        start = 14 + inner_offset(mode)
        # The outer checksum of VXLAN may be left out.
        blank = {18, 19, 24, 25} | ({40, 41} if mode == "vxlan" else set())
        blank |= {start + place for place in (4, 5, 10, 11, 26, 27)}
        return bytes(0 if place in blank else value for place, value in enumerate(frame[: start + 28])).hex()


class Datagrams(Path):
    """UDP: what is handed over, and what never is."""

    def test_requests_with_answers_are_handed_over(self) -> None:
        count = 100
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                with Calls(self.lab) as calls:
                    calls.talk(AFTER - 1)
                    self.nothing_carried()
                    self.hand_over(calls, FLOWS[mode])
                    inbound = 0 if mode == "direct" else count
                    moved = {"device_rx": count, "underlay_tx": count, "underlay_rx": inbound, "device_tx": inbound}
                    with (
                        self.moves("n1", **moved),
                        self.moves("n2", **moved),
                        self.carries(dict.fromkeys(NODES, count + inbound)),
                    ):
                        calls.talk(count)
                    self.assertEqual(calls.faults(), [])

    def test_what_is_not_answered_is_not_handed_over(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.in_mode(mode)
                with Calls(self.lab, answered=0) as calls:
                    with self.moves("n1", device_rx=300, underlay_tx=300):
                        paced(calls.step, 1000, 0.3)
                        while calls.sent < 300:
                            calls.step()
                    self.nothing_carried()
                    calls.settle()
                    # Of the other direction it takes as many.
                    calls.answered = 1
                    calls.talk(AFTER - 1)
                    self.nothing_carried()
                    self.hand_over(calls, FLOWS[mode])

    def test_what_is_left_to_the_pump(self) -> None:
        """Fragments, packets with IP options and ICMP between the ends of a flow that is carried."""
        for mode in MODES:
            with self.subTest(mode), Calls(self.lab) as calls:
                self.in_mode(mode)
                self.hand_over(calls, FLOWS[mode])
                before = self.path()
                with self.carries(dict.fromkeys(NODES, 0)):
                    calls.talk(5, size=4000)
                    self.assertEqual(self.lab.ping("podA", B), 3)
                    # The answer would be one as any other.
                    calls.answered = 0
                    ports = {"sport": calls.port, "dport": _UDP_PORT}
                    data = datagram(0, calls.sent, calls.SIZE)
                    calls.sent += 1
                    self.send_from_pod([IP(src=A, dst=B, options=[b"\1\1\1\1"]) / UDP(**ports) / Raw(data)])
                    calls.settle()
                self.assertEqual(calls.requests[-1], calls.sent - 1)
                calls.answered = 1
                calls.talk(5)
                for key in ("flows", "returned"):
                    self.assertEqual(self.path()[key], before[key], key)

    def test_super_packets(self) -> None:
        for mode in MODES:
            with self.subTest(mode), Calls(self.lab) as calls:
                self.in_mode(mode)
                self.hand_over(calls, FLOWS[mode])
                size, count = 1200, 20
                calls.answered = 0
                calls.client.setsockopt(_SOL_UDP, _UDP_SEGMENT, size)
                with self.moves("n1", device_rx=5 * count, underlay_tx=5 * count), on_one_processor():
                    for _ in range(5):
                        numbers = range(calls.sent, calls.sent + count)
                        data = b"".join(datagram(0, number, size) for number in numbers)
                        calls.client.sendto(data, (B, _UDP_PORT))
                        calls.sent += count
                calls.settle()
                self.assertEqual(calls.requests, list(range(calls.sent)))
                self.await_flows(FLOWS[mode])


class Forged(Path):
    """A stranger on the wire, who knows addresses and ports."""

    # So that there is another peer.
    topology = "T3"
    FORGED = 60

    @classmethod
    def prepare(cls) -> None:
        cls.lab.add_host("x", "192.0.2.66/24")

    def forged(self, form: str, calls: Calls, source: str, **ip: Any) -> bytes:
        """A frame of x with an answer that podB has not given, in the outer packet of somebody else."""
        answer = self.answer(calls)
        return bytes(self.lab.frame("x", "n1", outer(form, answer, source=source, **ip)))

    @staticmethod
    def answer(calls: Calls, **ip: Any) -> Any:
        """An inner packet that looks as answers of podB do."""
        return IP(src=B, dst=A, ttl=63, **ip) / UDP(sport=_UDP_PORT, dport=calls.port) / Raw(b"forged")

    def test_forged_answers_make_no_entry(self) -> None:
        for form in FORMATS:
            with self.subTest(form):
                self.in_mode(form)
                with Calls(self.lab, answered=0) as calls:
                    stranger = self.forged(form, calls, "192.0.2.66")
                    # n3 has other pods.
                    other = self.forged(form, calls, ADDRESSES["n3"])
                    # And nobody has a pod with this address.
                    unknown = inner(source="203.0.113.7", sport=_UDP_PORT)
                    unknown = bytes(self.lab.frame("x", "n1", outer(form, unknown)))
                    with self.lab.expect_drops("n1", unknown_peer=self.FORGED, spoofed_source=2 * self.FORGED):
                        for _ in range(self.FORGED):
                            calls.step()
                            self.lab.send("x", "eth0", [stranger, other, unknown])
                    self.nothing_carried()
                    calls.settle()
                    self.assertEqual((calls.answers, calls.forget()), ([], 0))

    def test_forged_packets_of_a_flow_that_is_carried(self) -> None:
        for form in FORMATS:
            with self.subTest(form), Calls(self.lab) as calls:
                self.in_mode(form)
                self.hand_over(calls, FLOWS[form])
                cases = {
                    "unknown_peer": self.forged(form, calls, "192.0.2.66"),
                    "spoofed_source": self.forged(form, calls, ADDRESSES["n3"]),
                    # Congestion on the way of a packet whose sender cannot be told of it.
                    "ecn": self.forged(form, calls, ADDRESSES["n2"], tos=3),
                }
                if form == "vxlan":
                    frame = Ether(src=vtep_mac("n2"), dst=vtep_mac("n1")) / self.answer(calls)
                    foreign = outer_vxlan(bytes(VXLAN(flags=8, vni=77) / frame))
                    cases["bad_vni"] = bytes(self.lab.frame("x", "n1", foreign))
                for reason, frame in cases.items():
                    with self.subTest(form, reason=reason), self.carries({"n1": 0}):
                        with self.lab.expect_drops("n1", **{reason: 10}):
                            self.lab.send("x", "eth0", [frame] * 10)
                        self.assertEqual(calls.forget(), 0)
                calls.talk(20)
                self.await_flows(FLOWS[form])
                self.assertEqual(calls.faults(), [])

    def test_congestion_on_the_way_reaches_the_pod(self) -> None:
        """The outer mark is the pump's: it goes into the inner header (RFC 6040)."""
        inside = self.tap("podA", "eth0")
        for form in FORMATS:
            with self.subTest(form), Calls(self.lab) as calls:
                self.in_mode(form)
                self.hand_over(calls, FLOWS[form])
                marked = self.lab.frame("x", "n1", outer(form, self.answer(calls, tos=2), tos=3))
                inside.drain()
                with self.carries({"n1": 0}), self.moves("n1", underlay_rx=1, device_tx=1):
                    self.lab.send("x", "eth0", marked)
                (found,) = inside.wait(1, lambda packet: UDP in packet and bytes(packet[UDP].payload) == b"forged")
                self.assertEqual(found[IP].tos, 3)
                wait_until(lambda: calls.forget() == 1, 3, "the datagram")


class Ends(Path):
    """The end of a connection that is carried, and another one from the same port."""

    PORT = 41000

    def test_both_ends_see_the_end(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                with Connection(self.lab) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    for closing, other in (
                        (connection.server, connection.client),
                        (connection.client, connection.server),
                    ):
                        closing.shutdown(socket.SHUT_WR)
                        self.assertEqual(other.recv(1), b"")
                    self.await_flows(0)

    def test_a_reset_and_the_same_ports_again(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                for _ in range(3):
                    with Connection(self.lab, port=self.PORT) as connection:
                        self.hand_over(connection, FLOWS[mode])
                        connection.bulk(MIB // 4)
                        connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                        connection.client.close()
                        with self.assertRaises(ConnectionResetError):
                            connection.server.recv(1)


class Order(Path):
    """The hand-over may have a few packets overtake others, where they do not pause, and nothing else."""

    RATE, SECONDS, ANSWERED, REPEAT = 2000, 1.0, 20, 3
    MOST, BULK = 48, 128 * MIB

    def test_nothing_is_lost_or_doubled_at_the_hand_over(self) -> None:
        late: dict[str, list[int]] = {}
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                # The nodes know each other's link addresses by then.
                with Calls(self.lab) as calls, calls.running(200):
                    self.await_flows(FLOWS[mode])
                before = {node: self.path(node)["handed_over"] for node in NODES}
                for number in range(1, self.REPEAT + 1):
                    without_pause = sum(self.path(node)["without_pause"] for node in NODES)
                    with Calls(self.lab, answered=self.ANSWERED) as calls, on_one_processor():
                        paced(calls.step, self.RATE, self.SECONDS)
                        calls.settle()
                    self.assertEqual(calls.faults(), [])
                    for node in NODES:
                        handed_over = self.path(node)["handed_over"] - before[node]
                        self.assertGreaterEqual(handed_over, number * FLOWS[mode], node)
                    largest = itertools.accumulate(calls.requests, max)
                    overtaken = sum(each < most for each, most in zip(calls.requests, largest, strict=True))
                    without_pause -= sum(self.path(node)["without_pause"] for node in NODES)
                    late.setdefault(mode, []).append(overtaken)
                    self.assertLessEqual(overtaken, self.MOST if without_pause else 0)
        print(f"\ncame after a later one, of {int(self.RATE * self.SECONDS)} datagrams each: {late}", flush=True)

    def test_tcp_sees_no_reordering_but_where_it_does_not_pause(self) -> None:
        keep_order(self.lab)
        seen = {}
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                before = overtaken(self.lab)
                for _ in range(self.REPEAT):
                    bulk(self.lab, self.BULK)
                # One that is carried is counted when its worker looks at it again.
                time.sleep(FOLLOWS_S)
                after = overtaken(self.lab)
                paths = [self.path(node) for node in NODES]
                seen[mode] = sum(after) - sum(before), sum(path["without_pause"] for path in paths)
                for path in paths:
                    self.assertGreater(path["packets"], 0)
                if seen[mode][1] == 0:
                    self.assertEqual(after, before)
        print(f"\nreordering that TCP saw, and times that programs took up a flow without a pause: {seen}", flush=True)


# --- where there is none ------------------------------------------------------------------------------


class Off(Path):
    """Switched off, or not possible: the pump carries everything."""

    WITHOUT_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin")

    def by_the_pump(self, node: str = "n1") -> None:
        """Traffic passes, and programs have no part in it."""
        with Connection(self.lab) as connection, Calls(self.lab) as calls:
            connection.talk(2 * AFTER)
            calls.talk(2 * AFTER)
            connection.bulk(MIB)
            time.sleep(FOLLOWS_S)
            calls.talk(2 * AFTER)
            self.assertEqual(calls.faults(), [])
        path = self.path(node)
        self.assertRegex(path["state"], "^off: .")
        self.assertEqual((path["flows"], path["handed_over"], path["packets"]), (0, 0, 0))

    def test_off(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode, kernel_path="off")
                self.by_the_pump("n1")
                self.assertRegex(self.path("n2")["state"], "^off: .")

    def test_a_daemon_that_may_not_load_programs(self) -> None:
        command = [*self.WITHOUT_BPF, binary()]
        self.restart(**MODES["vxlan"], tunnel={"kernel_path": "auto"}, command=command)
        self.by_the_pump()

    def test_one_that_has_to_and_may_not_refuses_to_start(self) -> None:
        self.stop("n1")
        self.addCleanup(self.start, "n1", **self.config)
        said = refused(self.lab, "n1", self.lab.config("n1", **self.config), wrapper=self.WITHOUT_BPF)
        self.assertIn("kernel_path", said)


# --- changes ------------------------------------------------------------------------------------------


class ByControl(Path):
    """n1 has the route to podB by the control API; n3 is another node."""

    topology = "T3"
    daemons = ("n1", "n2", "n3")
    NETWORK = subnet("n2")
    RATE = 500

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        if node == "n1":
            config["peers"] = {"n2": (ADDRESSES["n2"], []), "n3": (ADDRESSES["n3"], [subnet("n3")])}
        daemon = super().start(node, **config)
        if node == "n1":
            daemon.command("route", "add", cls.NETWORK, "--via", "n2")
        return daemon


class Elsewhere(ByControl):
    """Changes of the tables that are about others."""

    def test_what_is_carried_stays_as_it_is(self) -> None:
        """Two thousand routes one after the other, some of them beside podB, and a peer that comes and goes."""
        prefixes = [f"10.244.{100 + number // 250}.{number % 250}/32" for number in range(1900)]
        prefixes += [f"10.244.2.{number}/32" for number in range(100, 200)]
        self.in_mode("vxlan")
        connection, daemon = self.connected(), self.lab.daemons["n1"]
        with Calls(self.lab) as calls:
            with calls.running(self.RATE):
                self.await_flows(FLOWS["vxlan"])
                before = {node: self.path(node) for node in NODES}
                for prefix in prefixes:
                    self.assertEqual(connection.change(add=[(prefix, "n3")])[0], 200)
                daemon.command("peer", "add", "n9", "192.0.2.99", "--subnet", "10.244.9.0/24")
                daemon.command("peer", "del", "n9")
                self.assertEqual(connection.change(delete=prefixes, wait=True)[0], 200)
                calls.sends(100)
                for node in NODES:
                    now = self.path(node)
                    self.assertGreater(now.pop("packets"), before[node].pop("packets"))
                    self.assertEqual(now, before[node], node)
            self.assertEqual(calls.faults(), [])


class Routes(ByControl):
    """Changes that lead packets for podB elsewhere."""

    def changes(self) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
        """What leads packets for podB elsewhere, and what leads them back."""
        command = self.lab.daemons["n1"].command
        add = functools.partial(command, "route", "add")
        back = functools.partial(add, self.NETWORK, "--via", "n2")
        table = f"{self.NETWORK} via n3\n"
        new_peer = ("peer", "add", "n2", ADDRESSES["n2"], "--subnet", self.NETWORK)
        return {
            "another node": (lambda: self.connected().ask("PUT", "/v1/routes?wait=true", table, "text/plain"), back),
            "a longer prefix": (
                functools.partial(add, f"{B}/32", "--via", "n3"),
                functools.partial(command, "route", "del", f"{B}/32"),
            ),
            "no route": (functools.partial(command, "route", "del", self.NETWORK), back),
            "no peer": (functools.partial(command, "peer", "del", "n2"), functools.partial(command, *new_peer)),
        }

    def test_packets_follow_within_a_fraction_of_a_second(self) -> None:
        old, new = self.tap("n2", "eth0"), self.tap("n3", "eth0")
        for mode in FORMATS:
            self.in_mode(mode)
            with Calls(self.lab) as calls, calls.running(self.RATE):
                for what, (change, back) in self.changes().items():
                    with self.subTest(mode, change=what):
                        self.await_flows(FLOWS[mode])
                        returned = self.path()["returned"]
                        change()
                        time.sleep(FOLLOWS_S)
                        old.drain(), new.drain()
                        calls.sends(100)
                        self.assertEqual(sum(A_TO_B in frame for frame in old.incoming()), 0, "at the old node")
                        there = sum(A_TO_B in frame for frame in new.incoming())
                        self.assertEqual(there > 50, what in ("another node", "a longer prefix"), "at the other node")
                        self.await_return("n1", returned)
                        if not there:
                            self.await_flows(0, ("n1",))
                        back()
                        calls.goes_on()
                        self.await_flows(FLOWS[mode])

    def test_a_connection_outlives_it(self) -> None:
        mode = "ipip"
        self.in_mode(mode)
        with Connection(self.lab) as connection:
            for what, (change, back) in self.changes().items():
                with self.subTest(change=what):
                    self.hand_over(connection, FLOWS[mode])
                    change()
                    try:
                        time.sleep(FOLLOWS_S)
                        connection.client.sendall(b"later")
                        connection.server.settimeout(FOLLOWS_S)
                        with self.assertRaises(TimeoutError):
                            connection.server.recv(1)
                    finally:
                        back()
                        connection.patience()
                    self.assertEqual(take(connection.server, 5), b"later")
                    connection.bulk(MIB)
                    self.hand_over(connection, FLOWS[mode])


class Below(Path):
    """What changes under the tunnel: link addresses, and the uplink itself."""

    RATE = 200

    @classmethod
    def prepare(cls) -> None:
        cls.lab.link("n1", "eth1", "sw", "port-n1b", offloads=False)
        cls.lab.ip("sw", "link set port-n1b master br0")
        # Either link answers for its own address alone.
        cls.lab.sysctl("n1", {"ipv4/conf/all/arp_ignore": 1})

    def test_link_addresses_are_followed(self) -> None:
        wire = self.tap("n2", "eth0")
        self.addCleanup(self.link_address, self.lab.mac("n2", "eth0"))
        for number, mode in enumerate(MODES, 1):
            with self.subTest(mode):
                self.in_mode(mode)
                mac = f"02:00:5e:00:53:{number:02x}"
                with Calls(self.lab) as calls, calls.running(self.RATE):
                    self.await_flows(FLOWS[mode])
                    self.link_address(mac)
                    # The kernel tells of it, and n1 looks.
                    time.sleep(1)
                    wire.drain()
                    calls.goes_on()
                    calls.sends(50)
                    raw = bytes.fromhex(mac.replace(":", ""))
                    self.assertEqual({frame[:6] for frame in wire.incoming() if A_TO_B in frame}, {raw})
                    self.assertEqual({frame[6:12] for frame in wire.outgoing() if B_TO_A in frame}, {raw})
                    self.await_flows(FLOWS[mode])

    def link_address(self, mac: str) -> None:
        """Another link address of n2, which n1 gets to know, as by a gratuitous ARP."""
        self.lab.ip("n2", f"link set eth0 address {mac}")
        self.lab.ip("n1", f"neigh replace {ADDRESSES['n2']} lladdr {mac} dev eth0 nud reachable")

    def test_the_address_moves_to_another_interface(self) -> None:
        ports = {"eth0": "port-n1", "eth1": "port-n1b"}
        address = f"{ADDRESSES['n1']}/24"
        for mode in FORMATS:
            self.in_mode(mode)
            with Calls(self.lab) as calls, calls.running(self.RATE):
                for there, back in (("eth1", "eth0"), ("eth0", "eth1")):
                    with self.subTest(mode, to=there):
                        self.await_flows(FLOWS[mode])
                        self.lab.ip("n1", f"address del {address} dev {back}", f"address add {address} dev {there}")
                        calls.goes_on()
                        self.await_flows(FLOWS[mode])
                        wait_until(lambda: self.leaves_by(calls, ports) == {there}, 5, f"packets that leave by {there}")
                        self.await_flows(FLOWS[mode])
                        self.assertEqual(self.leaves_by(calls, ports), {there})

    def leaves_by(self, calls: Any, ports: dict[str, str]) -> set[str]:
        """The interfaces of n1 by which the next packets to podB leave."""
        wires = {name: self.tap("sw", port) for name, port in ports.items()}
        calls.sends(50)
        seen = {name for name, wire in wires.items() if any(A_TO_B in one for one in wire.incoming())}
        for wire in wires.values():
            wire.close()
        return seen


class Mtu(Families):
    """Paths that become narrow: errors, segments and fragments are as from the pump."""

    # Each smaller than what pods have learned before.
    MTUS = itertools.count(1400, -10)

    def narrow(self, addresses: Mapping[str, str], mtu: int) -> None:
        """podB is behind a route that carries so much."""
        length = 128 if ":" in addresses["podB"] else 32
        prefix = f"{addresses['podB']}/{length}"
        self.lab.daemons["n1"].command("route", "add", prefix, "--via", "n2", "--mtu", mtu)
        self.assertEqual(self.mtu_of(addresses["podB"]), mtu)

    def test_the_mtu_of_a_route(self) -> None:
        for mode, addresses in itertools.product(MODES, FAMILIES):
            with self.subTest(mode, to=addresses["podB"]):
                self.in_mode(mode)
                mtu = next(self.MTUS)
                with Connection(self.lab, addresses) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    self.narrow(addresses, mtu)
                    time.sleep(FOLLOWS_S)
                    wire = self.tap("sw", "port-n1")
                    connection.bulk(2 * MIB)
                    self.hand_over(connection, FLOWS[mode])
                    with self.mostly_carries():
                        connection.bulk(MIB)
                    longest = max(map(len, wire.incoming()))
                    wire.close()
                    self.assertLessEqual(longest, 14 + mtu + OVERHEAD[mode])
                    self.assertGreater(longest, mtu)
                    self.assertEqual(list(self.drops("n1")), ["too_big"])

    def test_datagrams_of_a_flow_that_do_not_fit(self) -> None:
        """With DF the pod gets an error, without it they arrive in fragments; those that fit are carried again."""
        tap = self.tap("podA", "eth0")
        for mode in MODES:
            with self.subTest(mode), Calls(self.lab) as calls:
                self.in_mode(mode)
                mtu = next(self.MTUS)
                self.narrow(ADDRESS, mtu)
                self.hand_over(calls, FLOWS[mode])
                flow = {"sport": calls.port, "dport": _UDP_PORT}
                calls.answered = 0
                fits, large = (datagram(0, calls.sent + number, mtu - 28 + number) for number in range(2))
                tap.drain()
                with self.carries({"n1": 0}), self.moves("n1", device_rx=1, too_big=1):
                    self.send_from_pod([IP(src=A, dst=B, flags="DF") / UDP(**flow) / Raw(large)])
                (error,) = tap.wait(1, lambda packet: ICMP in packet and packet[ICMP].type == 3)
                self.assertEqual((error[ICMP].code, error[ICMP].nexthopmtu), (4, mtu))
                # Those behind it go by the pump until that has nothing of the flow any more.
                by_programs, small = self.path()["packets"], IP(src=A, dst=B, flags="DF") / UDP(**flow) / Raw(fits)

                def carried(by_programs: int = by_programs, small: Any = small) -> bool:
                    self.send_from_pod([small])
                    return bool(self.path()["packets"] > by_programs)

                wait_until(carried, 3, "one that fits to be carried")
                with self.carries({"n1": 0}):
                    self.send_from_pod([IP(src=A, dst=B, flags=0, id=7) / UDP(**flow) / Raw(large)])
                calls.sent += 2
                calls.settle()
                self.assertEqual(calls.requests[-2:], [calls.sent - 2, calls.sent - 1])


class UplinkMtu(Families):
    """The links between the nodes become smaller, and larger again."""

    def test_transfers_survive(self) -> None:
        self.addCleanup(self.uplink, 1500)
        for mode in MODES:
            with self.subTest(mode), contextlib.ExitStack() as stack:
                self.uplink(1500)
                self.in_mode(mode)
                connections = [stack.enter_context(Connection(self.lab, addresses)) for addresses in FAMILIES]
                for number, connection in enumerate(connections, 1):
                    self.hand_over(connection, number * FLOWS[mode])
                for mtu in (1400, 1500):
                    self.uplink(mtu)
                    for node, address in (("n1", B), ("n2", A)):
                        wait_until(lambda: self.mtu_of(address, node) == mtu - OVERHEAD[mode], 5, f"{mtu} at {node}")
                    for connection in connections:
                        connection.bulk(MIB)
                        self.carry_away(connection.talk)
                    wire = self.tap("sw", "port-n1")
                    for connection in connections:
                        connection.bulk(MIB)
                    self.assertLessEqual(max(map(len, wire.incoming())), 14 + mtu)
                    wire.close()

    def uplink(self, mtu: int) -> None:
        for node, port in (("n1", "port-n1"), ("n2", "port-n2")):
            self.lab.ip(node, f"link set eth0 mtu {mtu}")
            self.lab.ip("sw", f"link set {port} mtu {mtu}")


def numbers_in(packet: bytes) -> Iterator[int]:
    """The numbers of the datagrams in a captured packet, which a worker may have merged."""
    for end in range(len(packet), Calls.SIZE - 1, -Calls.SIZE):
        try:
            yield read_datagram(packet[end - Calls.SIZE : end])[1]
        except AssertionError:
            return


class Captures(Path):
    """A capture sees every packet of a flow that was carried, which is handed over again behind it."""

    RATE, COUNT = 200, 150

    def capture(self) -> Running:
        """A capture of the flow at both edges of n1."""
        points = ("--point", "device", "--point", "underlay")
        return Running(self, "n1", *points, "--filter", f"udp and host {A} and host {B} and port {_UDP_PORT}")

    def test_every_packet_is_seen(self) -> None:
        for mode in MODES:
            with self.subTest(mode):
                self.in_mode(mode)
                with Calls(self.lab) as calls:
                    with calls.running(self.RATE):
                        self.await_flows(FLOWS[mode])
                        capture = self.capture()
                        self.await_flows(0, ("n1",))
                        # The other node has none.
                        self.await_flows(FLOWS[mode], ("n2",))
                        with self.carries({"n1": 0}):
                            first, size = calls.sent + 1, capture.size()
                            calls.sends(self.COUNT)
                            self.assertEqual(self.path()["flows"], 0)
                            wait_until(lambda: capture.size() > size, 3, "a capture that grows")
                            last = calls.sent
                            # What is seen is in the file a moment later.
                            calls.sends(30)
                        said = capture.end()
                        self.await_flows(FLOWS[mode])
                        self.carry_away(calls.sends)
                    self.assertEqual(calls.faults(), [])
                packets = capture.packets()
                self.assertEqual((said["packets"], said["lost"]), (len(packets), 0))
                # At both edges, and so the answer, unless that comes bare.
                expected = 2 if mode == "direct" else 4
                seen = collections.Counter(number for packet in packets for number in numbers_in(packet))
                missed = {number: seen[number] for number in range(first, last) if seen[number] != expected}
                self.assertEqual(missed, {})

    def test_a_transfer_does_not_notice(self) -> None:
        for mode in FORMATS:
            with self.subTest(mode):
                self.in_mode(mode)
                with Connection(self.lab) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    with self.transfers(connection):
                        for _ in range(3):
                            capture = Running(self, "n1", "--point", "device", "--point", "underlay", "--snaplen", "96")
                            self.await_flows(0, ("n1",))
                            size = capture.size()
                            wait_until(lambda: capture.size() > size, 5, "a capture that grows")
                            self.assertGreater(capture.end()["packets"], 0)
                            self.await_flows(FLOWS[mode])

    @contextlib.contextmanager
    def transfers(self, connection: Connection) -> Iterator[None]:
        """One after the other from another thread, within the block."""
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                connection.bulk(MIB)

        with ThreadPoolExecutor(1) as threads:
            thread = threads.submit(run)
            try:
                yield
            finally:
                stop.set()
            thread.result()


class ModesUnderTraffic(Path):
    """Pools that get another mode: the flow is carried in each, and nothing is lost on the way."""

    RATE = 400
    RELOADS = 40
    ORDER = ("ipip", "vxlan", "direct", "vxlan", "ipip", "direct", "ipip", "vxlan")

    def reload(self, mode: str, **peers: Sequence[Any]) -> None:
        """Both daemons, one after the other; `peers` are others than these two."""
        for node in NODES:
            file = self.lab.dir / f"{node}.toml"
            new = file.with_suffix(".new")
            (other,) = set(NODES) - {node}
            known = peers | {other: (ADDRESSES[other], [subnet(other)])}
            text = self.lab.config(node, **MODES[mode], peers=known, tunnel=ON) + METRICS
            new.write_text(text, encoding="utf-8")
            new.rename(file)
            self.lab.daemons[node].command("reload")
            self.assertEqual(self.lab.daemons[node].json("route", "get", pod_address(other))["mode"], mode)

    def test_no_datagram_is_lost_or_doubled(self) -> None:
        self.in_mode("vxlan")
        with Calls(self.lab) as calls:
            with calls.running(self.RATE):
                self.await_flows(FLOWS["vxlan"])
                for mode in self.ORDER:
                    with self.subTest(mode):
                        self.reload(mode)
                        self.carry_away(calls.sends)
            self.assertEqual(calls.faults(), [])
        for node in NODES:
            self.assertEqual(self.drops(node), {}, node)

    def test_a_flow_is_carried_on_over_reloads_about_others(self) -> None:
        """One after the other, with a peer more and a peer less."""
        self.in_mode("vxlan")
        with Calls(self.lab) as calls:
            with calls.running(self.RATE):
                self.await_flows(FLOWS["vxlan"])
                before = {node: self.path(node) for node in NODES}
                for number in range(self.RELOADS):
                    self.reload("vxlan", **{"n9": ("192.0.2.99", ["10.244.9.0/24"])} if number % 2 else {})
                for node in NODES:
                    now = self.path(node)
                    self.assertGreater(now.pop("packets"), before[node].pop("packets"), node)
                    self.assertEqual(now, before[node], node)
            self.assertEqual(calls.faults(), [])

    def test_a_connection_is_carried_in_all(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection, ThreadPoolExecutor(1) as threads:
            self.hand_over(connection, FLOWS["vxlan"])
            for mode in self.ORDER:
                with self.subTest(mode):
                    transfer = threads.submit(connection.bulk, 8 * MIB)
                    self.reload(mode)
                    transfer.result()
                    self.carry_away(connection.talk)


class Killed(Path):
    """Programs do not outlive their daemon."""

    def test_traffic_stops_and_goes_on_with_the_next_daemon(self) -> None:
        programs_of, exists = test_offload_tap.End.programs, test_offload_tap.End.exists
        for mode in FORMATS:
            with self.subTest(mode):
                self.in_mode(mode)
                with Connection(self.lab) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    programs = programs_of(self.lab.daemons["n1"].pid)
                    self.assertTrue(programs and all(map(exists, programs)), programs)
                    self.kill("n1")
                    try:
                        wait_until(lambda: not any(map(exists, programs)), 3, "the programs to go")
                        wait_until(lambda: not device_exists(self.lab, "n1"), 3, "the TUN to go")
                        connection.patience(0.5)
                        ways = ((connection.client, connection.server), (connection.server, connection.client))
                        for source, target in ways:
                            source.sendall(b"meanwhile")
                            with self.assertRaises(TimeoutError):
                                target.recv(1)
                    finally:
                        self.start("n1", **MODES[mode], tunnel=ON)
                    connection.patience()
                    for _, target in ways:
                        self.assertEqual(take(target, 9), b"meanwhile")
                    self.hand_over(connection, FLOWS[mode])
                    connection.bulk(MIB)

    def test_nothing_is_left_by_one_that_ends(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection:
            self.hand_over(connection, FLOWS["vxlan"])
            daemon = self.lab.daemons.pop("n1")
            programs = test_offload_tap.End.programs(daemon.pid)
            self.assertEqual(daemon.stop(), 0)
            wait_until(lambda: not any(map(test_offload_tap.End.exists, programs)), 3, "the programs to go")
            self.start("n1", **self.config)
            connection.bulk(MIB)
            self.hand_over(connection, FLOWS["vxlan"])


# --- policies -----------------------------------------------------------------------------------------


class KernelPathLab(policy_lab.PolicyLab):
    """The lab of policies, with the kernel path demanded."""

    def config(self, node: str, *_: Any, **more: Any) -> str:
        return super().config(node, tunnel=ON, **more)


class Policies(unittest.TestCase):
    """Connections by TCP and UDP in both families, through daemons that judge them."""

    lab: KernelPathLab
    SPACES = {CLIENT: "a", SERVER: "b"}
    # Entries at each of the two nodes.
    ENTRIES = 4 * FLOWS["vxlan"]

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(KernelPathLab())
        cls.addClassCleanup(cls.lab.forget)

    def setUp(self) -> None:
        """New daemons, which carry nothing of an earlier test."""
        self.lab.forget()
        for daemon in self.lab.daemons.values():
            daemon.stop()
        self.lab.start_all({})
        self.judge_by([])
        pod = policy_lab.pod_name(*CLIENT)
        for address in policy_lab.addresses(*SERVER):
            wait_until(lambda: self.lab.ping(pod, address, count=1), 30, f"an answer of {address}")

    def judge_by(self, policies: list[Any]) -> float:
        """These policies, and no others; returns when all daemons had read them."""
        spaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"name": name}}}
            for name in ("a", "b", "c")
        ]
        self.lab.write(spaces + policies)
        endpoints = [
            {"name": f"{end[0]}-{end[1]}", "namespace": space, "addresses": list(policy_lab.addresses(*end))}
            for end, space in self.SPACES.items()
        ]
        self.lab.reload({node: self.lab.text(node, {}, endpoints) for node in policy_lab.NODES})
        return time.monotonic()

    def path(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.lab.api(node).get("/v1/status")["kernel_path"]
        return found

    def await_entries(self, entries: int, *nodes: str) -> None:
        """Waits until programs carry exactly so many entries on each of these nodes."""
        try:
            wait_until(lambda: all(self.path(node)["flows"] == entries for node in nodes), 10)
        except Failure:
            self.fail(f"not {entries} entries: { {node: self.path(node) for node in nodes} }")

    @contextlib.contextmanager
    def carried(self) -> Iterator[list[Talk]]:
        """Connections that programs carry on both nodes."""
        with contextlib.ExitStack() as stack:
            talks = []
            for place, protocol in itertools.product((0, 1), ("tcp", "udp")):
                talks.append(Talk(self.lab, protocol, CLIENT, SERVER, 7500 + place, place))
                stack.callback(talks[-1].finish)
            for talk in talks:
                talk.goes_on()
            self.await_entries(self.ENTRIES, *NODES)
            yield talks

    def denied(self, node: str, reason: str, deny: Any) -> None:
        """A policy stops what this node carries, under this reason; without it all goes on."""
        with self.carried() as talks:
            dropped, returned = self.lab.drop_counters(node)[reason], self.path(node)["returned"]
            since = self.judge_by([deny])
            time.sleep(max(0.0, since + 2 * STOPS_S - time.monotonic()))
            for talk in talks:
                self.assertLess(talk.last_answer, since + STOPS_S, talk.protocol)
            self.await_entries(0, node)
            self.assertGreaterEqual(self.lab.drop_counters(node)[reason], dropped + len(talks))
            wait_until(lambda: self.path(node)["returned"] >= returned + self.ENTRIES, 3, "entries given back")
            self.judge_by([])
            for talk in talks:
                talk.goes_on()
            self.await_entries(self.ENTRIES, *NODES)

    def test_a_policy_against_what_comes_in(self) -> None:
        self.denied("n2", "policy_ingress", kubernetes("b", {"policyTypes": ["Ingress"]}))

    def test_a_policy_against_what_leaves(self) -> None:
        self.denied("n1", "policy_egress", kubernetes("a", {"policyTypes": ["Egress"]}))

    def test_what_a_policy_does_not_deny_loses_nothing(self) -> None:
        friend = {"namespaceSelector": {"matchLabels": {"name": "a"}}}
        allow = kubernetes("b", {"ingress": [{"from": [friend]}]})
        elsewhere = kubernetes("c", {"policyTypes": ["Ingress", "Egress"]})
        with self.carried() as talks:
            for policies in ([allow], [allow, elsewhere], [elsewhere], []):
                self.judge_by(policies)
                for talk in talks:
                    talk.goes_on()
                self.await_entries(self.ENTRIES, *NODES)
            for talk in talks:
                self.assertEqual(talk.lost(), 0, talk.protocol)


if __name__ == "__main__":
    unittest.main()
