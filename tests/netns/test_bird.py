"""R6: pod networks joined by what BIRD finds out, with the configuration of config/bird."""

import bootstrap

import time
from typing import Any

from pings import Pings
from shared import METRICS, SharedLab, own_routes
from underpass_lab.bird import Bird, BirdLab, block
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
