"""What policies decide, as the specifications of Kubernetes and of Calico say it: plain, slow, apart from the daemon.

The input is a list of objects, as they are in manifests, and a probe: the first packet of a connection. The answer is
whether it may leave its source (egress) and whether it may come to its destination (ingress).

    world = read(objects)
    egress, ingress = verdicts(world, {"source": "10.0.0.1", "destination": "10.0.0.2", "protocol": "tcp",
                                       "source_port": 40000, "destination_port": 80})

How the two specifications fit together is Calico's: policies are in tiers, those of Kubernetes in the tier `default`
with order 1000. An endpoint that no policy of a direction selects may do everything in that direction, and so may what
every tier has passed on. What is not written here is not judged here: service accounts, services, host endpoints.
"""

import functools
import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]
World = dict[str, Any]
Labels = Mapping[str, str]
Selector = Callable[[Labels], bool]

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 58}
WITH_PORTS = (6, 17, 132)
WITH_TYPES = (1, 58)

DEFAULT_TIER = "default"
# Calico gives its default tier this order; a tier without an order is behind all that have one.
DEFAULT_TIER_ORDER = 1_000_000.0
KUBERNETES_ORDER = 1000.0

# Labels that Calico gives to what is in a namespace, and to namespaces.
# Stands for being in a namespace at all.
INSIDE = "inside"
NAMESPACE_LABEL = "projectcalico.org/namespace"
NAME_LABELS = ("projectcalico.org/name", "kubernetes.io/metadata.name")


# --- objects --------------------------------------------------------------------------------------


def read(objects: Sequence[Object]) -> World:
    """The objects, each where it is looked for."""
    world: World = {"endpoints": [], "namespaces": {}, "sets": [], "tiers": {}, "policies": [], "governing": {}}
    world["tiers"][DEFAULT_TIER] = {"name": DEFAULT_TIER, "order": DEFAULT_TIER_ORDER, "default": "Deny"}
    for item in objects:
        kind, calico = item["kind"], item["apiVersion"].startswith(("projectcalico.org/", "crd.projectcalico.org/"))
        name, namespace = item["metadata"]["name"], item["metadata"].get("namespace", "default")
        labels, spec = dict(item["metadata"].get("labels") or {}), item.get("spec") or {}
        if kind == "Namespace":
            world["namespaces"][name] = labels
        elif kind == "Pod":
            world["endpoints"].append(read_pod(item, name, namespace, labels))
        elif kind == "WorkloadEndpoint":
            world["endpoints"].append(read_workload_endpoint(spec, name, namespace, labels))
        elif kind == "NetworkSet":
            world["sets"].append({"namespace": namespace, "labels": labels, "nets": spec.get("nets") or []})
        elif kind == "GlobalNetworkSet":
            world["sets"].append({"namespace": None, "labels": labels, "nets": spec.get("nets") or []})
        elif kind == "Tier":
            order = math.inf if spec.get("order") is None else float(spec["order"])
            world["tiers"][name] = {"name": name, "order": order, "default": spec.get("defaultAction") or "Deny"}
        elif kind == "NetworkPolicy" and not calico:
            world["policies"].append(read_kubernetes_policy(spec, name, namespace))
        elif kind == "NetworkPolicy":
            world["policies"].append(read_calico_policy(spec, kind, name, namespace))
        elif kind == "GlobalNetworkPolicy":
            world["policies"].append(read_calico_policy(spec, kind, name, None))
        else:
            raise ValueError(f"no object that a policy is made of: {kind}")
    return world


def read_pod(item: Object, name: str, namespace: str, labels: Labels) -> Object:
    """A pod: its addresses are in its status, its named ports are those of its containers."""
    status = item.get("status") or {}
    addresses = [entry["ip"] for entry in status.get("podIPs") or []] or [status["podIP"]]
    ports = [
        (port["name"], PROTOCOLS[port.get("protocol", "TCP").lower()], port["containerPort"])
        for container in item["spec"].get("containers") or []
        for port in container.get("ports") or []
        if "name" in port
    ]
    return endpoint(name, namespace, labels, addresses, ports)


def read_workload_endpoint(spec: Object, name: str, namespace: str, labels: Labels) -> Object:
    """Calico's own kind: addresses are networks of one address each."""
    addresses = [network.partition("/")[0] for network in spec.get("ipNetworks") or []]
    ports = [(port["name"], protocol_number(port["protocol"]), port["port"]) for port in spec.get("ports") or []]
    return endpoint(name, namespace, labels, addresses, ports)


