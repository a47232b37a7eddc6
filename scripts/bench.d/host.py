"""What was measured on: without these facts a figure means little."""

import datetime
import os
import platform
import shlex
import subprocess

from lab import Failure
from rootless import is_rootless

LAB = "two network namespaces on one machine, joined by one veth pair, MTU 1500, default offloads"


def facts(arguments, systems, sweeps):
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "distribution": distribution(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": os.environ.get("BENCH_GIVEN", "") + shlex.join(["scripts/bench", *arguments]),
        "commit": commit(),
        "load_before": round(os.getloadavg()[0], 2),
        "congestion_control": setting("net/ipv4/tcp_congestion_control"),
        "rmem_max": int(setting("net/core/rmem_max", "0")),
        "rights": "user namespace" if is_rootless() else "root",
        "lab": f"{LAB}; but for what a sweep changes" if sweeps else LAB,
        "versions": {**tools(), **{system.name: version(system) for system in systems if not system.missing()}},
    }


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def distribution():
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def commit():
    """The commit that was measured, marked when files differ from it."""
    here = os.path.dirname(os.path.abspath(__file__))
    # The files may belong to somebody else; nothing of theirs is run.
    done = subprocess.run(("git", "-c", "safe.directory=*", "-C", here, "describe", "--always", "--dirty"),
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def setting(name, unknown="unknown"):
    """A sysctl, as the namespaces of the lab have it."""
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return unknown


def tools():
    done = subprocess.run(("iperf3", "--version"), capture_output=True, text=True, check=False)
    return {"iperf3": (done.stdout.splitlines() or ["unknown"])[0]}


def version(system):
    try:
        return system.version()
    except Failure as failure:
        return f"unknown ({failure})"
