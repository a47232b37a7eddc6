"""`[source.kubernetes]` in the style `native`: three nodes in two subnets, with no peer and no subnet in any file."""

import bootstrap

import json
import os
import pathlib
import time
import unittest
from typing import Any, ClassVar

from scapy.layers.inet import IP

from clustered import BACK_S, CHANGE_S, Clustered
from underpass_lab.capture import Capture
from underpass_lab.command import wait_until
from underpass_lab.kubernetes.client import NODES
from underpass_lab.kubernetes.plan import ADDRESSES

POOL = '[[pool]]\ncidr = "10.244.0.0/16"\nipip_mode = "CrossSubnet"\n'
# A peer that the file of n3 has beside the cluster.
FILE_PEER = '\n[[peer]]\nname = "file"\naddress = "192.0.2.77"\nsubnets = ["10.244.200.0/24"]\n'
# For how long the API server is away. UNDERPASS_OUTAGE_S=60 is as long as may be asked for.
OUTAGE_S = float(os.environ.get("UNDERPASS_OUTAGE_S", "20"))
LOSE_S = 10.0


class Native(Clustered):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.cluster.use_test_cni()
        for name in cls.cluster.nodes:
            cls.start(name, POOL + FILE_PEER * (name == "n3"))
        cls.pods = cls.start_pods()
        cls.cidrs = {name: cls.cluster.pod_subnets(name)[0] for name in cls.cluster.nodes}
        cls.pids = {name: daemon.pid for name, daemon in cls.cluster.underlay.daemons.items()}

    cidrs: ClassVar[dict[str, str]]
    pids: ClassVar[dict[str, int]]

    def everywhere(self, what: str, address: str, peer: str | None, mode: str = "", timeout: float = CHANGE_S) -> None:
        """Within a second all daemons send packets for `address` to `peer`."""

        def is_so(name: str) -> bool:
            route = self.route(name, address)
            return route.get("peer") == peer and (not mode or route["next_hop"] == mode)

        begun = time.monotonic()
        for name in self.cluster.nodes:
            left = begun + timeout - time.monotonic()
            self.soon(f"{what} at {name}", lambda name=name: is_so(name), max(left, 0.0))  # type: ignore[misc]

    # --- what flows -------------------------------------------------------------------------------

    def test_1_nodes_find_each_other(self) -> None:
        far = "n3"
        for name in self.cluster.nodes:
            with self.subTest(name):
                source = self.source(name)
                said = [source[key] for key in ("state", "style", "nodes", "refused", "problems")]
                self.assertEqual(said, ["following", "native", 3, 0, []])
                expected: dict[str, Any] = {self.cidrs[name]: (None, "local", None)}
                for other in self.cluster.nodes.keys() - {name}:
                    mode = "ipip" if far in (name, other) else "direct"
                    expected[self.cidrs[other]] = (other, mode, ADDRESSES[other])
                routes = self.routes(name)
                if name == far:
                    self.assertEqual(routes.pop("10.244.200.0/24")[0], "file")
                self.assertEqual(routes, expected)
        for a in self.pods.values():
            for b in self.pods.values():
                if a is not b:
                    self.assertEqual(a.ping(b.address), 3, f"{a.node} to {b.node}")
                    a.transfer(b, b.address)

    def test_2_direct_inside_the_subnet_and_encapsulated_across(self) -> None:
        one, two, three = (self.pods[name].address for name in ("n1", "n2", "n3"))
        with Capture(self.cluster.underlay, "n1", "eth0", "icmp or ip proto 4") as capture:
            self.assertEqual(self.pods["n1"].ping(two), 3)
            self.assertEqual(self.pods["n1"].ping(three), 3)
            packets = capture.wait(12)
        packets = [packet for packet in packets if IP in packet]
        bare = {(packet[IP].src, packet[IP].dst) for packet in packets if packet[IP].proto == 1}
        outer = {(packet[IP].src, packet[IP].dst) for packet in packets if packet[IP].proto == 4}
        inner = {(packet[IP].payload.src, packet[IP].payload.dst) for packet in packets if packet[IP].proto == 4}
        self.assertEqual(bare, {(one, two), (two, one)})
        self.assertEqual(outer, {("192.0.2.1", "198.51.100.3"), ("198.51.100.3", "192.0.2.1")})
        self.assertEqual(inner, {(one, three), (three, one)})

    # --- nodes that come, change and go -----------------------------------------------------------

    def test_3_a_node_comes_moves_goes_and_comes_back(self) -> None:
        with self.undisturbed(("n1", "n2"), ("n1", "n3")):
            self.client.create_node("x1", "10.244.90.0/24", [])
            self.client.set_addresses("x1", ["192.0.2.91"])
            self.everywhere("a new node", "10.244.90.7", "x1", "192.0.2.91")
            self.client.set_addresses("x1", ["198.51.100.92"])
            self.everywhere("its other address", "10.244.90.7", "x1", "198.51.100.92")
            self.client.delete_node("x1")
            self.everywhere("its end", "10.244.90.7", None)
            self.client.create_node("x1", "10.244.91.0/24", ["192.0.2.91"])
            self.everywhere("its other subnet", "10.244.91.7", "x1", "192.0.2.91")
            self.everywhere("its old subnet", "10.244.90.7", None)
            self.client.delete_node("x1")
            self.everywhere("its end", "10.244.91.7", None)

    def test_4_a_cordoned_node_is_as_it_was(self) -> None:
        before = {name: self.routes(name) for name in self.cluster.nodes}
        logs = {name: self.daemon(name).log() for name in self.cluster.nodes}
        with self.undisturbed(("n1", "n2"), ("n3", "n2")):
            self.client.patch(f"{NODES}/n2", {"spec": {"unschedulable": True}})
            # What comes after it is there, so it has been heard of.
            self.client.create_node("x2", "10.244.92.0/24", ["192.0.2.92"])
            self.everywhere("a later node", "10.244.92.7", "x2")
            self.client.delete_node("x2")
            self.everywhere("its end", "10.244.92.7", None)
        self.assertEqual({name: self.routes(name) for name in self.cluster.nodes}, before)
        for name, log in logs.items():
            self.assertNotIn("n2", self.daemon(name).log().removeprefix(log))
        self.client.patch(f"{NODES}/n2", {"spec": {"unschedulable": None}})

    def test_5_of_two_nodes_with_the_same_subnet_the_older_one_has_it(self) -> None:
        with self.undisturbed(("n1", "n2"), ("n1", "n3"), ("n3", "n2")):
            self.client.create_node("twin", self.cidrs["n2"], ["192.0.2.93"])
            # In the order of the alphabet it would be the other way round.
            self.client.create_node("zz", "10.244.94.0/24", ["192.0.2.94"])
            self.everywhere("the older one", "10.244.94.7", "zz")
            time.sleep(1.1)  # Kubernetes counts age in seconds.
            self.client.create_node("aa", "10.244.94.0/24", ["192.0.2.95"])
            for name in ("n1", "n3"):
                self.soon("a refusal", lambda name=name: len(self.refusals(name)) == 2)  # type: ignore[misc]
                self.assertEqual(
                    self.refusals(name),
                    {
                        "node twin": f"its pod subnet {self.cidrs['n2']} is that of node n2",
                        "node aa": "its pod subnet 10.244.94.0/24 is that of node zz",
                    },
                )
                self.assertEqual(self.source(name)["refused"], 2)
                self.assertEqual(self.source(name)["state"], "following")
                self.assertIn("node twin is left out", self.daemon(name).log())
            # Its own subnet is nobody else's.
            self.soon("a refusal", lambda: self.refusals("n2")["node twin"].endswith("is that of node n2"))
            self.everywhere("the older one", "10.244.94.7", "zz")
            self.client.delete_node("zz")
            self.everywhere("the younger one, alone", "10.244.94.7", "aa")
            for name in ("aa", "twin"):
                self.client.delete_node(name)
            self.soon("no refusal", lambda: self.source("n1")["refused"] == 0)

    def test_6_junk_is_named_and_disturbs_nobody(self) -> None:
        before = {name: self.routes(name) for name in self.cluster.nodes}
        junk = {f"junk.example/{number}": "x" * 500 for number in range(300)}
        flannel = {f"flannel.alpha.coreos.com/{number}": "y" * 500 for number in range(100)}
        with self.undisturbed(("n1", "n2"), ("n1", "n3"), ("n3", "n2")):
            self.client.create_node("j1", "192.0.2.0/24", ["192.0.2.101"])
            self.client.create_node("j2", "10.244.102.0/24", ["not an address\u202e\n"])
            self.client.create_node("j3", "10.244.103.0/24", ["192.0.2.2"])
            self.client.create_node("j4", "10.244.104.0/24", ["10.244.104.4"], junk | flannel)
            self.client.create_node("j5", "0.0.0.0/0", ["192.0.2.105"])
            self.client.create_node("j6", "10.244.106.0/24", ["192.0.2.255"])
            self.client.create_node("j7", "10.244.107.0/24", ["127.0.0.1"])
            self.client.create_node("x" * 250, "10.244.108.0/24", ["192.0.2.108"])
            self.client.create_node("zz-last", "10.244.109.0/24", ["192.0.2.109"])
            self.everywhere("who is well", "10.244.109.7", "zz-last", timeout=2)
            for name in ("n1", "n2"):
                found = self.refusals(name)
                self.assertIn("its pod subnet 192.0.2.0/24 contains the address", found["node j1"])
                self.assertEqual(found["node j2"], "it has no address of type InternalIP")
                own = "another node's"
                self.assertEqual(found["node j3"], f"its address 192.0.2.2 is {own}")
                self.assertIn("its pod subnet 10.244.104.0/24 contains the address", found["node j4"])
                self.assertIn("its pod subnet 0.0.0.0/0", found["node j5"])
                self.assertIn("network or broadcast address", found["node j6"])
                self.assertIn("its address 127.0.0.1 cannot be a node's", found["node j7"])
                self.assertEqual(self.source(name)["state"], "following")
        for name in ("j1", "j2", "j3", "j4", "j5", "j6", "j7", "x" * 250, "zz-last"):
            self.client.delete_node(name)
        for name, routes in before.items():
            wait_until(lambda name=name, routes=routes: self.routes(name) == routes, 3, f"routes of {name}")  # type: ignore[misc]
            self.assertEqual(self.daemon(name).process.poll(), None)

    def test_7_a_peer_of_the_file_goes_before_a_node(self) -> None:
        nodes = (("claims", "10.244.97.0/24", "192.0.2.77"), ("routes", "10.244.200.0/24", "192.0.2.98"))
        for name, subnet, address in nodes:
            self.client.create_node(name, subnet, [address])
            self.addCleanup(self.client.delete_node, name)
        self.soon("a refusal", lambda: len(self.refusals("n3")) == 2)
        self.assertEqual(
            self.refusals("n3"),
            {
                "node claims": "its address 192.0.2.77 is another node's",
                "node routes": "its pod subnet 10.244.200.0/24 is that of peer file",
            },
        )
        self.assertEqual(self.route("n3", "10.244.200.7")["peer"], "file")
        self.soon("the node elsewhere", lambda: self.route("n1", "10.244.200.7").get("peer") == "routes")

    # --- the API server away ----------------------------------------------------------------------

    def test_8_the_api_server_is_away(self) -> None:
        self.client.create_node("gone", "10.244.110.0/24", ["192.0.2.110"])
        self.everywhere("a node", "10.244.110.7", "gone")
        version = self.client.get(f"{NODES}/gone")["metadata"]["resourceVersion"]
        before = {name: self.routes(name) for name in self.cluster.nodes}
        wait_until(lambda: self.is_kept("n2", "gone"), 5, "the state file of n2")
        with self.undisturbed(("n1", "n3"), ("n3", "n1")):
            self.cluster.kill_api_server()
            self.addCleanup(self.bring_back)
            begun = time.monotonic()
            for name in self.cluster.nodes:
                wait_until(lambda name=name: self.source(name)["state"] == "degraded", LOSE_S, name)  # type: ignore[misc]
                self.assertIn("API server: ", self.source(name)["reason"])
            self.restart_without_the_api_server(before["n2"])
            # n1 does not get to the API server when that is back.
            self.cluster.underlay.ip("n1", "route add blackhole 192.0.2.10")
            time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - begun)))
            self.cluster.start_api_server()
            back = time.monotonic()
            for name in ("n2", "n3"):
                left = back + BACK_S - time.monotonic()
                wait_until(lambda name=name: self.source(name)["state"] == "following", left, name)  # type: ignore[misc]
            self.assertEqual(self.source("n1")["state"], "degraded")
            self.client.delete_node("gone")
            self.soon("its end", lambda: not self.route("n3", "10.244.110.7"))
            self.assertEqual(self.route("n1", "10.244.110.7")["peer"], "gone")
            # Where n1 left off the API server cannot go on: a list has to say what is gone.
            watch = f"{NODES}?watch=1&timeoutSeconds=1&resourceVersion={version}"
            self.assertIn('"code":410', self.client.ask("GET", watch)[1])
            self.cluster.underlay.ip("n1", "route del blackhole 192.0.2.10")
            wait_until(lambda: self.source("n1")["state"] == "following", BACK_S, "n1")
            self.assertEqual(self.route("n1", "10.244.110.7"), {})
        self.client.create_node("new", "10.244.111.0/24", ["192.0.2.111"])
        self.everywhere("a later node", "10.244.111.7", "new")
        self.client.delete_node("new")
        self.everywhere("its end", "10.244.111.7", None)

    def bring_back(self) -> None:
        """Starts the API server where a test has failed meanwhile."""
        if self.cluster.kubectl("get", "--raw", "/readyz", check=False, timeout=10) != "ok":
            self.cluster.start_api_server()

    def is_kept(self, name: str, node: str) -> bool:
        """Whether the state file of a daemon has a node."""
        return f'"{node}":' in (self.cluster.underlay.dir / f"{name}.state.json").read_text(encoding="utf-8")

    def restart_without_the_api_server(self, routes: dict[str, Any]) -> None:
        self.assertEqual(self.daemon("n2").stop(10), 0)
        begun = time.monotonic()
        self.pids["n2"] = self.start("n2", POOL).pid
        self.assertLess(time.monotonic() - begun, 8)
        self.assertEqual(self.routes("n2"), routes)
        self.assertEqual(self.source("n2")["state"], "degraded")
        self.assertEqual(self.source("n2")["nodes"], 4)
        for name in ("n1", "n3"):
            self.assertEqual(self.pods["n2"].ping(self.pods[name].address), 3)
            self.pods[name].transfer(self.pods["n2"], self.pods["n2"].address)

    def test_9_what_keeps_a_daemon_from_the_cluster_is_said(self) -> None:
        directory = self.cluster.underlay.dir
        good = json.loads(self.cluster.kubeconfig().read_text(encoding="ascii"))
        other = self.cluster.credentials
        other.openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 9),
            *("-subj", "/CN=other", "-keyout", "other.key", "-out", "other.crt"),
        )
        token = json.loads(json.dumps(good))
        token["users"][0]["user"]["token"] = "wrong"
        authority = json.loads(json.dumps(good))
        del authority["clusters"][0]["cluster"]["certificate-authority-data"]
        authority["clusters"][0]["cluster"]["certificate-authority"] = str(other.file("other.crt"))
        cases = {
            "path": (None, "path.conf: "),
            "junk": ("not: [a kubeconfig", "junk.conf: "),
            "token": (json.dumps(token), "Unauthorized"),
            "authority": (json.dumps(authority), "certificate"),
        }
        for name, (text, said) in cases.items():
            with self.subTest(name):
                file = directory / f"{name}.conf"
                if text is not None:
                    file.write_text(text, encoding="ascii")
                waiting = self.start(name, POOL, wait=False, namespace="control", node="n1", kubeconfig=file)
                wait_until(lambda said=said: said in waiting.log(), 15, said)  # type: ignore[misc]
                self.assertIn("waiting", waiting.log())
                self.assertIsNone(waiting.process.poll())
                if name != "path":
                    self.assertEqual(waiting.stop(3), 0)
        self.heals(directory / "path.conf")

    def heals(self, file: pathlib.Path) -> None:
        """What was wrong is put right while a daemon waits: it says the next trouble, that this is no host of n1."""
        waiting = self.daemon("path")
        file.write_bytes(self.cluster.kubeconfig().read_bytes())
        wait_until(lambda: "192.0.2.1" in waiting.log(), BACK_S, "the file to be read again")
        self.assertEqual(waiting.stop(3), 0)

    # --- this node becomes another one ------------------------------------------------------------

    def test_9b_the_own_subnet_becomes_another_one(self) -> None:
        self.assertIn(f"inet {self.cidrs['n2'].partition('/')[0]}/32", self.tun("n2"))
        with self.undisturbed(("n1", "n3"), ("n3", "n1")):
            self.client.delete_node("n2")
            self.client.create_node("n2", "10.244.150.0/24", ["192.0.2.2"])
            wait_until(lambda: "inet 10.244.150.0/32" in self.tun("n2"), 10, "the other address")
            wait_until(lambda: self.source("n2").get("state") == "following", 10, "n2")
            self.assertEqual(self.routes("n2")["10.244.150.0/24"], (None, "local", None))
            for name in ("n1", "n3"):
                self.assertEqual(self.route(name, "10.244.150.7")["peer"], "n2")
                self.assertNotIn(self.cidrs["n2"], self.routes(name))
        self.assertEqual(self.daemon("n2").process.poll(), None)
        self.assertEqual(self.daemon("n2").pid, self.pids["n2"])
        # Another host of that subnet is reached, as a pod would be.
        self.cluster.underlay.ip("n2", "address add 10.244.150.9/32 dev lo")
        for name in ("n1", "n3"):
            self.assertEqual(self.pods[name].ping("10.244.150.9"), 3)

    def tun(self, name: str) -> str:
        return self.cluster.underlay.exec(name, "ip", "-4", "address", "show", "dev", "up0", check=False).stdout

    def test_9c_the_end(self) -> None:
        for name in self.cluster.nodes:
            self.assertEqual(self.daemon(name).stop(5), 0)


if __name__ == "__main__":
    unittest.main()
