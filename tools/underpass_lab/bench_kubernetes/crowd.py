"""Thousands of Node objects that no machine stands for, as large as those of machines."""

import ipaddress
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from underpass_lab.kubernetes.client import NODES, Client, node
from underpass_lab.kubernetes.cluster import Cluster

# Pod subnets and addresses of the nodes, and the pool that the subnets are in.
SUBNETS = ipaddress.ip_network("10.64.0.0/10")
ADDRESSES = ipaddress.ip_network("172.16.0.0/12")
POOL = "10.0.0.0/8"
THREADS = 8
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
