"""What policies can say, each thing by a name: the dimensions of the matrix that generated cases go through."""

import random
from collections.abc import Callable
from typing import Any

from cluster import NAMED, OUTSIDE, subnets_of

Object = dict[str, Any]
Maker = Callable[[random.Random], Any]

DIRECTIONS = ("ingress", "egress")
PORT_NUMBERS = (80, 81)


def any_of(*values: Any) -> Maker:
    """One of the values, by chance."""
    return lambda chance: chance.choice(values)


# --- Kubernetes -----------------------------------------------------------------------------------


def expression(key: str, operator: str, *values: str) -> Object:
    one: Object = {"key": key, "operator": operator}
    return {"matchExpressions": [one | ({"values": list(values)} if values else {})]}


LABEL_SELECTORS: dict[str, Maker] = {
    "all": any_of({}),
    "labels": any_of({"matchLabels": {"pod": "x"}}, {"matchLabels": {"pod": "y"}}, {"matchLabels": {"tier": "front"}}),
    "In": any_of(expression("pod", "In", "x", "y"), expression("team", "In", "red")),
    "NotIn": any_of(expression("team", "NotIn", "red"), expression("pod", "NotIn", "x", "z")),
    "Exists": any_of(expression("team", "Exists"), expression("app.kubernetes.io/name", "Exists")),
    "DoesNotExist": any_of(expression("team", "DoesNotExist"), expression("tier", "DoesNotExist")),
    "both": any_of(
        {"matchLabels": {"pod": "x"}} | expression("team", "NotIn", "blue"),
        {"matchLabels": {"tier": "back"}} | expression("pod", "In", "y", "z"),
    ),
}
NAMESPACE_LABEL_SELECTORS: dict[str, Maker] = {
    "all": any_of({}),
    "labels": any_of({"matchLabels": {"ns": "b"}}, {"matchLabels": {"env": "prod"}}),
    "name": any_of({"matchLabels": {"kubernetes.io/metadata.name": "c"}}),
    "In": any_of(expression("ns", "In", "a", "c"), expression("env", "In", "prod", "dev")),
    "NotIn": any_of(expression("env", "NotIn", "prod"), expression("ns", "NotIn", "a")),
    "Exists": any_of(expression("team", "Exists")),
    "DoesNotExist": any_of(expression("env", "DoesNotExist")),
}


def pods(chance: random.Random) -> Any:
    return LABEL_SELECTORS[chance.choice(list(LABEL_SELECTORS))](chance)


def namespaces(chance: random.Random) -> Any:
    return NAMESPACE_LABEL_SELECTORS[chance.choice(list(NAMESPACE_LABEL_SELECTORS))](chance)


def block(chance: random.Random, version: int) -> str:
    """A network around some endpoints or around what is outside."""
    place = version == 6
    wide = ("10.244.0.0/16", "fd00:10:244::/48")[place]
    one = (f"10.244.{chance.randint(1, 3)}.{chance.randint(2, 4)}/32", f"fd00:10:244:{chance.randint(1, 3)}::3/128")
    return str(
        chance.choice(
            (
                wide,
                subnets_of(chance.randint(1, 3))[place],
                one[place],
                ("203.0.113.0/24", "2001:db8:5::/48")[place],
                ("0.0.0.0/0", "::/0")[place],
            )
        )
    )


def exceptions(chance: random.Random, version: int) -> list[str]:
    """Networks that lie in every network of `inside`."""
    place = version == 6
    choices = [subnets_of(node)[place] for node in (1, 2, 3)]
    choices += [f"{OUTSIDE[1][place]}/{128 if place else 32}", ("10.244.2.3/32", "fd00:10:244:2::3/128")[place]]
    return chance.sample(choices, chance.randint(1, 2))


def everything(version: int) -> str:
    return "::/0" if version == 6 else "0.0.0.0/0"