def endpoint(name: str, namespace: str, labels: Labels, addresses: Sequence[str], ports: Sequence[Any]) -> Object:
    """What policies select."""
    numbers = [ipaddress.ip_address(address) for address in addresses]
    return {"name": name, "namespace": namespace, "labels": labels, "addresses": numbers, "ports": ports}


def read_kubernetes_policy(spec: Object, name: str, namespace: str) -> Object:
    """Without `policyTypes` it is about ingress, and about egress if it has rules for it."""
    types = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    return {
        "kind": "kubernetes",
        "name": name,
        "namespace": namespace,
        "tier": DEFAULT_TIER,
        "order": KUBERNETES_ORDER,
        "types": types,
        "spec": spec,
    }


def read_calico_policy(spec: Object, kind: str, name: str, namespace: str | None) -> Object:
    """Without `types` it is about the directions that it has rules for, and about ingress if it has none at all."""
    types = spec.get("types")
    if not types:
        types = [kind for kind in ("Ingress", "Egress") if spec.get(kind.lower())] or ["Ingress"]
    return {
        "kind": kind,
        "name": name,
        "namespace": namespace,
        "tier": spec.get("tier") or DEFAULT_TIER,
        "order": math.inf if spec.get("order") is None else float(spec["order"]),
        "types": types,
        "spec": spec,
    }


# --- the decision ---------------------------------------------------------------------------------


def verdicts(world: World, probe: Object) -> tuple[bool, bool]:
    """Whether the probe may leave its source, and whether it may come to its destination."""
    return allowed(world, "egress", probe), allowed(world, "ingress", probe)


def allowed(world: World, direction: str, probe: Object) -> bool:
    """What the policies of one end say of a probe."""
    source, destination = endpoint_at(world, probe["source"]), endpoint_at(world, probe["destination"])
    judged = source if direction == "egress" else destination
    if judged is None:
        return True
    if source is destination:
        return True  # Nothing keeps an endpoint from itself.
    for default, policies in governing(world, judged, direction):
        action = action_of_tier(world, policies, direction, probe) or default
        if action != "Pass":
            return bool(action == "Allow")
    return True


def endpoint_at(world: World, address: str) -> Object | None:
    """The endpoint that has this address."""
    wanted = parsed_address(address)
    return next((one for one in world["endpoints"] if wanted in one["addresses"]), None)


def governing(world: World, judged: Object, direction: str) -> list[tuple[str, list[Object]]]:
    """The policies that are about a direction of an endpoint: for each tier that has such, its default action and they,
    in their order. That a tier has policies about other endpoints does not count."""
    known: dict[Any, list[tuple[str, list[Object]]]] = world["governing"]
    key = (judged["namespace"], judged["name"], direction)
    if key not in known:
        known[key] = []
        for tier in sorted(world["tiers"].values(), key=lambda tier: (tier["order"], tier["name"])):
            policies = [policy for policy in in_order(world, tier) if is_about(world, policy, judged, direction)]
            if policies:
                known[key].append((tier["default"], policies))
    return known[key]


def in_order(world: World, tier: Object) -> list[Object]:
    """The policies of a tier: lower orders first, those without an order last, and by name where the orders are
    the same."""
    policies = [policy for policy in world["policies"] if policy["tier"] == tier["name"]]
    return sorted(policies, key=lambda one: (one["order"], one["name"], one["namespace"] or "", one["kind"]))


def is_about(world: World, policy: Object, judged: Object, direction: str) -> bool:
    """Whether a policy is about this direction and selects this endpoint."""
    if direction.capitalize() not in policy["types"]:
        return False
    spec, namespace, labels = policy["spec"], policy["namespace"], judged["labels"]
    if policy["kind"] == "kubernetes":
        return bool(namespace == judged["namespace"] and label_selector(spec.get("podSelector") or {}, labels))
    if policy["kind"] == "NetworkPolicy":
        in_scope = namespace == judged["namespace"]
    else:
        in_scope = namespace_selected(world, spec.get("namespaceSelector"), judged["namespace"])
    return in_scope and selector(spec.get("selector") or "all()")(calico_labels(judged))


def action_of_tier(world: World, policies: Sequence[Object], direction: str, probe: Object) -> str | None:
    """What the first rule that matches does; `None` when none matches."""
    for policy in policies:
        for rule in policy["spec"].get(direction) or []:
            if policy["kind"] == "kubernetes":
                if kubernetes_rule(world, policy, direction, rule, probe):
                    return "Allow"
            elif rule["action"] != "Log" and calico_rule(world, policy, rule, probe):
                return str(rule["action"])
    return None


