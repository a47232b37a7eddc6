"""Flame graphs: where the processors are during one TCP stream, by perf, drawn by inferno."""

import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

from underpass_lab.bench.measure import Lengths, Load
from underpass_lab.bench.pair import Pair
from underpass_lab.bench.systems import System
from underpass_lab.command import Failure

TOOLS = ("perf", "inferno-collapse-perf", "inferno-flamegraph")
# No divisor of the timer's rate, so that samples do not fall in step with it.
SAMPLES_A_SECOND = 499


def draw(systems: list[System], lengths: Lengths, out: pathlib.Path, say: Callable[[str], None]) -> list[str]:
    """One SVG for each system; returns their names."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise Failure(f"--flamegraph needs {', '.join(missing)}; run it once as root, which installs them")
    names = []
    for system in systems:
        if reason := system.missing():
            say(f"skipped: {system.name}: {reason}")
            continue
        name = f"flamegraph-{system.name}.svg"
        with Pair() as lab:
            load = Load(lab, system.up(lab), lengths)
            load.warm_up()
            system.inspect(lab)
            judge = system.watch(lab)
            gbps = watched(lab, load, system, out / name)
            judge(True)
        say(f"{name}: {gbps:.2f} Gbit/s while it was watched")
        names.append(name)
    return names


def watched(lab: Pair, load: Load, system: System, file: pathlib.Path) -> float:
    """Draws a TCP stream of this length; returns its rate in Gbit/s."""
    data = lab.dir / "perf.data"
    # The whole machine: softirqs run in whatever thread they meet.
    command = ["perf", "record", "-a", "-g", "-q", "-F", str(SAMPLES_A_SECOND), "-o", str(data)]
    perf = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        gbps = float(load.tcp()["value"])
    finally:
        perf.terminate()
        _, said = perf.communicate(timeout=60)
    if not data.exists() or data.stat().st_size == 0:
        raise Failure(f"perf recorded nothing: {said.strip()}")
    title = f"{system.name}: one TCP stream, {gbps:.2f} Gbit/s, Linux {os.uname().release}"
    stacks = piped(["perf", "script", "-i", str(data)], ["inferno-collapse-perf"])
    # What the idle task does is nothing.
    busy = b"".join(line for line in stacks.splitlines(keepends=True) if not line.startswith(b"swapper;"))
    file.write_bytes(
        subprocess.run(["inferno-flamegraph", "--title", title], input=busy, check=True, capture_output=True).stdout
    )
    return gbps


def piped(first: list[str], second: list[str]) -> bytes:
    """The output of two commands in a row."""
    with subprocess.Popen(first, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as source:
        return subprocess.run(second, stdin=source.stdout, capture_output=True, check=True).stdout