# The list of peers of a rule; None where the rule has none.
PEERS: dict[str, Maker] = {
    "none": any_of(None),
    "empty": any_of([]),
    "all pods of the namespace": any_of([{"podSelector": {}}]),
    "pods": lambda chance: [{"podSelector": pods(chance)}],
    "all namespaces": any_of([{"namespaceSelector": {}}]),
    "namespaces": lambda chance: [{"namespaceSelector": namespaces(chance)}],
    "both": lambda chance: [{"namespaceSelector": namespaces(chance), "podSelector": pods(chance)}],
    "ipBlock": lambda chance: [{"ipBlock": {"cidr": block(chance, chance.choice((4, 6)))}}],
    "except": lambda chance: [
        {"ipBlock": {"cidr": everything(version), "except": exceptions(chance, version)}} for version in (4, 6)
    ],
    "several": lambda chance: [
        {"podSelector": pods(chance)},
        {"namespaceSelector": namespaces(chance)},
        {"ipBlock": {"cidr": block(chance, 4)}},
    ],
}


def range_of(chance: random.Random) -> tuple[int, int]:
    return chance.choice(((80, 81), (79, 80), (81, 90), (1, 65535), (8000, 9000), (81, 81)))


# The list of ports of a rule, of a protocol; None where the rule has none.
PORT_KINDS: dict[str, Callable[[random.Random, str], Any]] = {
    "none": lambda chance, protocol: None,
    "protocol": lambda chance, protocol: [{"protocol": protocol}],
    "number": lambda chance, protocol: [{"protocol": protocol, "port": chance.choice(PORT_NUMBERS)}],
    "name": lambda chance, protocol: [{"protocol": protocol, "port": chance.choice(NAMED)}],
    "endPort": lambda chance, protocol: [
        {"protocol": protocol} | dict(zip(("port", "endPort"), range_of(chance), strict=True))
    ],
    "several": lambda chance, protocol: [
        {"protocol": protocol, "port": chance.choice(PORT_NUMBERS)},
        {"protocol": chance.choice(("TCP", "UDP", "SCTP")), "port": chance.choice(NAMED)},
        {"port": 8080},
    ],
}
KUBERNETES_PROTOCOLS = ("TCP", "UDP", "SCTP")


def kubernetes(
    name: str, namespace: str, selected: Object, rules: dict[str, list[Object]], types: list[str] | None
) -> Object:
    """A NetworkPolicy of Kubernetes; its rules by direction."""
    spec: Object = {"podSelector": selected} | rules
    if types is not None:
        spec["policyTypes"] = types
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def kubernetes_rule(direction: str, peers: Any, ports: Any) -> Object:
    rule: Object = {}
    if peers is not None:
        rule["from" if direction == "ingress" else "to"] = peers
    if ports is not None:
        rule["ports"] = ports
    return rule


# --- Calico ---------------------------------------------------------------------------------------

SELECTORS: dict[str, Maker] = {
    "all": any_of("all()", "all( )"),
    "nothing": any_of("!all()"),
    "==": any_of("pod == 'x'", "pod=='y'", 'tier == "front"', "app.kubernetes.io/name == 'shop'"),
    "!=": any_of("team != 'red'", "pod != 'z'"),
    "in": any_of("pod in {'x', 'y'}", "pod in { 'z' }", 'team in {"red","blue"}'),
    "not in": any_of("team not in {'red'}", "pod not in { 'x', 'z' }"),
    "has": any_of("has(team)", "has( tier )", "has(app.kubernetes.io/name)"),
    "!has": any_of("!has(team)", "! has(tier)"),
    "contains": any_of("tier contains 'ont'", "tier contains '-'"),
    "starts with": any_of("tier starts with 'front'", "pod starts with 'x'"),
    "ends with": any_of("tier ends with 'end'", 'team ends with "ed"'),
    "&&": any_of("has(team) && pod != 'x'", "pod in {'x','y'} && tier starts with 'f'"),
    "||": any_of("pod == 'x' || team == 'red'", "tier contains 'x' || has(team) || pod == 'z'"),
    "&& ||": any_of("pod == 'x' || has(team) && tier starts with 'b'", "! has(team) || has(tier) && pod in {'x','y'}"),
    "( )": any_of("(pod == 'x' || has(team)) && has(tier)", "!(pod == 'x' || team == 'blue')", "((has(tier)))"),
    "!!": any_of("!!has(tier)", "! ! pod == 'x'"),
    "namespace": any_of("projectcalico.org/namespace == 'b'", "projectcalico.org/namespace in {'a','c'}"),
    "set": any_of("role == 'outside'", "has(role)", "role starts with 'out' || pod == 'x'"),
}
NAMESPACE_SELECTORS: dict[str, Maker] = {
    "all": any_of("all()"),
    "==": any_of("ns == 'b'", "env == 'prod'"),
    "name": any_of("projectcalico.org/name == 'c'", "projectcalico.org/name in {'a', 'b'}"),
    "!=": any_of("env != 'prod'", "ns != 'a'"),
    "!has": any_of("!has(team)"),
    "contains": any_of("env contains 'dev'", "env starts with 'dev'"),
    "||": any_of("ns == 'a' || env == 'prod'"),
}


