"""What the tests of the fast path have in common: bulk TCP, UDP super-packets, frames judged, offloads.

Traffic comes from threads of this process with sockets in the pods: a case costs no process, and the
threads spend their time in system calls and hashing, which need no interpreter lock.
"""

import bootstrap

import collections
import contextlib
import hashlib
import os
import pathlib
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from shared import large_buffer, scrape
from tunnel import checksums_valid, strip
from underpass_lab.command import wait_until
from underpass_lab.nodes import NodeLab, pod_address

A, B = pod_address("n1"), pod_address("n2")
ADDRESS = {"podA": A, "podB": B}
MODES: dict[str, dict[str, Any]] = {
    "ipip": {"ipip": "Always", "vxlan": "Never"},
    "vxlan": {"ipip": "Never", "vxlan": "Always"},
    "direct": {"ipip": "Never", "vxlan": "Never"},
}
# Bytes in front of an inner packet, over IPv4.
OVERHEAD = {"ipip": 20, "vxlan": 50, "direct": 0}
BOTH_WAYS = (("podA", "podB"), ("podB", "podA"))
MIB = 1 << 20

_SOL_UDP, _UDP_SEGMENT = 17, 103
_TCP_PORT, _UDP_PORT = 5201, 5202
_TIMEOUT_S = 60
_HEAD = struct.Struct(">III")
_DIGEST_BYTES = 8
SMALLEST = _HEAD.size + _DIGEST_BYTES


# --- TCP ----------------------------------------------------------------------------------------------


