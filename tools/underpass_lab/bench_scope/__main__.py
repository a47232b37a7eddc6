"""The program behind scripts/bench-scope: see there."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from underpass_lab import machine
from underpass_lab.command import wait_until
from underpass_lab.nodes import NodeLab, pod_address
from underpass_lab.paths import REPO

A, B = pod_address("n1"), "10.244.1.3"
GATEWAY = "10.244.1.1"
SCOPES = ("overlay", "all")
FIGURES = {
    "tcp_gbit_s": "one TCP stream, Gbit/s",
    "rtt_us": "round trip, median, µs",
    "rtt_busy_us": "round trip without pauses, median, µs",
    "connections_s": "new TCP connections a second",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-scope", description="What scope = all costs local traffic.")
    parser.add_argument("--out", type=pathlib.Path, default=REPO / "bench-results", help="directory of the results")
    parser.add_argument("--rounds", type=int, default=5, help="runs with each scope, by turns")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of each TCP stream")
    return parser.parse_args()


def build(lab: NodeLab) -> None:
    """Two pods on n1, each a single address behind an interface of its own."""
    lab.add_namespace("podA2")
    lab.link("n1", "pod1", "podA2", "eth0")
    for pod, interface, address in (("podA", "pod0", A), ("podA2", "pod1", B)):
        lab.ip("n1", f"address flush dev {interface}", f"address add {GATEWAY} dev {interface}")
        lab.ip("n1", f"route add {address} dev {interface}")
        lab.ip(
            pod,
            "address flush dev eth0",
            f"address add {address} dev eth0",
            f"route add {GATEWAY} dev eth0",
            f"route add default via {GATEWAY}",
        )


class Bench:
    """The far end of all tests in podA2."""

    def __init__(self, lab: NodeLab, seconds: int) -> None:
        self.lab, self.seconds, self.netload = lab, seconds, os.environ["BENCH_NETLOAD"]
        lab.popen("podA2", "iperf3", "-s", "-B", B, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lab.popen("podA2", self.netload, "serve", B, stdout=subprocess.DEVNULL)
        lab.listens("podA2", 5201)

    def figures(self, scope: str) -> dict[str, float]:
        """One run with this scope."""
        extra = f'\n[policy]\nscope = "{scope}"\n'
        daemon = self.lab.start_daemon("n1", ipip="Never", vxlan="Always", extra=extra)
        try:
            wait_until(lambda: self.is_in_effect(scope), 10, "the rules")
            return self.measure()
        finally:
            daemon.stop()

    def is_in_effect(self, scope: str) -> bool:
        """Whether packets take the way that they are to take."""
        before = self.given_back()
        return self.lab.ping("podA", B, count=2) == 2 and (self.given_back() - before == 4) == (scope == "all")

    def given_back(self) -> int:
        """Packets that have passed the pump on their way inside of the node."""
        return int(self.lab.status("n1")["hairpinned_packets"])

    def measure(self) -> dict[str, float]:
        stream = self.run("iperf3", "-c", B, "-J", "-i", 0, "-t", self.seconds)
        idle = self.run(self.netload, "rtt", B, "--count", 200, "--gap-ms", 5)
        busy = self.run(self.netload, "rtt", B, "--count", 2000, "--gap-ms", 0)
        connections = self.run(self.netload, "connections", B, "--ms", 1000 * self.seconds)
        return {
            "tcp_gbit_s": stream["end"]["sum_received"]["bits_per_second"] / 1e9,
            "rtt_us": idle["p50_us"],
            "rtt_busy_us": busy["p50_us"],
            "connections_s": connections["connections_per_second"],
        }

    def run(self, *words: object) -> Any:
        return json.loads(self.lab.exec("podA", *words, timeout=60 + self.seconds).stdout)


def table(result: dict[str, Any]) -> str:
    """The medians as Markdown, with the lowest and the highest figure."""
    lines = ["| | `overlay` | `all` | |", "|---|---|---|---|"]
    for name, about in FIGURES.items():
        runs = [[run[name] for run in result["runs"][scope]] for scope in SCOPES]
        medians = [statistics.median(values) for values in runs]
        digits = 1 if max(medians) < 1000 else 0
        cells = [
            f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
            for median, values in zip(medians, runs, strict=True)
        ]
        lines.append(f"| {about} | {cells[0]} | {cells[1]} | x {medians[1] / medians[0]:.2f} |")
    host = result["host"]
    facts = f"{host['host']}, Linux {host['kernel']}, commit {host['commit']}, {host['date']}, `{host['command']}`"
    return "\n".join([*lines, "", facts, ""])


def main() -> int:
    asked = arguments()
    host = machine.about("scripts/bench-scope") | {"load_before": f"{os.getloadavg()[0]:.2f}"}
    runs: dict[str, list[dict[str, float]]] = {scope: [] for scope in SCOPES}
    with NodeLab("T2") as lab:
        build(lab)
        bench = Bench(lab, asked.seconds)
        for number in range(asked.rounds):
            for scope in SCOPES:
                runs[scope].append(bench.figures(scope))
                print(f"== round {number + 1}, {scope}: {runs[scope][-1]}", flush=True)
    result = {"host": host, "runs": runs}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "scope.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (asked.out / "scope.md").write_text(table(result), encoding="utf-8")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