def calico_selector(chance: random.Random) -> Any:
    return SELECTORS[chance.choice(list(SELECTORS))](chance)


def calico_namespaces(chance: random.Random) -> Any:
    return NAMESPACE_SELECTORS[chance.choice(list(NAMESPACE_SELECTORS))](chance)


def nets(chance: random.Random, version: int) -> list[str]:
    return [block(chance, version) for _ in range(chance.randint(1, 2))]


def version_of(chance: random.Random) -> int:
    return chance.choice((4, 4, 6))


def nets_and_not(chance: random.Random) -> Object:
    version = version_of(chance)
    return {"nets": [everything(version)], "notNets": exceptions(chance, version)}


def asking(key: str, make: Maker) -> Maker:
    """An end of which one thing is asked."""
    return lambda chance: {key: make(chance)}


# What a rule asks of one end, but for its ports.
ENTITIES: dict[str, Maker] = {
    "none": lambda chance: {},
    **{f"selector {name}": asking("selector", make) for name, make in SELECTORS.items()},
    **{f"namespaceSelector {name}": asking("namespaceSelector", make) for name, make in NAMESPACE_SELECTORS.items()},
    "global()": lambda chance: {"namespaceSelector": "global()"},
    "global() and selector": lambda chance: {
        "namespaceSelector": "global()",
        "selector": chance.choice(("role == 'outside'", "pod == 'x'", "all()", "!has(pod)")),
    },
    "namespaceSelector and selector": lambda chance: {
        "namespaceSelector": calico_namespaces(chance),
        "selector": calico_selector(chance),
    },
    "notSelector": lambda chance: {"notSelector": calico_selector(chance)},
    "selector and notSelector": lambda chance: {
        "selector": calico_selector(chance),
        "notSelector": calico_selector(chance),
    },
    "namespaceSelector and notSelector": lambda chance: {
        "namespaceSelector": calico_namespaces(chance),
        "notSelector": calico_selector(chance),
    },
    "nets": lambda chance: {"nets": nets(chance, version_of(chance))},
    "notNets": lambda chance: {"notNets": exceptions(chance, version_of(chance))},
    "nets and notNets": nets_and_not,
    "nets and selector": lambda chance: {"nets": nets(chance, version_of(chance)), "selector": calico_selector(chance)},
    "notNets and namespaceSelector": lambda chance: {
        "notNets": exceptions(chance, version_of(chance)),
        "namespaceSelector": calico_namespaces(chance),
    },
}


def calico_port_list(chance: random.Random) -> list[Any]:
    first, last = range_of(chance)
    return chance.sample([80, 81, 8080, f"{first}:{last}", *NAMED], chance.randint(1, 3))


