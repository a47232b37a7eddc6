"""The cluster that generated cases are about: three namespaces with three endpoints each, and addresses outside.

An endpoint has an IPv4 and an IPv6 address in the subnets of its node; a node has the endpoints of one namespace or one
of each namespace. Names of ports mean other numbers at other endpoints.
"""

import ipaddress
import random
from typing import Any

Object = dict[str, Any]

NAMESPACES = ("a", "b", "c")
NAMES = ("x", "y", "z")
NODES = 3
PLACEMENTS = ("by namespace", "mixed")
# In network sets and ipBlocks, and of nobody known.
OUTSIDE = (("203.0.113.7", "2001:db8:5::7"), ("203.0.113.200", "2001:db8:5:1::8"))

# (name, protocol, number) of the ports of each endpoint.
PORTS = {
    "x": (("web", "TCP", 80), ("dns", "UDP", 80), ("sig", "SCTP", 81), ("both", "TCP", 81), ("both", "UDP", 81)),
    "y": (("web", "TCP", 81), ("dns", "UDP", 81), ("sig", "SCTP", 80), ("both", "TCP", 80)),
    "z": (("web", "TCP", 80), ("web", "UDP", 81), ("alt", "TCP", 8080)),
}
NAMED = ("web", "dns", "sig", "both", "alt")


def node_of(placement: str, namespace: str, name: str) -> int:
    """The node, counted from 1, that an endpoint is on."""
    first, second = NAMESPACES.index(namespace), NAMES.index(name)
    return 1 + (first if placement == "by namespace" else (first + second) % NODES)


def addresses_of(placement: str, namespace: str, name: str) -> tuple[str, str]:
    """Both addresses of an endpoint: `10.244.NODE.2` to `.4`, `fd00:10:244:NODE::2` to `::4`."""
    node, slot = node_of(placement, namespace, name), NAMES.index(name) + 2
    return f"10.244.{node}.{slot}", f"fd00:10:244:{node}::{slot}"


def subnets_of(node: int) -> tuple[str, str]:
    """Both subnets of a node."""
    return f"10.244.{node}.0/24", f"fd00:10:244:{node}::/64"


def make(chance: random.Random) -> tuple[str, list[Object]]:
    """The placement and the objects of a cluster: namespaces and endpoints, with labels by chance."""
    placement = chance.choice(PLACEMENTS)
    objects = [namespace_object(chance, namespace) for namespace in NAMESPACES]
    kind = pod if chance.random() < 0.75 else workload_endpoint
    for namespace in NAMESPACES:
        for name in NAMES:
            labels = labels_of(chance, name)
            objects.append(kind(namespace, name, labels, addresses_of(placement, namespace, name), placement))
    return placement, objects


def namespace_object(chance: random.Random, name: str) -> Object:
    labels = {"ns": name}
    labels |= some(chance, "env", ("prod", "dev", "development"))
    labels |= some(chance, "team", ("red", "blue"))
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def labels_of(chance: random.Random, name: str) -> dict[str, str]:
    """`pod` is its name; the others by chance, and some missing."""
    labels = {"pod": name}
    labels |= some(chance, "tier", ("front", "front-end", "back", "back-end"))
    labels |= some(chance, "team", ("red", "blue"))
    labels |= some(chance, "app.kubernetes.io/name", ("shop", "bank"))
    return labels


def some(chance: random.Random, key: str, values: tuple[str, ...]) -> dict[str, str]:
    return {key: chance.choice(values)} if chance.random() < 0.7 else {}


def pod(namespace: str, name: str, labels: dict[str, str], addresses: tuple[str, str], placement: str) -> Object:
    ports = [{"name": port, "protocol": protocol, "containerPort": number} for port, protocol, number in PORTS[name]]
    # A name is one port of a container; two containers may have the same.
    first = [port for place, port in enumerate(ports) if port["name"] not in [one["name"] for one in ports[:place]]]
    containers = [{"name": "main", "image": "none", "ports": first}]
    if rest := [port for port in ports if port not in first]:
        containers.append({"name": "side", "image": "none", "ports": rest})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": f"n{node_of(placement, namespace, name)}", "containers": containers},
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]},
    }


def workload_endpoint(
    namespace: str, name: str, labels: dict[str, str], addresses: tuple[str, str], placement: str
) -> Object:
    node = f"n{node_of(placement, namespace, name)}"
    networks = [f"{address}/{ipaddress.ip_address(address).max_prefixlen}" for address in addresses]
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {"name": f"{node}-k8s-{name}-eth0", "namespace": namespace, "labels": labels},
        "spec": {
            "node": node,
            "orchestrator": "k8s",
            "pod": name,
            "endpoint": "eth0",
            "interfaceName": f"cali{namespace}{name}",
            "ipNetworks": networks,
            "ports": [{"name": port, "protocol": protocol, "port": number} for port, protocol, number in PORTS[name]],
        },
    }