# --- rules of Kubernetes --------------------------------------------------------------------------


def kubernetes_rule(world: World, policy: Object, direction: str, rule: Object, probe: Object) -> bool:
    """One of the peers and one of the ports. No peers are all peers, whoever that is; no ports are all traffic, of
    whatever protocol."""
    peers = rule.get("to" if direction == "egress" else "from") or []
    other = probe["destination"] if direction == "egress" else probe["source"]
    if peers and not any(kubernetes_peer(world, policy, peer, other) for peer in peers):
        return False
    ports = rule.get("ports") or []
    return not ports or any(kubernetes_port(world, port, probe) for port in ports)


def kubernetes_peer(world: World, policy: Object, peer: Object, address: str) -> bool:
    """A network less some networks in it; or endpoints: of the namespaces selected, else of the policy's own."""
    block = peer.get("ipBlock")
    if block is not None:
        return in_network(address, block["cidr"]) and not in_any(address, block.get("except") or [])
    other = endpoint_at(world, address)
    if other is None:
        return False
    namespaces, pods = peer.get("namespaceSelector"), peer.get("podSelector")
    if namespaces is None:
        if other["namespace"] != policy["namespace"]:
            return False
    elif not label_selector(namespaces, namespace_labels(world, other["namespace"])):
        return False
    return pods is None or label_selector(pods, other["labels"])


def kubernetes_port(world: World, port: Object, probe: Object) -> bool:
    """A protocol, TCP if none is named, and of it all ports, one, those up to `endPort`, or what the destination calls
    by that name."""
    number = PROTOCOLS[port.get("protocol", "TCP").lower()]
    if protocol_of(probe) != number:
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        return has_named_port(world, wanted, probe["destination"], number, probe["destination_port"])
    return bool(wanted <= probe["destination_port"] <= port.get("endPort", wanted))


def label_selector(wanted: Object, labels: Labels) -> bool:
    """Kubernetes' LabelSelector: all that is asked holds; where nothing is asked, for everything."""
    return all(labels.get(key) == value for key, value in (wanted.get("matchLabels") or {}).items()) and all(
        label_expression(one, labels) for one in wanted.get("matchExpressions") or []
    )


