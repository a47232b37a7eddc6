"""A network of both families in etcd: each node has a subnet of each, and IPv6 goes over IPv6."""

import bootstrap

import json
from typing import Any, ClassVar

from flannel_etcd import WithEtcd
from underlay6 import ADDRESSES6, add_addresses6
from underpass_lab.etcd import NETWORK, Etcd
from underpass_lab.nodes import ADDRESSES, PODS
from underpass_lab.vtep import vtep_mac

NETWORK6 = "fd00:244::/48"


class DualStack(WithEtcd):
    options: dict[str, Any] = {"ipv6": True}
    nodes: ClassVar[tuple[str, ...]] = ("n1", "n2")
    multicast_reports = True

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, *cls.nodes)
        cls.lab.addresses6 = {node: ADDRESSES6[node] for node in cls.nodes}
        cls.etcd = Etcd(cls.lab)
        network = {"Network": NETWORK, "EnableIPv6": True, "IPv6Network": NETWORK6, "Backend": {"Type": "vxlan"}}
        cls.etcd.put("config", json.dumps(network))
        for node in cls.nodes:
            cls.begin(node)
        cls.all_know_all()

    def test_records_are_flannels(self) -> None:
        for node in self.nodes:
            six = self.lab.pods6[node].removesuffix("2") + "-64"
            data = [{"VNI": 1, "VtepMAC": vtep_mac(name)} for name in (node, f"{node}-v6")]
            expected = {
                "PublicIP": ADDRESSES[node],
                "PublicIPv6": ADDRESSES6[node],
                "BackendType": "vxlan",
                "BackendData": data[0],
                "BackendV6Data": data[1],
            }
            found = self.etcd.records()[f"{self.key(node)}&{six}"]
            self.assertEqual(found.value, json.dumps(expected, separators=(",", ":")))
            self.assertEqual(self.lab.source(node)["refused"], 0)
            lines = (self.lab.dir / f"{node}.subnet.env").read_text(encoding="ascii").splitlines()
            keys = ["NETWORK", "SUBNET", "IPV6_NETWORK", "IPV6_SUBNET", "MTU", "IPMASQ"]
            self.assertEqual([line.split("=")[0] for line in lines], [f"FLANNEL_{key}" for key in keys])
            self.assertEqual(lines[2], f"FLANNEL_IPV6_NETWORK={NETWORK6}")

    def test_both_families_flow(self) -> None:
        self.all_pairs(1 << 18)
        with self.lab.capture("n1", "eth0", "ip6 and udp port 8472") as capture:
            self.assertEqual(self.lab.ping(PODS["n1"], self.lab.pods6["n2"]), 3)
            capture.wait(6)
        for source, target in (("n1", "n2"), ("n2", "n1")):
            self.lab.tcp_transfer(PODS[source], PODS[target], self.lab.pods6[target], 1 << 18)
