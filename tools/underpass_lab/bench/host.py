"""What was measured on: without these facts a figure means little."""

import datetime
import os
import platform
import shlex
import subprocess
from typing import Any

from underpass_lab import machine
from underpass_lab.bench.rootless import is_rootless
from underpass_lab.bench.systems import System
from underpass_lab.command import Failure, brief

LAB = "two network namespaces on one machine, joined by one veth pair, MTU 1500, default offloads"


def facts(arguments: list[str], systems: list[System], sweeps: object) -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": machine.cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "distribution": distribution(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": os.environ.get("BENCH_GIVEN", "") + shlex.join(["scripts/bench", *arguments]),
        "commit": machine.commit(),
        "load_before": round(os.getloadavg()[0], 2),
        "congestion_control": setting("net/ipv4/tcp_congestion_control"),
        "rmem_max": int(setting("net/core/rmem_max", "0")),
        "rights": "user namespace" if is_rootless() else "root",
        "lab": f"{LAB}; but for what a sweep changes" if sweeps else LAB,
        "versions": {**tools(), **{system.name: version(system) for system in systems if not system.missing()}},
    }


def distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def setting(name: str, unknown: str = "unknown") -> str:
    """A sysctl, as the namespaces of the lab have it."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return unknown


def tools() -> dict[str, str]:
    done = subprocess.run(("iperf3", "--version"), capture_output=True, text=True, check=False)
    return {"iperf3": (done.stdout.splitlines() or ["unknown"])[0]}


def version(system: System) -> str:
    try:
        return system.version()
    except Failure as failure:
        return f"unknown ({brief(failure)})"
