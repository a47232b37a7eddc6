"""Traffic at full rate, a paced flow through an untouched prefix, and changes beside them."""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.nodes import NodeLab

MODULE = (sys.executable, "-P", "-m")
FLOW = (*MODULE, "underpass_lab.bench_routes.flow")
CHANGER = (*MODULE, "underpass_lab.bench_routes.changer")
STEADY, PROBED = ("10.244.2.2", 7001), ("10.244.77.7", 7002)
PROBE_PREFIX = "10.244.77.0/24"
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def percentile(values: Sequence[float], share: float) -> float | None:
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * share))], 1) if values else None


def await_ready(process: subprocess.Popen[str]) -> None:
    """Waits until a process has printed `ready`."""
    line = process.stdout.readline() if process.stdout else ""
    if line != "ready\n":
        raise Failure(f"{process.args!r}: said {line!r} in place of ready")


class Receiver:
    """A receiver of a paced flow in podB."""

    def __init__(self, lab: NodeLab, address: str, port: int) -> None:
        self._process = lab.popen(
            "podB", *FLOW, "receive", address, port, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        await_ready(self._process)

    def end(self) -> list[int]:
        numbers: list[int] = json.loads(self._process.communicate(timeout=20)[0])
        return numbers


class Changer:
    """The client that changes routes, ready to begin."""

    def __init__(self, daemon: Daemon, *arguments: object) -> None:
        command = [*CHANGER, daemon.socket, *map(str, arguments), PROBE_PREFIX]
        self._process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        await_ready(self._process)

    def go(self) -> None:
        """Begins."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """What was changed, and when."""
        report: dict[str, Any] = json.loads(self._process.communicate(timeout=60)[0])
        return report


# Packets wait in queues for less than this.
IN_FLIGHT_S = 0.02


def visibility(toggles: Sequence[tuple[float, bool]], sent: Sequence[float], received: set[int]) -> list[float]:
    """Milliseconds from the request of each change to the last packet, by sending time, that did not see it."""
    delays: list[float] = []
    # What becomes of the last change is not waited for.
    for (when, on), (until, _) in zip(toggles, toggles[1:], strict=False):
        # A packet that is still queued when the next change comes is judged by that one.
        until -= IN_FLIGHT_S
        blind = [at for number, at in enumerate(sent) if when <= at < until and (number in received) != on]
        delays.append(1e3 * (max(blind) - when) if blind else 0.0)
    return delays


def trial(lab: NodeLab, daemon: Daemon, seconds: int, changes: tuple[int, int] | None = None) -> dict[str, Any]:
    """One run, with `changes` (a second, in a request) or without."""
    steady, probed = Receiver(lab, *STEADY), Receiver(lab, *PROBED)
    changer = Changer(daemon, seconds, *changes) if changes else None
    before = cpu_seconds(daemon.pid)
    begin = time.monotonic()
    out = {"stdout": subprocess.PIPE}
    paced = [lab.popen("podA", *FLOW, "send", *to, seconds + 1, **out) for to in (STEADY, PROBED)]
    bulk = lab.popen("podA", "iperf3", "-c", "10.244.2.2", "-t", seconds, "-J", **out)
    if changer:
        changer.go()
    report = json.loads(bulk.communicate(timeout=seconds + 30)[0])
    result: dict[str, Any] = {
        "gbit_s": round(report["end"]["sum_received"]["bits_per_second"] / 1e9, 3),
        "retransmits": report["end"]["sum_sent"]["retransmits"],
    }
    changed = changer.end() if changer else None
    result["daemon_cpus"] = round((cpu_seconds(daemon.pid) - before) / (time.monotonic() - begin), 2)
    sent = [json.loads(process.communicate(timeout=20)[0]) for process in paced]
    time.sleep(0.2)
    result["paced_sent"], result["paced_lost"] = len(sent[0]), len(sent[0]) - len(steady.end())
    received = set(probed.end())
    if changed:
        delays = visibility(changed.pop("toggles"), sent[1], received)
        result["visible_ms"] = {"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99), "n": len(delays)}
        result["_delays"] = delays
        result["left_as_expected"] = left_as_expected(daemon, changed.pop("left"))
        result |= changed
    return result


def left_as_expected(daemon: Daemon, left: Sequence[str]) -> bool:
    """Whether exactly these of the changed routes are there; deletes them."""
    lines = daemon.command("route", "list", "--source", "control", "-o", "lines").stdout.splitlines()
    there = {line.split()[0] for line in lines if int(line.split(".")[1]) >= 192 and not line.startswith("10.244.")}
    file = pathlib.Path(daemon.socket).with_name("left.txt")
    file.write_text("".join(f"{prefix}\n" for prefix in left), encoding="ascii")
    daemon.command("route", "del", "--file", str(file))
    return there == set(left)


def interleaved(
    lab: NodeLab, daemon: Daemon, rounds: int, seconds: int, changes: tuple[int, int], say: Callable[[str], None]
) -> dict[str, Any]:
    """Runs without and with changes in turn, and what they come to."""
    quiet: list[dict[str, Any]] = []
    disturbed: list[dict[str, Any]] = []
    for number in range(rounds):
        quiet.append(trial(lab, daemon, seconds))
        disturbed.append(trial(lab, daemon, seconds, changes))
        say(f"round {number + 1}: {quiet[-1]['gbit_s']} Gbit/s undisturbed, {disturbed[-1]['gbit_s']} with changes")
    delays = [delay for one in disturbed for delay in one.pop("_delays")]
    middle = [round(statistics.median(one["gbit_s"] for one in runs), 3) for runs in (quiet, disturbed)]
    return {
        "quiet": quiet,
        "disturbed": disturbed,
        "gbit_s": middle,
        "ratio": round(middle[1] / middle[0], 3),
        "paced_lost": [sum(one["paced_lost"] for one in runs) for runs in (quiet, disturbed)],
        "visible_ms": {"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99), "n": len(delays)},
        "left_as_expected": all(one["left_as_expected"] for one in disturbed),
    }


def start_servers(lab: NodeLab) -> None:
    """What podB answers with."""
    lab.popen("podB", "iperf3", "-s", stdout=subprocess.DEVNULL)
    lab.listens("podB", 5201)


def answers(lab: NodeLab, address: str) -> bool:
    """Whether an address answers a ping from podA."""
    return lab.ping("podA", address, count=1) == 1


def warm_up(lab: NodeLab, daemon: Daemon) -> None:
    """Everybody on the probe's way knows his neighbours."""
    daemon.command("route", "add", PROBE_PREFIX, "--via", "n2")
    for address in (STEADY[0], PROBED[0]):
        wait_until(functools.partial(answers, lab, address), 5, f"a ping to {address}")
    daemon.command("route", "del", PROBE_PREFIX)
