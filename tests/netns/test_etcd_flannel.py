"""Nodes of underpass beside stock ones: what flanneld does on a node, by hand, over the kernel's own VXLAN device."""

import bootstrap

import json
from typing import Any, ClassVar

from flannel_etcd import CHANGE_S, WithEtcd, record
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, PODS

STOCK = "n2"
VNI, PORT, DEVICE = 1, 8472, "flannel.1"
SUBNET, POD = "10.244.222.0/24", "10.244.222.2"


class BesideStock(WithEtcd):
    nodes: ClassVar[tuple[str, ...]] = ("n1", "n3")

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        # flanneld's device and record (pkg/backend/vxlan).
        cls.lab.ip(
            STOCK,
            f"link add {DEVICE} type vxlan id {VNI} local {ADDRESSES[STOCK]} dev eth0 dstport {PORT} nolearning",
            f"address add 10.244.222.0/32 dev {DEVICE}",
            f"link set {DEVICE} up",
            "address add 10.244.222.1/24 dev pod0",
        )
        cls.lab.ip(PODS[STOCK], f"address add {POD}/24 dev eth0", "route add default via 10.244.222.1")
        cls.mac = cls.lab.mac(STOCK, DEVICE)
        lease = cls.etcd.grant(86400)
        cls.etcd.put("subnets/10.244.222.0-24", record(ADDRESSES[STOCK], cls.mac), lease)
        for node in cls.nodes:
            cls.meet(node)
        cls.lab.pods[STOCK] = POD
        cls.on_all(cls.lab.knows_all, "the stock node")

    mac: ClassVar[str]

    @classmethod
    def meet(cls, node: str) -> None:
        """What flanneld adds for the record of another node: an address, where that is, and a route."""
        subnet = cls.lab.subnet(node)
        value = json.loads(cls.etcd.records()[subnet.replace("/", "-")].value)
        base, mac = subnet.removesuffix("/24"), value["BackendData"]["VtepMAC"]
        cls.lab.ip(
            STOCK,
            f"neighbour replace {base} lladdr {mac} dev {DEVICE} nud permanent",
            f"route replace {subnet} via {base} dev {DEVICE} onlink",
        )
        fdb = ("bridge", "-n", cls.lab.ns(STOCK), "fdb", "replace", mac, "dev", DEVICE, "dst", value["PublicIP"])
        cls.lab.tool(*fdb)

    def test_1_traffic_in_both_directions(self) -> None:
        self.all_pairs(8 << 20)
        shown = self.lab.exec(STOCK, "ip", "-s", "-j", "link", "show", DEVICE).stdout
        received = json.loads(shown)[0]["stats64"]["rx"]
        self.assertGreater(received["packets"], 0)
        self.assertEqual((received["errors"], received["dropped"]), (0, 0))
        for node in self.nodes:
            drops = {reason: count for reason, count in self.lab.drops(node).items() if count}
            self.assertEqual(drops, {})

    def test_2_old_records_have_no_vni(self) -> None:
        lease = self.etcd.records()["10.244.222.0-24"].lease
        self.etcd.put("subnets/10.244.222.0-24", record(ADDRESSES[STOCK], BackendData={"VtepMAC": self.mac}), lease)
        self.etcd.put("subnets/10.244.198.0-24", record("192.0.2.77", "02:00:00:00:00:77"))
        wait_until(lambda: "10.244.198.0/24" in self.lab.known("n1"), CHANGE_S, "what was written after it")
        self.assertEqual(self.lab.known("n1")[SUBNET], ADDRESSES[STOCK])
        self.assertEqual(self.lab.source("n1")["refused"], 0)
        self.assertEqual(self.lab.ping("podA", POD), 3)
        self.etcd.delete("subnets/10.244.198.0-24")

    def test_3_a_device_that_is_made_anew_is_followed(self) -> None:
        other = "02:00:00:00:22:22"
        self.lab.ip(STOCK, f"link set {DEVICE} address {other}")
        for node in self.nodes:
            self.meet(node)  # the kernel forgets what it knew behind the old one
        self.etcd.put("subnets/10.244.222.0-24", record(ADDRESSES[STOCK], other), self.etcd.grant(86400))

        def known() -> Any:
            peers = self.lab.status("n1")["peers"]
            return next(peer["vtep_mac"] for peer in peers if peer["address"] == ADDRESSES[STOCK])

        wait_until(lambda: known() == other, CHANGE_S, "the other address")
        wait_until(lambda: self.lab.ping("podA", POD, count=1) == 1, CHANGE_S, "an answer")
        self.assertEqual(self.lab.ping("podC", POD), 3)


class OtherModes(WithEtcd):
    """The backends that name no device: IP-in-IP and the bare packet."""

    backend = "ipip"
    network: ClassVar[dict[str, Any]] = {"DirectRouting": True}

    def modes(self, source: str = "n1") -> set[tuple[str, str]]:
        """How a node sends to the others."""
        others = [node for node in self.nodes if node != source]
        return {(node, self.lab.daemons[source].json("route", "get", self.lab.pods[node])["mode"]) for node in others}

    def test_1_ipip_where_there_is_a_router_between(self) -> None:
        self.assertEqual(self.modes(), {("n2", "direct"), ("n3", "ipip")})
        for node in self.nodes:
            self.assert_own_record(node, "ipip")
        self.all_pairs(1 << 16)
        file = (self.lab.dir / "n1.subnet.env").read_text(encoding="ascii")
        self.assertIn("FLANNEL_MTU=1480\n", file)

    def test_2_host_gw_is_bare(self) -> None:
        """The backend changes while all run: each says so of itself, and follows the others."""
        # Without a tunnel the router must know the way.
        for node in self.nodes:
            self.lab.ip("R", f"route add {self.lab.subnet(node)} via {ADDRESSES[node]}")
        self.etcd.configure("host-gw")
        self.on_all(lambda node: "host-gw" in self.etcd.records()[self.key(node)].value, "the backend")
        self.all_know_all()
        wait_until(lambda: self.modes() == {("n2", "direct"), ("n3", "direct")}, CHANGE_S, "the mode")
        for node in self.nodes:
            self.assert_own_record(node, "host-gw")
        self.all_pairs(1 << 16)

    def test_3_and_vxlan_again(self) -> None:
        self.etcd.configure("vxlan", VNI=77, Port=4789)
        self.on_all(lambda node: "VtepMAC" in self.etcd.records()[self.key(node)].value, "the backend")
        # Another port and network take other sockets: everything begins anew in the same process.
        wait_until(lambda: self.settled(), 30, "the nodes with other sockets")
        self.all_pairs(1 << 16)

    def settled(self) -> bool:
        """Whether all nodes reach each other by VXLAN."""
        try:
            modes = {mode for node in self.nodes for _, mode in self.modes(node)}
        except AssertionError:
            return False  # one begins anew
        pairs = [(PODS[source], self.lab.pods[target]) for source in self.nodes for target in self.nodes]
        return modes == {"vxlan"} and all(self.lab.ping(*pair, count=1) == 1 for pair in pairs)
