"""The data path over what real links do to packets: uplink offloads, MTUs of pods, ways out, peers.

A row is an uplink and an MTU of the pods; a cell is a row in one mode and by one way out. The judges are SHA-256 of
a TCP transfer, the borders of UDP datagrams, and the time that the transfer took beside that of the row with the TUN's
own MTU.
"""

import bootstrap

import itertools
import time
from collections.abc import Mapping
from typing import Any

from fast import ADDRESS, MIB, Datagrams, bulk
from underpass_lab.nodes import NodeLab

# How the uplinks receive: nothing joined; joined; UDP too; all as lists of packets with their own headers.
RECEIVE = {
    "gro off": {"gro": "off", "rx-udp-gro-forwarding": "off", "rx-gro-list": "off"},
    "gro": {"gro": "on", "rx-udp-gro-forwarding": "off", "rx-gro-list": "off"},
    "udp gro forwarding": {"gro": "on", "rx-udp-gro-forwarding": "on", "rx-gro-list": "off"},
    "gro list": {"gro": "on", "rx-udp-gro-forwarding": "on", "rx-gro-list": "on"},
}
# How they send: super-packets whole, as between containers of one host; or all cut and finished, as on a wire.
SEND = {"whole": "on", "cut": "off"}
SENDING = ("tx", "sg", "tso", "gso")
TUNNEL_SEGMENTATION = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
# A veth pair takes every packet at once; held back this long, packets meet others to be joined with, as a card's do.
HOLD_NS = 100_000
HOLD = "echo {hold} > /sys/class/net/eth0/gro_flush_timeout; echo {defer} > /sys/class/net/eth0/napi_defer_hard_irqs"
SIZE = 8 * MIB
# (bytes of each datagram, how many of them in a super-packet, bytes of the last)
SHAPES = ((1200, 40, 1200), (1200, 1, 20), (20, 60, 20), (1100, 45, 700), (500, 1, 500), (100, 3, 50))
# A transfer this fast is fast enough, however fast the other one was.
ENOUGH_S = 0.5


def uplinks() -> list[Any]:
    """Every way in which uplinks send and receive, by name."""
    return [f"{send}, {receive}" for send, receive in itertools.product(SEND, RECEIVE)]


def set_uplink(lab: NodeLab, name: str, nodes: Any = ("n1", "n2")) -> None:
    """Makes the uplinks of nodes send and receive like that."""
    send, receive = name.split(", ")
    features = dict.fromkeys(SENDING, SEND[send]) | RECEIVE[receive]
    words = [word for pair in features.items() for word in pair]
    for node in nodes:
        lab.exec(node, "ethtool", "-K", "eth0", *words)
        lab.exec("sw", "ethtool", "-K", f"port-{node}", *[w for f in SENDING for w in (f, SEND[send])])
        hold = 0 if receive == "gro off" else HOLD_NS
        lab.exec(node, "sh", "-c", HOLD.format(hold=hold, defer=int(hold > 0)))


def set_pod_mtu(lab: NodeLab, mtu: int) -> None:
    """The MTU of both pods' links, at both ends."""
    for node, pod in (("n1", "podA"), ("n2", "podB")):
        lab.ip(node, f"link set pod0 mtu {mtu}")
        lab.ip(pod, f"link set eth0 mtu {mtu}", "route flush cache")


def mtus(tun: Any, least: int = 576) -> tuple[Any, Any, Any, Any]:
    """MTUs of pods beside a TUN's: far below, just below, the same, above."""
    return (max(tun - 450, least), tun - 1, tun, tun + 50)


def transfer(lab: NodeLab, way: tuple[str, str], addresses: Mapping[str, str]) -> Any:
    """Seconds that a TCP transfer takes; AssertionError unless it arrives as it was sent."""
    begin = time.monotonic()
    bulk(lab, SIZE, ways=(way,), addresses=addresses)
    return time.monotonic() - begin


def exchange(lab: NodeLab, way: tuple[str, str], addresses: Mapping[str, str], mtu: int) -> None:
    """UDP super-packets of many sizes; AssertionError unless every datagram arrives as it was sent."""
    largest = mtu - (48 if ":" in addresses[way[0]] else 28)
    with Datagrams(lab, *way, addresses=addresses) as datagrams:
        flows = [datagrams.flow() for _ in range(2)]
        for size, count, last in SHAPES:
            for flow in flows:
                datagrams.send_super(flow, min(size, largest), count, min(last, largest))
        datagrams.receive()


def judge(test: Any, rows: Any, way: tuple[str, str], families: Any = (ADDRESS,), unjudged: Any = ("too_big",)) -> None:
    """Every row: TCP and UDP one way, in each family of addresses. `rows` are (uplink, MTU, MTU of the TUN)."""
    lab: NodeLab = test.lab
    usual: dict[tuple[str, str], float] = {}
    uplink_now = None
    # Neighbours that are not known yet hold few packets back and lose the others.
    for addresses in families:
        test.assertEqual(lab.ping(way[0], addresses[way[1]], count=1), 1)
    # The row with the TUN's own MTU goes first, to compare with.
    for uplink, mtu, tun in sorted(rows, key=lambda row: (row[0], row[1] != row[2])):
        if uplink != uplink_now:
            set_uplink(lab, uplink)
            uplink_now = uplink
        set_pod_mtu(lab, mtu)
        for addresses in families:
            with test.subTest(uplink=uplink, mtu=mtu, to=addresses[way[1]]):
                exchange(lab, way, addresses, min(mtu, tun))
                took = transfer(lab, way, addresses)
                least = usual.setdefault((uplink, addresses[way[1]]), took)
                test.assertLess(took, max(ENOUGH_S, 10 * least), "seconds for a transfer")
                # A segment size that somebody guessed shows here at the latest.
                for node in lab.daemons:
                    drops = {reason: n for reason, n in lab.drops(node).items() if n and reason not in unjudged}
                    test.assertEqual(drops, {}, node)
                    test.assertEqual(lab.status(node).get("recut_super_packets", 0), 0, node)
