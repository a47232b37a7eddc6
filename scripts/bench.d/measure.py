"""The tests: what is run between n1 and n2, and which figure of it counts.

Each returns a dict with at least `value`; throughput tests add `cpu_s_per_gb`, the CPU seconds of the
whole machine for every 10^9 bytes of payload that arrived.
"""

import contextlib
import json
import os
import time

from lab import Failure, poll

IPERF_PORT = 5201


class Lengths:
    """How long the tests of one run take, in seconds and counts."""

    def __init__(self, tcp_s, probe_ms, confirm_ms, rtt_count, connections_ms):
        self.tcp_s, self.probe_ms, self.confirm_ms = tcp_s, probe_ms, confirm_ms
        self.rtt_count, self.connections_ms = rtt_count, connections_ms


class Load:
    """The far end of all tests in n2 of one lab."""

    def __init__(self, lab, address, lengths):
        self.lab, self.address, self.lengths = lab, address, lengths
        self.netload = os.environ["BENCH_NETLOAD"]
        poll(10, lambda: lab.answers("n1", address), f"{address} in n2 answers a ping from n1")
        iperf = lab.start("n2", "iperf3", "-s", "-p", IPERF_PORT, "-B", address)
        lab.ready(iperf, 5, lambda: self._listens("t", IPERF_PORT))
        server = lab.start("n2", self.netload, "serve", address)
        lab.ready(server, 5, lambda: b"ready" in server.log.read_bytes())

    def _listens(self, family, port):
        return bool(self.lab.run("n2", "ss", f"-Hnl{family}", f"sport = :{port}").strip())

    def warm_up(self):
        """Lets TCP metrics, neighbours, caches and handshakes settle. It may fail; the tests tell why."""
        with contextlib.suppress(Failure):
            self._iperf("-n", "16M")

    def tcp(self, streams=1, reverse=False):
        before = busy_seconds()
        flags = ["-t", self.lengths.tcp_s, "-P", streams] + (["-R"] if reverse else [])
        received = self._iperf(*flags)["end"]["sum_received"]
        cpu = busy_seconds() - before
        return {"value": received["bits_per_second"] / 1e9, "cpu_s_per_gb": per_gb(cpu, received["bytes"])}

    def _iperf(self, *flags):
        text = self.lab.run("n1", "iperf3", "-c", self.address, "-p", IPERF_PORT, "-J", "-i", 0,
                            "--connect-timeout", 2000, *flags, timeout=self.lengths.tcp_s + 10)
        result = json.loads(text)
        if "error" in result:
            raise Failure(f"iperf3: {result['error']}")
        return result

    def udp(self, size, value):
        lengths = self.lengths
        result = self._netload("udp", "--size", size,
                               "--probe-ms", lengths.probe_ms, "--confirm-ms", lengths.confirm_ms)
        return {
            "value": result[value],
            "cpu_s_per_gb": per_gb(result["cpu_seconds"], result["bytes"]),
            "loss": result["loss"],
            "reordered": result["reordered"],
        }

    def rtt(self):
        idle = self._netload("rtt", "--count", self.lengths.rtt_count, "--gap-ms", 10)
        # Without a pause no CPU falls asleep and no cache gets cold: what is left is the path itself.
        busy = self._netload("rtt", "--count", self.lengths.rtt_count, "--gap-ms", 0)
        return {"value": idle["p50_us"], "p99": idle["p99_us"], "back_to_back": busy["p50_us"]}

    def connections(self):
        return {"value": self._netload("connections", "--ms", self.lengths.connections_ms)["connections_per_second"]}

    def _netload(self, command, *flags):
        text = self.lab.run("n1", self.netload, command, self.address, *flags, timeout=90)
        return json.loads(text)


class Test:
    """One test: its name, unit, meaning, how to run it and about how long that takes."""

    def __init__(self, name, unit, about, run, seconds, lower_is_better=False):
        self.name, self.unit, self.about, self.run, self.seconds = name, unit, about, run, seconds
        self.lower_is_better = lower_is_better


def udp_seconds(lengths):
    # About six probes and a confirmation, and the questions between them.
    return 0.2 + (6 * lengths.probe_ms + 1.3 * lengths.confirm_ms) / 1000


def tcp_seconds(lengths):
    return lengths.tcp_s + 0.2


TESTS = [
    Test("tcp1", "gbps", "TCP, one stream, payload received, iperf3", Load.tcp, tcp_seconds),
    Test("tcp4", "gbps", "TCP, four streams, payload received, iperf3",
         lambda load: load.tcp(streams=4), tcp_seconds),
    Test("tcp1-reverse", "gbps", "TCP, one stream from n2 to n1, payload received, iperf3",
         lambda load: load.tcp(reverse=True), tcp_seconds),
    Test("udp1350", "gbps", "UDP datagrams of 1350 bytes of payload: payload received at the highest rate that "
         "loses at most 0.1 %", lambda load: load.udp(1350, "gbps"), udp_seconds),
    Test("udp64", "packets/s", "UDP datagrams of 64 bytes of payload: datagrams received per second at the "
         "highest rate that loses at most 0.1 %", lambda load: load.udp(64, "packets_per_second"), udp_seconds),
    Test("rtt", "us", "ICMP echo answered by the kernel of n2, one every 10 ms: median round trip in microseconds",
         Load.rtt, lambda lengths: 0.1 + lengths.rtt_count * 0.0105, lower_is_better=True),
    Test("connections", "connections/s", "TCP connections per second, one after another: handshake, one byte back, "
         "reset", Load.connections, lambda lengths: 0.1 + lengths.connections_ms / 1000),
]


def busy_seconds():
    """User, nice, system, irq and softirq time of all CPUs since boot (proc(5)): without idle, and
    without steal, which is another machine's."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def per_gb(cpu_seconds, octets):
    return cpu_seconds / (octets / 1e9) if octets else None


def quiet():
    """Waits, a short while only, until the kernel has taken down what the last lab left to it."""
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        before = busy_seconds()
        time.sleep(0.1)
        if busy_seconds() - before < 0.03:
            return
