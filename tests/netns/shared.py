"""What the acceptance tests have in common: one lab for all tests of a class, exact counters, taps.

After each test the daemons must account for every packet they were given: what came in from both
edges went out at the other or was dropped under a name, and `status` and the metrics endpoint say
the same. So every case checks that on the way.
"""

import bootstrap

import contextlib
import re
import socket
import struct
import sys
import unittest
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from scapy.layers.l2 import Ether

from underpass_lab.command import wait_until
from underpass_lab.nodes import PODS, NodeLab

METRICS_AT = "127.0.0.1:9091"
METRICS = f'\n[metrics]\nlisten = "{METRICS_AT}"\n'
SINK_PORT = 9

_ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_BYTES = 64 << 20


def large_buffer(receiver: Any) -> Any:
    """Gives a socket a receive buffer in which a whole test fits."""
    receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    return receiver


def is_probe(frame: Any) -> Any:
    """Whether a daemon tests its own way to the wire with this frame (src/dataplane/encap/probe.rs)."""
    vxlan = frame[23:24] == b"\x11" and frame[42:] == b"underpass probe "
    return vxlan or (frame[23:24] == b"\x04" and frame[43:44] == b"\x3b")


def is_resolution(frame: Any) -> Any:
    """Whether a kernel only looks for its neighbours with this frame: ARP, or ICMPv6 from 130 on and MLD."""
    kind, header = frame[12:14], frame[20:21]
    neighbour = header == b"\0" or (header == b"\x3a" and frame[54] >= 130)
    return kind == b"\x08\x06" or (kind == b"\x86\xdd" and neighbour)


class Tap:
    """All frames that pass an interface from now on, but for the daemons' probes.

    A packet socket, so it needs no process.
    """

    def __init__(self, lab: NodeLab, name: str, interface: str, probes: bool = False) -> None:
        self._probes = probes
        self._socket = large_buffer(lab.socket(name, socket.AF_PACKET, socket.SOCK_RAW))
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._seen: list[tuple[bytes, bool]] = []

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> None:
        """Forgets what was seen."""
        self._read()
        self._seen.clear()

    def incoming(self) -> list[Any]:
        """Frames that came in at the interface, as bytes."""
        return [frame for frame, outgoing in self._read() if not outgoing]

    def outgoing(self) -> list[Any]:
        """Frames that left through the interface, as bytes."""
        return [frame for frame, outgoing in self._read() if outgoing]

    def wait(self, count: int, select: Callable[[Any], Any], timeout: float = 3.0) -> list[Any]:
        """Waits for `count` incoming frames that `select(packet)` accepts; returns them as scapy packets.

        More than `count` are an error, as far as they have arrived by then.
        """

        def enough() -> list[Any]:
            packets = list(filter(select, map(Ether, self.incoming())))
            return packets if len(packets) >= count else []

        found = wait_until(enough, timeout, f"{count} frames")
        if len(found) != count:
            raise AssertionError(f"{len(found)} frames instead of {count}: {found}")
        return found

    def _read(self) -> Any:
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._socket.recvfrom(1 << 17)
                if self._probes or not is_probe(frame):
                    self._seen.append((frame, address[2] == socket.PACKET_OUTGOING))
        dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        if dropped:
            raise AssertionError(f"the tap lost {dropped} frames")
        return self._seen


