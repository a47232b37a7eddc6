"""The program behind scripts/bench-kubernetes: see there."""

import argparse
import collections
import json
import os
import pathlib
import random
import statistics
import tempfile
import time
from typing import Any

from underpass_lab import machine
from underpass_lab.api import Api, next_hop, status
from underpass_lab.bench_kubernetes import crowd
from underpass_lab.bench_routes.changes import cpu_seconds
from underpass_lab.bench_routes.load import Memory
from underpass_lab.command import Failure, end_with, wait_until
from underpass_lab.daemon import Daemon, binary
from underpass_lab.kubernetes import binaries, control_plane
from underpass_lab.kubernetes.client import Client
from underpass_lab.kubernetes.cluster import API_SERVER, Cluster
from underpass_lab.paths import REPO

USER = "underpass"
CONVERGE_S = 300
CHANGES = 20
# What the daemon puts before the names of policies of Kubernetes.
PREFIX = "knp.default."
# Pods a second that get another address.
MOVES = (1, 10)
# Each kubelet says every so often that its node is well.
HEARTBEAT_S = 300
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "users": [USER]}, {"level": "None"}],
}


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-kubernetes", description="A daemon in a large cluster.")
    parser.add_argument("--out", type=pathlib.Path, default=REPO / "bench-results", help="directory of the results")
    parser.add_argument("--nodes", type=int, default=5000, help="Node objects in the API server")
    parser.add_argument("--pods", type=int, default=10000, help="pods that policies select; 0 measures no policies")
    parser.add_argument("--policies", type=int, default=1000, help="NetworkPolicies that select them")
    parser.add_argument("--seconds", type=int, default=20, help="seconds of each measurement of processor time")
    return parser.parse_args()


