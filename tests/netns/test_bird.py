"""R6: pod networks joined by what BIRD finds out, with the configuration of config/bird."""

import bootstrap

import time
from typing import Any

import cloud
from pings import Pings
from shared import METRICS, SharedLab, own_routes
from underlay6 import ADDRESSES6, add_addresses6
from underpass_lab.bird import Bird, BirdLab, block, configuration, configuration6
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, PODS, pod_address

# A change has to reach packets within this, once BIRD has told of it.
CHANGE_S = 1.0


class Birds(SharedLab):
    """Three nodes in two subnets, BIRD on each."""

    lab: BirdLab
    topology = "T3"
    lab_type = BirdLab
    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        cls.lab.begin(METRICS)

    def pings(self, source: str, target: str) -> Pings:
        entry = ("ip", "netns", "exec", self.lab.ns(PODS[source]))
        return Pings(entry, pod_address(target), f"{source} to {target}")

    def soon(self, what: str, predicate: Any, timeout: float = CHANGE_S) -> float:
        begun = time.monotonic()
        wait_until(predicate, timeout, what)
        return time.monotonic() - begun

    def test_1_all_pairs_and_how_they_travel(self) -> None:
        self.assertEqual(self.lab.birds["n1"].established(), 2)
        bare = f"{block('n2')} via 192.0.2.2 dev eth0 proto bird"
        self.assertEqual(self.lab.main_table("n1"), [bare, f"blackhole {block('n1')} proto bird"])
        # The kernel itself sends what is bare; all the rest is the tunnel's.
        for node in ADDRESSES:
            self.assertEqual(own_routes(self.lab, node), ["10.244.0.0/16"])
            self.assertEqual(self.lab.status(node)["missing"], [])
        tap = self.tap("sw", "port-n1")
        for source in ADDRESSES:
            for target in ADDRESSES:
                if source != target:
                    self.assertEqual(self.lab.ping(PODS[source], pod_address(target)), 3, f"{source} to {target}")
        sent = [frame[14:] for frame in tap.incoming() if frame[12:14] == b"\x08\x00"]
        protocols = {(packet[9], packet[19]) for packet in sent if packet[9] in (1, 4)}
        # ICMP itself to podB, IP-in-IP to n3.
        self.assertEqual(protocols, {(1, 2), (4, 3)})

    def test_2_a_block_is_announced_and_withdrawn(self) -> None:
        with self.pings("n1", "n3") as others:
            self.lab.birds["n2"].ask("disable", "blocks")
            took = self.soon("the end of the block", lambda: block("n2") not in self.lab.known("n1"), 3)
            self.assertNotIn(block("n2"), " ".join(self.lab.main_table("n1")))
            self.lab.birds["n2"].ask("enable", "blocks")
            again = self.soon("the block", lambda: self.lab.knows_all("n1"), 3)
        print(f"withdrawn {took:.2f} s, announced {again:.2f} s after BIRD was told")
        self.assertEqual(others.lost, 0)
        self.assertEqual(self.lab.ping("podA", pod_address("n2")), 3)

    def test_3_a_crash_of_bird_and_its_graceful_restart_lose_nothing(self) -> None:
        with self.pings("n1", "n3") as tunnel, self.pings("n1", "n2") as bare:
            for node in ("n3", "n1"):
                self.crash(self.lab.birds[node])
        for pings in (tunnel, bare):
            self.assertGreater(pings.sent, 100)
            self.assertEqual(pings.lost, 0, pings.what)

    def crash(self, bird: Bird) -> None:
        """It dies, and comes back as one that restarts gracefully; no route goes meanwhile."""
        bird.kill()
        time.sleep(2)
        self.assertTrue(self.lab.knows_all("n1"))
        bird.start("-R")
        wait_until(lambda: bird.established() == 2, self.lab.MESH_S, f"the sessions of {bird.name}")
        # BIRD looks at the kernel's routes every two seconds.
        time.sleep(3)
        self.assertTrue(self.lab.knows_all("n1"))

    def test_4_equal_cost(self) -> None:
        """Two nodes announce the same block."""
        for node in ("n2", "n3"):
            text = self.lab.birds[node].file.read_text(encoding="ascii")
            self.addCleanup(self.configure, node, text)
            self.configure(node, text.replace("blackhole;", "blackhole;\n  route 10.244.9.0/26 blackhole;", 1))

        def both() -> bool:
            found = [one for one in self.lab.daemons["n1"].json("route", "list") if one["prefix"] == "10.244.9.0/26"]
            return bool(found) and {hop["peer"] for hop in found[0].get("next_hops", [])} == {"n2", "n3"}

        self.soon("both", both, 5)

    def configure(self, node: str, text: str) -> None:
        self.lab.birds[node].write(text)
        self.lab.birds[node].ask("configure")

    def test_5_a_pod_that_there_is_not_is_no_loop(self) -> None:
        before = {node: self.lab.status(node)["counters"]["underlay"]["tx_packets"] for node in ADDRESSES}
        self.lab.ping("podA", "10.244.3.7", "-W", "0.3", count=5)
        after = {node: self.lab.status(node)["counters"]["underlay"]["tx_packets"] for node in ADDRESSES}
        sent = {node: after[node] - before[node] for node in ADDRESSES}
        self.assertEqual((sent["n1"], sent["n2"]), (5, 0))
        # At most the answers that it is not there.
        self.assertLessEqual(sent["n3"], 5)


