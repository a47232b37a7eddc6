"""The tests: what is run between n1 and n2, and which figure of it counts.

Each returns a dict with at least `value`; throughput tests add `cpu_s_per_gb`, the CPU seconds of the
whole machine for every 10^9 bytes of payload that arrived.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from underpass_lab.bench.pair import FORBIDDEN, NODES, SILENT, Pair, Started
from underpass_lab.bench_routes.load import Memory
from underpass_lab.command import Failure, wait_until
from underpass_lab.paths import PYTHON

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
# The near end of round trips by UDP, one file that needs nothing beside it, and how long it takes until the first round
# trip that counts.
ASK = pathlib.Path(__file__).with_name("ask.py")
ASK_BEGINS_S = 0.7
# The test of memory: packets a second that each begin a connection, and source ports of them; the share that may be
# missing in the end, how often all of them are sent for that, and how long the last ones may take. Connections that
# memory is told for.
FLOOD_RATE = 50_000
FLOOD_PORTS = 60_000
FLOOD_MAX_LOST = 0.05
FLOODS = 8
FLOOD_SETTLES_S = 3
MEMORY_FOR = 500_000
# The test of a flood: SYNs a second to an address that no rule allows, how much longer than the stream they come, and
# what the stream beside them sends at.
SYN_RATE = 100_000
SYN_MARGIN_S = 1.5
STEADY_RATE = "1G"


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
    """The far end of all tests of one lab, in n2 or its pod."""

    def __init__(self, lab: Pair, address: str, lengths: Lengths) -> None:
        self.lab, self.address, self.lengths = lab, address, lengths
        self.netload = os.environ["BENCH_NETLOAD"]
        wait_until(lambda: lab.answers(lab.near, address), 10, f"{address} answers a ping from {lab.near}")
        iperf = lab.start(lab.far, "iperf3", "-s", "-p", IPERF_PORT, "-B", address)
        lab.ready(iperf, 5, lambda: self._listens("t", IPERF_PORT))
        server = lab.start(lab.far, self.netload, "serve", address)
        lab.ready(server, 5, server.says_ready)

    def _listens(self, family: str, port: int) -> bool:
        return bool(self.lab.run(self.lab.far, "ss", f"-Hnl{family}", f"sport = :{port}").strip())

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
            text = self.lab.run(self.lab.near, *self._iperf_command(*flags), timeout=self.lengths.tcp_s + 10)
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

    def rtt(self, udp: bool = False) -> Outcome:
        """Questions and answers by UDP, or ICMP echoes."""
        idle = self._round_trips(udp, "--count", self.lengths.rtt_count, "--gap-ms", 10)
        # Without a pause no CPU falls asleep and no cache gets cold: what is left is the path itself.
        busy = self._round_trips(udp, "--count", self.lengths.rtt_count, "--gap-ms", 0)
        return {"value": idle["p50_us"], "p99": idle["p99_us"], "back_to_back": busy["p50_us"]}

    def rtt_load(self, udp: bool = False) -> Outcome:
        """The same while one TCP stream runs at full rate the same way."""
        milliseconds = self.lengths.loaded_ms
        stream = self._when_free(lambda: self._start_load(loaded_seconds(self.lengths, udp)))
        loaded = self._round_trips(
            udp,
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
        wait_until(stream.ended, loaded_seconds(self.lengths, udp) + 10, "the load ends")
        received = load_result(stream)["end"]["sum_received"]
        return {
            "value": loaded["p50_us"],
            "p99": loaded["p99_us"],
            "lost": loaded["lost"],
            "load_gbps": received["bits_per_second"] / 1e9,
        }

    def _round_trips(self, udp: bool, *flags: object) -> Any:
        if udp:
            # Alone: the modules beside it are not for it.
            return self._measured(PYTHON, "-I", ASK, self.address, *flags)
        return self._netload("rtt", *flags)

    def _start_load(self, seconds: int) -> Started:
        before = self._sent()
        stream = self.lab.start(self.lab.near, *self._iperf_command("-t", seconds))
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

    def beside_flood(self) -> Outcome:
        """A stream at a steady rate while SYNs go to an address that no rule allows, where there are rules."""
        seconds = self.lengths.tcp_s + SYN_MARGIN_S
        pace = ("--rate", SYN_RATE, "--ms", round(1000 * seconds))
        flood = self.lab.start(self.lab.near, self.netload, "flood", FORBIDDEN, *pace)
        end, _ = self._iperf("-t", self.lengths.tcp_s, "-b", STEADY_RATE)
        wait_until(flood.ended, seconds + 10, "the flood ends")
        sent = json.loads(flood.log.read_text(encoding="utf-8"))["packets_per_second"]
        return {"value": end["sum_received"]["bits_per_second"] / 1e9, "flood_pps": sent}

    def memory(self) -> Outcome:
        """What so many connections cost the daemons, of which the one that needs more counts."""
        count = self.lab.conditions.tracked or 0
        memories = [Memory(self.lab.daemons[node].pid) for node in NODES]
        before = [memory.settled() for memory in memories]
        wanted = (1 - FLOOD_MAX_LOST) * count
        for _ in range(FLOODS):
            self._flood(count)
            with contextlib.suppress(Failure):
                wait_until(lambda: self._known() >= wanted, FLOOD_SETTLES_S)
                break
        known = self._known()
        if known < wanted:
            raise Failure(f"{known} of {count} connections are known to both daemons after {FLOODS} floods")
        grown = max(memory.now() - then for memory, then in zip(memories, before, strict=True))
        return {"value": grown, "per_500k": grown * MEMORY_FOR / known, "known": known}

    def _flood(self, count: int) -> None:
        """Begins so many connections to where nobody answers, the same ones each time."""
        ports = ("--source-ports", FLOOD_PORTS, "--ports", math.ceil(count / FLOOD_PORTS))
        # It may take three times as long as it should.
        pace = ("--rate", FLOOD_RATE, "--ms", math.ceil(3000 * count / FLOOD_RATE), "--count", count)
        self._netload("flood", *ports, *pace, to=SILENT)

    def _known(self) -> int:
        """The connections that both daemons know. They count with the packets that they get."""
        self.lab.answers(self.lab.near, self.address)
        return min(int(self.lab.daemons[node].json("status")["policy"]["connections"]) for node in NODES)

    def _netload(self, command: str, *flags: object, to: str | None = None) -> Any:
        return self._measured(self.netload, command, self.address if to is None else to, *flags)

    def _measured(self, *command: object) -> Any:
        # All lengths grow with that of TCP; a search has some twenty steps at most.
        return json.loads(self.lab.run(self.lab.near, *command, timeout=90 + 20 * self.lengths.tcp_s))


@dataclasses.dataclass(eq=False)
class Test:
    """One test: its name, unit, meaning, how to run it, about how long that takes, whether it is one of those that
    --quick runs unless told otherwise, whether it is only of use in a sweep, and whether nearly all its packets are of
    TCP and UDP flows that are established."""

    name: str
    unit: str
    about: str
    run: Callable[[Load], Outcome]
    seconds: Callable[[Lengths], float]
    lower_is_better: bool = False
    quick: bool = True
    in_sweeps_only: bool = False
    established: bool = True


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


def loaded_seconds(lengths: Lengths, udp: bool = False) -> int:
    """How long the stream runs that round trips are timed beside."""
    return math.ceil(lengths.loaded_ms / 1000 + LOAD_MARGIN_S + (ASK_BEGINS_S if udp else 0))


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
        established=False,
    ),
    Test(
        "rtt-udp",
        "us",
        "a question of 12 bytes by UDP and the answer of a process on n2, one flow, one every 10 ms: median round trip "
        "in microseconds",
        lambda load: load.rtt(udp=True),
        lambda lengths: 0.1 + 2 * ASK_BEGINS_S + lengths.rtt_count * 0.0105,
        lower_is_better=True,
    ),
    Test(
        "rtt-load",
        "us",
        "rtt, one every 5 ms, while one TCP stream runs at full rate from n1 to n2: median round trip in microseconds",
        Load.rtt_load,
        lambda lengths: 0.3 + loaded_seconds(lengths),
        lower_is_better=True,
    ),
    Test(
        "rtt-udp-load",
        "us",
        "rtt-udp, one every 5 ms, while one TCP stream runs at full rate from n1 to n2: median "
        "round trip in microseconds",
        lambda load: load.rtt_load(udp=True),
        lambda lengths: 0.3 + loaded_seconds(lengths, udp=True),
        lower_is_better=True,
    ),
    Test(
        "connections",
        "connections/s",
        "TCP connections per second, one after another: handshake, one byte back, reset",
        Load.connections,
        lambda lengths: 0.1 + lengths.connections_ms / 1000,
        established=False,
    ),
    Test(
        "tcp1-flood",
        "gbps",
        "TCP, one stream that sends 1 Gbit/s, payload received, beside 100,000 SYNs a second to an address that no "
        "rule allows, where there are rules",
        Load.beside_flood,
        lambda lengths: lengths.tcp_s + SYN_MARGIN_S + 0.5,
        quick=False,
        in_sweeps_only=True,
        established=False,
    ),
    Test(
        "memory",
        "mib",
        "MiB by which the daemon grows that needs more for its connections, each begun by one SYN without an answer",
        Load.memory,
        lambda lengths: 20,
        lower_is_better=True,
        quick=False,
        in_sweeps_only=True,
        established=False,
    ),
]
# Those that need no sweep.
SIDE_BY_SIDE = [test for test in TESTS if not test.in_sweeps_only]


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
