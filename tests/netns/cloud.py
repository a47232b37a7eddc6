"""A network that drops packets with addresses of pods between hosts of one subnet, as clouds do."""

import bootstrap

from underpass_lab.nodes import NodeLab

_RULES = (
    "add table netdev cloud",
    "add chain netdev cloud check { type filter hook ingress device eth0 priority 0; }",
    "add rule netdev cloud check ip saddr 10.244.0.0/16 drop",
)


def block(lab: NodeLab, *nodes: str) -> None:
    """Lets the network drop what is bare on its way to these nodes."""
    for node in nodes:
        for rule in _RULES:
            lab.exec(node, "nft", *rule.split())


def unblock(lab: NodeLab, *nodes: str) -> None:
    """Lets everything pass again."""
    for node in nodes:
        lab.exec(node, "nft", "delete", "table", "netdev", "cloud", check=False)
