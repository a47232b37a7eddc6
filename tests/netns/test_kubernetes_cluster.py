"""The Kubernetes cluster itself: what tests of underpass in a cluster build on has to hold first."""

import bootstrap

import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import unittest
from typing import Any, ClassVar

from underpass_lab import netns
from underpass_lab.command import Failure, wait_until
from underpass_lab.kubernetes import binaries, cgroups
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.image import BUSYBOX
from underpass_lab.paths import REPO

PODS = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "pods"},
    "spec": {
        "selector": {"matchLabels": {"app": "pods"}},
        "template": {
            "metadata": {"labels": {"app": "pods"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "pod", "image": BUSYBOX, "imagePullPolicy": "Never"}],
            },
        },
    },
}
# What a kubelet or a container runtime makes on a host that it has to itself.
TRACES = (
    *("/var/lib/kubelet", "/var/lib/containerd", "/var/log/pods", "/run/containerd", "/etc/cni", "/opt/cni"),
    "/usr/libexec/kubernetes",
)
POLL_S = 120


def setUpModule() -> None:
    binaries.build()


def new_state() -> pathlib.Path:
    """A directory for a cluster that is not there yet."""
    with tempfile.TemporaryDirectory(prefix=f"upk{os.getpid()}-") as directory:
        return pathlib.Path(directory)


def left(cluster: Cluster, traces: set[str]) -> list[object]:
    """What there is of a cluster on this host."""
    found: list[object] = list(netns.NAMES.glob(f"{cluster.plan.id}*"))
    found += [pid for machine in (cluster.control, *cluster.nodes.values()) for pid in machine.keepers()[True]]
    found += [mounted / cluster.plan.id for mounted in cgroups.hierarchies() if (mounted / cluster.plan.id).exists()]
    mounts = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found += [line for line in mounts if str(cluster.state) in line]
    found += [path for path in TRACES if os.path.exists(path) and path not in traces]
    return found + [cluster.state] * cluster.state.exists()


def traces() -> set[str]:
    """What was there before."""
    return {path for path in TRACES if os.path.exists(path)}


def running(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}")}


