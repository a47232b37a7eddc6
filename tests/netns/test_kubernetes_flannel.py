"""A node of underpass takes the place of flanneld among nodes with the kernel's VXLAN device."""

import bootstrap

import json
import unittest
from typing import Any, ClassVar

from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from clustered import CHANGE_S, Clustered
from flanneld import PREFIX, Flanneld
from underpass_lab.capture import Capture
from underpass_lab.command import wait_until
from underpass_lab.kubernetes.client import NODES
from underpass_lab.kubernetes.plan import ADDRESSES, ADDRESSES6, PODS, PODS6
from underpass_lab.vtep import vtep_mac

OURS, STOCK = "n3", ("n1", "n2")
# More than a second: a refused write is tried again after one.
MEND_S = 3.0
LARGE = 16 << 20
# A daemon tests its way to the wire by frames that say "unde…" where others have VXLAN's header.
NO_PROBE = "and udp[8:4] != 0x756e6465"


class Flannel(Clustered):
    """Three nodes, of which one has no flannel."""

    flannels: ClassVar[dict[str, Flanneld]]
    networks: ClassVar[dict[str, Any]] = {"Network": PODS}
    mtu: ClassVar[int] = 1450

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        underlay = cls.cluster.underlay
        for name in cls.cluster.nodes:
            underlay.offloads(name, "eth0", on=True)
        for name, interface in (("R", "eth0"), ("R", "eth1"), *(("sw", f"port-{name}") for name in (*STOCK, "r"))):
            underlay.offloads(name, interface, on=True)
        conf = json.dumps(cls.networks | {"Backend": {"Type": "vxlan"}})
        data = {"net-conf.json": conf}
        cls.client.create("/api/v1/namespaces", {"metadata": {"name": "kube-flannel"}})
        cls.client.create(
            "/api/v1/namespaces/kube-flannel/configmaps", {"metadata": {"name": "kube-flannel-cfg"}, "data": data}
        )
        cls.cluster.use_test_cni(cls.mtu)
        cls.flannels = {name: cls.enterClassContext(Flanneld(cls.cluster, name)) for name in STOCK}
        cls.start(OURS, "")
        cls.pods = cls.start_pods()
        cls.subnets = {name: cls.cluster.pod_subnets(name) for name in cls.cluster.nodes}

    subnets: ClassVar[dict[str, list[str]]]

    def tearDown(self) -> None:
        for flannel in self.flannels.values():
            self.assertIsNone(flannel.trouble)

    def annotations(self, name: str) -> dict[str, str]:
        """flannel's annotations of a node, without their prefix."""
        found = self.client.get(f"{NODES}/{name}")["metadata"]["annotations"]
        return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}

    def all_pairs(self, size: int = LARGE) -> None:
        """Ping and TCP between all pods, in both directions and in every family."""
        for a in self.pods.values():
            for b in self.pods.values():
                for address in b.addresses if a is not b else ():
                    with self.subTest(f"{a.node} to {address}"):
                        self.assertEqual(a.ping(address), 3)
                        a.transfer(b, address, size)

    def stock_is_well(self) -> None:
        """What a stock node would notice: errors, drops, neighbours that do not answer, checksums."""
        underlay = self.cluster.underlay
        for name, flannel in self.flannels.items():
            for family in flannel.families:
                shown = underlay.exec(name, "ip", "-s", "-j", "link", "show", family.device).stdout
                counters = json.loads(shown)[0]["stats64"]
                for key in ("errors", "dropped", "over_errors"):
                    self.assertEqual(counters["rx"][key], 0, f"{name} {family.device} rx {key}")
                # What the kernel says to all IPv6 neighbours by itself has nowhere to go, and is a drop of `tx`.
                self.assertEqual(counters["tx"]["errors"], 0)
                neighbours = underlay.exec(name, "ip", "neigh", "show", "dev", family.device).stdout.splitlines()
                self.assertEqual([line for line in neighbours if "PERMANENT" not in line], [])
        for entry in [("ip", "netns", "exec", underlay.ns(name)) for name in STOCK] + [
            pod.entry() for pod in self.pods.values()
        ]:
            self.assertEqual(self.checksum_errors(entry), {})

    def checksum_errors(self, entry: tuple[str, ...]) -> dict[str, int]:
        """Counters of the kernel that are not 0 and that tell of broken packets."""
        names = ("TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors", "IpInHdrErrors", "IcmpInCsumErrors")
        counters = json.loads(self.cluster.underlay.tool(*entry, "nstat", "-asz", "-j", *names).stdout)["kernel"]
        return {key: value for key, value in counters.items() if value}


