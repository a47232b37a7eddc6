"""Which subnet a node takes, and that no two ever have the same, with real etcd."""

import bootstrap

import json
import time
from typing import Any, ClassVar

from flannel_etcd import BACK_S, CHANGE_S, WithEtcd, record
from shared import METRICS
from underpass_lab.command import wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.nodes import ADDRESSES

MAC = "02:00:00:00:00:77"
STRANGER = "192.0.2.77"


class Claims(WithEtcd):
    nodes: ClassVar[tuple[str, ...]] = ()

    def setUp(self) -> None:
        for node in ADDRESSES:
            self.stop(node)
            for kind in ("subnet.env", "state.json"):
                (self.lab.dir / f"{node}.{kind}").unlink(missing_ok=True)
            (self.lab.dir / f"{node}.log").unlink(missing_ok=True)
        self.lab.pods.clear()
        self.etcd.ctl("del", "--prefix", "/coreos.com/network/")
        self.etcd.configure("vxlan")

    def launch(self, node: str, keys: str = "", more: str = "") -> Daemon:
        """Starts a daemon without waiting for anything."""
        file = self.lab.dir / f"{node}.toml"
        file.write_text(self.lab.file(node, self.etcd, keys, METRICS + more), encoding="utf-8")
        self.lab.daemons[node] = Daemon(self.lab, node, file)
        return self.lab.daemons[node]

    def ready(self, node: str) -> None:
        self.lab.daemons[node].wait_ready(BACK_S)
        self.lab.address_pod(node)

    def test_nodes_that_begin_at_once_never_share_a_subnet(self) -> None:
        # As many subnets as nodes, so that all draw among the same ones.
        for _ in range(3):
            self.setUp()
            self.etcd.put("config", '{"Network":"10.244.0.0/22","Backend":{"Type":"vxlan"}}')
            for node in ADDRESSES:
                self.launch(node)
            for node in ADDRESSES:
                self.ready(node)
            expected = {f"10.244.{number}.0-24" for number in (1, 2, 3)}
            self.assertEqual(set(self.etcd.records()), expected)
            self.assertEqual({self.key(node) for node in ADDRESSES}, expected)
            self.all_know_all()
        self.all_pairs(1 << 16)

    def test_one_of_two_that_want_the_same_has_it(self) -> None:
        keys = 'subnet = "10.244.7.0/24"'
        for node in ("n1", "n2"):
            self.launch(node, keys)
        wait_until(lambda: "10.244.7.0-24" in self.etcd.records(), CHANGE_S, "a claim")
        owner = "n1" if ADDRESSES["n1"] in self.etcd.records()["10.244.7.0-24"].value else "n2"
        other = "n2" if owner == "n1" else "n1"
        self.ready(owner)
        text = f"the subnet 10.244.7.0/24 of this node's file is that of {ADDRESSES[owner]} (key subnets/10.244.7.0-24)"
        self.says(other, text)
        self.says(other, "source etcd: waiting: ")
        # It waits, and serves nobody.
        time.sleep(1)
        self.assertIsNone(self.lab.daemons[other].process.poll())
        self.assertFalse((self.lab.dir / f"{other}.sock").exists())
        self.assertEqual(list(self.etcd.records()), ["10.244.7.0-24"])
        # Once it is free the other one has it.
        self.stop(owner)
        self.etcd.delete("subnets/10.244.7.0-24")
        self.ready(other)
        self.assertEqual(self.key(other), "10.244.7.0-24")

    def test_a_reservation_stays_one(self) -> None:
        self.etcd.put("subnets/10.244.42.0-24", json.dumps({"PublicIP": ADDRESSES["n1"]}))
        self.begin("n2")
        # What nobody uses yet is no mistake, and not to be had for others.
        self.assertEqual(self.lab.source("n2")["refused"], 0)
        self.begin("n1")
        self.assertEqual(self.key("n1"), "10.244.42.0-24")
        found = self.etcd.records()["10.244.42.0-24"]
        mac = self.lab.status("n1")["tunnel"]["vtep_mac"]
        self.assertEqual((found.lease, found.value), (0, record(ADDRESSES["n1"], mac)))
        self.all_know_all()
        self.assertEqual(self.lab.ping("podA", self.lab.pods["n2"]), 3)

    def test_what_it_had_before_is_taken_again(self) -> None:
        file = self.lab.dir / "n1.subnet.env"
        file.write_text("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.93.1/24\n", encoding="ascii")
        self.begin("n1")
        self.assertEqual(self.key("n1"), "10.244.93.0-24")
        # A record of its own address that does not fit is given up for one that does.
        self.stop("n1")
        self.etcd.ctl("del", "--prefix", "/coreos.com/network/subnets/")
        self.etcd.put("subnets/10.245.1.0-24", record(ADDRESSES["n1"], MAC), self.etcd.grant(600))
        self.etcd.put("subnets/10.244.93.0-24", record(STRANGER, MAC))
        self.begin("n1")
        keys = set(self.etcd.records())
        self.assertEqual(keys, {"10.244.93.0-24", self.key("n1")})
        self.assertIn("subnet 10.245.1.0-24 is given back", self.log("n1"))
        # One from the time when the network had IPv6 is in the way of the same without.
        self.stop("n1")
        key = self.key("n1")
        self.etcd.delete(f"subnets/{key}")
        self.etcd.put(f"subnets/{key}&fd00:244::-64", record(ADDRESSES["n1"], MAC), self.etcd.grant(600))
        self.begin("n1", f'subnet = "{self.lab.subnet("n1")}"')
        self.assertEqual(set(self.etcd.records()), {"10.244.93.0-24", key})

    def test_a_network_without_room(self) -> None:
        self.etcd.put("config", '{"Network":"10.244.0.0/24","SubnetLen":26,"Backend":{"Type":"vxlan"}}')
        for number in (64, 128, 192):
            self.etcd.put(f"subnets/10.244.0.{number}-26", record(f"192.0.2.{number}", f"02:00:00:00:01:{number:02x}"))
        self.launch("n1")
        self.says("n1", "no subnet of 10.244.0.0/24 is free; enlarge the network, or delete records")
        self.etcd.delete("subnets/10.244.0.128-26")
        self.lab.daemons["n1"].wait_ready(BACK_S)
        self.assertIn(ADDRESSES["n1"], self.etcd.records()["10.244.0.128-26"].value)

    def test_a_start_waits_for_the_configuration(self) -> None:
        self.etcd.delete("config")
        self.launch("n1")
        self.says("n1", "waiting: /coreos.com/network/config is not there; put flannel's configuration there, such as ")
        self.etcd.configure("wireguard")
        self.says("n1", "the backend wireguard cannot be spoken; known: vxlan, ipip, host-gw; correct it")
        self.etcd.configure("vxlan")
        self.ready("n1")
        self.assert_own_record("n1")

    def test_claims_for_a_node_that_is_gone_end(self) -> None:
        """The time of `lease_ttl`, and a daemon that keeps its own alive for longer than that."""
        for node in ("n1", "n2"):
            self.begin(node, "lease_ttl = 10")
        self.all_know_all()
        lease = self.etcd.records()[self.key("n1")].lease
        self.assertIn("granted with TTL(10s)", self.etcd.ctl("lease", "timetolive", f"{lease:x}"))
        subnet = self.lab.subnet("n2")
        daemon = self.lab.daemons.pop("n2")
        daemon.process.kill()
        daemon.process.wait(10)
        self.lab.pods.pop("n2")
        wait_until(lambda: subnet not in self.lab.known("n1"), 40, "the end of a dead node's claim")
        self.assertEqual(self.etcd.records()[self.key("n1")].lease, lease)

    def test_members_that_are_away(self) -> None:
        text = self.lab.file("n1", self.etcd, more=METRICS)
        away = 'endpoints = ["http://192.0.2.250:2379", "http://192.0.2.10:1", '
        file = self.lab.dir / "n1.toml"
        file.write_text(text.replace("endpoints = [", away), encoding="utf-8")
        self.lab.daemons["n1"] = Daemon(self.lab, "n1", file)
        self.ready("n1")
        self.following("n1")

    def test_two_sections_of_clusters_are_refused(self) -> None:
        text = self.lab.file("n1", self.etcd) + '[source.kubernetes]\nnode_name = "n1"\n'
        daemon: Any = self.launch("n1")
        daemon.process.kill()
        daemon.process.wait(10)
        self.lab.daemons.pop("n1")
        file = self.lab.dir / "both.toml"
        file.write_text(text, encoding="utf-8")
        said = daemon.command("check", file, check=False)
        self.assertNotEqual(said.returncode, 0)
        self.assertIn("[source.etcd] beside [source.kubernetes]", said.stdout + said.stderr)
