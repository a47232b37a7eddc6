"""The manifests of config/kubernetes: what they ask of a cluster, and that the daemon takes their configuration."""

import bootstrap

import os
import pathlib
import re
import tempfile
import unittest
from typing import Any

import yaml

from underpass_lab.command import run
from underpass_lab.daemon import binary
from underpass_lab.paths import REPO

FOLDER = REPO / "config" / "kubernetes"
ALL, ODD = "underpass.yaml", "underpass-flannel-node.yaml"
CALICO = {"ippools", "blockaffinities", "ipamblocks", "clusterinformations"}
CALICO_GROUPS = ("crd.projectcalico.org", "projectcalico.org")
POLICIES = {"networkpolicies", "globalnetworkpolicies", "tiers", "networksets", "globalnetworksets"}
SELECTED = {"pods", "namespaces", "serviceaccounts"}


class Manifests(unittest.TestCase):
    def objects(self, name: str) -> dict[str, Any]:
        """The objects of a file by their kinds."""
        found = list(yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8")))
        return {one["kind"]: one for one in found}

    def pod(self, name: str) -> Any:
        return self.objects(name)["DaemonSet"]["spec"]["template"]["spec"]

    def environment(self, name: str) -> dict[str, str]:
        (container,) = self.pod(name)["containers"]
        return {one["name"]: one.get("value", "") for one in container.get("env", [])}

    def test_objects_belong_together(self) -> None:
        for file in (ALL, ODD):
            with self.subTest(file):
                objects = self.objects(file)
                kinds = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"]
                self.assertEqual(list(objects), kinds)
                name = objects["DaemonSet"]["metadata"]["name"]
                namespace = objects["Namespace"]["metadata"]["name"]
                for kind in ("ServiceAccount", "ConfigMap", "DaemonSet"):
                    self.assertEqual(objects[kind]["metadata"]["namespace"], namespace)
                binding, pod = objects["ClusterRoleBinding"], self.pod(file)
                self.assertEqual(binding["roleRef"]["name"], objects["ClusterRole"]["metadata"]["name"])
                account = {"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": namespace}
                self.assertEqual(binding["subjects"], [account])
                self.assertEqual(objects["ServiceAccount"]["metadata"]["name"], pod["serviceAccountName"])
                spec = objects["DaemonSet"]["spec"]
                self.assertEqual(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"])
                self.assertEqual(spec["updateStrategy"]["rollingUpdate"], {"maxUnavailable": 1})
                volumes = {volume["name"]: volume for volume in pod["volumes"]}
                self.assertEqual(volumes["config"]["configMap"]["name"], objects["ConfigMap"]["metadata"]["name"])
                mounts = [mount for one in self.all_containers(file) for mount in one["volumeMounts"]]
                self.assertEqual({mount["name"] for mount in mounts}, set(volumes))
                self.assertNotIn(name, {"", "default"})

    def all_containers(self, file: str) -> list[Any]:
        pod = self.pod(file)
        return [*pod["initContainers"], *pod["containers"]]

    def test_only_the_rights_that_are_needed(self) -> None:
        for file in (ALL, ODD):
            with self.subTest(file):
                asked: dict[tuple[str, str], set[str]] = {}
                rules = self.objects(file)["ClusterRole"]["rules"]
                for rule in rules:
                    for group in rule["apiGroups"]:
                        asked |= {(group, resource): set(rule["verbs"]) for resource in rule["resources"]}
                expected = {("", "nodes"): {"get", "list", "watch", "patch"}, ("", "nodes/status"): {"patch"}}
                expected |= {("", kind): {"list", "watch"} for kind in SELECTED}
                expected[("networking.k8s.io", "networkpolicies")] = {"list", "watch"}
                of_calico = POLICIES | CALICO if file == ALL else POLICIES
                expected |= {(group, kind): {"list", "watch"} for group in CALICO_GROUPS for kind in of_calico}
                if file == ODD:
                    expected[("", "configmaps")] = {"get"}
                    (rule,) = (one for one in rules if "configmaps" in one["resources"])
                    self.assertEqual(rule["resourceNames"], ["kube-flannel-cfg"])
                self.assertEqual(asked, expected)
                pod = self.pod(file)
                self.assertEqual((pod["hostNetwork"], "hostPID" in pod, "hostIPC" in pod), (True, False, False))
                for container in self.all_containers(file):
                    context = container["securityContext"]
                    self.assertFalse(context.get("privileged"))
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                    self.assertIn("requests", container["resources"])
                (daemon,) = pod["containers"]
                added = daemon["securityContext"]["capabilities"]["add"]
                self.assertEqual(added, ["NET_ADMIN", "NET_RAW", "BPF"])

    def test_it_runs_on_every_node_or_on_those_that_are_marked(self) -> None:
        for file, selector in ((ALL, {}), (ODD, {"underpass": "true"})):
            pod = self.pod(file)
            self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux", **selector})
            self.assertEqual(pod["tolerations"], [{"operator": "Exists"}])
            self.assertEqual(pod["priorityClassName"], "system-node-critical")

    def test_sed_changes_the_mode_and_nothing_else(self) -> None:
        text = (FOLDER / ALL).read_text(encoding="utf-8")
        changed = run("sed", "s/Always/CrossSubnet/", FOLDER / ALL).stdout
        before, after = (list(yaml.safe_load_all(one)) for one in (text, changed))
        different = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        ((old, new),) = different
        (container,) = new["spec"]["template"]["spec"]["containers"]
        (mode,) = (one for one in container["env"] if one["name"] == "UNDERPASS_POOL_IPIP")
        self.assertEqual(mode["value"], "CrossSubnet")
        mode["value"] = "Always"
        self.assertEqual(old, new)
        lines = [line.strip() for line in text.splitlines() if "Always" in line]
        self.assertEqual([line for line in lines if not line.startswith("#")], ['value: "Always"'])

    def test_the_daemon_takes_the_configuration_and_the_environment(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for file in (ALL, ODD):
                with self.subTest(file):
                    path = pathlib.Path(folder) / "config.toml"
                    path.write_text(self.objects(file)["ConfigMap"]["data"]["config.toml"], encoding="utf-8")
                    given = os.environ | {"NODE_NAME": "node-1"} | self.environment(file)
                    answer = run(binary(), "check", path, check=False, env=given)
                    self.assertEqual((answer.returncode, answer.stderr), (0, ""))

    def test_the_environment_is_that_of_the_daemons_options(self) -> None:
        options = run(binary(), "run", "--help").stdout
        names = set(self.environment(ALL))
        self.assertEqual(names - {"NODE_NAME"}, set(re.findall(r"UNDERPASS_POOL_\w+", options)))

    def test_the_init_step_replaces_files_as_a_whole(self) -> None:
        """Its shell, with other directories."""
        for file in (ALL, ODD):
            with self.subTest(file), tempfile.TemporaryDirectory() as text:
                folder = pathlib.Path(text)
                (init,) = self.pod(file)["initContainers"]
                for directory in ("bin", "stock", "host"):
                    (folder / directory).mkdir()
                (folder / "bin" / "underpass-cni").write_text("new", encoding="utf-8")
                for plugin in ("ptp", "portmap", "bridge"):
                    (folder / "stock" / plugin).write_text(plugin, encoding="utf-8")
                    (folder / "stock" / plugin).chmod(0o755)
                (folder / "host" / "ptp").write_text("the node's", encoding="utf-8")
                old = folder / "host" / "underpass-cni"
                old.write_text("old", encoding="utf-8")
                inode = old.stat().st_ino
                *shell, script = init["command"]
                places = {"/usr/local/bin": "bin", "/usr/lib/cni": "stock", "/host/cni": "host"}
                for path, directory in places.items():
                    script = script.replace(path, str(folder / directory))
                run(*shell, script)
                there = {path.name: path.read_text(encoding="utf-8") for path in (folder / "host").iterdir()}
                self.assertEqual(there, {"underpass-cni": "new", "ptp": "the node's", "portmap": "portmap"})
                self.assertEqual(old.stat().st_mode & 0o777, 0o755)
                self.assertNotEqual(old.stat().st_ino, inode, "written into the old file")


if __name__ == "__main__":
    unittest.main()
