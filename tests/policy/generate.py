#!/usr/bin/python3
"""Cases for tests of network policy, with what the oracle says of each probe, as lines of JSON on standard output.

    generate.py --cases N --seed S

First every combination of the matrix in `features.py`, each once, with the rest of the case by chance; then cases that
are all chance. Fewer cases than there are combinations are a sample of them in which every feature occurs.
A line: {"name", "features", "placement", "objects", "probes": [{"source", "destination", "protocol", "source_port",
"destination_port", "icmp_type", "icmp_code", "egress", "ingress"}]}. The same seed gives the same lines.
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import cluster
import features
import oracle
from features import DIRECTIONS

Object = dict[str, Any]
Builder = Callable[[random.Random], list[Object]]

# Between two endpoints, and between an endpoint and what is outside.
PROBES_A_PAIR = (2, 1)
# A port that no rule names, so that what is sent from it says nothing.
SOURCE_PORT = 40000
USUAL_FLOWS = [
    ("tcp", 80),
    ("tcp", 81),
    ("udp", 80),
    ("udp", 81),
    ("sctp", 80),
    ("sctp", 81),
    ("tcp", 8080),
    ("tcp", 82),
]
ICMP = [(8, 0), (0, 0), (3, 1), (3, 4), (128, 0), (1, 4)]
OTHER_PROTOCOLS = [47, 136]


# --- cases ----------------------------------------------------------------------------------------


def systematic() -> list[tuple[str, list[str], Builder]]:
    """Every combination, as (name, features, what builds the policies)."""
    return [*kubernetes_cases(), *calico_peer_cases(), *calico_port_cases(), *calico_protocol_cases(), *tier_cases()]


def kubernetes_cases() -> Iterator[tuple[str, list[str], Builder]]:
    """Direction × peers × ports × protocol × conflict; and what `policyTypes` leaves open."""
    conflicts = ("alone", "beside a denial", "beside another")
    for direction, peers, ports, protocol, conflict in itertools.product(
        DIRECTIONS, features.PEERS, features.PORT_KINDS, features.KUBERNETES_PROTOCOLS, conflicts
    ):
        if ports == "none" and protocol != "TCP":
            continue
        marks = [f"k8s {direction}", f"k8s peers {peers}", f"k8s ports {ports}", f"k8s {protocol}", f"k8s {conflict}"]

        def build(
            chance: random.Random,
            direction: str = direction,
            peers: str = peers,
            ports: str = ports,
            protocol: str = protocol,
            conflict: str = conflict,
        ) -> list[Object]:
            namespace = chance.choice(cluster.NAMESPACES)
            rule = features.kubernetes_rule(
                direction, features.PEERS[peers](chance), features.PORT_KINDS[ports](chance, protocol)
            )
            types = [direction.capitalize()]
            selected: Object = chance.choice(({}, features.pods(chance)))
            policies = [features.kubernetes("n1", namespace, selected, {direction: [rule]}, types)]
            if conflict == "beside a denial":
                policies.append(features.kubernetes("n2", namespace, {}, {}, types))
            elif conflict == "beside another":
                policies.append(any_kubernetes(chance, "n2", namespace))
            return policies

        yield " / ".join(marks), marks, build
    rule = {"ports": [{"port": 80}]}
    rules: dict[str, Object] = {
        "no rules": {},
        "empty": {"ingress": [], "egress": []},
        "everything": {"ingress": [{}], "egress": [{}]},
        "ingress": {"ingress": [rule]},
        "egress": {"egress": [rule]},
        "both": {"ingress": [rule], "egress": [rule]},
    }
    for kind, types in itertools.product(rules, (None, ["Ingress"], ["Egress"], ["Ingress", "Egress"])):
        marks = [f"k8s types {'-'.join(types or ['none'])}", f"k8s rules {kind}"]

        def typed(chance: random.Random, kind: str = kind, types: list[str] | None = types) -> list[Object]:
            return [features.kubernetes("n1", chance.choice(cluster.NAMESPACES), {}, rules[kind], types)]

        yield " / ".join(marks), marks, typed


def calico_peer_cases() -> Iterator[tuple[str, list[str], Builder]]:
    """Direction × namespaced or global × action × what is asked of the peer; and of the end itself."""
    for direction, scope, action, entity in itertools.product(
        DIRECTIONS, ("NetworkPolicy", "GlobalNetworkPolicy"), features.ACTIONS, features.ENTITIES
    ):
        marks = [f"calico {direction}", scope, action, f"peer {entity}"]

        def build(
            chance: random.Random,
            direction: str = direction,
            scope: str = scope,
            action: str = action,
            entity: str = entity,
        ) -> list[Object]:
            def rule() -> Object:
                sides = ("source", "destination") if direction == "ingress" else ("destination", "source")
                made: Object = {"action": action, sides[0]: features.ENTITIES[entity](chance)}
                if chance.random() < 0.3:
                    made[sides[1]] = any_entity(chance)
                return made

            sets = features.network_sets(chance)
            return [*sets, *around(chance, direction, scope, consistent(rule))]

        yield " / ".join(marks), marks, build


def calico_port_cases() -> Iterator[tuple[str, list[str], Builder]]:
    """Direction × action × end × ports × protocol."""
    for direction, action, side, ports in itertools.product(
        DIRECTIONS, ("Allow", "Deny"), ("source", "destination"), features.CALICO_PORTS
    ):
        for protocol in features.CALICO_PROTOCOLS if ports != "none" else ():
            marks = [f"calico {direction}", action, f"{side} ports {ports}", f"calico ports of {protocol}"]

            def build(
                chance: random.Random,
                direction: str = direction,
                action: str = action,
                side: str = side,
                ports: str = ports,
                protocol: str = protocol,
            ) -> list[Object]:
                def rule() -> Object:
                    entity = features.CALICO_PORTS[ports](chance)
                    if chance.random() < 0.4:
                        entity |= any_entity(chance)
                    return {"action": action, "protocol": features.CALICO_PROTOCOLS[protocol], side: entity}

                scope = chance.choice(("NetworkPolicy", "GlobalNetworkPolicy"))
                sets = features.network_sets(chance)
                return [*sets, *around(chance, direction, scope, consistent(rule))]

            yield " / ".join(marks), marks, build
        if ports == "name":
            marks = [f"calico {direction}", action, f"{side} ports name of any protocol"]

            def named(
                chance: random.Random, direction: str = direction, action: str = action, side: str = side
            ) -> list[Object]:
                rule = {"action": action, side: features.CALICO_PORTS["name"](chance)}
                return around(chance, direction, "GlobalNetworkPolicy", rule)

            yield " / ".join(marks), marks, named


def calico_protocol_cases() -> Iterator[tuple[str, list[str], Builder]]:
    """Direction × action × protocol, version of IP, ICMP."""
    matches = features.PROTOCOL_MATCHES | features.ICMP_MATCHES
    for direction, action, match in itertools.product(DIRECTIONS, ("Allow", "Deny"), matches):
        marks = [f"calico {direction}", action, match]

        def build(
            chance: random.Random, direction: str = direction, action: str = action, match: str = match
        ) -> list[Object]:
            def rule() -> Object:
                made: Object = {"action": action} | matches[match]
                if chance.random() < 0.3:
                    made[chance.choice(("source", "destination"))] = any_entity(chance)
                return made

            scope = chance.choice(("NetworkPolicy", "GlobalNetworkPolicy"))
            return around(chance, direction, scope, consistent(rule))

        yield " / ".join(marks), marks, build


# Tiers of a case: (name, order, default action). What has no order is behind `default`.
TIERS: dict[str, list[tuple[str, float | None, str | None]]] = {
    "one before": [("security", 100, "Deny")],
    "one that passes on": [("security", 100, "Pass")],
    "default action left out": [("security", 100, None)],
    "two": [("platform", 200.5, "Pass"), ("security", 100, "Deny")],
    "two that pass on": [("platform", 50, "Pass"), ("security", 100, "Pass")],
    "the same order": [("platform", 100, "Deny"), ("security", 100, "Deny")],
    "behind": [("late", None, "Pass")],
    "last of all": [("late", 2_000_000, "Deny")],
    "before and behind": [("early", -10, "Pass"), ("late", None, "Deny")],
}
ORDERS: dict[str, list[float | None]] = {
    "orders": [10, 20, 30],
    "orders as fractions": [10.5, 10.25, -1],
    "orders that are the same": [10, 10, 10],
    "orders left out": [None, None, 500],
    "no orders": [None, None, None],
}


def tier_cases() -> Iterator[tuple[str, list[str], Builder]]:
    """Tiers × orders × direction × the policies of Kubernetes beside; and what `types` leaves open."""
    for tiers, orders, direction, beside in itertools.product(TIERS, ORDERS, DIRECTIONS, (False, True)):
        marks = [f"tiers {tiers}", orders, f"calico {direction}"] + (["both kinds together"] if beside else [])

        def build(
            chance: random.Random,
            tiers: str = tiers,
            orders: str = orders,
            direction: str = direction,
            beside: bool = beside,
        ) -> list[Object]:
            objects = [features.tier(*one) for one in TIERS[tiers]]
            numbers = itertools.count()
            for name in [name for name, *_ in TIERS[tiers]] + ["default"]:
                for order in ORDERS[orders]:
                    spec = any_spec(chance, [direction])
                    spec |= {} if order is None else {"order": order}
                    spec |= {} if name == "default" and chance.random() < 0.5 else {"tier": name}
                    objects.append(named_by_chance(chance, next(numbers), spec))
            if beside:
                objects.append(any_kubernetes(chance, "n1", chance.choice(cluster.NAMESPACES)))
            return objects

        yield " / ".join(marks), marks, build
    everything = [{"action": "Allow", "protocol": "TCP"}]
    rules: dict[str, Object] = {
        "no rules": {},
        "empty": {"ingress": [], "egress": []},
        "ingress": {"ingress": everything},
        "egress": {"egress": everything},
        "both": {"ingress": everything, "egress": everything},
    }
    every_type: tuple[Any, ...] = (None, ["Ingress"], ["Egress"], ["Ingress", "Egress"])
    for scope, kind, types in itertools.product(("NetworkPolicy", "GlobalNetworkPolicy"), rules, every_type):
        marks = [scope, f"calico types {'-'.join(types or ['none'])}", f"calico rules {kind}"]

        def typed(
            chance: random.Random, scope: str = scope, kind: str = kind, types: list[str] | None = types
        ) -> list[Object]:
            namespace = chance.choice(cluster.NAMESPACES) if scope == "NetworkPolicy" else None
            spec = {"selector": features.calico_selector(chance)} | rules[kind] | ({"types": types} if types else {})
            return [features.calico("p1", namespace, spec)]

        yield " / ".join(marks), marks, typed


def by_chance(chance: random.Random) -> list[Object]:
    """Tiers, sets and policies of every kind."""
    objects = features.network_sets(chance) if chance.random() < 0.6 else []
    tiers = chance.choice(([], *TIERS.values()))
    objects += [features.tier(*one) for one in tiers]
    for number in range(chance.randint(1, 5)):
        if chance.random() < 0.35:
            objects.append(any_kubernetes(chance, f"n{number}", chance.choice(cluster.NAMESPACES)))
            continue
        spec = any_spec(chance, chance.choice((["ingress"], ["egress"], ["ingress", "egress"])))
        if tiers and chance.random() < 0.6:
            spec["tier"] = chance.choice(tiers)[0]
        order = chance.choice((None, 1, 10, 10, 999.5, 1001))
        objects.append(named_by_chance(chance, number, spec | ({} if order is None else {"order": order})))
    chance.shuffle(objects)
    return objects


# --- pieces of cases ------------------------------------------------------------------------------


def around(chance: random.Random, direction: str, scope: str, rule: Object) -> list[Object]:
    """A policy with this rule, and by chance what shows what the rule does: something allowed or denied behind it."""
    spec: Object = {"order": 10, direction: [rule]}
    if chance.random() < 0.7:
        spec["selector"] = features.calico_selector(chance) if chance.random() < 0.5 else "all()"
    if chance.random() < 0.3:
        spec["types"] = [direction.capitalize()]
    namespace = chance.choice(cluster.NAMESPACES) if scope == "NetworkPolicy" else None
    if namespace is None and chance.random() < 0.3:
        spec["namespaceSelector"] = features.calico_namespaces(chance)
    behind = chance.choice(("nothing", "rule", "rule", "policy", "kubernetes"))
    if rule["action"] != "Allow" and behind == "nothing":
        behind = "rule"
    policies = [features.calico("p1", namespace, spec)]
    other = {"Deny": "Allow", "Pass": "Deny"}.get(rule["action"]) or chance.choice(("Allow", "Deny"))
    if behind == "rule":
        spec[direction].append({"action": other} | chance.choice(({}, {"protocol": chance.choice(("TCP", "UDP"))})))
    elif behind == "policy":
        policies.append(features.calico("p2", None, {"order": 20, direction: [{"action": other}]}))
    elif behind == "kubernetes":
        policies.append(any_kubernetes(chance, "n1", namespace or chance.choice(cluster.NAMESPACES)))
    return policies


def any_kubernetes(chance: random.Random, name: str, namespace: str) -> Object:
    """A policy of Kubernetes, all by chance."""
    rules: Object = {}
    for direction in chance.choice((["ingress"], ["egress"], ["ingress", "egress"])):
        rules[direction] = [
            features.kubernetes_rule(
                direction,
                features.PEERS[chance.choice(list(features.PEERS))](chance),
                features.PORT_KINDS[chance.choice(list(features.PORT_KINDS))](
                    chance, chance.choice(features.KUBERNETES_PROTOCOLS)
                ),
            )
            for _ in range(chance.randint(0, 2))
        ]
    types = chance.choice((None, [direction.capitalize() for direction in rules]))
    return features.kubernetes(name, namespace, features.pods(chance), rules, types)


def any_spec(chance: random.Random, directions: list[str]) -> Object:
    """A policy of Calico, but for its place."""
    spec: Object = {"selector": features.calico_selector(chance) if chance.random() < 0.6 else "all()"}
    for direction in directions:
        spec[direction] = [consistent(lambda: any_rule(chance)) for _ in range(chance.randint(0, 3))]
    if chance.random() < 0.3:
        spec["types"] = [direction.capitalize() for direction in directions]
    return spec


def any_rule(chance: random.Random) -> Object:
    """A rule of Calico."""
    rule: Object = {"action": chance.choice(features.ACTIONS)}
    asked = chance.random()
    if asked < 0.4:
        rule["protocol"] = chance.choice(list(features.CALICO_PROTOCOLS.values()))
    elif asked < 0.6:
        rule |= features.PROTOCOL_MATCHES[chance.choice(list(features.PROTOCOL_MATCHES))]
    elif asked < 0.7:
        rule |= features.ICMP_MATCHES[chance.choice(list(features.ICMP_MATCHES))]
    for side in ("source", "destination"):
        entity = any_entity(chance) if chance.random() < 0.6 else {}
        if asked < 0.4 and chance.random() < (0.6 if side == "destination" else 0.2):
            entity |= features.CALICO_PORTS[chance.choice(list(features.CALICO_PORTS))](chance)
        if entity or chance.random() < 0.1:
            rule[side] = entity
    return rule


def any_entity(chance: random.Random) -> Object:
    entity: Object = features.ENTITIES[chance.choice(list(features.ENTITIES))](chance)
    return entity


def consistent(make: Callable[[], Object]) -> Object:
    """A rule that Calico takes: all its networks, its ICMP and its version of IP belong together."""
    while True:
        rule = make()
        versions = set().union(*oracle.versions_of_networks(rule))
        versions |= {rule["ipVersion"]} if "ipVersion" in rule else set()
        versions |= (
            {{"ICMP": 4, "ICMPv6": 6}[rule["protocol"]]} if rule.get("protocol") in ("ICMP", "ICMPv6") else set()
        )
        if len(versions) <= 1:
            return rule


def named_by_chance(chance: random.Random, number: int, spec: Object) -> Object:
    """A policy of either kind. Names are in another order than the objects."""
    name = f"{chance.choice('pqrs')}{number}"
    return features.calico(name, chance.choice((None, None, *cluster.NAMESPACES)), spec)


# --- probes ---------------------------------------------------------------------------------------


def probes(chance: random.Random, objects: list[Object]) -> Iterator[Object]:
    """Between all pairs of endpoints, and between each and what is outside: by chance among what the objects speak of
    and what is usual."""
    flows = flows_of(chance, objects)
    source_ports = [SOURCE_PORT, SOURCE_PORT, *ports_in(objects)]
    known = [item for item in objects if item["kind"] in ("Pod", "WorkloadEndpoint")]
    ends = [both_addresses(item) for item in known]
    outside = [*itertools.product(ends, cluster.OUTSIDE), *itertools.product(cluster.OUTSIDE, ends)]
    counted = [(pair, PROBES_A_PAIR[0]) for pair in itertools.product(ends, ends)]
    counted += [(pair, PROBES_A_PAIR[1]) for pair in outside]
    for (source, destination), count in counted:
        for protocol, port, icmp in chance.sample(flows, count):
            place = chance.choice((0, 0, 1))
            yield {
                "source": source[place],
                "destination": destination[place],
                "protocol": protocol,
                "source_port": None if port is None else chance.choice(source_ports),
                "destination_port": port,
                "icmp_type": icmp and icmp[0],
                "icmp_code": icmp and icmp[1],
            }


def flows_of(chance: random.Random, objects: list[Object]) -> list[tuple[Any, int | None, tuple[int, int] | None]]:
    """(protocol, destination port, ICMP type and code)."""
    flows: list[tuple[Any, int | None, tuple[int, int] | None]] = [
        (protocol, port, None) for protocol, port in chance.sample(USUAL_FLOWS, 4)
    ]
    mentioned = sorted(ports_in(objects))
    protocols = ("tcp", "udp", "sctp")
    for _ in range(4 if mentioned else 2):
        port = min(max(chance.choice(mentioned or [80]) + chance.choice((-1, 0, 0, 0, 1)), 1), 65535)
        flows.append((chance.choice(protocols), port, None))
    about_icmp = any(word in str(objects) for word in ("'icmp'", "'notICMP'", "'ICMP'", "'ICMPv6'"))
    flows += [("icmp", None, icmp) for icmp in (ICMP if about_icmp else chance.sample(ICMP, 2))]
    flows.append((chance.choice(OTHER_PROTOCOLS), None, None))
    return flows


def ports_in(value: Any) -> set[int]:
    """All numbers of ports in rules, and the ends of ranges."""
    found: set[int] = set()
    if isinstance(value, list):
        for one in value:
            found |= ports_in(one)
    elif isinstance(value, dict) and value.get("kind") not in ("Pod", "WorkloadEndpoint"):
        for key, one in value.items():
            if key in ("port", "endPort", "ports", "notPorts"):
                for port in one if isinstance(one, list) else [one]:
                    if isinstance(port, int):
                        found.add(port)
                    elif isinstance(port, str) and port[0].isdigit():
                        found |= {int(end) for end in port.split(":")}
            found |= ports_in(one)
    return found


def both_addresses(item: Object) -> tuple[str, str]:
    if item["kind"] == "Pod":
        first, second = (entry["ip"] for entry in item["status"]["podIPs"])
    else:
        first, second = (network.partition("/")[0] for network in item["spec"]["ipNetworks"])
    return first, second


# --- lines ----------------------------------------------------------------------------------------


@functools.cache
def known_cases() -> list[tuple[str, list[str], Builder]]:
    return systematic()


def case(seed: int, number: int) -> Object:
    """The case of this number, without its probes; those behind the systematic ones are all chance."""
    chance = random.Random(f"{seed} {number}")
    placement, objects = cluster.make(chance)
    if number < len(known_cases()):
        name, marks, build = known_cases()[number]
    else:
        name, marks, build = f"by chance {number}", ["by chance"], by_chance
    objects += build(chance)
    return {"name": f"{number}: {name}", "features": marks, "placement": placement, "objects": objects}


def line(seed: int, number: int) -> str:
    """A case with its probes, as JSON."""
    made = case(seed, number)
    world = oracle.read(made["objects"])
    chance = random.Random(f"{seed} {number} probes")
    made["probes"] = []
    for probe in probes(chance, made["objects"]):
        egress, ingress = oracle.verdicts(world, probe)
        made["probes"].append(probe | {"egress": egress, "ingress": ingress})
    return json.dumps(made, separators=(",", ":"))


def numbers_of(cases: int, seed: int) -> list[int]:
    """Which cases: all that there are and more, or a sample with every feature in it."""
    known = known_cases()
    if cases >= len(known):
        return list(range(cases))
    chance = random.Random(f"{seed} sample")
    order = list(range(len(known)))
    chance.shuffle(order)
    chosen: list[int] = []
    seen: set[str] = set()
    for number in order:
        if not seen.issuperset(known[number][1]):
            chosen.append(number)
            seen.update(known[number][1])
    rest = [number for number in order if number not in chosen]
    # Some of them all chance.
    rest[: cases // 10] = range(len(known), len(known) + cases // 10)
    return sorted((chosen + rest)[:cases])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000, help="how many cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: %(default)s)")
    arguments = parser.parse_args()
    numbers = numbers_of(arguments.cases, arguments.seed)
    with multiprocessing.Pool(os.cpu_count()) as pool:
        for text in pool.imap(functools.partial(line, arguments.seed), numbers, chunksize=16):
            print(text)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit("whoever reads the cases has ended")
