"""Pods of a real node, with underpass installed by its manifest: hundreds of ADD and DEL through containerd, and what
happens to pods while the daemon is away."""

import bootstrap

import collections
import json
import time
from typing import Any, ClassVar

from clustered import Clustered, Stream
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.daemon import binary
from underpass_lab.kubernetes import install, pods
from underpass_lab.kubernetes.plan import ADDRESSES, CONTROL_ADDRESS
from underpass_lab.kubernetes.pods import LIST, Pod

NODE = "n1"
# The second round uses the addresses of the first again.
MANY = 100
ROUNDS = 2
# A round of 100 takes the kubelet half a minute on two busy cores.
ROUND_S = 120
FLANNEL_NODE = install.MANIFEST.with_name("underpass-flannel-node.yaml")
DAEMON = ("--namespace=underpass", "--selector=app=underpass")


class CniOfANode(Clustered):
    nodes: ClassVar[int] = 1
    pod: ClassVar[Pod]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        install.load_image(cls.cluster)
        install.apply(cls.cluster, install.manifest())
        cls.cluster.wait_nodes_ready()

    def listed(self, name: str) -> list[dict[str, Any]]:
        """The pods of a workload, without those that are being deleted."""
        items: list[dict[str, Any]] = self.client.get(f"{LIST}{name}")["items"]
        return [item for item in items if "deletionTimestamp" not in item["metadata"]]

    def scale(self, count: int) -> list[str]:
        """Waits until so many pods run, and all others are being deleted; their addresses."""
        self.cluster.kubectl("scale", "deployment", "many", f"--replicas={count}")

        def there() -> bool:
            time.sleep(0.3)
            items = self.listed("many")
            return len(items) == count and all(item["status"]["phase"] == "Running" for item in items)

        try:
            wait_until(there, ROUND_S, f"{count} pods")
        except Failure as failure:
            phases = collections.Counter(item["status"]["phase"] for item in self.listed("many"))
            wanted = "--field-selector=type=Warning,reason!=MissingClusterDNS"
            events = self.cluster.kubectl("get", "events", wanted).splitlines()
            raise Failure("\n".join([str(failure), str(dict(phases)), *events[:10]])) from None
        return [item["status"]["podIP"] for item in self.listed("many")]

    def endpoints(self) -> list[dict[str, Any]]:
        """The pods that the daemon knows."""
        socket = self.cluster.node(NODE).path(install.SOCKET)
        found = json.loads(run(binary(), "endpoint", "list", "-o", "json", "--socket", socket).stdout)
        return list(found)

    def nothing_left(self) -> None:
        """Whatever pods had on the node is gone; that of one which is being deleted, soon."""
        wait_until(lambda: pods.left(self.cluster.node(NODE)) == [], ROUND_S, "the end of interfaces and records")
        wait_until(lambda: self.endpoints() == [], 10, "the end of endpoints")

    def daemons(self) -> list[Any]:
        """The pods of underpass."""
        time.sleep(0.3)
        return list(self.client.get("/api/v1/namespaces/underpass/pods")["items"])

    def stop_daemon(self) -> None:
        """Takes the daemon off the node; the manifest stays."""
        self.place({"underpass": "nowhere"})
        try:
            wait_until(lambda: not self.daemons(), ROUND_S, "the end of the daemon")
        except Failure as failure:
            raise Failure(f"{failure}\n{self.cluster.kubectl('describe', 'pods', *DAEMON)}") from None

    def start_daemon(self) -> None:
        """Brings it back, and waits until it answers."""
        self.place({"underpass": None})
        self.wait_daemon()

    def place(self, selector: dict[str, str | None]) -> None:
        change = {"spec": {"template": {"spec": {"nodeSelector": selector}}}}
        self.client.patch("/apis/apps/v1/namespaces/underpass/daemonsets/underpass", change)

    def wait_daemon(self) -> None:
        socket = self.cluster.node(NODE).path(install.SOCKET)
        words = (binary(), "status", "--socket", socket)
        wait_until(lambda: run(*words, check=False).returncode == 0, 60, "the daemon")

    def test_1_hundreds_of_pods_come_and_go(self) -> None:
        self.cluster.apply(pods.workload("Deployment", "many", replicas=0))
        for number in range(ROUNDS):
            begun = time.monotonic()
            addresses = self.scale(MANY)
            self.assertEqual(len(set(addresses)), MANY)
            wait_until(lambda: len(self.endpoints()) == MANY, 10, "an endpoint for each pod")
            endpoints = self.endpoints()
            self.assertEqual({one["addresses"][0].partition("/")[0] for one in endpoints}, set(addresses))
            up = time.monotonic() - begun
            self.scale(0)
            self.nothing_left()
            print(f"round {number + 1}: {MANY} ADD in {up:.1f} s, as many DEL in {time.monotonic() - begun - up:.1f} s")

    def test_2_a_daemon_that_restarts_disturbs_no_pod(self) -> None:
        self.cluster.apply(pods.workload("Deployment", "many", replicas=2))
        self.scale(2)
        pod = pods.start(self.cluster, self.client)[NODE]
        type(self).pod = pod
        address = next(item["status"]["podIP"] for item in self.listed("many"))
        before = self.endpoints()
        with Stream(pod, address) as near, Stream(pod, ADDRESSES[NODE]) as node:
            self.cluster.kubectl("delete", "pods", *DAEMON, "--timeout=60s", timeout=70)
            self.wait_daemon()
            self.cluster.wait_nodes_ready()
        for stream in (near, node):
            self.assertGreater(stream.sent, 20, stream.what)
            self.assertEqual(stream.lost, 0, stream.what)
        self.assertCountEqual(self.endpoints(), before)
        # What is masqueraded waits for the daemon.
        self.assertEqual(pod.ping(CONTROL_ADDRESS), 3)

    def test_3_a_pod_is_deleted_while_the_daemon_is_away(self) -> None:
        self.stop_daemon()
        self.assertEqual(self.pod.ping(ADDRESSES[NODE]), 3)
        self.cluster.kubectl("delete", "daemonset", "pods")
        self.scale(0)
        wait_until(lambda: pods.left(self.cluster.node(NODE)) == [], ROUND_S, "the end of interfaces and records")
        self.assertEqual(self.daemons(), [])
        self.start_daemon()
        self.nothing_left()

    def test_4_flannels_variant_reads_flannels_configuration(self) -> None:
        """With the rights of its manifest alone; the network is not flannel's usual one."""
        self.cluster.kubectl("delete", "--filename=-", input=install.manifest(), timeout=90)
        conf = json.dumps({"Network": "10.244.0.0/17", "Backend": {"Type": "vxlan", "VNI": 5, "Port": 8479}})
        self.client.create("/api/v1/namespaces", {"metadata": {"name": "kube-flannel"}})
        for name, data in (("kube-flannel-cfg", {"net-conf.json": conf}), ("another", {})):
            body = {"metadata": {"name": name}, "data": data}
            self.client.create("/api/v1/namespaces/kube-flannel/configmaps", body)
        install.apply(self.cluster, install.manifest(path=FLANNEL_NODE))
        self.cluster.kubectl("label", "node", NODE, "underpass=true")
        self.wait_daemon()
        answer = install.daemon_status(self.cluster, NODE)
        (source,) = answer["sources"]
        self.assertEqual((source["style"], source["state"], source["problems"]), ("flannel", "following", []))
        subnet_file = self.cluster.node(NODE).path("/run/flannel/subnet.env")
        wait_until(subnet_file.exists, 10, "subnet.env")
        self.assertIn("FLANNEL_NETWORK=10.244.0.0/17\n", subnet_file.read_text(encoding="ascii"))

        def backend() -> str:
            annotations = self.client.get(f"/api/v1/nodes/{NODE}")["metadata"]["annotations"]
            return str(annotations.get("flannel.alpha.coreos.com/backend-data", ""))

        wait_until(lambda: '"VNI":5' in backend(), 10, "the annotations")
        account = "--as=system:serviceaccount:underpass:underpass-flannel-node"
        for words, allowed in (
            (("get", "configmaps/kube-flannel-cfg", "--namespace=kube-system"), "yes"),
            (("get", "configmaps/another", "--namespace=kube-flannel"), "no"),
            (("list", "configmaps", "--namespace=kube-flannel"), "no"),
            (("get", "secrets", "--all-namespaces"), "no"),
        ):
            said = self.cluster.kubectl("auth", "can-i", *words, account, check=False).strip()
            self.assertEqual(said, allowed, words)
