"""Policies on the wire: generated cases, and who then reaches whom between three nodes, beside what the oracle says.

Every pair of pods on different nodes, in both families, by TCP, UDP, SCTP and ICMP echo. `UNDERPASS_WIRE_CASES` and
`UNDERPASS_WIRE_SEED` choose other cases. What pods of one node say to each other does not come to the daemon.
"""

import bootstrap

import os
import sys
import time
import unittest
from typing import Any

import generate
import oracle
from policy_lab import NODES, PolicyLab, all_pods, node_of
from policy_probe import SERVICES, SOURCE_PORT, Pods, Probe
from underpass_lab.command import wait_until

CASES = int(os.environ.get("UNDERPASS_WIRE_CASES", "200"))
SEED = int(os.environ.get("UNDERPASS_WIRE_SEED", "1"))
# Everything allowed is answered long before.
ANSWERED_S = 5.0
# So long a denied probe may still be answered, where the counters do not say that all denied ones are gone.
DENIED_S = 0.3
# The kernel sends an unanswered SYN again after a second: until then a denied probe is one packet.
ONE_PACKET_S = 0.9
REASONS = ("policy_egress", "policy_ingress")
Verdicts = dict[Probe, tuple[bool, bool]]


def all_probes() -> list[Probe]:
    """Between all pods on different nodes."""
    pods = all_pods()
    return [
        Probe((source, pods[source][place]), (destination, pods[destination][place]), protocol, port)
        for source in pods
        for destination in pods
        if node_of(source) != node_of(destination)
        for place in (0, 1)
        for protocol, port in SERVICES
    ]


def expected_of(objects: list[Any], probes: list[Probe]) -> Verdicts:
    """What the oracle says of each: egress and ingress."""
    world = oracle.read(objects)
    return {probe: oracle.verdicts(world, first_packet(probe)) for probe in probes}


def first_packet(probe: Probe) -> dict[str, Any]:
    """A probe as the oracle has it. The ports from which TCP asks are of no rule, like the one of the others."""
    ported = probe.protocol != "icmp"
    return {
        "source": probe.source[1],
        "destination": probe.destination[1],
        "protocol": probe.protocol,
        "source_port": SOURCE_PORT if ported else None,
        "destination_port": probe.port,
        "icmp_type": None if ported else {4: 8, 6: 128}[probe.version],
        "icmp_code": None if ported else 0,
    }


def split(objects: list[Any]) -> tuple[list[Any], list[Any]]:
    """The objects that become manifests, and pods as [[endpoint]] tables."""
    manifests = [item for item in objects if item["kind"] != "Pod"]
    return manifests, [table_of(item) for item in objects if item["kind"] == "Pod"]


def table_of(pod: Any) -> dict[str, Any]:
    ports = [port for container in pod["spec"]["containers"] for port in container["ports"]]
    return {
        "name": pod["metadata"]["name"],
        "namespace": pod["metadata"]["namespace"],
        "addresses": [entry["ip"] for entry in pod["status"]["podIPs"]],
        "labels": pod["metadata"]["labels"],
        "ports": [
            {"name": port["name"], "protocol": port["protocol"], "port": port["containerPort"]} for port in ports
        ],
    }


class Wire(unittest.TestCase):
    lab: PolicyLab
    pods: Pods

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(PolicyLab())
        cls.pods = cls.enterClassContext(Pods(cls.lab, all_pods()))

    def start(self, policy: Any) -> None:
        self.lab.start_all(policy)
        self.addCleanup(self.end)
        # Addresses of neighbours are known, and everything is open.
        probes = all_probes()
        wait_until(lambda: len(self.ask(probes, probes)) == len(probes), 30, "every pod to reach every other")

    def end(self) -> None:
        for node in NODES:
            daemon = self.lab.daemons.pop(node)
            status = daemon.stop()
            if status != 0:
                raise AssertionError(f"the daemon of {node} ended with {status}:\n{daemon.log()}")
        self.lab.forget()

    def ask(self, probes: list[Probe], allowed: list[Probe]) -> set[Probe]:
        """Which probes were answered, once the allowed ones are, or the time is over."""
        wanted = set(allowed)
        return self.pods.ask(probes, lambda answered: wanted <= answered, ANSWERED_S)

    def test_everything_is_open_without_policies(self) -> None:
        self.start(None)
        begin = time.monotonic()
        probes = all_probes()
        self.assertEqual(self.ask(probes, probes), set(probes))
        print(f"{len(probes)} probes in {time.monotonic() - begin:.2f} s", file=sys.stderr)

    def test_the_wire_is_as_the_oracle_says(self) -> None:
        self.lab.write([])
        self.start({})
        probes = all_probes()
        denied = 0
        for number in generate.numbers_of(CASES, SEED):
            case = generate.case(SEED, number)
            with self.subTest(case["name"]):
                manifests, endpoints = split(case["objects"])
                self.lab.write(manifests)
                self.lab.reload({node: self.lab.text(node, {}, endpoints) for node in NODES})
                denied += self.judge(case["objects"], probes)
        self.assertGreater(denied, CASES * len(probes) // 20, "too few were denied to say anything")

    def judge(self, objects: list[Any], probes: list[Probe]) -> int:
        """One case; returns how many probes are denied."""
        expected = expected_of(objects, probes)
        allowed = {probe for probe in probes if all(expected[probe])}
        drops = expected_drops(expected)
        before = self.drops()
        quick: list[bool] = []
        open_until: list[float] = []

        def enough(answered: set[Probe]) -> bool:
            if not allowed <= answered:
                return False
            open_until.append(time.monotonic() + DENIED_S)
            if time.monotonic() > open_until[0]:
                return True
            if moved(before, self.drops()) == drops:
                quick.append(True)
            return bool(quick)

        begin = time.monotonic()
        answered = self.pods.ask(probes, enough, ANSWERED_S)
        if not allowed <= answered and answered <= allowed:
            # On a busy machine a packet may get lost: once more those that were not answered.
            missing = sorted(allowed - answered, key=str)
            answered |= self.pods.ask(missing, lambda more: len(more) == len(missing), ANSWERED_S)
        self.assertEqual(describe(answered - allowed, expected), [], "answered, but to be denied")
        self.assertEqual(describe(allowed - answered, expected), [], "not answered, but allowed")
        if not quick and time.monotonic() - begin < ONE_PACKET_S:
            self.assertEqual(moved(before, self.drops()), drops, "drops by node and reason")
        return len(probes) - len(allowed)

    def drops(self) -> dict[tuple[str, str], int]:
        counters = {node: self.lab.drop_counters(node) for node in NODES}
        return {(node, reason): counters[node].get(reason, 0) for node in NODES for reason in REASONS}


def expected_drops(expected: Verdicts) -> dict[tuple[str, str], int]:
    """The packets that each node drops, one a denied probe: the source's node, or else that of the destination."""
    drops = {(node, reason): 0 for node in NODES for reason in REASONS}
    for probe, (egress, ingress) in expected.items():
        if not egress:
            drops[node_of(probe.source[0]), "policy_egress"] += 1
        elif not ingress:
            drops[node_of(probe.destination[0]), "policy_ingress"] += 1
    return drops


def moved(before: dict[tuple[str, str], int], after: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    return {key: after[key] - before[key] for key in after}


def describe(probes: set[Probe], expected: Verdicts) -> list[str]:
    """Some probes, in words."""
    return [f"{probe}: egress, ingress = {expected[probe]}" for probe in sorted(probes, key=str)[:20]]