class TwoNodes(unittest.TestCase):
    cluster: ClassVar[Cluster]
    before: ClassVar[set[str]]

    @classmethod
    def setUpClass(cls) -> None:
        cls.before = traces()
        cls.cluster = Cluster.up(new_state())
        # Harmless after the test of the end.
        cls.addClassCleanup(cls.cluster.down)

    def pods(self) -> dict[str, dict[str, Any]]:
        """The pods that run, by node."""
        items = self.cluster.get("pods", "--selector=app=pods")
        return {item["spec"]["nodeName"]: item for item in items if item["status"]["phase"] == "Running"}

    def test_1_pods_get_addresses_of_their_node(self) -> None:
        conditions = self.cluster.get("nodes")[0]["status"]["conditions"]
        self.assertIn(("Ready", "False"), [(item["type"], item["status"]) for item in conditions])
        self.cluster.use_test_cni()
        self.cluster.wait_nodes_ready()
        self.cluster.apply(json.dumps(PODS))
        wait_until(lambda: len(self.pods()) == 2, POLL_S, "a pod on each node")
        for name, pod in self.pods().items():
            (subnet,) = self.cluster.pod_subnets(name)
            address = pod["status"]["podIP"]
            self.assertIn(ipaddress.ip_address(address), ipaddress.ip_network(subnet))
            self.assertEqual(self.cluster.underlay.ping(name, address), 3)
            shown = self.cluster.kubectl("exec", pod["metadata"]["name"], "--", "ip", "-o", "address", "show", "eth0")
            self.assertIn(f" {address}/", shown)

    def test_2_custom_resources_are_written(self) -> None:
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        names = {"kind": "Thing", "listKind": "ThingList", "plural": "things", "singular": "thing"}
        versions = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
        spec = {"group": "underpass.test", "scope": "Cluster", "names": names, "versions": versions}
        kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
        self.cluster.apply(json.dumps(kind | {"metadata": {"name": "things.underpass.test"}}))
        self.cluster.kubectl("wait", "--for=condition=Established", "crd/things.underpass.test")
        thing = {"apiVersion": "underpass.test/v1", "kind": "Thing", "metadata": {"name": "one"}, "spec": {"a": [1]}}
        self.cluster.apply(json.dumps(thing))
        (found,) = self.cluster.get("things.underpass.test")
        self.assertEqual(found["spec"], {"a": [1]})

    def test_3_a_node_may_change_itself_only(self) -> None:
        as_n1 = f"--kubeconfig={self.cluster.kubeconfig('n1')}"
        self.cluster.kubectl("annotate", "node", "n1", "underpass.test/a=b", as_n1)
        with self.assertRaisesRegex(Failure, 'node "n1" is not allowed to modify node "n2"'):
            self.cluster.kubectl("annotate", "node", "n2", "underpass.test/a=b", as_n1)

    def test_4_an_image_is_made_of_files(self) -> None:
        name = "docker.io/local/hash:1"
        program = pathlib.Path("/usr/bin/sha256sum")
        self.cluster.load_image(name, {"usr/bin/sha256sum": program}, ["/usr/bin/sha256sum", "/usr/bin/sha256sum"])
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": name, "imagePullPolicy": "Never"}]}
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "hash"}, "spec": pod}))
        phase = ("get", "pod", "hash", "--output=jsonpath={.status.phase}")
        wait_until(lambda: self.cluster.kubectl(*phase) == "Succeeded", POLL_S, "the end of the pod")
        expected = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True).stdout
        self.assertEqual(self.cluster.kubectl("logs", "hash"), expected)

    def test_5_the_api_server_goes_and_comes_back(self) -> None:
        pods = self.pods()
        self.cluster.kill_api_server()
        with self.assertRaises(Failure):
            self.cluster.kubectl("get", "nodes")
        for name, pod in pods.items():
            self.assertEqual(self.cluster.underlay.ping(name, pod["status"]["podIP"]), 3)
        self.cluster.start_api_server()
        self.assertEqual({item["metadata"]["name"] for item in self.cluster.get("nodes")}, {"n1", "n2"})

    def test_6_a_node_has_its_own_files_and_the_programs_of_the_host(self) -> None:
        node = self.cluster.node("n1")
        self.assertEqual(node.run("ls", "/sys/class/net").stdout.split()[:2], ["eth0", "lo"])
        node.run("sh", "-c", "mkdir /run/underpass && echo here >/run/underpass/file")
        self.assertEqual(node.path("/run/underpass/file").read_text(encoding="ascii"), "here\n")
        self.assertFalse(self.cluster.node("n2").path("/run/underpass").exists())
        with self.assertRaisesRegex(Failure, "Read-only file system"):
            node.run("touch", "/usr/file")

    def test_7_a_node_goes_and_comes_back(self) -> None:
        before = {name: pod["status"]["podIP"] for name, pod in self.pods().items()}
        self.cluster.kill_node("n2")
        with self.assertRaisesRegex(Failure, "n2 does not run"):
            self.cluster.node("n2").run("true")
        self.assertEqual(self.cluster.underlay.ping("n2", before["n2"], "-W", "0.1"), 0)
        self.cluster.start_node("n2")

        def is_back() -> bool:
            status = self.pods().get("n2", {"status": {}})["status"]
            restarted = status.get("containerStatuses", [{}])[0].get("restartCount", 0)
            return bool(restarted) and self.cluster.underlay.ping("n2", status["podIP"]) == 3

        wait_until(is_back, POLL_S, "the pod of n2")

    def test_9_the_end_leaves_nothing(self) -> None:
        machines = (self.cluster.control, *self.cluster.nodes.values())
        pids = {process.pid for machine in machines for process in machine.processes()}
        self.assertGreater(len(pids), 10)
        self.cluster.down()
        self.assertEqual(left(self.cluster, self.before), [])
        # What has no parent any more is gone when this system's first process has looked after it.
        wait_until(lambda: not running(pids), 5, "the end of all processes")


class Interrupted(unittest.TestCase):
    def begin(self, state: pathlib.Path) -> tuple[Cluster, "subprocess.Popen[str]"]:
        """An `up` that has come as far as starting a node."""
        process = subprocess.Popen(
            [REPO / "scripts/kubernetes", "up", "--state", state, "--nodes", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        cluster = Cluster(state)
        self.addCleanup(cluster.down)
        wait_until(lambda: cluster.nodes["n1"].keepers()[True] or process.poll() is not None, 60, "a node")
        return cluster, process

    def test_an_interrupted_up_leaves_nothing(self) -> None:
        before = traces()
        for number in (signal.SIGINT, signal.SIGTERM):
            cluster, process = self.begin(new_state())
            process.send_signal(number)
            process.communicate(timeout=POLL_S)
            self.assertEqual(process.returncode, 128 + number)
            self.assertEqual(left(cluster, before), [])

    def test_down_ends_what_a_killed_up_has_left(self) -> None:
        before = traces()
        cluster, process = self.begin(new_state())
        process.kill()
        process.communicate(timeout=POLL_S)
        self.assertNotEqual(left(cluster, before), [])
        subprocess.run([REPO / "scripts/kubernetes", "down", "--state", cluster.state], check=True)
        self.assertEqual(left(cluster, before), [])
