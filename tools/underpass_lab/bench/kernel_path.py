"""Which way the flows of a test went: the daemon's kernel path, or its pump.

The daemon says how many packets its programs have carried. That is not believed alone: what the pump carries passes
the TUN, where the kernel counts it, and what crosses the link the kernel counts as well. Programs take packets away
before the TUN counts them and give them in without.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from underpass_lab.bench.pair import NODES, Pair
from underpass_lab.command import Failure, wait_until

# What `[tunnel] kernel_path` is in the file, where it is not left to its default.
ON, OFF = "on", "off"
# The share of a test's packets that the programs have to carry. The pump has the first packets of a flow, and of UDP
# the whole first trial: a flow is established once it was answered.
MOST = 2 / 3
# Packets each way that are no sign of a flow: handshakes, the control connection of iperf3.
FEW = 32
# The daemon may count what its programs carry at intervals.
SETTLES_S = 3
LINK_HEADER = 14


@dataclasses.dataclass(frozen=True)
class Count:
    """Packets and bytes one way over an interface; a super-packet is one packet."""

    packets: int
    bytes: int

    def since(self, before: "Count") -> "Count":
        """How much more it is."""
        return Count(self.packets - before.packets, self.bytes - before.bytes)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a node has counted: packets that the programs carried, segments each, and, by `tx` and `rx`, what passed
    the link and the TUN. `tx` is towards the other node at both."""

    carried: int
    link: dict[str, Count]
    tun: dict[str, Count]

    def since(self, before: "Counts") -> "Counts":
        """How much more it is."""
        link, tun = (
            {way: now[way].since(then[way]) for way in now}
            for now, then in ((self.link, before.link), (self.tun, before.tun))
        )
        return Counts(self.carried - before.carried, link, tun)

    def pumped(self, mtu: int) -> float:
        """Packets that passed the pump, at least, on a link of this MTU."""
        return sum(max(count.packets, count.bytes / mtu) for count in self.tun.values())


def counts(lab: Pair, node: str) -> Counts | None:
    """What a node has counted so far; None of a daemon that knows no kernel path."""
    status = lab.daemons[node].json("status")
    if "kernel_path" not in status:
        return None
    text = lab.tool("ip", "-n", lab.ns(node), "-j", "-s", "link", "show").stdout
    statistics = {device["ifname"]: device["stats64"] for device in json.loads(text)}
    link, tun = (
        {way: Count(statistics[name][way]["packets"], statistics[name][way]["bytes"]) for way in ("tx", "rx")}
        for name in ("eth0", status["tunnel"]["device"])
    )
    return Counts(int(status["kernel_path"]["packets"]), link, tun)


def not_carried(grown: Counts, ways: Sequence[str], mtu: int) -> str | None:
    """Why the programs did not carry the flows of a test; None when they did. `ways` are those that they are on."""
    pumped = grown.pumped(mtu)
    least = sum(grown.link[way].bytes for way in ways) / (mtu + LINK_HEADER)
    if grown.carried < MOST * max(grown.carried + pumped, least):
        return f"it carried {grown.carried} packets of at least {max(grown.carried + pumped, least):.0f}"
    for way in ways:
        tun, link = grown.tun[way], grown.link[way]
        if tun.packets > FEW and tun.bytes > (1 - MOST) * link.bytes:
            words = {"tx": "sent", "rx": "received"}[way]
            return f"{tun.bytes} of {link.bytes} bytes {words} went by the pump"
    return None


def fault(grown: Sequence[Counts], asked: str | None, established: bool, ways: Sequence[str], mtu: int) -> str | None:
    """Why the packets of a test did not go the way that was asked for; None when they did. `grown` has all nodes, and
    none where the daemons know no kernel path; `established`: nearly all packets are of flows that are handed over."""
    if asked == ON and established:
        reasons = [not_carried(node, ways, mtu) for node in grown] or ["the daemon does not know it"]
        named = [f"{node}: {reason}" for node, reason in zip(NODES, reasons, strict=False) if reason]
        return f"measured something else than the kernel path: {'; '.join(named)}" if named else None
    carried = sum(node.carried for node in grown)
    if asked == OFF and carried:
        return f"measured something else than the pump: the kernel path carried {carried} packets"
    return None


def share(grown: Sequence[Counts], mtu: int) -> float | None:
    """Which part of the packets the programs carried."""
    carried = sum(node.carried for node in grown)
    together = carried + sum(node.pumped(mtu) for node in grown)
    return carried / together if together else None


class Watch:
    """Of one test, from before it begins."""

    def __init__(self, lab: Pair, asked: str | None, ways: Sequence[str]) -> None:
        """`asked` is what the configuration says, None where it says nothing."""
        self.lab, self.asked, self.ways = lab, asked, ways
        self.before = [counts(lab, node) for node in NODES]

    def judge(self, established: bool) -> dict[str, Any]:
        """After the test: fails unless its packets went the way that was asked for; returns the share that the
        programs carried. `established`: nearly all packets are of flows that are handed over."""

        def wrong() -> str | None:
            return fault(self._grown(), self.asked, established, self.ways, self.lab.mtu)

        # What is still wrong then is told below.
        with contextlib.suppress(Failure):
            wait_until(lambda: not wrong(), SETTLES_S)
        if words := wrong():
            raise Failure(words)
        found = share(self._grown(), self.lab.mtu)
        return {} if found is None else {"kernel_share": found}

    def _grown(self) -> list[Counts]:
        """What each node counted since the test began; nothing of daemons that know no kernel path."""
        now = [counts(self.lab, node) for node in NODES]
        return [after.since(before) for after, before in zip(now, self.before, strict=True) if after and before]