class Bench:
    def __init__(self, cluster: Cluster, options: argparse.Namespace) -> None:
        self.cluster, self.nodes, self.seconds = cluster, options.nodes, options.seconds
        self.pods, self.policies = options.pods, options.policies
        self.audit = cluster.state / "audit.log"
        self.client = Client(cluster)

    def prepare(self) -> None:
        """Objects only: nothing but etcd and the API server, which notes what the daemon asks for."""
        for service in ("controllers", "scheduler"):
            self.cluster.control.end_service(service)
        self.cluster.node("n1").end_service("kubelet")
        self.cluster.credentials.add_user(USER, USER, "system:masters")
        policy = self.cluster.state / "audit.json"
        policy.write_text(json.dumps(POLICY), encoding="ascii")
        self.cluster.kill_api_server()
        self.cluster.control.start_service(
            *(API_SERVER, *control_plane.api_server(self.cluster.plan, self.cluster.credentials)),
            *(f"--audit-policy-file={policy}", f"--audit-log-path={self.audit}"),
        )
        wait_until(self.is_up, 60, "the API server")

    def is_up(self) -> bool:
        try:
            return self.client.ask("GET", "/readyz") == (200, "ok")
        except OSError:
            time.sleep(0.1)
            return False

    def start(self, more: str = "") -> tuple[Daemon, float]:
        """The daemon, with `more` in its configuration, and the seconds from its start until all routes are there."""
        directory = self.cluster.underlay.dir
        file = directory / "n1.toml"
        file.write_text(
            f'[source.kubernetes]\nkubeconfig = "{self.cluster.kubeconfig(USER)}"\nnode_name = "n1"\n'
            f'style = "native"\nstate_file = "{directory}/n1.state.json"\n'
            f'[[pool]]\ncidr = "{crowd.POOL}"\nipip_mode = "CrossSubnet"\n'
            f'[control]\nsocket = "{directory}/n1.sock"\n{more}',
            encoding="ascii",
        )
        begun = time.monotonic()
        daemon = Daemon(self.cluster.underlay, "n1", file)
        self.cluster.underlay.daemons["n1"] = daemon
        last = crowd.pod(self.nodes - 1)
        wait_until(lambda: next_hop(daemon.socket, last) or self.ended(daemon), CONVERGE_S, "the last route")
        taken = time.monotonic() - begun
        answer = status(daemon.socket, 60)
        # The own subnet is a route, too.
        if not answer or answer["routes"] != self.nodes + 1:
            raise Failure(f"there are {answer and answer['routes']} routes, not {self.nodes + 1}:\n{daemon.log()}")
        return daemon, taken

    def ended(self, daemon: Daemon) -> bool:
        if daemon.process.poll() is not None:
            raise Failure(f"the daemon has ended:\n{daemon.log()}")
        return False

    def requests(self) -> dict[str, int]:
        """What the daemon has asked the API server for: requests by verb and kind."""
        found: dict[str, str] = {}
        for line in self.audit.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            kind = event.get("objectRef", {}).get("resource", event["requestURI"].partition("?")[0])
            found[event["auditID"]] = f"{event['verb']} {kind}"
        return dict(collections.Counter(found.values()))

    def changes(self, daemon: Daemon) -> list[float]:
        """Seconds from the API server's answer to a changed address of a node until the route leads there."""
        times = []
        for number in random.Random(1).sample(range(self.nodes), CHANGES):
            other = crowd.address(100_000 + number)
            self.client.set_addresses(crowd.name(number), [other])
            begun = time.monotonic()
            pod = crowd.pod(number)
            wait_until(lambda other=other, pod=pod: next_hop(daemon.socket, pod) == other, 30, other)  # type: ignore[misc]
            times.append(time.monotonic() - begun)
        return times

    def processor(self, daemon: Daemon, beat: bool) -> float:
        """The share of a processor that the daemon takes, while nothing happens or kubelets say that all is well."""
        used, begun = cpu_seconds(daemon.pid), time.monotonic()
        say_well, beats = crowd.beats(), 0
        while (passed := time.monotonic() - begun) < self.seconds:
            if beat and beats < passed * self.nodes / HEARTBEAT_S:
                say_well(self.client, self.nodes, beats)
                beats += 1
            else:
                time.sleep(0.01)
        return (cpu_seconds(daemon.pid) - used) / (time.monotonic() - begun)

    # --- policies ---------------------------------------------------------------------------------

    def policies_listed(self, daemon: Daemon) -> dict[str, Any]:
        """The policies that the daemon enforces, by name."""
        api = Api(daemon.socket, 60)
        try:
            return {policy["name"].removeprefix(PREFIX): policy for policy in api.get("/v1/policies")}
        finally:
            api.close()

    def policies_settle(self, daemon: Daemon) -> None:
        """Waits until the daemon enforces as many policies as there are, for pods that it knows."""

        def settled() -> bool:
            time.sleep(0.1)
            self.ended(daemon)
            listed = self.policies_listed(daemon)
            return len(listed) == self.policies and all(policy["ingress_endpoints"] for policy in listed.values())

        wait_until(settled, CONVERGE_S, "the policies")

    def policy_changes(self, daemon: Daemon) -> list[float]:
        """Seconds from the API server's answer to a policy with another rule until it is enforced."""
        times = []
        for number in random.Random(2).sample(range(self.policies), min(CHANGES, self.policies)):
            changed = crowd.policy(number)
            name = changed["metadata"]["name"]
            rules = changed["spec"]["ingress"]
            rules.append(rules[0])
            self.client.patch(f"{crowd.policies(number)}/{name}", {"spec": {"ingress": rules}})
            begun = time.monotonic()
            is_so = lambda name=name: self.policies_listed(daemon)[name]["ingress_rules"] == 2  # noqa: E731
            wait_until(is_so, 30, name)
            times.append(time.monotonic() - begun)
        return times

    def pods_move(self, daemon: Daemon, per_second: int) -> float:
        """The share of a processor that the daemon takes while so many pods a second get another address."""
        used, begun = cpu_seconds(daemon.pid), time.monotonic()
        moved = 0
        while (passed := time.monotonic() - begun) < self.seconds:
            if moved < passed * per_second:
                status = crowd.running(f"10.200.{moved >> 8}.{moved & 255}")
                self.client.patch(f"{crowd.pod_path(moved % self.pods)}/status", {"status": status})
                moved += 1
            else:
                time.sleep(0.005)
        return (cpu_seconds(daemon.pid) - used) / (time.monotonic() - begun)

    def run_policies(self) -> dict[str, Any]:
        say(f"{self.pods} pods and {self.policies} policies")
        crowd.make_spaces(self.client)
        crowd.make_pods(self.cluster, self.pods, self.nodes)
        crowd.make_policies(self.cluster, self.policies)
        begun = time.monotonic()
        daemon, _ = self.start("[policy]\n")
        self.policies_settle(daemon)
        memory = Memory(daemon.pid)
        result: dict[str, Any] = {"pods": self.pods, "policies": self.policies, "known_s": time.monotonic() - begun}
        result["rss_mib"], result["peak_mib"] = memory.now(), memory.peak()
        say(f"{CHANGES} changes of a policy, and pods that get other addresses")
        times = self.policy_changes(daemon)
        result["change_s"] = {"median": statistics.median(times), "max": max(times)}
        result["moves_cpus"] = {str(rate): self.pods_move(daemon, rate) for rate in MOVES}
        result["rss_after_mib"], result["peak_after_mib"] = memory.now(), memory.peak()
        daemon.stop(30)
        file = self.cluster.underlay.dir / "n1.state.policy.json"
        result["state_file_mib"] = file.stat().st_size / 2**20
        return result

    def run(self) -> dict[str, Any]:
        self.prepare()
        say(f"{self.nodes} Node objects")
        begun = time.monotonic()
        crowd.make(self.cluster, self.nodes)
        result: dict[str, Any] = {"nodes": self.nodes, "created_s": round(time.monotonic() - begun, 1)}
        say("a daemon, from nothing")
        daemon, result["converged_s"] = self.start()
        memory = Memory(daemon.pid)
        result["rss_mib"], result["peak_mib"] = memory.now(), memory.peak()
        result["requests"] = self.requests()
        say("idle, and as kubelets say every five minutes that all is well")
        result["idle_cpus"] = self.processor(daemon, beat=False)
        result["heartbeat_cpus"] = self.processor(daemon, beat=True)
        say(f"{CHANGES} changes of a node")
        times = self.changes(daemon)
        result["change_s"] = {"median": statistics.median(times), "max": max(times)}
        result["rss_after_mib"], result["peak_after_mib"] = memory.now(), memory.peak()
        daemon.stop(30)
        result["requests_all"] = self.requests()
        result["state_file_mib"] = (self.cluster.underlay.dir / "n1.state.json").stat().st_size / 2**20
        if self.pods and self.policies:
            result["with_policies"] = self.run_policies()
        say("a daemon, from the state file without the API server")
        self.cluster.kill_api_server()
        daemon, result["recalled_s"] = self.start()
        daemon.stop(30)
        return result


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    asked = ", ".join(f"{count} × {what}" for what, count in sorted(result["requests"].items()))
    times = result["change_s"]
    change = f"{times['median'] * 1e3:.0f}, {times['max'] * 1e3:.0f} ms"
    begun = f"{result['nodes']} nodes: from the start of a daemon until all routes are there"
    rows = [
        (begun, f"{result['converged_s']:.1f} s"),
        ("… from the state file, without the API server", f"{result['recalled_s']:.1f} s"),
        ("memory then, and its peak so far", f"{result['rss_mib']:.0f}, {result['peak_mib']:.0f} MiB"),
        ("… after the changes", f"{result['rss_after_mib']:.0f}, {result['peak_after_mib']:.0f} MiB"),
        ("state file", f"{result['state_file_mib']:.1f} MiB"),
        (f"requests to the API server until then: {sum(result['requests'].values())}", asked),
        ("… until the end", str(sum(result["requests_all"].values()))),
        ("from a change of a node to `route get`, median and largest", change),
        ("processors, idle", f"{result['idle_cpus']:.3f}"),
        (f"… while each node says every {HEARTBEAT_S} s that it is well", f"{result['heartbeat_cpus']:.3f}"),
    ]
    if policies := result.get("with_policies"):
        times = policies["change_s"]
        known = (
            f"{policies['pods']} pods, {policies['policies']} policies: from the start of a daemon until all are known"
        )
        rows += [
            (known, f"{policies['known_s']:.1f} s"),
            ("… memory then, and its peak so far", f"{policies['rss_mib']:.0f}, {policies['peak_mib']:.0f} MiB"),
            ("… after the changes", f"{policies['rss_after_mib']:.0f}, {policies['peak_after_mib']:.0f} MiB"),
            ("… state file of policies", f"{policies['state_file_mib']:.1f} MiB"),
            (
                "… from a change of a policy to `policy list`, median and largest",
                f"{times['median'] * 1e3:.0f}, {times['max'] * 1e3:.0f} ms",
            ),
            *(
                (f"… processors while so many pods a second get another address: {rate}", f"{share:.3f}")
                for rate, share in policies["moves_cpus"].items()
            ),
        ]
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows)]) + "\n"


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    binaries.build()
    with tempfile.TemporaryDirectory(prefix=f"upk{os.getpid()}-") as directory:
        state = pathlib.Path(directory)
    with Cluster.up(state, nodes=1) as cluster:
        result = Bench(cluster, options).run()
    result["about"] = machine.about("scripts/bench-kubernetes") | {"build": pathlib.Path(binary()).parent.name}
    (options.out / "kubernetes.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = f"{result['about']}\n\n{table(result)}"
    (options.out / "kubernetes.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    end_with(main)
