"""R8 and R9: pod networks joined by what etcd says, through its outages and whatever is written there."""

import bootstrap

import time
from typing import Any, ClassVar

from flannel_etcd import BACK_S, CHANGE_S, WithEtcd, record
from underpass_lab.command import wait_until
from underpass_lab.etcd import ADDRESS, NETWORK
from underpass_lab.nodes import ADDRESSES, PODS

# Seconds for which etcd is away.
OUTAGE_S = 5.0
STRANGER = "192.0.2.77"
MAC = "02:00:00:00:00:77"


class Fleet(WithEtcd):
    def test_1_all_pods_reach_each_other(self) -> None:
        self.all_pairs()
        for node in self.nodes:
            self.assert_own_record(node)
            source = self.lab.source(node)
            self.assertEqual((source["state"], source["style"], source["nodes"]), ("following", "flannel", 3))
            self.assertEqual((source["refused"], source["problems"]), (0, []))
            base, _, length = self.lab.subnet(node).partition("/")
            file = (self.lab.dir / f"{node}.subnet.env").read_bytes().decode()
            self.assertEqual(
                file,
                f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={base.removesuffix('.0')}.1/{length}\n"
                "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
            )
        # From the second subnet on, all different.
        subnets = {self.lab.subnet(node) for node in self.nodes}
        self.assertEqual(len(subnets), 3)
        self.assertNotIn("10.244.0.0/24", subnets)

    def test_2_the_port_and_network_are_flannels(self) -> None:
        got = self.lab.daemons["n1"].json("route", "get", self.lab.pods["n2"])
        self.assertEqual((got["peer"], got["mode"], got["source"]), (ADDRESSES["n2"], "vxlan", "etcd"))
        with self.lab.capture("n1", "eth0", "udp dst port 8472 and udp[12:4] = 0x100") as capture:
            self.assertEqual(self.lab.ping("podA", self.lab.pods["n2"]), 3)
            capture.wait(6)

    def test_3_a_lease_that_expires_removes_the_route(self) -> None:
        lease = self.etcd.grant(3)
        self.etcd.put("subnets/10.244.199.0-24", record(STRANGER, MAC), lease)
        self.on_all(lambda node: self.lab.known(node).get("10.244.199.0/24") == STRANGER, "its route")
        # Nobody keeps it alive.
        self.on_all(self.lab.knows_all, "the end of its route", BACK_S)
        self.assertEqual(len(self.lab.daemons["n1"].json("peer", "list")), 2)

    def test_4_junk_is_left_out_by_name(self) -> None:
        before = self.lab.known("n1")
        junk = {
            "10.244.200.0-24": ("{", "no JSON"),
            "10.244.201.0-24": ("[1]", "no JSON object"),
            "10.244.202.0-24": (record("nowhere", MAC), 'PublicIP: "nowhere" is no such address'),
            "10.244.203.0-24": (
                record(STRANGER, backend="wireguard"),
                "its BackendType is wireguard, here it is vxlan",
            ),
            "10.244.204.0-24": (record(STRANGER, "ff:ff:ff:ff:ff:ff"), "VtepMAC"),
            "10.244.205.0-24": (record(STRANGER, BackendData={"VNI": 5, "VtepMAC": MAC}), "VNI 5, here it is 1"),
            "10.244.206.0-24": (record(ADDRESSES["n1"], MAC), "it is of this node's address"),
            "10.244.207.0-24": ('{"PublicIP":' + "[" * 3000, "no JSON"),
            "10.244.210.0-24": ("x" * 8000, "its value is empty, no text, or too long"),
            "10.244.208.1-24": (record(STRANGER, MAC), "is no subnet like"),
            "junk": (record(STRANGER, MAC), "is no subnet like"),
            "10.244.209.0-24&junk": (record(STRANGER, MAC), "is no subnet like"),
        }
        for key, (value, _) in junk.items():
            self.etcd.put(f"subnets/{key}", value)
        self.etcd.put("elsewhere", "x")
        self.etcd.put("subnets/10.244.198.0-24", record(STRANGER, MAC))
        wait_until(lambda: self.lab.known("n1").get("10.244.198.0/24") == STRANGER, CHANGE_S, "who is well")
        wait_until(lambda: self.lab.source("n1")["refused"] == len(junk), CHANGE_S, "refusals")
        refusals = self.lab.refusals("n1")
        for key, (_, reason) in junk.items():
            self.assertIn(reason, refusals[f"key subnets/{key}"])
            self.assertIn(f"source etcd: key subnets/{key} is left out: ", self.log("n1"))
        self.assertEqual(self.lab.known("n1"), before | {"10.244.198.0/24": STRANGER})
        self.assertEqual(self.lab.ping("podA", self.lab.pods["n3"]), 3)
        for key in (*junk, "10.244.198.0-24"):
            self.etcd.delete(f"subnets/{key}")
        wait_until(lambda: self.lab.source("n1")["refused"] == 0, CHANGE_S, "no refusal")
        self.all_know_all()

    def test_5_a_configuration_that_cannot_be_used_changes_nothing(self) -> None:
        def mode() -> Any:
            return self.lab.daemons["n1"].json("route", "get", self.lab.pods["n2"])["mode"]

        for text, reason in (("{", "no JSON"), ('{"Network":"10.9.0.0/16"}', "the backend udp cannot be spoken")):
            self.etcd.put("config", text)
            self.problem(reason)
            self.assertEqual(mode(), "vxlan")
        self.etcd.delete("config")
        self.problem("is not there")
        self.assertEqual(self.lab.ping("podA", self.lab.pods["n2"]), 3)
        self.etcd.configure("vxlan")
        wait_until(lambda: not self.lab.source("n1")["problems"], CHANGE_S, "no problem")

    def problem(self, text: str) -> None:
        """Waits until n1 shows such a problem."""
        wait_until(lambda: text in "".join(self.lab.source("n1")["problems"]), CHANGE_S, text)

    def test_6_an_outage_costs_no_packet(self) -> None:
        with self.pings("n1", "n3") as far, self.pings("n1", "n2") as near:
            self.etcd.kill()
            reason = self.degraded("n1")
            self.assertIn(f"etcd at http://{ADDRESS}:2379: ", reason)
            begun = time.monotonic()
            while time.monotonic() < begun + OUTAGE_S:
                self.assertTrue(all(self.lab.knows_all(node) for node in self.nodes))
                time.sleep(0.2)
            wait_until(lambda: "refused" in self.lab.source("n1")["reason"], BACK_S, "why etcd cannot be reached")
            self.etcd.start()
            for node in self.nodes:
                self.following(node)
        for pings in (far, near):
            self.assertGreater(pings.sent, 100)
            self.assertEqual(pings.lost, 0, pings.what)
        # What happens from then on is followed.
        self.etcd.put("subnets/10.244.198.0-24", record(STRANGER, MAC))
        self.on_all(lambda node: "10.244.198.0/24" in self.lab.known(node), "a new node")
        self.etcd.delete("subnets/10.244.198.0-24")
        self.all_know_all()

    def test_7_a_lease_that_is_lost_is_claimed_again(self) -> None:
        subnet, before = self.lab.subnet("n1"), self.etcd.records()[self.key("n1")]
        pid = self.lab.daemons["n1"].pid
        self.etcd.ctl("lease", "revoke", f"{before.lease:x}")

        def again() -> bool:
            found = self.etcd.records().get(self.key("n1"))
            return found is not None and found.lease not in (0, before.lease) and found.value == before.value

        wait_until(again, CHANGE_S, "another lease")
        self.says("n1", f"ERROR source etcd: the lease of subnet {self.key('n1')} is gone; it is claimed again")
        self.all_know_all()
        self.assertEqual((self.lab.subnet("n1"), self.lab.daemons["n1"].pid), (subnet, pid))
        self.assertEqual(self.lab.ping("podC", self.lab.pods["n1"]), 3)
        # Whatever others write there is mended.
        for junk in ("junk", record(ADDRESSES["n1"], MAC), record(ADDRESSES["n1"], backend="host-gw")):
            self.etcd.put(f"subnets/{self.key('n1')}", junk)
            wait_until(lambda: self.etcd.records()[self.key("n1")].value == before.value, CHANGE_S, "the record")
        self.all_know_all()

    def test_8_a_subnet_that_another_node_has_by_now(self) -> None:
        key = self.key("n1")
        with self.pings("n1", "n3") as pings:
            # As if its lease had ended while it could not be reached, and another node had drawn the same.
            self.etcd.put(f"subnets/{key}", record(STRANGER, MAC))
            text = f"the subnet {self.lab.subnet('n1')} of this node is that of {STRANGER} (key subnets/{key}) by now"
            self.problem(text)
            self.says("n1", f"ERROR source etcd: {text}")
            # Its pods stay where they are, and the claim of the other one is respected.
            own = self.lab.daemons["n1"].json("route", "list", "--source", "local")
            self.assertEqual([route["prefix"] for route in own], [self.lab.subnet("n1")])
            time.sleep(1)
            self.assertEqual(self.etcd.records()[key].value, record(STRANGER, MAC))
            self.etcd.delete(f"subnets/{key}")
            wait_until(lambda: not self.lab.source("n1")["problems"], BACK_S, "no problem")
            self.all_know_all()
        self.assertGreater(pings.sent, 0)
        self.assert_own_record("n1")
        self.assertEqual(self.lab.ping("podA", self.lab.pods["n3"]), 3)

    def test_9_what_is_compacted_meanwhile_is_read_again(self) -> None:
        self.etcd.put("subnets/10.244.198.0-24", record(STRANGER, MAC))
        wait_until(lambda: "10.244.198.0/24" in self.lab.known("n1"), CHANGE_S, "a node that will go")
        self.lab.ip("n1", f"route add blackhole {ADDRESS}/32")
        self.degraded("n1")
        self.etcd.delete("subnets/10.244.198.0-24")
        for number in range(20):
            self.etcd.put("subnets/10.244.197.0-24", record(STRANGER, f"02:00:00:00:01:{number:02x}"))
        revision = self.etcd.records()["10.244.197.0-24"].modified
        self.etcd.ctl("compact", revision)
        self.assertEqual(self.lab.ping("podA", self.lab.pods["n3"]), 3)
        self.lab.ip("n1", f"route del blackhole {ADDRESS}/32")
        self.following("n1")
        self.says("n1", "is compacted, all is read again")
        wait_until(lambda: "10.244.197.0/24" in self.lab.known("n1"), CHANGE_S, "who came meanwhile")
        self.assertNotIn("10.244.198.0/24", self.lab.known("n1"))
        self.etcd.delete("subnets/10.244.197.0-24")
        self.all_know_all()