class Six(SharedLab):
    """The same for pods of both families, with sessions over IPv6 for the blocks of IPv6."""

    topology = "T3"
    options = {"ipv6": True}
    multicast_reports = True
    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        add_addresses6(cls.lab, *ADDRESSES)
        for node, address in ADDRESSES.items():
            gateway, pod = f"fd00:244:{node[1:]}::1", cls.pod6(node)
            cls.lab.ip(node, f"address add {gateway}/128 dev pod0 nodad", f"route add {pod} dev pod0")
            cls.lab.ip(PODS[node], f"address add {pod}/64 dev eth0 nodad", f"route add default via {gateway}")
            cls.lab.ip(node, f"route add {pod_address(node)} dev pod0")
            others = {other: of for other, of in ADDRESSES.items() if other != node}
            subnet, subnet6 = address.rpartition(".")[0] + ".0/24", ADDRESSES6[node].rpartition("::")[0] + "::/64"
            text = configuration(address, subnet, [block(node)], dict.fromkeys(others.values(), "node"))
            text += configuration6(
                ADDRESSES6[node], subnet6, [cls.block6(node)], [ADDRESSES6[other] for other in others]
            )
            Bird(cls.lab, node, text)
            pools = ("10.244.0.0/16", "fd00:244::/32")
            cls.start(
                node,
                pools=[(pool, "CrossSubnet", "Never") for pool in pools],
                own={"address": f"{address}/24", "address6": f"{ADDRESSES6[node]}/64"},
                peers={other: (of, [], {"address6": ADDRESSES6[other]}) for other, of in others.items()},
                local=[block(node), cls.block6(node)],
                extra="[source.kernel]\ntables = [100]\n",
            )

    @staticmethod
    def block6(node: str) -> str:
        return f"fd00:244:{node[1:]}::/122"

    @staticmethod
    def pod6(node: str) -> str:
        return f"fd00:244:{node[1:]}::2"

    def test_blocks_of_both_families(self) -> None:
        def known() -> Any:
            listed = self.lab.daemons["n1"].json("route", "list", "--source", "kernel")
            return {route["prefix"]: (route["peer"], route["mode"]) for route in listed}

        modes = {"n2": "direct", "n3": "ipip"}
        wanted = {of(node): (node, mode) for node, mode in modes.items() for of in (block, self.block6)}
        wait_until(lambda: known() == wanted, BirdLab.MESH_S, "all blocks")
        bare = self.lab.exec("n1", "ip", "-6", "route", "show", "proto", "bird").stdout
        self.assertIn(f"{self.block6('n2')} via {ADDRESSES6['n2']} dev eth0", bare)
        self.assertIn(f"blackhole {self.block6('n1')}", bare)
        self.assertNotIn(self.block6("n3"), bare)
        for source in ADDRESSES:
            for target in ADDRESSES:
                for address in (pod_address(target), self.pod6(target)):
                    if source != target:
                        answered = lambda source=source, to=address: self.lab.ping(PODS[source], to, count=1)  # noqa: E731
                        wait_until(answered, 10, f"{source} to {address}")
            self.assertEqual(self.lab.status(source)["missing"], [])


class VerifiedPaths(SharedLab):
    """BIRD's bare routes in the main table, on a network that drops addresses of pods."""

    lab: BirdLab
    topology = "T3"
    lab_type = BirdLab
    daemons = ()

    def verified(self, wanted: bool) -> bool:
        peers = {node: self.lab.status(node)["peers"] for node in ("n1", "n2")}
        paths = [path for of in peers.values() for peer in of for path in peer.get("direct_paths", [])]
        return len(paths) == 2 and all(path["verified"] == wanted for path in paths)

    def leads_into_the_tunnel(self, wanted: bool) -> None:
        """Whether n1 has a route of its own to the block of n2 beside that of BIRD."""
        wait_until(lambda: (block("n2") in own_routes(self.lab, "n1")) == wanted, 5, "another way")
        self.assertEqual(self.lab.ping("podA", pod_address("n2"), count=3), 3)

    def test_the_bare_route_is_outdone_while_its_path_fails(self) -> None:
        self.lab.begin(METRICS, tables='[100, "main"]', verify=True)
        wait_until(lambda: self.verified(True), 20, "verified paths")
        self.leads_into_the_tunnel(False)
        cloud.block(self.lab, "n2")
        wait_until(lambda: self.verified(False), 10, "the end of the paths")
        self.leads_into_the_tunnel(True)
        cloud.unblock(self.lab, "n2")
        wait_until(lambda: self.verified(True), 30, "verified paths again")
        self.leads_into_the_tunnel(False)


class ReflectedLab(BirdLab):
    """n2 is the route reflector of the others."""

    reflector = "n2"


class Reflected(SharedLab):
    """Blocks come by way of a node that is not theirs, and packets do not."""

    lab: ReflectedLab
    topology = "T3"
    lab_type = ReflectedLab
    daemons = ()

    def test_a_route_reflector(self) -> None:
        self.lab.begin(METRICS)
        self.assertEqual([self.lab.birds[node].established() for node in ADDRESSES], [1, 2, 1])
        with self.moves("n2"):
            self.assertEqual(self.lab.ping("podA", pod_address("n3")), 3)
        self.assertEqual(self.lab.ping("podC", pod_address("n2")), 3)