def scrape(lab: NodeLab, node: str) -> str:
    """What the metrics endpoint of a node shows."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{METRICS_AT}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    return str(lab.inside(node, fetch))


class Counters:
    """The packet counters of one daemon: `device_rx`, `device_tx`, `underlay_rx`, `underlay_tx`, drops."""

    def __init__(self, lab: NodeLab, node: str) -> None:
        self._lab, self._node = lab, node

    def status(self, unit: str = "packets") -> dict[str, int]:
        """As `underpass status -o json` has them."""
        status = self._lab.status(self._node)
        edges = status["counters"]
        values: dict[str, int] = {
            f"{edge}_{direction}": edges[edge][f"{direction}_{unit}"]
            for edge in ("device", "underlay")
            for direction in ("rx", "tx")
        }
        return {**values, **status["drops"]}

    def metrics(self, unit: str = "packets") -> dict[str, int]:
        """The same from the metrics endpoint, all workers added up."""
        values: dict[str, int] = {}
        for name, label, value in self.samples():
            if name == unit:
                key = f"{label['edge']}_{label['direction']}"
            elif name == "drops":
                key = label["reason"]
            else:
                continue
            values[key] = values.get(key, 0) + value
        return values

    def by_worker(self, edge: str, direction: str) -> list[int]:
        """The packets of one edge and direction, worker by worker."""
        wanted = {"edge": edge, "direction": direction}
        samples = self.samples()
        labels = [(label, value) for name, label, value in samples if name == "packets"]
        return [value for label, value in labels if wanted.items() <= label.items() and label["worker"] != "kernel"]

    def samples(self) -> Iterator[tuple[str, dict[str, str], int]]:
        """(name, labels, value) of each counter that the metrics endpoint shows."""
        text = scrape(self._lab, self._node)
        for name, labels, value in re.findall(r"^underpass_(\w+)_total\{(.*)\} (\d+)$", text, re.M):
            yield name, dict(re.findall(r'(\w+)="(.*?)"', labels)), int(value)


def edges_balance(values: Mapping[str, int]) -> bool:
    """Whether all packets that came in at the two edges went out or were dropped."""
    inward = values["device_rx"] + values["underlay_rx"]
    return inward == sum(values.values()) - inward


class SharedLab(unittest.TestCase):
    """Tests that share one lab, made for the class. `config` goes to the daemons that `daemons` names."""

    lab: NodeLab
    topology = "T2"
    options: dict[str, Any] = {}
    lab_type: type[NodeLab] = NodeLab
    daemons: Sequence[str] | None = None
    config: dict[str, Any] = {}
    # With IPv6 the kernel announces the TUN's multicast groups through it (MLD) when it likes to, and the
    # daemon drops that as unsupported.
    multicast_reports = False

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(cls.lab_type(cls.topology, **cls.options))
        cls.lab.multicast_reports = cls.multicast_reports
        cls.prepare()
        for node in cls.all_daemons():
            cls.start(node, **cls.config)

    @classmethod
    def prepare(cls) -> None:
        """What a class changes in its lab before the daemons start."""

    @classmethod
    def all_daemons(cls) -> Any:
        """The nodes that run a daemon."""
        if cls.daemons is not None:
            return cls.daemons
        return ("n1",) if cls.topology == "TS" else cls.lab.nodes

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        """Starts a daemon with the metrics endpoint, in place of the one that runs there."""
        cls.stop(node)
        config["extra"] = config.get("extra", "") + METRICS
        return cls.lab.start_daemon(node, **config)

    @classmethod
    def restart(cls, **config: Any) -> None:
        """Starts all daemons again, with another configuration."""
        for node in cls.all_daemons():
            cls.start(node, **config)

    @classmethod
    def stop(cls, node: str) -> None:
        """Ends the daemon of a node, if it has one."""
        daemon = cls.lab.daemons.pop(node, None)
        if daemon and daemon.process.poll() is None and daemon.stop() != 0:
            raise AssertionError(f"the daemon on {node} failed at its end:\n{daemon.log()}")

    @classmethod
    def kill(cls, node: str) -> None:
        """Ends the daemon of a node without a word to it."""
        daemon = cls.lab.daemons.pop(node)
        daemon.process.kill()
        daemon.process.wait()

    def tearDown(self) -> None:
        for node, daemon in self.lab.daemons.items():
            if daemon.process.poll() is None:
                self.accounts(node)

    def accounts(self, node: str) -> dict[str, int]:
        """Every packet of a daemon is accounted for, and both ways of reading agree; returns the counters."""
        counters = self.counters(node)
        wait_until(lambda: edges_balance(counters.status()), 3, f"balanced counters on {node}")
        for unit in ("packets", "bytes"):
            wait_until(lambda: counters.status(unit) == counters.metrics(unit), 3, f"status = metrics on {node}")
        return counters.status()

    def counters(self, node: str) -> Counters:
        """The counters of the daemon on a node."""
        return Counters(self.lab, node)

    def missing(self, key: str = "what") -> list[str]:
        """What n1 leaves to an administrator; with `command`, how that is done."""
        return [one[key] for one in self.lab.status("n1")["missing"]]

    def shows(self, pattern: str) -> bool:
        """Whether n1 leaves such a thing to an administrator."""
        return any(re.search(pattern, what) for what in self.missing())

    @contextlib.contextmanager
    def moves(self, node: str, timeout: float = 3.0, **expected: Any) -> Iterator[None]:
        """Within the block exactly these packet counters of a daemon move, by these amounts."""
        counters = self.counters(node)
        before = counters.status()
        moved: dict[str, int] = {}

        def as_expected() -> bool:
            moved.clear()
            now = counters.status()
            if self.multicast_reports:
                now["device_rx"] -= now["unsupported"] - before["unsupported"]
                now["unsupported"] = before["unsupported"]
            moved.update({key: now[key] - before[key] for key in now if now[key] != before[key]})
            return moved == {key: value for key, value in expected.items() if value}

        yield
        try:
            wait_until(as_expected, timeout)
        except AssertionError:
            raise AssertionError(f"counters of {node} moved by {moved}, expected {expected}") from None

    def tap(self, name: str, interface: str, probes: bool = False) -> Any:
        """A Tap that is closed with the test; it passes over probes unless told not to."""
        tap = Tap(self.lab, name, interface, probes)
        self.addCleanup(tap.close)
        return tap

    def sink(self, name: str, port: int = SINK_PORT) -> Any:
        """A bound UDP socket in a namespace, so that nobody answers with ICMP; closed with the test."""
        sink = large_buffer(self.lab.socket(name))
        sink.bind(("0.0.0.0", port))
        self.addCleanup(sink.close)
        return sink

    def send_from_pod(self, packets: Any, node: str = "n1") -> None:
        """Hands IPv4 packets of scapy, or their bytes, to the link of the pod on a node, as they are."""
        pod = PODS[node]
        header = bytes(Ether(src=self.lab.mac(pod, "eth0"), dst=self.lab.mac(node, "pod0"), type=0x0800))
        self.lab.send(pod, "eth0", [header + bytes(packet) for packet in packets])

    def assertNoOversize(self, frames: Any) -> None:
        """No frame is longer than an Ethernet frame with 1500 bytes may be."""
        self.assertLessEqual(max(map(len, frames), default=0), 1514)

    def run(self, result: unittest.TestResult | None = None) -> Any:
        result = self.defaultTestResult() if result is None else result
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and getattr(self, "lab", None):
            for node, daemon in self.lab.daemons.items():
                print(f"--- {self.id()}: log of {node}\n{daemon.log()}", file=sys.stderr)
        return result


def own_routes(lab: NodeLab, node: str, device: str = "up0") -> list[Any]:
    """Prefixes of the kernel routes with the daemon's protocol number on a node."""
    lines = lab.tool("ip", "-n", lab.ns(node), "route", "show", "table", "all", "proto", "117").stdout.splitlines()
    return sorted(line.split()[0] for line in lines if f"dev {device}" in line)