# What a rule asks of ports; all of them but `name of any protocol` need a protocol.
CALICO_PORTS: dict[str, Maker] = {
    "none": lambda chance: {},
    "number": lambda chance: {"ports": [chance.choice(PORT_NUMBERS)]},
    "range": lambda chance: {"ports": ["{}:{}".format(*range_of(chance))]},
    "name": lambda chance: {"ports": [chance.choice(NAMED)]},
    "several": lambda chance: {"ports": calico_port_list(chance)},
    "notPorts number": lambda chance: {"notPorts": [chance.choice(PORT_NUMBERS)]},
    "notPorts range": lambda chance: {"notPorts": ["{}:{}".format(*range_of(chance))]},
    "notPorts name": lambda chance: {"notPorts": [chance.choice(NAMED)]},
    "notPorts several": lambda chance: {"notPorts": calico_port_list(chance)},
    "ports and notPorts": lambda chance: {"ports": ["1:1000", "alt"], "notPorts": calico_port_list(chance)},
}
CALICO_PROTOCOLS: dict[str, Any] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP", "6": 6, "17": 17, "132": 132}
# What a rule asks of the protocol alone.
PROTOCOL_MATCHES: dict[str, Object] = {
    **{f"protocol {name}": {"protocol": name} for name in ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "UDPLite")},
    **{f"protocol {number}": {"protocol": number} for number in (1, 6, 47, 58, 132, 255)},
    **{f"notProtocol {name}": {"notProtocol": name} for name in ("TCP", "UDP", "SCTP", "ICMP", "ICMPv6")},
    **{f"notProtocol {number}": {"notProtocol": number} for number in (6, 17, 47)},
    "ipVersion 4": {"ipVersion": 4},
    "ipVersion 6": {"ipVersion": 6},
    "ipVersion 4 and protocol": {"ipVersion": 4, "protocol": "TCP"},
    "protocol and notProtocol": {"protocol": 6, "notProtocol": "UDP"},
}
ICMP_MATCHES: dict[str, Object] = {
    "icmp type": {"protocol": "ICMP", "icmp": {"type": 8}},
    "icmp type and code": {"protocol": "ICMP", "icmp": {"type": 3, "code": 1}},
    "icmp type 0": {"protocol": "ICMP", "icmp": {"type": 0, "code": 0}},
    "notICMP type": {"protocol": "ICMP", "notICMP": {"type": 8}},
    "notICMP type and code": {"protocol": "ICMP", "notICMP": {"type": 3, "code": 1}},
    "icmp and notICMP": {"protocol": "ICMP", "icmp": {"type": 3}, "notICMP": {"type": 3, "code": 1}},
    "icmp with ipVersion": {"ipVersion": 4, "protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
    "icmpv6 type": {"protocol": "ICMPv6", "icmp": {"type": 128}},
    "icmpv6 type and code": {"ipVersion": 6, "protocol": "ICMPv6", "icmp": {"type": 1, "code": 4}},
    "icmpv6 notICMP": {"protocol": "ICMPv6", "notICMP": {"type": 128, "code": 0}},
}
ACTIONS = ("Allow", "Deny", "Log", "Pass")


def calico(name: str, namespace: str | None, spec: Object) -> Object:
    """A NetworkPolicy of Calico, or a GlobalNetworkPolicy when there is no namespace."""
    metadata = {"name": name} | ({} if namespace is None else {"namespace": namespace})
    kind = "GlobalNetworkPolicy" if namespace is None else "NetworkPolicy"
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


def tier(name: str, order: float | None, default: str | None) -> Object:
    spec: Object = {}
    if order is not None:
        spec["order"] = order
    if default is not None:
        spec["defaultAction"] = default
    return {"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": name}, "spec": spec}


def network_sets(chance: random.Random) -> list[Object]:
    """Sets of networks, some with labels that endpoints have too."""

    def one(name: str, namespace: str | None) -> Object:
        labels = {"role": chance.choice(("outside", "inside"))}
        labels |= {"pod": "x"} if chance.random() < 0.3 else {}
        labels |= {"team": "red"} if chance.random() < 0.3 else {}
        metadata: Object = {"name": name, "labels": labels}
        if namespace is not None:
            metadata["namespace"] = namespace
        kind = "GlobalNetworkSet" if namespace is None else "NetworkSet"
        networks = [block(chance, 4), block(chance, 6), "203.0.113.0/25", "2001:db8:5::/64"]
        spec = {"nets": chance.sample([net for net in networks if not net.endswith("/0")], 2)}
        return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}

    objects = [one("everywhere", None), one("everywhere-too", None), one("local", "a"), one("local", "b")]
    return chance.sample(objects, chance.randint(1, 3))
