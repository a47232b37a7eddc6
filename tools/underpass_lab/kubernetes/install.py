"""underpass in a cluster as a user installs it: an image on each node, and `kubectl apply` of one manifest."""

import json
import pathlib
import shutil
import tempfile
from typing import Any

from underpass_lab.api import status
from underpass_lab.command import Failure, run
from underpass_lab.daemon import binary
from underpass_lab.kubernetes import binaries
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.plan import API_PORT, CONTROL_ADDRESS
from underpass_lab.paths import REPO

IMAGE = "docker.io/library/underpass:latest"
MANIFEST = REPO / "config" / "kubernetes" / "underpass.yaml"
NAMESPACE = "underpass"
SOCKET = "/run/underpass/underpass.sock"
CONFLIST = "/etc/cni/net.d/10-underpass.conflist"
# What the image has besides the two programs: what the init step of the manifest uses, nft, and the stock plugins.
SHELL = ("sh", "cp", "mv", "chmod")
PLUGINS = ("ptp", "host-local", "portmap")


def load_image(cluster: Cluster) -> int:
    """Gives every node the image that config/kubernetes/Containerfile describes, here made without a builder; its
    size in bytes."""
    daemon = pathlib.Path(binary())
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not nft:
        raise Failure("there is no nft to put into the image: apt-get install nftables")
    programs = binaries.needed()
    with tempfile.TemporaryDirectory(prefix="programs-", dir=cluster.state) as directory:
        files = {"bin/busybox": programs / "bin/busybox", "usr/sbin/nft": pathlib.Path(nft)}
        files |= {f"usr/lib/cni/{name}": programs / "cni" / name for name in PLUGINS}
        for name in ("underpass", "underpass-cni"):
            source = daemon if name == "underpass" else daemon.with_name(name)
            stripped = pathlib.Path(directory, name)
            run("strip", "-o", stripped, source, timeout=120)
            files[f"usr/local/bin/{name}"] = stripped
        links = {f"bin/{name}": "busybox" for name in SHELL}
        return cluster.load_image(IMAGE, files, ["/usr/local/bin/underpass"], links)


def manifest(mode: str = "CrossSubnet", path: pathlib.Path = MANIFEST) -> str:
    """The manifest as it is, but for the mode."""
    return run("sed", f"s/Always/{mode}/", path).stdout


def apply(cluster: Cluster, text: str) -> None:
    """Applies a manifest. This cluster has no kube-proxy, so the address of the API server comes before it."""
    metadata: dict[str, Any] = {"name": NAMESPACE}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    data = {"KUBERNETES_SERVICE_HOST": CONTROL_ADDRESS, "KUBERNETES_SERVICE_PORT": str(API_PORT)}
    metadata = {"name": "kubernetes-services-endpoint", "namespace": NAMESPACE}
    endpoint = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [namespace, endpoint]}))
    cluster.apply(text)


def daemon_status(cluster: Cluster, node: str) -> dict[str, Any]:
    """What the daemon of a node says of itself; Failure when it does not answer."""
    answer = status(cluster.node(node).path(SOCKET))
    if answer is None:
        raise Failure(f"the daemon on {node} does not answer; its pods:\n{described(cluster)}")
    return answer


def described(cluster: Cluster) -> str:
    """The pods of underpass and what they have said, for a failure."""
    pods = cluster.kubectl("get", "pods", f"--namespace={NAMESPACE}", "--output=wide", check=False)
    words = ("logs", f"--namespace={NAMESPACE}", "--selector=app=underpass", "--all-containers", "--tail=20")
    return pods + cluster.kubectl(*words, check=False)
