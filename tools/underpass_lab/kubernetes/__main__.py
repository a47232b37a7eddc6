"""The verbs of scripts/kubernetes."""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time

from underpass_lab.command import Failure, end_with
from underpass_lab.kubernetes import binaries
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.plan import ADDRESSES, CONTROL, DEFAULT_STATE

TRY = {"kubectl": " get nodes", "exec": " n1 ip route", "down": ""}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/kubernetes",
        allow_abbrev=False,
        description="A real Kubernetes cluster for tests, in network namespaces of this host. Needs root.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        if name != "build":
            added.add_argument("--state", metavar="DIR", type=pathlib.Path, default=DEFAULT_STATE, help="which cluster")
        return added

    verb("build", "build the programs into the cache, once")
    new = verb("up", "make a cluster; its nodes have no pod network until something writes a CNI configuration")
    new.add_argument("--nodes", metavar="N", type=int, choices=range(1, len(ADDRESSES) + 1), default=2)
    new.add_argument("--dual-stack", action="store_true", help="pods and nodes with IPv6 too")
    new.add_argument("--test-cni", action="store_true", help="ptp and host-local on each node, nothing between nodes")
    verb("down", "end all that runs in a cluster and remove it")
    verb("status", "nodes, and processes with their memory")
    verb("kubectl", "run kubectl as the administrator, with the words that follow")
    one = verb("exec", f"run a command on a node, or on {CONTROL}")
    one.add_argument("node", metavar="NODE")
    one.add_argument("command", metavar="CMD…", nargs=argparse.REMAINDER)
    return parser


def up(options: argparse.Namespace) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    binaries.build()
    begun = time.monotonic()
    cluster = Cluster.up(options.state, options.nodes, options.dual_stack)
    if options.test_cni:
        cluster.use_test_cni()
    print(f"{options.nodes} nodes registered after {time.monotonic() - begun:.1f} s; state in {cluster.state}")
    which = "" if options.state == DEFAULT_STATE else f" --state {options.state}"
    print("try:", "; ".join(f"scripts/kubernetes {verb}{which}{rest}" for verb, rest in TRY.items()))


def existing(options: argparse.Namespace) -> Cluster:
    cluster = Cluster(options.state)
    if not cluster.exists():
        raise Failure(f"there is no cluster in {cluster.state}: make one with 'scripts/kubernetes up'")
    return cluster


def status(options: argparse.Namespace) -> None:
    cluster = existing(options)
    print(cluster.kubectl("get", "nodes", "--output=wide"), end="")
    total = 0
    for machine in (cluster.control, *cluster.nodes.values()):
        for process in machine.processes():
            total += process.rss_kib
            print(f"{machine.name:8} {process.pid:8} {process.rss_kib / 1024:7.1f} MiB  {process.name}")
    print(f"{'all':17} {total / 1024:7.1f} MiB")


def exec_command(options: argparse.Namespace) -> int:
    cluster = existing(options)
    machine = cluster.control if options.node == CONTROL else cluster.node(options.node)
    command = options.command or ["sh"]
    return subprocess.run((*machine.entry(), *command), check=False).returncode


def kubectl(options: argparse.Namespace) -> int:
    command = existing(options).kubectl_command()
    return subprocess.run((*command, *options.command), check=False).returncode


def parse(words: list[str]) -> argparse.Namespace:
    """What follows `kubectl` belongs to it, also where it looks like an option of ours."""
    if words[:1] != ["kubectl"]:
        return arguments().parse_args(words)
    own = 3 if words[1:2] == ["--state"] else 1
    options = arguments().parse_args(words[:own])
    options.command = words[own:]
    return options


def main() -> int | None:
    options = parse(sys.argv[1:])
    if os.geteuid() != 0 and options.verb != "build":
        raise Failure("root is needed: namespaces, mounts and control groups are made")
    match options.verb:
        case "build":
            print(binaries.build())
        case "up":
            up(options)
        case "down":
            Cluster(options.state).down()
        case "status":
            status(options)
        case "exec":
            return exec_command(options)
        case "kubectl":
            return kubectl(options)
    return None


if __name__ == "__main__":
    end_with(main)
