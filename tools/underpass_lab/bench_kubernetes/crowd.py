"""Thousands of Node objects that no machine stands for, as large as those of machines."""

import ipaddress
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from underpass_lab.kubernetes.client import NAMESPACES, NODES, Client, node
from underpass_lab.kubernetes.cluster import Cluster

# Pod subnets and addresses of the nodes, and the pool that the subnets are in.
SUBNETS = ipaddress.ip_network("10.64.0.0/10")
ADDRESSES = ipaddress.ip_network("172.16.0.0/12")
POOL = "10.0.0.0/8"
THREADS = 8
# Of pods and policies.
SPACES = 50
NETWORKING = "/apis/networking.k8s.io/v1/namespaces"
CONDITIONS = ("MemoryPressure", "DiskPressure", "PIDPressure", "Ready", "NetworkUnavailable")


def name(number: int) -> str:
    return f"node-{number:05}"


def subnet(number: int) -> ipaddress.IPv4Network:
    """The pod subnet of a node."""
    return ipaddress.IPv4Network((int(SUBNETS.network_address) + 256 * number, 24))


def pod(number: int) -> str:
    """The address of a pod on a node."""
    return str(subnet(number)[9])


def address(number: int) -> str:
    """The underlay address of a node."""
    return str(ADDRESSES[number + 1])


def full(number: int) -> dict[str, Any]:
    """A Node with what kubelets say: labels, conditions, images."""
    made = node(name(number), str(subnet(number)), [address(number)])
    made["metadata"]["labels"] = {f"topology.example/label-{index}": "value" * 4 for index in range(15)}
    made["status"] |= {
        "conditions": [condition(kind, number) for kind in CONDITIONS],
        "images": [
            {"names": [f"registry.example/group/image-{index}@sha256:{index:064}"], "sizeBytes": 10**8}
            for index in range(40)
        ],
        "capacity": {"cpu": "32", "memory": "131072Mi", "pods": "110"},
    }
    return made


def condition(kind: str, number: int) -> dict[str, str]:
    """A condition of a node that is well."""
    said = {"reason": f"Kubelet{kind}", "message": f"kubelet of {name(number)} says {kind}"}
    return said | {"type": kind, "status": "True" if kind == "Ready" else "False"}


def make(cluster: Cluster, count: int) -> None:
    """Creates `count` nodes, several at a time."""
    each(cluster, count, lambda client, number: client.create(NODES, full(number)))


def each(cluster: Cluster, count: int, do: Callable[[Client, int], object]) -> None:
    """Calls `do` for the number of each node, in several threads with a connection each."""

    def part(first: int) -> None:
        client = Client(cluster)
        try:
            for number in range(first, count, THREADS):
                do(client, number)
        finally:
            client.close()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(part, range(THREADS)))


def beats() -> Callable[[Client, int, int], object]:
    """A function that says what a kubelet says every five minutes: the same, a little later."""
    numbers = itertools.count()

    def beat(client: Client, count: int, _: int) -> object:
        number = next(numbers) % count
        minute, second = divmod(next(numbers) % 3600, 60)
        time = f"2030-01-01T00:{minute:02}:{second:02}Z"
        conditions = [condition(kind, number) | {"lastHeartbeatTime": time} for kind in CONDITIONS]
        return client.patch(f"{NODES}/{name(number)}/status", {"status": {"conditions": conditions}})

    return beat


# --- pods and policies ----------------------------------------------------------------------------


def space(number: int) -> str:
    """The namespace of a pod or a policy."""
    return f"space-{number % SPACES}"


def app(number: int) -> str:
    """What a pod is; ten of a namespace are the same."""
    return f"app-{number // SPACES // 10}"


def pod_path(number: int) -> str:
    return f"{NAMESPACES}/{space(number)}/pods/pod-{number:06}"


def make_spaces(client: Client) -> None:
    """Namespaces, with what the controllers would put there."""
    for number in range(SPACES):
        client.create(NAMESPACES, {"metadata": {"name": space(number), "labels": {"number": f"{number % 5}"}}})
        client.create(f"{NAMESPACES}/{space(number)}/serviceaccounts", {"metadata": {"name": "default"}})


def make_pods(cluster: Cluster, count: int, nodes: int) -> None:
    """Creates `count` pods that run on the nodes, each as large as those of real programs."""

    def make_pod(client: Client, number: int) -> None:
        environment = [{"name": f"VARIABLE_{index}", "value": "value" * 8} for index in range(20)]
        container = {"name": "main", "image": "registry.example/group/image:1", "env": environment}
        metadata = {
            "name": f"pod-{number:06}",
            "labels": {"app": app(number), "hash": f"{number // 10}", "number": f"{number % 7}"},
        }
        spec = {
            "nodeName": name(number % nodes),
            "automountServiceAccountToken": False,
            "containers": [container],
        }
        client.create(f"{NAMESPACES}/{space(number)}/pods", {"metadata": metadata, "spec": spec})
        address = str(subnet(number % nodes)[10 + number // nodes])
        client.patch(f"{pod_path(number)}/status", {"status": running(address)})

    each(cluster, count, make_pod)


def running(address: str) -> dict[str, Any]:
    """The status of a pod that runs."""
    return {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}


def make_policies(cluster: Cluster, count: int) -> None:
    """Creates `count` policies: each lets two apps of its namespace, and those of other namespaces, to a third one."""
    each(cluster, count, lambda client, number: client.create(policies(number), policy(number)))


def policies(number: int) -> str:
    return f"{NETWORKING}/{space(number)}/networkpolicies"


def policy(number: int) -> dict[str, Any]:
    """A policy about the pods of one app."""
    near = number // SPACES
    of = [{"podSelector": {"matchLabels": {"app": f"app-{near + other}"}}} for other in (1, 2)]
    far = {"namespaceSelector": {"matchLabels": {"number": f"{number % 5}"}}}
    ports = [{"port": port, "protocol": "TCP"} for port in (80, 443)]
    spec = {
        "podSelector": {"matchLabels": {"app": f"app-{near}"}},
        "ingress": [{"from": [*of, far], "ports": ports}],
    }
    return {"metadata": {"name": f"policy-{number:05}"}, "spec": spec}
