"""Network policy of a cluster: objects in a real API server, and what then passes between pods of two nodes."""

import bootstrap

import json
import pathlib
import time
import unittest
from collections.abc import Callable
from typing import Any, ClassVar

import yaml

from clustered import BACK_S, Clustered
from reachability import End, Probe, Reachability, difference
from underpass_lab.command import wait_until
from underpass_lab.kubernetes import install
from underpass_lab.kubernetes.image import BUSYBOX
from underpass_lab.kubernetes.pods import POD_S, network_namespace

CONFIG = '[[pool]]\ncidr = "10.244.0.0/16"\nipip_mode = "Always"\n\n[policy]\n'
# Pods by namespace and name, and the node of each.
PODS = {"x/a": "n1", "x/c": "n2", "y/b": "n1", "y/d": "n2"}
# The first one has a name: `web`.
PORTS = (80, 81)
NAMED = ({"name": "web", "containerPort": 80},)
# A change has to be in force within this; each look takes a second and more.
FORCE_S = 30.0
# Kinds that a cluster gets later are asked for every two minutes.
DISCOVER_S = 180.0
LIMITED = "limited"

CALICO = ("crd.projectcalico.org", "v1")
KINDS = {
    "networkpolicies": ("NetworkPolicy", "Namespaced"),
    "globalnetworkpolicies": ("GlobalNetworkPolicy", "Cluster"),
    "tiers": ("Tier", "Cluster"),
    "networksets": ("NetworkSet", "Namespaced"),
    "globalnetworksets": ("GlobalNetworkSet", "Cluster"),
}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CORE = "/api/v1/namespaces"

Expected = Callable[[Probe], bool]


def everything(_: Probe) -> bool:
    return True