def pod_socket(lab: NodeLab, pod: str, address: str, kind: Any) -> Any:
    """A socket in a pod for the family of an address."""
    return lab.socket(pod, socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def bulk(
    lab: NodeLab, size: int, ways: Any = BOTH_WAYS, port: int = _TCP_PORT, addresses: Mapping[str, str] = ADDRESS
) -> None:
    """Sends `size` random bytes by TCP each way at once; AssertionError unless all SHA-256 are equal."""
    with ThreadPoolExecutor(2 * len(ways)) as threads:
        ends = [_start_bulk(lab, threads, size, way, (addresses[way[1]], port)) for way in ways]
        for way, (received, sent) in zip(ways, ends, strict=True):
            if received.result() != sent.result():
                raise AssertionError(f"{' to '.join(way)}: sent {sent.result()}, received {received.result()}")


def _start_bulk(lab: NodeLab, threads: Any, size: int, way: tuple[str, str], to: Any) -> tuple[Any, Any]:
    source, target = way
    server = listen(lab, target, *to)
    client = pod_socket(lab, source, to[0], socket.SOCK_STREAM)
    return threads.submit(_receive_all, server), threads.submit(_send_all, client, to, size)


def listen(lab: NodeLab, pod: str, address: str, port: int) -> Any:
    """A listening TCP socket in a pod."""
    server = pod_socket(lab, pod, address, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen()
    server.settimeout(_TIMEOUT_S)
    return server


def _send_all(client: Any, to: Any, size: int) -> tuple[Any, Any]:
    data = os.urandom(size)
    with client:
        client.settimeout(_TIMEOUT_S)
        client.connect(to)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)
    return size, hashlib.sha256(data).hexdigest()


def _receive_all(server: Any) -> tuple[Any, Any]:
    digest, total, buffer = hashlib.sha256(), 0, bytearray(MIB)
    with server:
        connection = server.accept()[0]
    connection.settimeout(_TIMEOUT_S)
    with connection:
        while count := connection.recv_into(buffer):
            digest.update(memoryview(buffer)[:count])
            total += count
    return total, digest.hexdigest()


class Stream:
    """A TCP stream from podA to podB at a moderate rate, until `finish`. `received` grows meanwhile."""

    CHUNK, PAUSE_S = 1 << 18, 0.01

    def __init__(self, lab: NodeLab) -> None:
        self.received = 0
        self._end = threading.Event()
        self._threads = ThreadPoolExecutor(2)
        self._server = listen(lab, "podB", B, _TCP_PORT)
        self._client = lab.socket("podA", kind=socket.SOCK_STREAM)
        self._client.settimeout(_TIMEOUT_S)
        self._hashes = [self._threads.submit(self._receive), self._threads.submit(self._send)]

    def _send(self) -> Any:
        digest = hashlib.sha256()
        with self._client:
            self._client.connect((B, _TCP_PORT))
            while not self._end.wait(self.PAUSE_S):
                chunk = os.urandom(self.CHUNK)
                digest.update(chunk)
                self._client.sendall(chunk)
        return digest.hexdigest()

    def _receive(self) -> Any:
        digest = hashlib.sha256()
        with self._server:
            connection = self._server.accept()[0]
        connection.settimeout(_TIMEOUT_S)
        with connection:
            while chunk := connection.recv(MIB):
                digest.update(chunk)
                self.received += len(chunk)
        return digest.hexdigest()

    def finish(self) -> Any:
        """Ends it; returns the SHA-256 of what was received and of what was sent."""
        self._end.set()
        hashes = [one.result(_TIMEOUT_S) for one in self._hashes]
        self._threads.shutdown()
        return hashes


# --- UDP ----------------------------------------------------------------------------------------------


def datagram(flow: int, number: int, size: int) -> Any:
    """A datagram of `size` bytes, at least SMALLEST, that says what it is and proves that it is whole."""
    body = _HEAD.pack(flow, number, size) + os.urandom(size - SMALLEST)
    return body + hashlib.sha1(body).digest()[:_DIGEST_BYTES]


def read_datagram(data: bytes) -> tuple[Any, Any]:
    """(flow, number) of a datagram; AssertionError when it is not as it was sent."""
    if len(data) < SMALLEST or hashlib.sha1(data[:-_DIGEST_BYTES]).digest()[:_DIGEST_BYTES] != data[-_DIGEST_BYTES:]:
        raise AssertionError(f"a datagram of {len(data)} bytes that nobody sent: {data[:40].hex()}…")
    flow, number, size = _HEAD.unpack_from(data)
    if size != len(data):
        raise AssertionError(f"datagram {number} of flow {flow} had {size} bytes and has {len(data)}")
    return flow, number


def keep_order(lab: NodeLab) -> None:
    """Has the kernel choose the backlog of a packet on a veth by its flow (RPS).

    A flow is sent from several processors, TCP from that of the application and that of the acknowledgments, and what
    is in two backlogs may be swapped on any veth pair. The devices of the daemons stay as they are.
    """
    mask = f"{(1 << (os.cpu_count() or 1)) - 1:x}"
    for name in (*lab.nodes, *ADDRESS):
        for device in ("eth0", "pod0") if name in lab.nodes else ("eth0",):
            queues = f"/sys/class/net/{device}/queues/rx-*/rps_cpus"
            lab.exec(name, "sh", "-ec", f"for queue in {queues}; do echo {mask} > $queue; done")


def overtaken(lab: NodeLab) -> list[int]:
    """How often the TCP of each pod has learnt that its segments overtook each other."""
    names = ("TcpExtTCPSACKReorder", "TcpExtTCPTSReorder")
    told = [lab.exec(pod, "nstat", "-asz", *names).stdout.splitlines() for pod in ADDRESS]
    return [sum(int(line.split()[1]) for line in lines if line.startswith(names)) for lines in told]


class Datagrams:
    """A receiver in a pod and senders in the other; all they exchange must arrive once and in order.

    Within the block this thread keeps to one processor. One that the scheduler moves between two sends leaves packets
    in two backlogs, and the kernel may then swap them on any veth pair; from one processor only the daemons can.
    """

    def __init__(self, lab: NodeLab, source: str, target: str, addresses: Mapping[str, str] = ADDRESS) -> None:
        self._lab, self._source, self._from = lab, source, addresses[source]
        self._to = (addresses[target], _UDP_PORT)
        self._receiver = large_buffer(pod_socket(lab, target, self._from, socket.SOCK_DGRAM))
        self._receiver.bind(self._to)
        self._clients: list[socket.socket] = []
        self._sent: list[int] = []

    def __enter__(self) -> Any:
        self._allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(self._allowed)})
        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._allowed)
        for one in (self._receiver, *self._clients):
            one.close()

    def flow(self, address: str | None = None) -> int:
        """A new flow, from an address of the sending pod; returns its number."""
        client = pod_socket(self._lab, self._source, self._from, socket.SOCK_DGRAM)
        client.bind((address or self._from, 0))
        self._clients.append(client)
        self._sent.append(0)
        return len(self._sent) - 1

    def send(self, flow: int, size: int) -> None:
        """Sends one datagram."""
        self._clients[flow].sendto(datagram(flow, self._sent[flow], size), self._to)
        self._sent[flow] += 1

    def send_super(self, flow: int, size: int, count: int, last: int) -> None:
        """Sends `count` datagrams of `size` bytes and one of `last` in one super-packet."""
        client, begin = self._clients[flow], self._sent[flow]
        client.setsockopt(_SOL_UDP, _UDP_SEGMENT, size)
        sizes = [size] * count + [last]
        client.sendto(b"".join(datagram(flow, begin + n, each) for n, each in enumerate(sizes)), self._to)
        self._sent[flow] += len(sizes)

    def receive(self, timeout: float = 5.0) -> None:
        """Receives all that was sent and waits a moment for more; AssertionError unless each came once, in order."""
        got: list[list[int]] = [[] for _ in self._sent]
        self._receiver.settimeout(timeout)
        with contextlib.suppress(TimeoutError):
            while sum(map(len, got)) < sum(self._sent):
                flow, number = read_datagram(self._receiver.recv(1 << 16))
                got[flow].append(number)
            self._receiver.settimeout(0.05)
            flow, number = read_datagram(self._receiver.recv(1 << 16))
            got[flow].append(number)
        for flow, numbers in enumerate(got):
            if numbers != list(range(self._sent[flow])):
                raise AssertionError(f"flow {flow}: {self._sent[flow]} sent, arrived: {_gist(numbers)}")


