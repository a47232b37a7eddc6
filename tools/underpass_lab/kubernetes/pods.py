"""One pod on each node of a cluster, and what flows between them."""

import json
import pathlib
import re
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass

from underpass_lab.command import Failure, run, wait_until
from underpass_lab.kubernetes.client import Client
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.image import BUSYBOX
from underpass_lab.kubernetes.machine import Machine
from underpass_lab.paths import PYTHON, TRAFFIC

POD_S = 120
PORT = 5001
LIST = "/api/v1/namespaces/default/pods?labelSelector=app%3D"


def workload(kind: str, name: str, **spec: object) -> str:
    """The manifest of a DaemonSet or of a Deployment of pods that sleep, labelled `app=NAME`."""
    container = {"name": "pod", "image": BUSYBOX, "imagePullPolicy": "Never"}
    pod = {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    whole = {"selector": {"matchLabels": {"app": name}}, "template": template, **spec}
    return json.dumps({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": whole})


@dataclass(frozen=True)
class Pod:
    """A pod that runs; `namespace` is its network namespace."""

    node: str
    addresses: tuple[str, ...]
    namespace: str

    @property
    def address(self) -> str:
        return self.addresses[0]

    def entry(self) -> tuple[str, ...]:
        """The words before a command of this host that shall be in its network."""
        return ("nsenter", f"--net={self.namespace}")

    def ping(self, address: str, *options: object, count: int = 3) -> int:
        """How many of `count` pings were answered."""
        words = ("ping", "-n", "-c", count, "-i", "0.02", "-W", "3", *options, address)
        found = re.search(r"(\d+) received", run(*self.entry(), *words, check=False).stdout)
        return int(found[1]) if found else 0

    def transfer(self, target: "Pod", address: str, size: int = 4 << 20) -> str:
        """Sends random bytes over TCP; Failure unless they arrive with the same hash, which it returns."""
        words = (*target.entry(), PYTHON, TRAFFIC, "tcp-receive", str(PORT))
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as receiver:
            try:
                listens = (*target.entry(), "ss", "-Hnlt", f"sport = :{PORT}")
                wait_until(lambda: run(*listens).stdout, 10, f"a listener on {PORT}")
                sent = run(*self.entry(), PYTHON, TRAFFIC, "tcp-send", address, PORT, size, timeout=60).stdout
                received, _ = receiver.communicate(timeout=30)
            finally:
                receiver.kill()
        if sent != received or not sent.startswith(f"{size} "):
            raise Failure(f"{self.node} to {target.node}: sent {sent!r}, received {received!r}")
        return sent.split()[1]


def start(cluster: Cluster, client: Client, nodes: Collection[str] | None = None) -> dict[str, Pod]:
    """Starts a pod on each node, and waits for those on `nodes`, by default all; pods by node."""
    cluster.apply(workload("DaemonSet", "pods"))
    wanted = set(nodes or cluster.nodes)

    def found() -> dict[str, Pod]:
        time.sleep(0.3)
        items = client.get(f"{LIST}pods")["items"]
        up = {item["spec"].get("nodeName"): item for item in items if item["status"]["phase"] == "Running"}
        if not wanted <= up.keys():
            return {}
        all_of = {name: tuple(one["ip"] for one in up[name]["status"]["podIPs"]) for name in sorted(wanted)}
        return {
            name: Pod(name, addresses, network_namespace(cluster.node(name), addresses[0]))
            for name, addresses in all_of.items()
        }

    return wait_until(found, POD_S, f"a pod on each of {', '.join(sorted(wanted))}")


def network_namespace(machine: Machine, address: str) -> str:
    """The network namespace of a pod on a node: where the runtime of the node has bound it, seen from this host."""
    for path in pathlib.Path(f"/proc/{machine.needed_keeper()}/root/run/netns").iterdir():
        if f" {address}/" in run("nsenter", f"--net={path}", "ip", "-o", "address", check=False).stdout:
            return str(path)
    raise Failure(f"no pod on {machine.name} has {address}")


def left(machine: Machine) -> list[str]:
    """What there is of pods with a network of their own on a node: interfaces, addresses, records."""
    links = machine.run("ip", "-o", "link", "show", "type", "veth").stdout.splitlines()
    # The node's own end of the underlay is a veth too, and so is the daemon's pair on which the kernel joins packets.
    found = [line for line in links if not re.search(r"^\d+: eth0@|\balias underpass:", line)]
    records = machine.path("/run/underpass/cni")
    # host-local keeps the last address and a lock there.
    kept = {"lock"}
    files = [path for path in records.rglob("*") if path.is_file()] if records.exists() else []
    return found + [str(path) for path in files if path.name not in kept and not path.name.startswith("last_reserved")]