class Restarts(WithEtcd):
    def test_1_a_restart_keeps_the_subnet(self) -> None:
        subnet, found = self.lab.subnet("n1"), self.etcd.records()
        self.begin("n1")
        self.assertEqual(self.lab.subnet("n1"), subnet)
        self.all_know_all()
        self.assertEqual(found.keys(), self.etcd.records().keys())
        self.all_pairs(1 << 16)

    def test_2_a_start_while_etcd_is_away(self) -> None:
        subnet = self.lab.subnet("n1")
        wait_until((self.lab.dir / "n1.state.json").exists, 5, "the state file")
        self.etcd.kill()
        # A reboot takes this file.
        (self.lab.dir / "n1.subnet.env").unlink()
        self.begin("n1")
        self.assertEqual(self.lab.subnet("n1"), subnet)
        self.assertIn(f"etcd at http://{ADDRESS}:2379: ", self.degraded("n1"))
        self.assertTrue(self.lab.knows_all("n1"))
        self.all_pairs(1 << 16)
        self.etcd.start()
        for node in self.nodes:
            self.following(node)
        self.all_know_all()
        self.assert_own_record("n1")

    def test_3_another_etcd_is_no_continuation(self) -> None:
        """A store that was set up anew begins to count at one: what was known of the old one is not what it says."""
        wait_until(lambda: len(self.etcd.records()) == 3, CHANGE_S, "all records")
        with self.pings("n1", "n3") as tunnel, self.pings("n1", "n2") as near:
            self.etcd.kill()
            self.etcd.directory = self.lab.dir / "new.etcd"
            self.etcd.directory.mkdir()
            self.etcd.start()
            self.on_all(lambda node: "is not there" in str(self.lab.source(node)["problems"]), "the other etcd", BACK_S)
            self.etcd.configure("vxlan")
            for node in self.nodes:
                self.following(node)
            wait_until(lambda: len(self.etcd.records()) == 3, BACK_S, "all records again")
            self.all_know_all(BACK_S)
        # Nodes are not forgotten before they have said anew where they are.
        self.assertEqual((tunnel.lost, near.lost), (0, 0))
        for node in self.nodes:
            self.assert_own_record(node)
        self.all_pairs(1 << 16)

    def test_4_a_stopped_node_keeps_its_claim(self) -> None:
        self.stop("n2")
        self.assertIn(self.key("n2"), self.etcd.records())
        self.begin("n2")
        self.all_know_all()