def label_expression(one: Object, labels: Labels) -> bool:
    """One of matchExpressions. NotIn holds where the label is missing."""
    key, values = one["key"], one.get("values") or []
    match one["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(f"no operator of a label selector: {one['operator']}")


# --- rules of Calico ------------------------------------------------------------------------------


def calico_rule(world: World, policy: Object, rule: Object, probe: Object) -> bool:
    """Everything that the rule asks holds."""
    number, version = protocol_of(probe), parsed_address(probe["source"]).version
    if rule.get("ipVersion") not in (None, version):
        return False
    # Networks of one version of IP make the rule one for that version, also where they are excluded.
    if not all(version in versions for versions in versions_of_networks(rule)):
        return False
    if rule.get("protocol") is not None and protocol_number(rule["protocol"]) != number:
        return False
    if rule.get("notProtocol") is not None and protocol_number(rule["notProtocol"]) == number:
        return False
    if rule.get("icmp") is not None and not calico_icmp(rule["icmp"], number, probe):
        return False
    if rule.get("notICMP") is not None and calico_icmp(rule["notICMP"], number, probe):
        return False
    return all(
        calico_entity(world, policy, rule.get(side) or {}, probe[side], number, probe.get(f"{side}_port"))
        for side in ("source", "destination")
    )


def versions_of_networks(rule: Object) -> list[set[int]]:
    """For each list of networks that a rule has, the versions of IP in it."""
    lists = [(rule.get(side) or {}).get(key) for side in ("source", "destination") for key in ("nets", "notNets")]
    return [{parsed_network(network).version for network in networks} for networks in lists if networks]


def calico_icmp(wanted: Object, number: int, probe: Object) -> bool:
    """A type, and a code if one is asked for."""
    if number not in WITH_TYPES:
        return False
    return all(wanted.get(key) in (None, probe[f"icmp_{key}"]) for key in ("type", "code"))


def calico_entity(world: World, policy: Object, entity: Object, address: str, number: int, port: int | None) -> bool:
    """Everything that the rule asks of one end."""
    if entity.get("nets") and not in_any(address, entity["nets"]):
        return False
    if entity.get("notNets") and in_any(address, entity["notNets"]):
        return False
    if not calico_selectors(world, policy, entity, address):
        return False
    if entity.get("ports") and not calico_ports(world, entity["ports"], address, number, port):
        return False
    if entity.get("notPorts"):
        return number in WITH_PORTS and not calico_ports(world, entity["notPorts"], address, number, port)
    return True


def calico_selectors(world: World, policy: Object, entity: Object, address: str) -> bool:
    """Selectors are about known endpoints and sets of networks, not about packets. They look into the namespaces that
    namespaceSelector selects; without it, in a NetworkPolicy into its own namespace, in a GlobalNetworkPolicy
    everywhere. As soon as one of the three selectors is there, the address must be of something in that scope; but
    in a GlobalNetworkPolicy `notSelector` alone matches everything else that there is."""
    wanted, unwanted, scope = entity.get("selector"), entity.get("notSelector"), entity.get("namespaceSelector")
    if not wanted and not unwanted and not scope:
        return True
    if unwanted and any(selector(unwanted)(calico_labels(one)) for one in resources_at(world, address)):
        return False
    if not wanted and not scope and policy["namespace"] is None:
        return True
    return any(
        in_scope(world, policy, scope, one["namespace"]) and selector(wanted or "all()")(calico_labels(one))
        for one in resources_at(world, address)
    )


def resources_at(world: World, address: str) -> list[Object]:
    """The endpoint of an address, and the sets of networks that it is in."""
    known = endpoint_at(world, address)
    return ([known] if known else []) + [one for one in world["sets"] if in_any(address, one["nets"])]


def in_scope(world: World, policy: Object, scope: str | None, namespace: str | None) -> bool:
    """Whether selectors of a rule look at what is in this namespace, or in none."""
    if scope:
        return namespace_selected(world, scope, namespace)
    return policy["namespace"] is None or policy["namespace"] == namespace


def namespace_selected(world: World, wanted: str | None, namespace: str | None) -> bool:
    """Calico's namespaceSelector: `all()` is every namespace, `global()` is what is in none. What is in none has no
    labels, so that a negation matches it: that is how Calico's own nodes read it."""
    if not wanted:
        return True
    text = wanted.replace("all()", f"has({INSIDE})").replace("global()", f"!has({INSIDE})")
    labels = {} if namespace is None else {**namespace_labels(world, namespace), INSIDE: namespace}
    return selector(text)(labels)


def calico_ports(world: World, wanted: Sequence[Any], address: str, number: int, port: int | None) -> bool:
    """One of them: a number, a range `first:last`, or a name, which is a number at the endpoint of that address."""
    return number in WITH_PORTS and any(calico_port(world, one, address, number, port) for one in wanted)


def calico_port(world: World, wanted: Any, address: str, number: int, port: int | None) -> bool:
    if isinstance(wanted, int):
        return port == wanted
    ends = re.fullmatch(r"(\d+)(?::(\d+))?", wanted)
    if ends and port is not None:
        return int(ends[1]) <= port <= int(ends[2] or ends[1])
    return has_named_port(world, wanted, address, number, port)


# --- what both have in common ---------------------------------------------------------------------


def has_named_port(world: World, name: str, address: str, number: int, port: int | None) -> bool:
    """Whether the endpoint of this address has a port of this name, protocol and number."""
    known = endpoint_at(world, address)
    return known is not None and (name, number, port) in known["ports"]


def namespace_labels(world: World, namespace: str) -> Labels:
    """The labels of a namespace. Its name is one: Kubernetes and Calico both see to that."""
    return {**dict.fromkeys(NAME_LABELS, namespace), **world["namespaces"].get(namespace, {})}


def calico_labels(resource: Object) -> Labels:
    """The labels of an endpoint or a set of networks. The namespace that it is in is one, for Calico."""
    own: Labels = resource["labels"]
    return own if resource["namespace"] is None else {**own, NAMESPACE_LABEL: resource["namespace"]}


def protocol_of(probe: Object) -> int:
    """The number of a probe's protocol: what `icmp` is depends on the addresses."""
    named = probe["protocol"]
    if named == "icmp":
        return PROTOCOLS["icmp" if parsed_address(probe["source"]).version == 4 else "icmpv6"]
    return protocol_number(named)


def protocol_number(named: str | int) -> int:
    """The number of a protocol that a manifest names."""
    return named if isinstance(named, int) else PROTOCOLS[named.lower()]


def in_any(address: str, networks: Sequence[str]) -> bool:
    return any(in_network(address, network) for network in networks)


@functools.cache
def in_network(address: str, network: str) -> bool:
    return parsed_address(address) in parsed_network(network)


@functools.cache
def parsed_address(text: str) -> Any:
    return ipaddress.ip_address(text)


@functools.cache
def parsed_network(text: str) -> Any:
    return ipaddress.ip_network(text, strict=False)


# --- Calico's selectors ---------------------------------------------------------------------------
#
#   or      = and { "||" and }
#   and     = not { "&&" not }
#   not     = "!" not | "(" or ")" | term
#   term    = "all()" | "global()" | "has(" key ")"
#           | key ("==" | "!=" | "contains" | "starts" "with" | "ends" "with") string
#           | key ["not"] "in" "{" [ string { "," string } ] "}"

TOKEN = re.compile(r"""\s*(?:(&&|\|\||==|!=|[!(){},])|'([^']*)'|"([^"]*)"|([A-Za-z0-9_./-]+))""")


@functools.cache
def selector(text: str) -> Selector:
    """The function that says whether labels match a selector; ValueError when it is none."""
    tokens = tokenize(text)
    matches = read_or(tokens)
    if tokens:
        raise ValueError(f"{text!r}: {tokens[0][1]!r} is not expected")
    return matches


def tokenize(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token: a sign, a string or a word."""
    tokens, position = [], 0
    while text[position:].strip():
        found = TOKEN.match(text, position)
        if found is None:
            raise ValueError(f"{text!r}: no token at {text[position:]!r}")
        sign, single, double, word = found.groups()
        if sign is not None:
            tokens.append(("sign", sign))
        elif word is not None:
            tokens.append(("word", word))
        else:
            tokens.append(("string", double if single is None else single))
        position = found.end()
    return tokens


def take(tokens: list[tuple[str, str]], kind: str, *expected: str) -> str:
    """The next token, which must be of this kind and one of these."""
    if not tokens or tokens[0][0] != kind or (expected and tokens[0][1] not in expected):
        raise ValueError(f"{expected or kind} is expected before {tokens[:1]}")
    return tokens.pop(0)[1]


def comes(tokens: list[tuple[str, str]], sign: str) -> bool:
    """Whether the next token is this sign, which is then taken."""
    if tokens and tokens[0] == ("sign", sign):
        tokens.pop(0)
        return True
    return False


def read_or(tokens: list[tuple[str, str]]) -> Selector:
    parts = [read_and(tokens)]
    while comes(tokens, "||"):
        parts.append(read_and(tokens))
    return lambda labels: any(part(labels) for part in parts)


def read_and(tokens: list[tuple[str, str]]) -> Selector:
    parts = [read_not(tokens)]
    while comes(tokens, "&&"):
        parts.append(read_not(tokens))
    return lambda labels: all(part(labels) for part in parts)


def read_not(tokens: list[tuple[str, str]]) -> Selector:
    if comes(tokens, "!"):
        negated = read_not(tokens)
        return lambda labels: not negated(labels)
    if comes(tokens, "("):
        inner = read_or(tokens)
        take(tokens, "sign", ")")
        return inner
    return read_term(tokens)


def read_term(tokens: list[tuple[str, str]]) -> Selector:
    key = take(tokens, "word")
    if comes(tokens, "("):
        return read_call(key, tokens)
    if tokens and tokens[0][0] == "sign":
        operator = take(tokens, "sign", "==", "!=")
        value = take(tokens, "string")
        if operator == "==":
            return lambda labels: labels.get(key) == value
        return lambda labels: labels.get(key) != value
    match take(tokens, "word", "in", "not", "contains", "starts", "ends"):
        case "in":
            values = read_values(tokens)
            return lambda labels: labels.get(key) in values
        case "not":
            take(tokens, "word", "in")
            others = read_values(tokens)
            return lambda labels: labels.get(key) not in others
        case "contains":
            piece = take(tokens, "string")
            return lambda labels: key in labels and piece in labels[key]
        case "starts":
            take(tokens, "word", "with")
            begin = take(tokens, "string")
            return lambda labels: key in labels and labels[key].startswith(begin)
        case _:
            take(tokens, "word", "with")
            end = take(tokens, "string")
            return lambda labels: key in labels and labels[key].endswith(end)


def read_call(name: str, tokens: list[tuple[str, str]]) -> Selector:
    if name == "has":
        key = take(tokens, "word")
        take(tokens, "sign", ")")
        return lambda labels: key in labels
    take(tokens, "sign", ")")
    if name == "all":
        return lambda _: True
    raise ValueError(f"no function of selectors: {name}()")


def read_values(tokens: list[tuple[str, str]]) -> set[str]:
    values = set()
    take(tokens, "sign", "{")
    while not comes(tokens, "}"):
        values.add(take(tokens, "string"))
        if not comes(tokens, ","):
            take(tokens, "sign", "}")
            break
    return values
