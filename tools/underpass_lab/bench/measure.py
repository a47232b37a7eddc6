"""The tests: what is run between n1 and n2, and which figure of it counts.

Each returns a dict with at least `value`; throughput tests add `cpu_s_per_gb`, the CPU seconds of the
whole machine for every 10^9 bytes of payload that arrived.
"""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from underpass_lab.bench.pair import Pair, Started
from underpass_lab.command import Failure, wait_until

Value = TypeVar("Value")
# What a test has found: `value`, and more by name.
Outcome = dict[str, Any]

IPERF_PORT = 5201
SERVER_BUSY_S = 5
# The test of round trips under load: bytes after which the load counts as running, how much longer than
# the echoes it runs, the pause before each echo, how many of them a full queue may swallow.
LOAD_IS_UP = 4 << 20
LOAD_MARGIN_S = 1.3
LOADED_GAP_MS = 5
LOADED_MAX_LOST = 10


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long the tests of one run take, in seconds and counts."""

    tcp_s: int
    probe_ms: int
    confirm_ms: int
    rtt_count: int
    loaded_ms: int
    connections_ms: int

    def scaled(self, tcp_s: int) -> "Lengths":
        """The same proportions for TCP runs of `tcp_s` seconds."""
        share = tcp_s / self.tcp_s
        lengths: dict[str, int] = {
            name: max(1, round(value * share)) for name, value in dataclasses.asdict(self).items()
        }
        # A percentile of a handful of echoes says nothing.
        return Lengths(**{**lengths, "rtt_count": max(20, lengths["rtt_count"])})


class Load:
    """The far end of all tests in n2 of one lab."""

    def __init__(self, lab: Pair, address: str, lengths: Lengths) -> None:
        self.lab, self.address, self.lengths = lab, address, lengths
        self.netload = os.environ["BENCH_NETLOAD"]
        wait_until(lambda: lab.answers("n1", address), 10, f"{address} in n2 answers a ping from n1")
        iperf = lab.start("n2", "iperf3", "-s", "-p", IPERF_PORT, "-B", address)
        lab.ready(iperf, 5, lambda: self._listens("t", IPERF_PORT))
        server = lab.start("n2", self.netload, "serve", address)
        lab.ready(server, 5, server.says_ready)

    def _listens(self, family: str, port: int) -> bool:
        return bool(self.lab.run("n2", "ss", f"-Hnl{family}", f"sport = :{port}").strip())

    def warm_up(self) -> None:
        """Lets TCP metrics, neighbours, caches and handshakes settle. It may fail; the tests tell why."""
        with contextlib.suppress(Failure):
            self._iperf("-n", "16M")

    def tcp(self, streams: int = 1, reverse: bool = False) -> Outcome:
        flags = ["-t", self.lengths.tcp_s, "-P", streams] + (["-R"] if reverse else [])
        end, cpu = self._iperf(*flags)
        received = end["sum_received"]
        outcome = {"value": received["bits_per_second"] / 1e9, "cpu_s_per_gb": per_gb(cpu, received["bytes"])}
        if "retransmits" in end["sum_sent"]:
            outcome["retransmits_per_gb"] = per_gb(end["sum_sent"]["retransmits"], received["bytes"])
        return outcome

    def _iperf(self, *flags: object) -> tuple[Any, float]:
        """The totals of a run, and the CPU seconds that it took."""

        def attempt() -> tuple[Any, float]:
            before = busy_seconds()
            text = self.lab.run("n1", *self._iperf_command(*flags), timeout=self.lengths.tcp_s + 10)
            return iperf_result(text)["end"], busy_seconds() - before

        return self._when_free(attempt)

    def _when_free(self, attempt: Callable[[], Value]) -> Value:
        """The server may still be taking down the last run, whose client has ended."""
        end = time.monotonic() + SERVER_BUSY_S
        while True:
            try:
                return attempt()
            except Failure as failure:
                busy = any(words in str(failure) for words in ("busy running a test", "Connection reset by peer"))
                if not busy or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def _iperf_command(self, *flags: object) -> tuple[object, ...]:
        return ("iperf3", "-c", self.address, "-p", IPERF_PORT, "-J", "-i", 0, "--connect-timeout", 2000, *flags)

    def udp(self, size: int, value: str) -> Outcome:
        lengths = self.lengths
        result = self._netload(
            "udp", "--size", size, "--probe-ms", lengths.probe_ms, "--confirm-ms", lengths.confirm_ms
        )
        return {
            "value": result[value],
            "cpu_s_per_gb": per_gb(result["cpu_seconds"], result["bytes"]),
            "loss": result["loss"],
            "reordered": result["reordered"],
        }

    def rtt(self) -> Outcome:
        idle = self._netload("rtt", "--count", self.lengths.rtt_count, "--gap-ms", 10)
        # Without a pause no CPU falls asleep and no cache gets cold: what is left is the path itself.
        busy = self._netload("rtt", "--count", self.lengths.rtt_count, "--gap-ms", 0)
        return {"value": idle["p50_us"], "p99": idle["p99_us"], "back_to_back": busy["p50_us"]}

    def rtt_load(self) -> Outcome:
        """Echoes while one TCP stream runs at full rate the same way."""
        milliseconds = self.lengths.loaded_ms
        stream = self._when_free(lambda: self._start_load(math.ceil(milliseconds / 1000 + LOAD_MARGIN_S)))
        loaded = self._netload(
            "rtt",
            "--count",
            milliseconds // LOADED_GAP_MS,
            "--gap-ms",
            LOADED_GAP_MS,
            "--limit-ms",
            milliseconds,
            "--max-lost",
            LOADED_MAX_LOST,
        )
        if stream.ended():
            raise Failure("the load ended before the last echo")
        wait_until(stream.ended, milliseconds / 1000 + 10, "the load ends")
        received = load_result(stream)["end"]["sum_received"]
        return {
            "value": loaded["p50_us"],
            "p99": loaded["p99_us"],
            "lost": loaded["lost"],
            "load_gbps": received["bits_per_second"] / 1e9,
        }

    def _start_load(self, seconds: int) -> Started:
        before = self._sent()
        stream = self.lab.start("n1", *self._iperf_command("-t", seconds))
        wait_until(lambda: stream.ended() or self._sent() - before > LOAD_IS_UP, 5, "the load is up")
        if stream.ended():
            load_result(stream)
            raise Failure("the load ended at once")
        return stream

    def _sent(self) -> int:
        """Bytes that n1 has put on the link."""
        return int(self.lab.run("n1", "cat", "/sys/class/net/eth0/statistics/tx_bytes"))

    def connections(self) -> Outcome:
        return {"value": self._netload("connections", "--ms", self.lengths.connections_ms)["connections_per_second"]}

    def _netload(self, command: str, *flags: object) -> Any:
        # All lengths grow with that of TCP; a search has some twenty steps at most.
        patience = 90 + 20 * self.lengths.tcp_s
        text = self.lab.run("n1", self.netload, command, self.address, *flags, timeout=patience)
        return json.loads(text)


@dataclasses.dataclass(eq=False)
class Test:
    """One test: its name, unit, meaning, how to run it, about how long that takes, and whether it is one
    of those that --quick runs unless told otherwise."""

    name: str
    unit: str
    about: str
    run: Callable[[Load], Outcome]
    seconds: Callable[[Lengths], float]
    lower_is_better: bool = False
    quick: bool = True


def tcp_test(streams: int, reverse: bool, quick: bool) -> Test:
    words = {1: "one stream", 4: "four streams", 16: "sixteen streams"}[streams]
    return Test(
        f"tcp{streams}{'-reverse' if reverse else ''}",
        "gbps",
        f"TCP, {words}{' from n2 to n1' if reverse else ''}, payload received, iperf3",
        lambda load: load.tcp(streams, reverse),
        lambda lengths: lengths.tcp_s + 0.3,
        quick=quick,
    )


def udp_test(size: int, unit: str, quick: bool = True) -> Test:
    figure, meaning = {
        "gbps": ("gbps", "payload received"),
        "packets/s": ("packets_per_second", "datagrams received per second"),
    }[unit]
    return Test(
        f"udp{size}",
        unit,
        f"UDP datagrams of {size} bytes of payload: {meaning} at the highest rate that loses at most 0.1 %",
        lambda load: load.udp(size, figure),
        udp_seconds,
        quick=quick,
    )


def udp_seconds(lengths: Lengths) -> float:
    # About six probes and a confirmation, and the questions between them.
    return 0.2 + (6 * lengths.probe_ms + 1.3 * lengths.confirm_ms) / 1000


TESTS = [
    tcp_test(1, reverse=False, quick=True),
    tcp_test(4, reverse=False, quick=True),
    tcp_test(16, reverse=False, quick=False),
    tcp_test(1, reverse=True, quick=True),
    tcp_test(4, reverse=True, quick=False),
    tcp_test(16, reverse=True, quick=False),
    udp_test(1350, "gbps"),
    udp_test(512, "gbps", quick=False),
    udp_test(64, "packets/s"),
    Test(
        "rtt",
        "us",
        "ICMP echo answered by the kernel of n2, one every 10 ms: median round trip in microseconds",
        Load.rtt,
        lambda lengths: 0.1 + lengths.rtt_count * 0.0105,
        lower_is_better=True,
    ),
    Test(
        "rtt-load",
        "us",
        "the same, one every 5 ms, while one TCP stream runs at full rate from n1 to n2: median "
        "round trip in microseconds",
        Load.rtt_load,
        lambda lengths: 0.3 + math.ceil(lengths.loaded_ms / 1000 + LOAD_MARGIN_S),
        lower_is_better=True,
    ),
    Test(
        "connections",
        "connections/s",
        "TCP connections per second, one after another: handshake, one byte back, reset",
        Load.connections,
        lambda lengths: 0.1 + lengths.connections_ms / 1000,
    ),
]


def iperf_result(text: str) -> Any:
    result = json.loads(text)
    if "error" in result:
        raise Failure(f"iperf3: {result['error']}")
    return result


def load_result(stream: Started) -> Any:
    """The result of an iperf3 that has ended."""
    return iperf_result(stream.log.read_text(encoding="utf-8"))


def busy_seconds() -> float:
    """User, nice, system, irq and softirq time of all CPUs since boot (proc(5)): without idle, and
    without steal, which is another machine's."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def per_gb(cpu_seconds: float, octets: float) -> float | None:
    return cpu_seconds / (octets / 1e9) if octets else None


def quiet() -> None:
    """Waits, a short while only, until the kernel has taken down what the last lab left to it."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        before = busy_seconds()
        time.sleep(0.1)
        if busy_seconds() - before < 0.03:
            return