class Precedence(WithEtcd):
    """R9: what an operator writes, types, or has a routing daemon find out goes before what etcd says."""

    TABLE: ClassVar[int] = 100

    def shown(self) -> tuple[Any, Any]:
        got = self.lab.daemons["n1"].json("route", "get", self.lab.pods["n3"])
        return got["source"], got["peer"]

    def test_the_next_best_takes_over(self) -> None:
        subnet, n3 = self.lab.subnet("n3"), ADDRESSES["n3"]
        self.begin("n1", more='[source.kernel]\ntables = [100]\nprotocols = ["static"]\n')
        self.all_know_all()
        self.assertEqual(self.shown(), ("etcd", n3))
        with self.pings("n1", "n3") as pings:
            self.lab.ip("n1", f"route add {subnet} via {n3} table {self.TABLE} proto static onlink dev eth0")
            wait_until(lambda: self.shown() == ("kernel", n3), CHANGE_S, "the kernel's route")
            self.lab.daemons["n1"].command("route", "add", subnet, "--via", n3)
            self.assertEqual(self.shown(), ("control", n3))
            listed = self.lab.daemons["n1"].json("route", "list")
            sources = {route["source"] for route in listed if route["prefix"] == subnet}
            self.assertLessEqual({"control"}, sources)
            self.lab.daemons["n1"].command("route", "del", subnet)
            self.assertEqual(self.shown(), ("kernel", n3))
            self.lab.ip("n1", f"route del {subnet} table {self.TABLE}")
            wait_until(lambda: self.shown() == ("etcd", n3), CHANGE_S, "etcd's route")
            time.sleep(0.5)
        self.assertGreater(pings.sent, 10)
        self.assertEqual(pings.lost, 0)
        # What the file says goes before all, and what etcd says then is left out by name.
        file = self.lab.dir / "n1.toml"
        text = file.read_text(encoding="utf-8")
        peer = f'[[peer]]\nname = "typed"\naddress = "192.0.2.2"\nsubnets = ["{subnet}"]\n'
        file.write_text(text + peer, encoding="utf-8")
        self.lab.daemons["n1"].command("reload")
        wait_until(lambda: self.shown() == ("static", "typed"), CHANGE_S, "the file's route")
        self.assertIn(f"its pod subnet {subnet} is that of peer typed", self.lab.refusals("n1")[f"node {n3}"])
        file.write_text(text, encoding="utf-8")
        self.lab.daemons["n1"].command("reload")
        wait_until(lambda: self.shown() == ("etcd", n3), CHANGE_S, "etcd's route")
        self.assertEqual(self.lab.ping(PODS["n1"], self.lab.pods["n3"]), 3)
