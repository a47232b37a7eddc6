"""The sweeps: one setting goes through its values, everything else stays as it is."""

import os

from lab import UPLINKS, Conditions

# What is in the table before any route is loaded: the nodes' own subnets.
ROUTES = (1, 100, 10_000, 100_000, 1_000_000)
# The largest MTU that IPv4 and a veth pair have.
LARGEST_MTU = 65535


class Sweep:
    """A name, the title and axis of its plot, its values, and what a value changes."""

    def __init__(self, name, about, axis, setting, values, systems, tests):
        self.name, self.about, self.axis, self.setting = name, about, axis, setting
        self.values, self.systems, self.tests = values, systems, tests

    def conditions(self, value):
        return Conditions(**{self.setting: value})

    def applies_to(self, system):
        """Whether the system has this setting at all."""
        return self.setting in ("mtu", "loss", "uplink") or system.has_settings


def worker_counts(cores):
    """1, 2, 4 … up to the cores, and twice as many as there are cores."""
    counts = [1]
    while counts[-1] * 2 < cores:
        counts.append(counts[-1] * 2)
    return sorted({*counts, cores, 2 * cores})


OURS = ("underpass-vxlan", "underpass-ipip", "underpass-direct")
ALL = ("veth", "kernel-vxlan", *OURS)
# By itself, and each way that it has.
WAYS = ("underpass-vxlan", "underpass-vxlan-socket", "underpass-vxlan-tap", "underpass-ipip", "underpass-direct")

SWEEPS = [
    Sweep("workers", "workers from 1 to the number of cores, and twice that", "workers", "workers",
          worker_counts(len(os.sched_getaffinity(0))), OURS, ("tcp4", "udp64")),
    Sweep("mtu", "MTU of the link; the tunnel's follows", "MTU of the link, bytes", "mtu",
          (1500, 9000, LARGEST_MTU), ALL, ("tcp1",)),
    Sweep("routes", "routes in the table, loaded by `route add --file`; one flow, so one of them is used",
          "routes in the table", "routes", ROUTES, OURS, ("tcp1", "udp64")),
    Sweep("loss", "packets lost on the link, each way, at random; super-packets are cut before it",
          "packets lost on the link, %", "loss", (0, 0.1, 1), ALL, ("tcp1",)),
    Sweep("uplink", "offloads of the link: all, no tunnel segmentation, no UDP segmentation, no segmentation at all; each "
          "without and with GRO at the receiver", "offloads of the link", "uplink", UPLINKS, ("kernel-vxlan", *WAYS),
          ("tcp1",)),
]