def _gist(numbers: Any) -> str:
    """The places in a sequence where it does not count up by one."""
    breaks = [(a, b) for a, b in zip([-1, *numbers], numbers, strict=False) if b != a + 1]
    return f"{len(numbers)}, breaks at {breaks[:10]}"


def paced(action: Any, rate: float, seconds: float) -> None:
    """Calls `action` at `rate` per second, in small groups as the clock allows."""
    begin, done = time.monotonic(), 0
    while (elapsed := time.monotonic() - begin) < seconds:
        while done < elapsed * rate:
            action()
            done += 1
        time.sleep(0.002)


# --- the wire -----------------------------------------------------------------------------------------


def judge_frame(mode: str, frame: Any) -> None:
    """AssertionError unless every checksum of a captured frame is valid; the outer UDP one may be absent."""
    packet = frame if isinstance(frame, Ether) else Ether(frame)
    outer = packet[IP]
    if mode == "direct":
        inner = bytes(outer)[: outer.len]
    else:
        _, inner = strip(mode, packet)
        head = bytes(outer)[:20]
        if not checksums_valid(head):
            raise AssertionError(f"outer header checksum: {head.hex()}")
    if mode == "vxlan" and outer[UDP].chksum != 0 and not checksums_valid(bytes(outer)):
        raise AssertionError(f"outer UDP checksum: {packet.summary()}")
    if not checksums_valid(inner):
        raise AssertionError(f"inner checksums: {IP(inner).summary()} {inner[:60].hex()}")


def inner_offset(mode: str) -> Any:
    """Bytes from the outer IP header to the inner one."""
    return {"ipip": 20, "vxlan": 20 + 8 + 8 + 14, "direct": 0}[mode]


# --- the daemon ---------------------------------------------------------------------------------------


def metric_samples(lab: NodeLab, node: str, name: str) -> dict[str, Any]:
    """{label value: value} of a metric with one label."""
    found = re.findall(rf'^underpass_{name}{{\w+="(.*?)"}} (\d+)$', scrape(lab, node), re.M)
    return {label: int(value) for label, value in found}


# The links of most labs segment nothing, so that a daemon would leave its TAP alone.
FORCED = {"uplink": "tap"}


def await_tap(lab: NodeLab, node: str, timeout: float = 8.0) -> None:
    """Waits until the daemon has tested its TAP and uses it."""
    wait_until(lambda: lab.status(node)["offloads"]["tap"] == "active", timeout, f"the TAP of {node}")


def tap_packets(lab: NodeLab, node: str) -> Any:
    """Packets that the daemon has written to its TAP; 0 where it has none."""

    def read() -> int:
        with contextlib.suppress(FileNotFoundError), open("/proc/thread-self/net/dev", encoding="ascii") as lines:
            for line in lines:
                if line.strip().startswith("up0-x:"):
                    return int(line.split(":")[1].split()[1])
        return 0

    return lab.inside(node, read)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, with its threads that have ended, to the nanosecond."""
    # The number of a process's clock, as clock_getcpuclockid makes it.
    return time.clock_gettime(~pid << 3 | 2)


def wakes(pid: int) -> collections.Counter[str]:
    """How often each thread of a process has slept and been woken, by the name of the thread."""
    counts: collections.Counter[str] = collections.Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":", 1) for line in (task / "status").read_text(encoding="ascii").splitlines())
        counts[fields["Name"].strip()] += int(fields["voluntary_ctxt_switches"])
    return counts


def resident_bytes(pid: int) -> Any:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
