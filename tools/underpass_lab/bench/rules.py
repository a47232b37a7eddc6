"""The rules of the sweep over policies: one list, written as Calico's policies for underpass and for nftables.

So many rules that match no packet of the bench, each about another network and port, and behind them one that allows
the pods what they do. What no rule allows is dropped, at the source and at the destination.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from underpass_lab.bench.pair import FORBIDDEN, POD, PODS, SILENT, Pair
from underpass_lab.command import Failure

# A network of its own for each rule, none of them used by the lab (RFC 6598).
_FIRST, _NETWORKS = (100 << 24) + (64 << 16), 1 << 14
_FIRST_PORT = 2000
# Calico takes 1024 rules in a policy.
_RULES_A_POLICY = 1000
ALLOWED = [f"{address}/32" for address in (*POD.values(), SILENT)]


@dataclasses.dataclass(frozen=True)
class Deny:
    """TCP between the pods and this network, to this port, is dropped."""

    net: str
    port: int


def denied(count: int) -> list[Deny]:
    """So many rules that match nothing."""
    if count > _NETWORKS:
        raise Failure(f"no more than {_NETWORKS} rules")
    return [Deny(f"{_dotted(_FIRST + (number << 8))}/24", _FIRST_PORT + number) for number in range(count)]


def _dotted(number: int) -> str:
    return ".".join(map(str, number.to_bytes(4, "big")))


# --- underpass ------------------------------------------------------------------------------------


def write_manifests(directory: pathlib.Path, count: int) -> None:
    """Files for `[policy] directory`, one for each policy."""
    directory.mkdir()
    for number, policy in enumerate(policies(count)):
        (directory / f"{number:03}.json").write_text(json.dumps(policy, indent=1) + "\n", encoding="ascii")


def policies(count: int) -> Iterator[dict[str, Any]]:
    """GlobalNetworkPolicy objects, in the order in which they apply."""
    rules = denied(count)
    for first in range(0, count, _RULES_A_POLICY):
        some = rules[first : first + _RULES_A_POLICY]
        yield _policy(
            f"deny-{first}",
            first,
            ingress=[_deny(source={"nets": [rule.net]}, destination={"ports": [rule.port]}) for rule in some],
            egress=[_deny(destination={"nets": [rule.net], "ports": [rule.port]}) for rule in some],
        )
    yield _policy(
        "allow",
        count,
        ingress=[{"action": "Allow", "source": {"nets": ALLOWED}}],
        egress=[{"action": "Allow", "destination": {"nets": ALLOWED}}],
    )


def _policy(name: str, order: int, **rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"order": order, "selector": "bench == 'policy'", "types": ["Ingress", "Egress"], **rules},
    }


def _deny(**ends: Any) -> dict[str, Any]:
    return {"action": "Deny", "protocol": "TCP", **ends}


def configuration(directory: pathlib.Path, tracked: int | None) -> str:
    """The part of the daemon's configuration file that is about policies; with room for so many connections, up to
    the next power of two."""
    lines = ["", "[policy]", f"directory = {json.dumps(str(directory))}"]
    lines += [] if tracked is None else [f"connections = {1 << (tracked - 1).bit_length()}"]
    ends = {**{PODS[node]: address for node, address in POD.items()}, "silent": SILENT}
    for name, address in ends.items():
        lines += ["", "[[endpoint]]", f'name = "{name}"', 'namespace = "default"', f'addresses = ["{address}"]']
        lines += ['labels = { bench = "policy" }']
    return "\n".join(lines) + "\n"


# --- nftables -------------------------------------------------------------------------------------


def nftables(count: int) -> str:
    """The same on the way through a node, connections that are known first, as Calico's Felix does it."""
    rules = denied(count)
    return "\n".join(
        [
            "table ip pods {",
            " chain from_pod {",
            *(f"  ip daddr {rule.net} tcp dport {rule.port} drop" for rule in rules),
            f"  ip daddr {{ {', '.join(ALLOWED)} }} accept",
            "  drop",
            " }",
            " chain to_pod {",
            *(f"  ip saddr {rule.net} tcp dport {rule.port} drop" for rule in rules),
            f"  ip saddr {{ {', '.join(ALLOWED)} }} accept",
            "  drop",
            " }",
            " chain forward {",
            "  type filter hook forward priority filter; policy accept;",
            "  ct state established,related accept",
            '  iifname "pod0" jump from_pod',
            '  oifname "pod0" jump to_pod',
            " }",
            "}",
            "",
        ]
    )


# --- whether they are in force --------------------------------------------------------------------


def inspect(lab: Pair) -> None:
    """Fails unless what no rule allows is dropped, or passes where there are no rules."""
    reached = lab.answers(lab.near, FORBIDDEN)
    if lab.conditions.is_judged == reached:
        raise Failure(f"{FORBIDDEN} {'answers in spite of the rules' if reached else 'does not answer without rules'}")
