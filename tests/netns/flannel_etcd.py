"""What the tests with etcd have in common: three nodes that find each other by it, and records as flanneld has them."""

import bootstrap

import functools
import json
from collections.abc import Callable
from typing import Any, ClassVar

from pings import Pings
from shared import METRICS, SharedLab
from underpass_lab.command import wait_until
from underpass_lab.etcd import Authority, Etcd, EtcdLab
from underpass_lab.nodes import ADDRESSES, PODS

# A change in etcd has to reach routes within this.
CHANGE_S = 5.0
# After an outage nodes try again at growing intervals.
BACK_S = 30.0


def record(address: str, mac: str = "", backend: str = "vxlan", **more: Any) -> str:
    """The value of a node's record as flanneld writes it."""
    value: dict[str, Any] = {"PublicIP": address, "PublicIPv6": None, "BackendType": backend}
    if mac:
        value["BackendData"] = {"VNI": 1, "VtepMAC": mac}
    return json.dumps(value | more, separators=(",", ":"))


class WithEtcd(SharedLab):
    """Three nodes in two subnets, whose files have nothing but the address of etcd."""

    lab: EtcdLab
    topology = "T3"
    lab_type = EtcdLab
    daemons = ()
    backend: ClassVar[str] = "vxlan"
    network: ClassVar[dict[str, Any]] = {}
    nodes: ClassVar[tuple[str, ...]] = ("n1", "n2", "n3")
    tls: ClassVar[bool] = False
    etcd: ClassVar[Etcd]

    @classmethod
    def prepare(cls) -> None:
        authority = Authority(cls.lab.dir / "tls") if cls.tls else None
        cls.etcd = Etcd(cls.lab, authority=authority)
        cls.etcd.configure(cls.backend, **cls.network)
        for node in cls.nodes:
            cls.begin(node)
        cls.all_know_all()

    @classmethod
    def begin(cls, node: str, keys: str = "", more: str = "") -> None:
        """Starts the daemon of a node in place of the one that runs there."""
        cls.stop(node)
        cls.lab.start_node(node, cls.etcd, keys, METRICS + more)

    @classmethod
    def all_know_all(cls, timeout: float = CHANGE_S) -> None:
        """Waits until every node has the subnets of the others, and nothing else."""
        wait_until(lambda: all(cls.lab.knows_all(node) for node in cls.lab.pods), timeout, "all subnets on all nodes")

    def pings(self, source: str, target: str) -> Pings:
        entry = ("ip", "netns", "exec", self.lab.ns(PODS[source]))
        return Pings(entry, self.lab.pods[target], f"{source} to {target}")

    def all_pairs(self, size: int = 1 << 20) -> None:
        """Ping and TCP between all pods, in both directions."""
        for source in self.lab.pods:
            for target, address in self.lab.pods.items():
                if source != target:
                    with self.subTest(f"{source} to {target}"):
                        self.assertEqual(self.lab.ping(PODS[source], address), 3)
                        self.lab.tcp_transfer(PODS[source], PODS[target], address, size)

    @classmethod
    def on_all(cls, predicate: Callable[[str], Any], what: str, timeout: float = CHANGE_S) -> None:
        """Waits until this is so on every node."""
        for node in cls.nodes:
            wait_until(functools.partial(predicate, node), timeout, f"{what} on {node}")

    def key(self, node: str) -> str:
        """The key of a node's subnet, below `subnets/`."""
        return self.lab.subnet(node).replace("/", "-")

    def log(self, node: str) -> str:
        return self.lab.daemons[node].log()

    def says(self, node: str, text: str, timeout: float = BACK_S) -> None:
        """Waits until a node has logged this."""
        wait_until(lambda: text in self.log(node), timeout, f"{text!r} in the log of {node}")

    def degraded(self, node: str, timeout: float = BACK_S) -> str:
        """Waits until a node shows that it cannot follow etcd; why."""
        wait_until(lambda: self.lab.source(node)["state"] == "degraded", timeout, f"{node} to be degraded")
        return str(self.lab.source(node)["reason"])

    def following(self, node: str, timeout: float = BACK_S) -> None:
        """Waits until a node follows etcd."""
        wait_until(lambda: self.lab.source(node)["state"] == "following", timeout, f"{node} to follow etcd")

    def assert_own_record(self, node: str, backend: str = "vxlan") -> None:
        """What a node says of itself is what flanneld would."""
        mac = self.lab.status(node)["tunnel"]["vtep_mac"] if backend == "vxlan" else ""
        found = self.etcd.records()[self.key(node)]
        self.assertEqual(found.value, record(ADDRESSES[node], mac, backend))
        self.assertNotEqual(found.lease, 0)
