"""Makes the lab of the demo, runs the cases in it, and removes it, however they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

from underpass_lab.command import Failure, end_with
from underpass_lab.demo import bgp, etcd, kubernetes
from underpass_lab.demo.story import say
from underpass_lab.lab import making
from underpass_lab.lab import topology as topologies
from underpass_lab.lab.inside import module
from underpass_lab.lab.state import RunningLab

TOPOLOGY = "three-nodes"


def main() -> int:
    """The exit status of the cases."""
    match sys.argv[1:]:
        case []:
            return in_a_lab()
        case ["--bgp"]:
            return as_root(bgp.main)
        case ["--etcd"]:
            return as_root(etcd.main)
        case ["--kubernetes"]:
            return as_root(kubernetes.main)
    print("usage: scripts/demo [--bgp | --etcd | --kubernetes]", file=sys.stderr)
    return 2


def as_root(demo: Callable[[], int]) -> int:
    """A demo that makes its lab in this process: a request to end it ends the lab."""
    if os.geteuid() != 0:
        raise Failure(f"{sys.argv[1]} needs root: it makes network namespaces, mounts and control groups")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    return demo()


def in_a_lab() -> int:
    """The modes, side by side."""
    path = topologies.find(TOPOLOGY)
    text = path.read_text(encoding="utf-8")
    topology = topologies.load(path, text)
    making.check(topology, with_daemons=True)
    lab = RunningLab(f"demo{os.getpid()}")
    say("\n== lab")
    making.up(lab, text, topology, binary="")
    try:
        return subprocess.run(module(lab, "demo.cases", lab.directory), check=False).returncode
    finally:
        making.end(lab)


if __name__ == "__main__":
    end_with(main)
