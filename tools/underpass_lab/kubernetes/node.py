"""A node: the configuration and the commands of its containerd and kubelet."""

import json
import pathlib
import shutil
import textwrap

from underpass_lab.kubernetes import image, root
from underpass_lab.kubernetes.credentials import Credentials
from underpass_lab.kubernetes.machine import Machine
from underpass_lab.kubernetes.plan import ADDRESSES, ADDRESSES6, GATE, Plan

SOCKET = "/run/containerd/containerd.sock"
CONTAINERD_CONFIG = "etc/containerd/config.toml"
KUBECONFIG = "/etc/kubernetes/kubelet.conf"
KUBELET_CONFIG = "/etc/kubernetes/kubelet.json"
CONTAINERD = ("containerd", "--config", f"/{CONTAINERD_CONFIG}")
# Every container has a copy of its image: overlayfs cannot lie on another one, as it would in a container.
SNAPSHOTTER = "native"


def prepare(machine: Machine, credentials: Credentials, programs: pathlib.Path) -> None:
    """Makes the root directory of a node, with the stock CNI plugins and without any CNI configuration."""
    directory = machine.root
    root.make(directory)
    shutil.copytree(programs / "cni", directory / "opt/cni/bin", dirs_exist_ok=True)
    (directory / "etc/hostname").write_text(f"{machine.name}\n", encoding="ascii")
    (directory / CONTAINERD_CONFIG).parent.mkdir()
    (directory / CONTAINERD_CONFIG).write_text(containerd_config(), encoding="ascii")
    shutil.copy(credentials.kubeconfig(machine.name), root.inside(directory, KUBECONFIG))
    config = json.dumps(kubelet_config(machine.plan), indent=1)
    root.inside(directory, KUBELET_CONFIG).write_text(config, encoding="ascii")


def containerd_config() -> str:
    """With less than all capabilities runc may not lower the score of the out-of-memory killer."""
    return textwrap.dedent(f"""\
        version = 2
        disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
          "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
          "io.containerd.snapshotter.v1.overlayfs", "io.containerd.internal.v1.tracing"]
        [grpc]
        address = "{SOCKET}"
        [plugins."io.containerd.grpc.v1.cri"]
        sandbox_image = "{image.PAUSE}"
        restrict_oom_score_adj = true
        disable_apparmor = true
        [plugins."io.containerd.grpc.v1.cri".containerd]
        snapshotter = "{SNAPSHOTTER}"
        [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "/opt/cni/bin"
        conf_dir = "/etc/cni/net.d"
        """)


def kubelet_config(plan: Plan) -> dict[str, object]:
    """No limits on the node as a whole, and no eviction: what else fills the host's disk is not the node's fault."""
    return {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDomain": "cluster.local",
        "evictionHard": {f"{signal}.available": "0%" for signal in ("memory", "nodefs", "imagefs")},
        "volumePluginDir": "/var/lib/kubelet/exec",
        "imageGCHighThresholdPercent": 100,
        # Its own 5 a second would be the speed at which a hundred pods come and go.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        # A pod that is deleted while it starts is looked at again after this, a minute by default.
        "syncFrequency": "2s",
        # Pods count until their objects are gone, which is long after their networks are.
        "maxPods": 250,
        "featureGates": {GATE.partition("=")[0]: True} if plan.dual_stack else {},
    }


def kubelet(machine: Machine) -> tuple[str, ...]:
    address = machine.plan.both(ADDRESSES[machine.name], ADDRESSES6[machine.name])
    return (
        *("kubelet", f"--config={KUBELET_CONFIG}", f"--kubeconfig={KUBECONFIG}"),
        *(f"--hostname-override={machine.name}", f"--node-ip={address}"),
        *("--container-runtime=remote", f"--container-runtime-endpoint=unix://{SOCKET}"),
    )


def load_image(machine: Machine, archive: pathlib.Path) -> None:
    """Makes the images of an archive known to containerd."""
    target = machine.root / "var/lib" / archive.name
    shutil.copy(archive, target)
    try:
        machine.run(
            *("/opt/kubernetes/bin/ctr", "--address", SOCKET, "--namespace", "k8s.io", "images", "import"),
            *("--snapshotter", SNAPSHOTTER, f"/var/lib/{archive.name}"),
            timeout=120,
        )
    finally:
        target.unlink()
