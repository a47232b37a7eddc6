"""A lab for policies: three nodes with three pods each, and daemons that read manifests.

                     n1                      n2                      n3
    slot 2           10.244.1.2 (p12)        10.244.2.2 (p22)        10.244.3.2 (p32)
    slot 3           10.244.1.3 (p13)        10.244.2.3 (p23)        10.244.3.3 (p33)
    slot 4           10.244.1.4 (p14)        10.244.2.4 (p24)        10.244.3.4 (p34)

Every pod has `fd00:10:244:NODE::SLOT` too: they are the addresses of the endpoints of `tests/policy/cluster.py`. The
pods of a node are at a bridge, so what they say to each other is for no daemon.
"""

import bootstrap

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from underpass_lab.api import Api
from underpass_lab.nodes import ADDRESSES, NodeLab, subnet

NODES = ("n1", "n2", "n3")
SLOTS = (2, 3, 4)
BRIDGE = "pods"


def pod_name(node: str, slot: int) -> str:
    """The namespace of a pod."""
    return f"p{node[1:]}{slot}"


def addresses(node: str, slot: int) -> tuple[str, str]:
    """Both addresses of a pod."""
    return f"10.244.{node[1:]}.{slot}", f"fd00:10:244:{node[1:]}::{slot}"


def all_pods() -> dict[str, tuple[str, str]]:
    """{namespace: its addresses}."""
    return {pod_name(node, slot): addresses(node, slot) for node in NODES for slot in SLOTS}


def node_of(pod: str) -> str:
    """The node that a pod is on."""
    return f"n{pod[1]}"


def subnets(node: str) -> list[str]:
    """Both subnets of a node."""
    return [subnet(node), f"fd00:10:244:{node[1:]}::/64"]


class PolicyLab(NodeLab):
    """T3 with three pods a node; the daemons' manifests are in `manifests`, one directory for all."""

    def __init__(self) -> None:
        super().__init__("T3", ipv6=True)
        self.manifests = self.dir / "policy.d"
        self.manifests.mkdir()
        self._apis: dict[str, Api] = {}

    def _add_pod(self, node: str) -> None:
        self.sysctl(node, {"ipv6/conf/all/forwarding": 1})
        gateway = [f"10.244.{node[1:]}.1", f"fd00:10:244:{node[1:]}::1"]
        self.ip(node, f"link add {BRIDGE} type bridge mcast_snooping 0", f"link set {BRIDGE} up")
        self.ip(node, f"address add {gateway[0]}/24 dev {BRIDGE}", f"address add {gateway[1]}/64 dev {BRIDGE} nodad")
        for slot in SLOTS:
            pod, (four, six) = pod_name(node, slot), addresses(node, slot)
            self.add_namespace(pod)
            self.link(node, f"pod{slot}", pod, "eth0")
            self.ip(node, f"link set pod{slot} master {BRIDGE}")
            self.ip(pod, f"address add {four}/24 dev eth0", f"address add {six}/64 dev eth0 nodad")
            self.ip(pod, f"route add default via {gateway[0]}", f"route add default via {gateway[1]}")

    def text(self, node: str, policy: Mapping[str, Any] | None, endpoints: Iterable[Mapping[str, Any]] = ()) -> str:
        """The configuration of a node; without `policy` there is none in it."""
        modes = ("Never", "Always")
        peers = {other: (ADDRESSES[other], subnets(other)) for other in NODES if other != node}
        extra = ""
        if policy is not None:
            keys = {"directory": str(self.manifests), **policy}
            extra = "\n[policy]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in keys.items())
        extra += "".join(endpoint_table(one) for one in endpoints)
        pools = [("10.244.0.0/16", *modes), ("fd00:10:244::/48", *modes)]
        return self.config(node, local=subnets(node), peers=peers, pools=pools, extra=extra)

    def start_all(self, policy: Mapping[str, Any] | None) -> None:
        """All three daemons."""
        for node in NODES:
            self.start_daemon(node, self.text(node, policy))

    def write(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Puts these manifests, and no others, into the directory."""
        names = {f"{number:03}.json": json.dumps(one) for number, one in enumerate(objects)}
        for file in self.manifests.iterdir():
            if file.name not in names:
                file.unlink()
        for name, text in names.items():
            (self.manifests / name).write_text(text, encoding="utf-8")

    def reload(self, texts: Mapping[str, str] | None = None) -> None:
        """Has all daemons read their files again, after their configurations were replaced by `texts`."""
        for node in NODES:
            if texts is not None:
                pathlib.Path(self.dir / f"{node}.toml").write_text(texts[node], encoding="utf-8")
            status, answer = self.api(node).ask("POST", "/v1/reload")
            if status != 200:
                raise AssertionError(f"{node}: reload: {status} {answer}")

    def api(self, node: str) -> Api:
        """A connection to the daemon of a node that stays."""
        if node not in self._apis:
            self._apis[node] = Api(self.daemons[node].socket)
        return self._apis[node]

    def forget(self) -> None:
        """Closes the connections to daemons that have ended."""
        for one in self._apis.values():
            one.close()
        self._apis.clear()

    def drop_counters(self, node: str) -> dict[str, int]:
        """{reason: count}, without a process."""
        counters: dict[str, int] = self.api(node).get("/v1/drops")
        return counters


def endpoint_table(endpoint: Mapping[str, Any]) -> str:
    """An [[endpoint]] of the configuration."""
    lines = [f"{key} = {toml(value)}" for key, value in endpoint.items()]
    return "\n[[endpoint]]\n" + "\n".join(lines) + "\n"


def toml(value: Any) -> str:
    """A value as TOML has it: JSON but for tables."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)
