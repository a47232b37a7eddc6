"""The configuration file of a daemon, from values."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

Keys = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Pool:
    """One [[pool]]."""

    cidr: str
    ipip_mode: str = "Never"
    vxlan_mode: str = "Never"
    nat_outgoing: bool = False
    verify: bool = False


@dataclasses.dataclass(frozen=True)
class Peer:
    """One [[peer]]; `more` has further keys."""

    name: str
    address: str
    subnets: Sequence[str]
    more: Keys = dataclasses.field(default_factory=dict)


def text(
    node: Keys,
    socket: object,
    local: Sequence[str],
    pools: Sequence[Pool],
    peers: Sequence[Peer],
    tunnel: Keys,
    vxlan: Keys,
    local_keys: Keys | None = None,
) -> str:
    """The file: `node`, `tunnel` and `vxlan` have the keys of their tables, `local` the subnets of the node and
    `local_keys` what else is in its table."""
    sections: list[tuple[str, Keys]] = [
        ("[node]", node),
        ("[tunnel]", tunnel),
        ("[vxlan]", vxlan),
        ("[local]", {"subnets": list(local), **(local_keys or {})}),
        ("[control]", {"socket": str(socket)}),
    ]
    sections += [("[[pool]]", dataclasses.asdict(pool)) for pool in pools]
    for peer in peers:
        keys = {"name": peer.name, "address": peer.address, "subnets": list(peer.subnets)}
        sections.append(("[[peer]]", {**keys, **peer.more}))
    lines = []
    for head, table in sections:
        # JSON's strings, numbers, booleans and lists of them are TOML's too.
        lines += ["", head, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
