"""The sweeps: one setting goes through its values, everything else stays as it is."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from underpass_lab.bench.pair import OFF_RULES, UPLINKS, Conditions
from underpass_lab.bench.systems import System

# What is in the table before any route is loaded: the nodes' own subnets.
ROUTES = (1, 100, 10_000, 100_000, 1_000_000)
# The largest MTU that IPv4 and a veth pair have.
LARGEST_MTU = 65535


@dataclasses.dataclass(eq=False)
class Sweep:
    """A name, the title and axis of its plot, its values, and what a value changes."""

    name: str
    about: str
    axis: str
    setting: str
    values: Sequence[Any]
    systems: Sequence[str]
    tests: Sequence[str]

    def conditions(self, value: Any) -> Conditions:
        return Conditions(**{self.setting: value})

    def applies_to(self, system: System) -> bool:
        """Whether the system has this setting at all."""
        if self.setting == "rules":
            return system.has_rules
        return self.setting in ("mtu", "loss", "uplink") or system.has_settings


def worker_counts(cores: int) -> list[int]:
    """1, 2, 4 … up to the cores, and twice as many as there are cores."""
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return sorted({*counts, cores, 2 * cores})


OURS = ("underpass-vxlan", "underpass-ipip", "underpass-direct")
ALL = ("veth", "kernel-vxlan", *OURS)
# By itself, and each way that it has.
WAYS = (
    "underpass-vxlan",
    "underpass-vxlan-pump",
    "underpass-vxlan-socket",
    "underpass-vxlan-tap",
    "underpass-vxlan-kernel",
    "underpass-ipip",
    "underpass-ipip-kernel",
    "underpass-direct",
    "underpass-direct-kernel-path",
)

SWEEPS = [
    Sweep(
        "workers",
        "workers from 1 to the number of cores, and twice that",
        "workers",
        "workers",
        worker_counts(len(os.sched_getaffinity(0))),
        OURS,
        ("tcp4", "udp64"),
    ),
    Sweep(
        "mtu",
        "MTU of the link; the tunnel's follows",
        "MTU of the link, bytes",
        "mtu",
        (1500, 9000, LARGEST_MTU),
        ALL,
        ("tcp1",),
    ),
    Sweep(
        "routes",
        "routes in the table, loaded by `route add --file`; one flow, so one of them is used",
        "routes in the table",
        "routes",
        ROUTES,
        OURS,
        ("tcp1", "udp64"),
    ),
    Sweep(
        "loss",
        "packets lost on the link, each way, at random; super-packets are cut before it",
        "packets lost on the link, %",
        "loss",
        (0, 0.1, 1),
        ALL,
        ("tcp1",),
    ),
    Sweep(
        "uplink",
        "offloads of the link: all, no tunnel segmentation, no UDP segmentation, no segmentation at all; each "
        "without and with GRO at the receiver",
        "offloads of the link",
        "uplink",
        UPLINKS,
        ("kernel-vxlan", *WAYS),
        ("tcp1",),
    ),
    Sweep(
        "policy",
        "policies between pods: off, and with so many rules that match nothing in front of the one that allows; in "
        "the kernel the same by nftables",
        "rules that match nothing",
        "rules",
        (OFF_RULES, 0, 10, 1000, 10_000),
        ("kernel-vxlan", "underpass-vxlan"),
        ("tcp1", "tcp1-flood", "udp64", "connections"),
    ),
    Sweep(
        "tracked",
        "connections between pods that the daemons know, in one worker's table with room for the next power of two",
        "connections known",
        "tracked",
        (500_000, 1_000_000),
        ("underpass-vxlan",),
        ("memory",),
    ),
]
# What `--tests policy` stands for.
POLICY = "policy"
POLICY_SWEEPS = ("policy", "tracked")