class PoliciesOfACluster(Clustered):
    nodes: ClassVar[int] = 2
    ends: ClassVar[dict[str, End]]
    reach: ClassVar[Reachability]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # The API server takes it from its next start on, which comes later here.
        cls.cluster.credentials.add_user(LIMITED, LIMITED)
        cls.cluster.use_test_cni()
        for name in cls.cluster.nodes:
            cls.start(name, CONFIG)
        for namespace in ("x", "y"):
            labels = {"team": namespace}
            cls.client.create(CORE, {"metadata": {"name": namespace, "labels": labels}})
        for pod in PODS:
            cls.create_pod(pod)
        cls.ends = {pod: cls.end_of(pod) for pod in PODS}
        cls.reach = cls.enterClassContext(Reachability(cls.ends, PORTS))

    # --- objects ----------------------------------------------------------------------------------

    @classmethod
    def create_pod(cls, pod: str) -> None:
        namespace, name = pod.split("/")
        # The controllers make it, without which no pod is taken.
        account = f"{CORE}/{namespace}/serviceaccounts/default"
        wait_until(lambda: cls.client.ask("GET", account)[0] == 200, 60, account)
        container = {"name": "pod", "image": BUSYBOX, "imagePullPolicy": "Never", "ports": list(NAMED)}
        spec = {
            "nodeName": PODS[pod],
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [container],
        }
        metadata = {"name": name, "labels": {"app": name}}
        cls.client.create(f"{CORE}/{namespace}/pods", {"metadata": metadata, "spec": spec})

    @classmethod
    def path_of(cls, pod: str) -> str:
        namespace, name = pod.split("/")
        return f"{CORE}/{namespace}/pods/{name}"

    @classmethod
    def end_of(cls, pod: str) -> End:
        """Waits until a pod has an address; where it is."""

        def address() -> str:
            time.sleep(0.2)
            return str(cls.client.get(cls.path_of(pod))["status"].get("podIP", ""))

        found = wait_until(address, POD_S, pod)
        node = PODS[pod]
        return End(node, pathlib.Path(network_namespace(cls.cluster.node(node), found)), found)

    def policies(self, namespace: str, name: str = "") -> str:
        path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        return f"{path}/{name}" if name else path

    def put(self, namespace: str, name: str, **spec: Any) -> None:
        """A NetworkPolicy, about all pods of the namespace unless it says otherwise; it ends with the test."""
        body = {"metadata": {"name": name}, "spec": {"podSelector": {}} | spec}
        self.client.create(self.policies(namespace), body)
        self.addCleanup(self.client.delete, self.policies(namespace, name))

    def calico(self, plural: str, name: str = "", namespace: str = "") -> str:
        inside = f"namespaces/{namespace}/" if namespace else ""
        group, version = CALICO
        return f"/apis/{group}/{version}/{inside}{plural}" + (f"/{name}" if name else "")

    def put_calico(self, plural: str, name: str, spec: Any, namespace: str = "", **metadata: Any) -> None:
        """An object of Calico's; it ends with the test."""
        kind = {"apiVersion": "/".join(CALICO), "kind": KINDS[plural][0]}
        body = kind | {"metadata": {"name": name} | metadata, "spec": spec}
        self.client.create(self.calico(plural, namespace=namespace), body)
        self.addCleanup(self.client.delete, self.calico(plural, name, namespace))

    def label(self, path: str, **labels: str | None) -> None:
        """Labels of an object, as long as the test runs; None removes one."""
        before = self.client.get(path)["metadata"].get("labels", {})
        self.client.patch(path, {"metadata": {"labels": labels}})
        was = {key: before.get(key) for key in labels}
        self.addCleanup(self.client.patch, path, {"metadata": {"labels": was}})

    # --- what is expected -------------------------------------------------------------------------

    def holds(self, expected: Expected, what: str, timeout: float = FORCE_S) -> None:
        """Waits until exactly that passes which is expected, and looks once more."""
        probes = list(self.reach.probes())
        wrong = ""

        def is_so() -> bool:
            nonlocal wrong
            wrong = difference(self.reach.reached(), expected, probes)
            return not wrong

        try:
            wait_until(is_so, timeout, what)
            wait_until(is_so, 0, f"{what}, once more")
        except AssertionError as failure:
            raise self.failureException(f"{failure}\n{wrong}") from None

    def problems(self, name: str) -> list[str]:
        return list(self.source(name).get("problems", []))

    def without_problems(self) -> None:
        for name in self.cluster.nodes:
            wait_until(lambda name=name: self.problems(name) == [], FORCE_S, f"no problems of {name}")  # type: ignore[misc]

    # --- Kubernetes' policies ---------------------------------------------------------------------

    def test_1_without_policies_everything_passes(self) -> None:
        self.holds(everything, "everything")
        for name in self.cluster.nodes:
            source = self.source(name)
            self.assertEqual([source[key] for key in ("state", "problems", "refused")], ["following", [], 0])

    def test_2_a_policy_isolates_and_others_allow(self) -> None:
        self.put("x", "deny")
        self.holds(lambda probe: not probe.target.startswith("x/"), "isolation of x")
        peer = {"namespaceSelector": {"matchLabels": {"team": "y"}}}
        allowed = {"from": [peer], "ports": [{"port": "web", "protocol": "TCP"}]}
        self.put("x", "web", podSelector={"matchLabels": {"app": "c"}}, ingress=[allowed])
        through = ("y/b", "x/c", "tcp", 80)
        self.holds(lambda probe: not probe.target.startswith("x/") or probe == through, "a port by its name")
        # A policy that goes.
        self.client.delete(self.policies("x", "deny"))
        self.holds(lambda probe: probe.target != "x/c" or probe == through, "the end of a policy")

    def test_3_labels_of_a_pod_change(self) -> None:
        peer = {"podSelector": {"matchLabels": {"role": "client"}}}
        self.put("x", "clients", podSelector={"matchLabels": {"app": "c"}}, ingress=[{"from": [peer]}])
        closed: Expected = lambda probe: probe.target != "x/c"  # noqa: E731
        self.holds(closed, "isolation of x/c")
        self.label(self.path_of("x/a"), role="client")
        self.holds(lambda probe: closed(probe) or probe.source == "x/a", "a label that comes")
        # What a policy is about can change, too.
        self.label(self.path_of("x/c"), app="other")
        self.holds(everything, "an endpoint that is selected no more")
        self.label(self.path_of("x/c"), app="c")
        self.label(self.path_of("x/a"), role=None)
        self.holds(closed, "a label that goes")

    def test_4_labels_of_a_namespace_change(self) -> None:
        peer = {"namespaceSelector": {"matchLabels": {"stage": "live"}}}
        self.put("x", "live", ingress=[{"from": [peer], "ports": [{"port": 81, "protocol": "UDP"}]}])
        closed: Expected = lambda probe: not probe.target.startswith("x/")  # noqa: E731
        self.holds(closed, "isolation of x")
        self.label(f"{CORE}/y", stage="live")
        is_let: Expected = lambda probe: probe.source.startswith("y/") and probe[2:] == ("udp", 81)  # noqa: E731
        self.holds(lambda probe: closed(probe) or is_let(probe), "a label of a namespace")
        self.label(f"{CORE}/y", stage="test")
        self.holds(closed, "another label of the namespace")

    def test_5_egress_and_networks(self) -> None:
        only = self.ends["x/c"].address
        egress = [{"to": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": [f"{only}/32"]}}]}]
        self.put("y", "out", podSelector={"matchLabels": {"app": "b"}}, policyTypes=["Egress"], egress=egress)
        self.holds(lambda probe: (probe.source, probe.target) != ("y/b", "x/c"), "all but one address")
        # Both sides have to allow it.
        self.put("y", "in", podSelector={"matchLabels": {"app": "d"}}, policyTypes=["Ingress"])
        blocked = (("y/b", "x/c"), ("y/b", "y/d"), ("x/a", "y/d"))
        self.holds(lambda probe: (probe.source, probe.target) not in blocked, "both directions")

    def test_6_a_pod_that_is_made_anew(self) -> None:
        peer = {"podSelector": {"matchLabels": {"app": "a"}}}
        self.put("x", "friends", podSelector={"matchLabels": {"app": "c"}}, ingress=[{"from": [peer]}])
        expected: Expected = lambda probe: probe.target != "x/c" or probe.source == "x/a"  # noqa: E731
        self.holds(expected, "a policy")
        self.cluster.kubectl("delete", "pod", "--namespace=x", "a", "--wait")
        self.create_pod("x/a")
        self.ends["x/a"] = self.end_of("x/a")
        self.reach.close()
        type(self).reach = self.enterClassContext(Reachability(self.ends, PORTS))
        self.holds(expected, "the policy for the new address")

    # --- Calico's policies ------------------------------------------------------------------------

    def test_7_kinds_of_calico_that_come_later(self) -> None:
        group, version = CALICO
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        for plural, (kind, scope) in KINDS.items():
            names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
            versions = [{"name": version, "served": True, "storage": True, "schema": schema}]
            spec = {"group": group, "scope": scope, "names": names, "versions": versions}
            body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
            self.client.create(DEFINITIONS, body | {"metadata": {"name": f"{plural}.{group}"}})
        for plural in KINDS:
            served = lambda plural=plural: self.client.ask("GET", self.calico(plural))[0] == 200  # noqa: E731
            wait_until(served, 20, plural)
        rule = {"action": "Deny", "protocol": "TCP", "destination": {"ports": [81]}}
        policy = {"selector": "app == 'c'", "order": 10, "ingress": [rule, {"action": "Allow"}]}
        self.put_calico("globalnetworkpolicies", "default.no-81", policy)
        expected: Expected = lambda probe: (probe.target, *probe[2:]) != ("x/c", "tcp", 81)  # noqa: E731
        self.holds(expected, "a policy of Calico", DISCOVER_S)
        self.without_problems()

    def test_8_calicos_policies_and_sets(self) -> None:
        networks = {"nets": [f"{self.ends['y/b'].address}/32"]}
        self.put_calico("globalnetworksets", "bad", networks, labels={"kind": "bad"})
        deny = {"action": "Deny", "source": {"selector": "kind == 'bad'"}}
        self.put_calico("globalnetworkpolicies", "default.bad", {"order": 5, "selector": "all()", "ingress": [deny]})
        allow = {"action": "Allow"}
        self.put_calico("globalnetworkpolicies", "default.rest", {"selector": "all()", "ingress": [allow]})
        without_bad: Expected = lambda probe: probe.source != "y/b"  # noqa: E731
        self.holds(without_bad, "a set of networks")
        # A set that a namespace has, and a tier before the others.
        self.put_calico("tiers", "first", {"order": 100, "defaultAction": "Pass"})
        self.put_calico("networksets", "good", networks, "x", labels={"kind": "good"})
        let = {"action": "Allow", "protocol": "UDP", "source": {"selector": "kind == 'good'"}}
        spec = {"tier": "first", "order": 1, "selector": "app == 'c'", "ingress": [let], "types": ["Ingress"]}
        self.put_calico("networkpolicies", "first.good", spec, "x")
        is_good: Expected = lambda probe: probe[:3] == ("y/b", "x/c", "udp")  # noqa: E731
        self.holds(lambda probe: without_bad(probe) or is_good(probe), "a set of a namespace, in a tier")
        self.client.patch(self.calico("networksets", "good", "x"), {"spec": {"nets": ["203.0.113.0/24"]}})
        self.holds(without_bad, "other networks of a set")
        self.without_problems()

    def test_9a_a_policy_that_cannot_be_read_lets_nothing_through(self) -> None:
        # In Calico's programs the rule is about HTTP.
        rule = {"action": "Allow", "http": {"methods": ["GET"]}}
        spec = {"selector": "app == 'd'", "ingress": [rule], "types": ["Ingress"]}
        self.put_calico("globalnetworkpolicies", "default.http", spec)
        self.put_calico("globalnetworkpolicies", "default.junk", {"selector": "((("})
        self.holds(lambda probe: probe.target != "y/d", "isolation")
        for name in self.cluster.nodes:
            problems = sorted(self.problems(name))
            self.assertEqual(len(problems), 2, problems)
            self.assertIn("GlobalNetworkPolicy default.http cannot be read and counts as one without", problems[0])
            self.assertIn("/spec/ingress/0/http", problems[0])
            self.assertIn("GlobalNetworkPolicy default.junk cannot be read and is left out", problems[1])
            self.assertIn("GlobalNetworkPolicy default.http", self.daemon(name).log())
        self.client.delete(self.calico("globalnetworkpolicies", "default.http"))
        self.client.delete(self.calico("globalnetworkpolicies", "default.junk"))
        self.holds(everything, "its end")
        self.without_problems()

    # --- the API server away ----------------------------------------------------------------------

    def is_kept(self, name: str, text: str) -> bool:
        """Whether the file of policies of a daemon has a text."""
        file = self.cluster.underlay.dir / f"{name}.state.policy.json"
        return file.exists() and text in file.read_text(encoding="utf-8")

    def test_9b_a_start_without_the_api_server(self) -> None:
        peer = {"podSelector": {"matchLabels": {"app": "a"}}}
        self.put("x", "kept", podSelector={"matchLabels": {"app": "c"}}, ingress=[{"from": [peer]}])
        expected: Expected = lambda probe: probe.target != "x/c" or probe.source == "x/a"  # noqa: E731
        self.holds(expected, "a policy")
        for name in self.cluster.nodes:
            wait_until(lambda name=name: self.is_kept(name, "knp.default.kept"), 15, f"the file of {name}")  # type: ignore[misc]
        self.cluster.kill_api_server()
        try:
            for name in self.cluster.nodes:
                wait_until(lambda name=name: self.source(name)["state"] == "degraded", 15, name)  # type: ignore[misc]
            self.holds(expected, "the policy without the API server")
            for name in self.cluster.nodes:
                self.assertEqual(self.daemon(name).stop(10), 0)
                self.start(name, CONFIG)
                self.assertEqual(self.source(name)["state"], "degraded")
            self.holds(expected, "the policy after a restart without the API server")
        finally:
            self.cluster.start_api_server()
        self.client.delete(self.policies("x", "kept"))
        self.holds(everything, "what changed since", BACK_S + FORCE_S)
        for name in self.cluster.nodes:
            wait_until(lambda name=name: self.source(name)["state"] == "following", BACK_S, name)  # type: ignore[misc]
        self.without_problems()

    # --- rights -----------------------------------------------------------------------------------

    def test_9c_rights_that_are_missing_and_those_of_the_manifest(self) -> None:
        documents = list(yaml.safe_load_all(install.MANIFEST.read_text(encoding="utf-8")))
        (role,) = (one for one in documents if one["kind"] == "ClusterRole")
        all_rules = role["rules"]
        role["rules"] = [rule for rule in all_rules if "nodes" in rule["resources"]]
        subject = {"kind": "User", "name": LIMITED, "apiGroup": "rbac.authorization.k8s.io"}
        reference = {"kind": "ClusterRole", "name": role["metadata"]["name"], "apiGroup": "rbac.authorization.k8s.io"}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": LIMITED},
            "subjects": [subject],
            "roleRef": reference,
        }
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [role, binding]}))
        self.assertEqual(self.daemon("n2").stop(10), 0)
        self.start("n2", CONFIG, kubeconfig=self.cluster.kubeconfig(LIMITED))
        wait_until(lambda: any("forbidden" in problem for problem in self.problems("n2")), 15, "a problem")
        self.assertEqual(self.source("n2")["state"], "following")
        self.assertTrue(all("the last state stays" in one for one in self.problems("n2")), self.problems("n2"))
        role["rules"] = all_rules
        self.cluster.apply(json.dumps(role))
        wait_until(lambda: self.problems("n2") == [], FORCE_S, "the rights")
        self.put("x", "deny")
        self.holds(lambda probe: not probe.target.startswith("x/"), "a policy by the manifest's rights")


if __name__ == "__main__":
    unittest.main()