class IPv4(Flannel):
    def test_1_it_says_what_flanneld_would(self) -> None:
        self.assertEqual(self.source(OURS)["style"], "flannel")
        self.assertIn("source kubernetes: style flannel: nodes have flannel's annotations", self.daemon(OURS).log())
        # A node of both families is two peers to others, each with an address of its own.
        data, data6 = (f'{{"VNI":1,"VtepMAC":"{vtep_mac(name)}"}}' for name in (OURS, f"{OURS}-v6"))
        expected = {
            "kube-subnet-manager": "true",
            "backend-type": "vxlan",
            "backend-data": data,
            "public-ip": ADDRESSES[OURS],
        }
        wait_until(lambda: self.annotations(OURS) == expected, 5, "the annotations")
        base, _, length = self.subnets[OURS][0].partition("/")
        first = base.removesuffix(".0") + ".1"
        text = (self.cluster.underlay.dir / f"{OURS}.subnet.env").read_bytes()
        self.assertEqual(
            text.decode(),
            f"FLANNEL_NETWORK={PODS}\nFLANNEL_SUBNET={first}/{length}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        )
        conditions = self.client.get(f"{NODES}/{OURS}")["status"]["conditions"]
        found = [item["status"] for item in conditions if item["type"] == "NetworkUnavailable"]
        self.assertEqual(found, ["False"])
        routes = self.routes(OURS)
        for name in STOCK:
            self.assertEqual(routes[self.subnets[name][0]], (name, "vxlan", ADDRESSES[name]))

    def test_2_all_pods_reach_each_other(self) -> None:
        self.all_pairs()
        self.stock_is_well()

    def test_3_frames_are_those_of_flannel(self) -> None:
        own, stock = self.annotations(OURS), self.annotations("n1")
        macs = [json.loads(annotations["backend-data"])["VtepMAC"] for annotations in (own, stock)]
        expression = f"udp port 8472 and host {ADDRESSES[OURS]} {NO_PROBE}"
        with Capture(self.cluster.underlay, "n1", "eth0", expression) as capture:
            self.assertEqual(self.pods[OURS].ping(self.pods["n1"].address), 3)
            packets = capture.wait(6)
        seen = set()
        for packet in packets:
            frame = VXLAN(bytes(packet[UDP].payload))
            self.assertEqual((packet[UDP].dport, frame.flags, frame.vni), (8472, 8, 1))
            seen.add((frame[Ether].src, frame[Ether].dst))
        self.assertEqual(seen, {(macs[0], macs[1]), (macs[1], macs[0])})

    def test_4_the_public_address_may_be_another_one(self) -> None:
        # A router has it, and hands what it gets to the node.
        other = "203.0.113.3"
        rule = f"ip daddr {other} ip daddr set {ADDRESSES[OURS]}"
        underlay = self.cluster.underlay
        underlay.exec(
            *("R", "nft", f"table ip t {{ chain c {{ type filter hook prerouting priority -300; {rule}; }}; }}"),
        )
        for name in STOCK:
            underlay.ip(name, f"route add {other} via 192.0.2.254")
        self.client.annotate(OURS, {f"{PREFIX}public-ip-overwrite": other})
        wait_until(lambda: self.annotations(OURS)["public-ip"] == other, MEND_S, "the other address")
        wait_until(lambda: all(self.sends_to(name, other) for name in STOCK), MEND_S, "stock nodes to send there")
        with Capture(underlay, "n1", "eth0", f"udp port 8472 and dst host {other}") as capture:
            self.assertEqual(self.pods["n1"].ping(self.pods[OURS].address), 3)
            self.pods[OURS].transfer(self.pods["n2"], self.pods["n2"].address)
            capture.wait(3)
        self.client.annotate(OURS, {f"{PREFIX}public-ip-overwrite": None})
        wait_until(lambda: self.annotations(OURS)["public-ip"] == ADDRESSES[OURS], MEND_S, "the own address")
        wait_until(lambda: not any(self.sends_to(name, other) for name in STOCK), MEND_S, "stock nodes to send here")
        self.assertEqual(self.pods["n1"].ping(self.pods[OURS].address), 3)

    def sends_to(self, name: str, address: str) -> bool:
        """Whether a stock node sends anything to `address`."""
        return any(there == address for _, _, there in self.flannels[name].families[0].there)

    def test_5_what_others_write_over_is_mended(self) -> None:
        before = self.annotations(OURS)
        junk = {
            "backend-data": '{"VNI":7}',
            "backend-type": "host-gw",
            "public-ip": "junk",
            "kube-subnet-manager": "no",
        }
        for changed in (junk, dict.fromkeys(junk)):
            self.client.annotate(OURS, {PREFIX + key: value for key, value in changed.items()})
            wait_until(lambda: self.annotations(OURS) == before, MEND_S, "the annotations as before")
        file = self.cluster.underlay.dir / f"{OURS}.subnet.env"
        text = file.read_bytes()
        file.write_text("FLANNEL_MTU=9000\n", encoding="ascii")
        # Any news of the cluster has it looked at.
        self.client.annotate("n1", {f"{PREFIX}node-public-ip": "192.0.2.1"})
        wait_until(lambda: file.read_bytes() == text, MEND_S, "subnet.env as before")

    def test_6_other_backends_and_junk_are_named(self) -> None:
        before = self.routes(OURS)
        good = {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "192.0.2.61"}
        data = '{"VNI":1,"VtepMAC":"02:00:00:00:00:61"}'
        others = {
            "w1": (
                good | {"backend-type": "wireguard", "backend-data": '{"PublicKey":"x"}'},
                "backend-type is wireguard",
            ),
            "w2": (good | {"backend-data": '{"VNI":'}, "backend-data: no JSON"),
            "w3": (good | {"backend-data": '{"VNI":5,"VtepMAC":"02:00:00:00:00:61"}'}, "VNI 5, here it is 1"),
            "w4": (good | {"backend-data": '{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}'}, "is not a unicast MAC address"),
            "w5": (good | {"backend-data": "null"}, "VtepMAC"),
            "w6": (good | {"backend-data": data, "public-ip": "::1"}, '"::1" is no such address'),
            "w7": (good | {"backend-data": data, "public-ip": ADDRESSES["n1"]}, "is another node's"),
            "w8": (good | {"backend-data": data.replace("61", "60"), "public-ip": "192.0.2.68"}, "is another node's"),
        }
        full = {PREFIX + key: value for key, value in (good | {"backend-data": data.replace("61", "60")}).items()}
        self.client.create_node("w0", "10.244.159.0/24", [], full)
        wait_until(lambda: self.route(OURS, "10.244.159.1").get("peer") == "w0", CHANGE_S, "who is well")
        for number, (name, (annotations, _)) in enumerate(others.items()):
            full = {PREFIX + key: value for key, value in annotations.items()}
            self.client.create_node(name, f"10.244.{160 + number}.0/24", [f"192.0.2.{160 + number}"], full)
        # One without annotations has no flanneld yet: nothing is said of it.
        self.client.create_node("w9", "10.244.169.0/24", ["192.0.2.169"])
        wait_until(lambda: len(self.refusals(OURS)) == len(others), CHANGE_S, "refusals")
        for name, (_, reason) in others.items():
            self.assertIn(reason, self.refusals(OURS)[f"node {name}"])
        self.assertEqual(self.routes(OURS), before | {"10.244.159.0/24": ("w0", "vxlan", "192.0.2.61")})
        for pod in (self.pods["n1"], self.pods["n2"]):
            self.assertEqual(self.pods[OURS].ping(pod.address), 3)
        for name in (*others, "w0", "w9"):
            self.client.delete_node(name)
        wait_until(lambda: not self.refusals(OURS), MEND_S, "no refusal")

    def test_7_at_the_end_the_stock_side_has_seen_nothing_unusual(self) -> None:
        self.all_pairs(1 << 20)
        self.stock_is_well()
        drops = self.daemon(OURS).json("drops")
        self.assertEqual({reason: count for reason, count in drops.items() if count}, {})


class DualStack(Flannel):
    dual_stack = True
    networks: ClassVar[dict[str, Any]] = {"Network": PODS, "EnableIPv6": True, "IPv6Network": PODS6}
    mtu = 1430

    def test_1_it_says_what_flanneld_would(self) -> None:
        # A node of both families is two peers to others, each with an address of its own.
        data, data6 = (f'{{"VNI":1,"VtepMAC":"{vtep_mac(name)}"}}' for name in (OURS, f"{OURS}-v6"))
        expected = {
            "kube-subnet-manager": "true",
            "backend-type": "vxlan",
            "backend-data": data,
            "backend-v6-data": data6,
            "public-ip": ADDRESSES[OURS],
            "public-ipv6": ADDRESSES6[OURS],
        }
        wait_until(lambda: self.annotations(OURS) == expected, 5, "the annotations")
        four, six = self.subnets[OURS]
        text = (self.cluster.underlay.dir / f"{OURS}.subnet.env").read_text(encoding="ascii")
        self.assertEqual(
            text,
            f"FLANNEL_NETWORK={PODS}\nFLANNEL_SUBNET={four.replace('.0/', '.1/')}\n"
            f"FLANNEL_IPV6_NETWORK={PODS6}\nFLANNEL_IPV6_SUBNET={six.replace('::/', '::1/')}\n"
            "FLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
        )

    def test_2_all_pods_reach_each_other_in_both_families(self) -> None:
        for pod in self.pods.values():
            self.assertEqual(len(pod.addresses), 2)
        self.all_pairs(LARGE // 4)
        self.stock_is_well()

    def test_3_ipv6_goes_over_ipv6(self) -> None:
        with Capture(self.cluster.underlay, "n1", "eth0", f"ip6 and udp port 8472 and host {ADDRESSES6[OURS]}") as six:
            self.assertEqual(self.pods[OURS].ping(self.pods["n1"].addresses[1]), 3)
            six.wait(6)


if __name__ == "__main__":
    unittest.main()
