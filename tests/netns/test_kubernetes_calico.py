"""A cluster that is Calico's: IP pools, blocks and annotations become modes, routes and peers, in both API groups."""

import bootstrap

import ipaddress
import time
import unittest
from typing import Any, ClassVar

from scapy.layers.inet import IP, UDP

from clustered import CHANGE_S, Clustered
from underpass_lab.capture import Capture
from underpass_lab.command import wait_until
from underpass_lab.kubernetes import cni
from underpass_lab.kubernetes.plan import ADDRESSES, PODS
from underpass_lab.vtep import vtep_mac

KINDS = {
    "ippools": "IPPool",
    "blockaffinities": "BlockAffinity",
    "ipamblocks": "IPAMBlock",
    "clusterinformations": "ClusterInformation",
}
OLD, NATIVE = ("crd.projectcalico.org", "v1"), ("projectcalico.org", "v3")
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POOL = "default-ipv4-ippool"
# What the own addresses of nodes are annotated with: n1 has a longer reach than n2.
LENGTHS = {"n1": 23, "n2": 24, "n3": 24}
BLOCK = 64


class Calico(Clustered):
    blocks: ClassVar[dict[str, str]]
    group: ClassVar[tuple[str, str]] = OLD

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.blocks = {}
        for name, machine in cls.cluster.nodes.items():
            subnet = ipaddress.IPv4Network(cls.cluster.pod_subnets(name)[0])
            block = next(iter(subnet.subnets(new_prefix=26)))
            cls.blocks[name] = str(block)
            cni.write(machine, [str(block)])
            annotations = {
                "projectcalico.org/IPv4Address": f"{ADDRESSES[name]}/{LENGTHS[name]}",
                "projectcalico.org/IPv4IPIPTunnelAddr": str(block.broadcast_address - 1),
            }
            cls.client.annotate(name, annotations)
        cls.install(OLD)
        for name in cls.cluster.nodes:
            cls.start(name, "")
        cls.pods = cls.start_pods()

    # --- Calico's objects -------------------------------------------------------------------------

    @classmethod
    def install(cls, group: tuple[str, str]) -> None:
        """The kinds of an API group, a pool, and a block for each node."""
        cls.group = group
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        for plural, kind in KINDS.items():
            names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
            version = {"name": group[1], "served": True, "storage": True, "schema": schema}
            spec = {"group": group[0], "scope": "Cluster", "names": names, "versions": [version]}
            body = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
            cls.client.create(DEFINITIONS, body | {"metadata": {"name": f"{plural}.{group[0]}"}})
        for plural in KINDS:
            served = lambda plural=plural: cls.client.ask("GET", cls.path(plural))[0] == 200  # noqa: E731
            wait_until(served, 20, plural)
        ready = {"clusterGUID": "0" * 32, "clusterType": "k8s", "datastoreReady": True}
        cls.put("clusterinformations", "default", ready)
        pool = {"cidr": PODS, "blockSize": 26, "ipipMode": "CrossSubnet", "vxlanMode": "Never", "natOutgoing": True}
        cls.put("ippools", POOL, pool | {"nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"]})
        for name, block in cls.blocks.items():
            cls.add_block(name, block)

    @classmethod
    def remove(cls, group: tuple[str, str]) -> None:
        """Everything of an API group."""
        for plural in KINDS:
            cls.client.delete(f"{DEFINITIONS}/{plural}.{group[0]}")

    @classmethod
    def path(cls, plural: str, name: str = "") -> str:
        group, version = cls.group
        return f"/apis/{group}/{version}/{plural}" + (f"/{name}" if name else "")

    @classmethod
    def put(cls, plural: str, name: str, spec: dict[str, Any]) -> None:
        """A new object."""
        kind = {"apiVersion": "/".join(cls.group), "kind": KINDS[plural]}
        cls.client.create(cls.path(plural), kind | {"metadata": {"name": name}, "spec": spec})

    @classmethod
    def add_block(cls, node: str, cidr: str, state: str = "confirmed") -> str:
        """A block that is a node's, as Calico's IPAM notes it; the name of its affinity."""
        flat = cidr.replace(".", "-").replace("/", "-")
        deleted: object = False if cls.group == NATIVE else "false"
        cls.put("blockaffinities", f"{node}-{flat}", {"cidr": cidr, "node": node, "state": state, "deleted": deleted})
        block = {
            "cidr": cidr,
            "affinity": f"host:{node}",
            "allocations": [0] + [None] * (BLOCK - 1),
            "attributes": [{"handle_id": "h", "secondary": {"node": node, "namespace": "default", "pod": "p"}}],
            "unallocated": list(range(1, BLOCK)),
            "strictAffinity": False,
            "deleted": False,
        }
        cls.put("ipamblocks", flat, block)
        return f"{node}-{flat}"

    def lend(self, owner: str, ordinal: int, borrower: str | None) -> None:
        """An address of a block that another node uses, or nobody."""
        flat = self.blocks[owner].replace(".", "-").replace("/", "-")
        block = self.client.get(self.path("ipamblocks", flat))
        spec = block["spec"]
        spec["allocations"][ordinal] = None if borrower is None else 1
        spec["attributes"] = [*spec["attributes"][:1], {"handle_id": "b", "secondary": {"node": borrower or owner}}]
        self.client.replace(self.path("ipamblocks", flat), block)

    # --- what is expected -------------------------------------------------------------------------

    def all_reach_each_other(self) -> None:
        for a in self.pods.values():
            for b in self.pods.values():
                if a is not b:
                    self.assertEqual(a.ping(b.address), 3, f"{a.node} to {b.node}")
                    a.transfer(b, b.address, 1 << 20)

    def expected(self, name: str, across: str, near: str) -> dict[str, Any]:
        """The routes of a node with the modes between subnets and inside one."""
        routes: dict[str, Any] = {self.blocks[name]: (None, "local", None)}
        for other in self.cluster.nodes.keys() - {name}:
            mode = across if "n3" in (name, other) else near
            routes[self.blocks[other]] = (other, mode, ADDRESSES[other])
        return routes

    def everywhere(self, address: str, peer: str | None, but: str = "", timeout: float = CHANGE_S) -> None:
        for name in self.cluster.nodes.keys() - {but}:
            is_so = lambda name=name: self.route(name, address).get("peer") == peer  # noqa: E731
            wait_until(is_so, timeout, f"{address} via {peer} at {name}")

    def test_1_pools_and_blocks_are_followed(self) -> None:
        for name in self.cluster.nodes:
            source = self.source(name)
            said = [source[key] for key in ("state", "style", "nodes", "refused", "problems")]
            self.assertEqual(said, ["following", "calico", 3, 0, []])
            self.assertIn("style calico: it has Calico's block affinities", self.daemon(name).log())
            self.assertEqual(self.routes(name), self.expected(name, "ipip", "direct"))
            tunnel = self.daemon(name).json("status")["tunnel"]["address"]
            self.assertEqual(tunnel, str(ipaddress.ip_network(self.blocks[name])[-2]))
        self.all_reach_each_other()

    def test_2_a_borrowed_address_is_where_it_is_used(self) -> None:
        owner = ipaddress.ip_network(self.blocks["n2"])
        address = str(owner[60])
        self.cluster.underlay.ip("n3", f"address add {address}/32 dev lo")
        with self.undisturbed(("n1", "n2"), ("n1", "n3")):
            self.lend("n2", 60, "n3")
            self.everywhere(address, "n3", but="n3")
            self.assertEqual(self.route("n1", str(owner[59]))["peer"], "n2")
            wait_until(lambda: self.routes("n3").get(f"{address}/32") == (None, "local", None), 5, "n3 to have it")
            self.assertEqual(self.pods["n1"].ping(address), 3)
            self.assertEqual(self.pods["n2"].ping(address), 3)
            self.lend("n2", 60, None)
            self.everywhere(address, "n2", but="n2")
        self.cluster.underlay.ip("n3", f"address del {address}/32 dev lo")
        wait_until(lambda: f"{address}/32" not in self.routes("n3"), 5, "n3 not to have it")

    def test_3_a_node_gets_and_loses_a_block(self) -> None:
        with self.undisturbed(("n1", "n2"), ("n1", "n3")):
            block = "10.244.120.0/26"
            affinity = self.add_block("n2", block, "pending")
            self.client.patch(self.path("blockaffinities", affinity), {"spec": {"state": "confirmed"}})
            self.everywhere("10.244.120.7", "n2", but="n2")
            wait_until(lambda: self.routes("n2").get(block) == (None, "local", None), 5, "n2 to have it")
            self.client.patch(self.path("blockaffinities", affinity), {"spec": {"state": "pendingDeletion"}})
            self.everywhere("10.244.120.7", None, but="n2")
            self.client.delete(self.path("blockaffinities", affinity))
            self.client.delete(self.path("ipamblocks", "10-244-120-0-26"))
        wait_until(lambda: block not in self.routes("n2"), 5, "n2 not to have it")

    def test_4_lengths_in_annotations_decide_what_is_the_same_subnet(self) -> None:
        annotations = {
            "projectcalico.org/IPv4Address": "192.0.3.9/23",
            "projectcalico.org/VXLANTunnelMACAddr": "66:00:00:00:00:09",
        }
        # Calico's address goes before the node's own.
        self.client.create_node("c9", [], ["192.0.2.9"], annotations)
        self.add_block("c9", "10.244.121.0/26")
        self.everywhere("10.244.121.7", "c9")
        modes = {name: self.route(name, "10.244.121.7")["mode"] for name in self.cluster.nodes}
        self.assertEqual(modes, {"n1": "direct", "n2": "ipip", "n3": "ipip"})
        peers = {peer["name"]: peer for peer in self.daemon("n2").json("status")["peers"]}
        self.assertEqual((peers["c9"]["address"], peers["c9"]["vtep_mac"]), ("192.0.3.9", "66:00:00:00:00:09"))
        self.assertEqual(peers["n1"]["vtep_mac"], vtep_mac("n1"))

    def test_5_a_locked_datastore_is_not_followed(self) -> None:
        cluster = self.path("clusterinformations", "default")
        self.client.patch(cluster, {"spec": {"datastoreReady": False}})
        for name in self.cluster.nodes:
            wait_until(lambda name=name: bool(self.source(name)["problems"]), CHANGE_S, name)  # type: ignore[misc]
            self.assertIn("datastoreReady is false", self.source(name)["problems"][0])
        self.client.delete(self.path("blockaffinities", "c9-10-244-121-0-26"))
        self.client.delete(self.path("ipamblocks", "10-244-121-0-26"))
        time.sleep(1)
        self.assertEqual(self.route("n1", "10.244.121.7")["peer"], "c9")
        self.client.patch(cluster, {"spec": {"datastoreReady": True}})
        self.everywhere("10.244.121.7", None)
        for name in self.cluster.nodes:
            wait_until(lambda name=name: not self.source(name)["problems"], CHANGE_S, name)  # type: ignore[misc]
        self.client.delete_node("c9")

    def test_6_junk_is_named(self) -> None:
        self.put("ippools", "junk-mode", {"cidr": "10.245.0.0/16", "ipipMode": "Sometimes"})
        self.put("ippools", "junk-cidr", {"cidr": "10.245.0.0/160"})
        self.put("ippools", "services", {"cidr": "10.246.0.0/16", "allowedUses": ["LoadBalancer"]})
        self.put("blockaffinities", "junk", {"cidr": "x", "node": "n2", "state": "confirmed"})
        self.put("blockaffinities", "nobody", {"cidr": "10.244.122.0/26", "node": "nobody", "state": "confirmed"})
        self.put("ipamblocks", "junk", {"cidr": 7, "allocations": {"a": []}, "attributes": None})
        wanted = {"IPPool junk-mode", "IPPool junk-cidr", "BlockAffinity junk", "node nobody"}
        for name in self.cluster.nodes:
            wait_until(lambda name=name: self.refusals(name).keys() == wanted, CHANGE_S, name)  # type: ignore[misc]
            self.assertIn('"Sometimes" is not one of', self.refusals(name)["IPPool junk-mode"])
            self.assertEqual(self.routes(name), self.expected(name, "ipip", "direct"))
        for plural, name in (("ippools", "junk-mode"), ("ippools", "junk-cidr"), ("ippools", "services")):
            self.client.delete(self.path(plural, name))
        for name in ("junk", "nobody"):
            self.client.delete(self.path("blockaffinities", name))
        self.client.delete(self.path("ipamblocks", "junk"))

    def test_7_a_pool_becomes_vxlan_while_traffic_goes_on(self) -> None:
        with self.undisturbed(("n1", "n2"), ("n1", "n3"), ("n3", "n2")):
            self.client.patch(self.path("ippools", POOL), {"spec": {"ipipMode": "Never", "vxlanMode": "Always"}})
            for name in self.cluster.nodes:
                expected = self.expected(name, "vxlan", "vxlan")
                wait_until(lambda name=name, expected=expected: self.routes(name) == expected, 3, name)  # type: ignore[misc]
        with Capture(self.cluster.underlay, "n1", "eth0", "udp port 4789") as capture:
            self.assertEqual(self.pods["n1"].ping(self.pods["n2"].address), 3)
            packets = capture.wait(6)
        outer = {(packet[IP].src, packet[IP].dst, packet[UDP].dport) for packet in packets}
        self.assertEqual(outer, {("192.0.2.1", "192.0.2.2", 4789), ("192.0.2.2", "192.0.2.1", 4789)})
        self.all_reach_each_other()

    def test_8_the_native_api_group(self) -> None:
        for name in self.cluster.nodes:
            self.assertEqual(self.daemon(name).stop(5), 0)
        self.remove(OLD)
        self.install(NATIVE)
        for name in self.cluster.nodes:
            (self.cluster.underlay.dir / f"{name}.state.json").unlink()
            self.start(name, "")
        for name in self.cluster.nodes:
            expected = self.expected(name, "ipip", "direct")
            wait_until(lambda name=name, expected=expected: self.routes(name) == expected, 3, name)  # type: ignore[misc]
            self.assertEqual(self.source(name)["style"], "calico")
        self.all_reach_each_other()
        owner = ipaddress.ip_network(self.blocks["n2"])
        self.lend("n2", 61, "n3")
        self.everywhere(str(owner[61]), "n3", but="n3")


if __name__ == "__main__":
    unittest.main()
