"""R6: pod networks joined by what BIRD finds out, with the configuration of config/bird."""

import bootstrap

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from pings import Pings
from shared import SharedLab, own_routes
from underpass_lab.bird import Bird, configuration
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

# A change has to reach packets within this, once BIRD has told of it.
CHANGE_S = 1.0
# And so long BIRD may take to find its neighbours, with timers of some seconds.
MESH_S = 30.0
PODS = ("podA", "podB", "podC")


def block(node: str) -> str:
    return f"10.244.{node[1:]}.0/26"


class Birds(SharedLab):
    """Three nodes in two subnets, BIRD on each; n1 and n2 reach each other bare, n3 by IP-in-IP."""

    topology = "T3"
    daemons = ()
    birds: ClassVar[dict[str, Bird]]

    @classmethod
    def neighbours(cls, node: str) -> Mapping[str, str]:
        return {ADDRESSES[other]: "node" for other in ADDRESSES if other != node}

    @classmethod
    def prepare(cls) -> None:
        cls.birds = {}
        for node, address in ADDRESSES.items():
            # As with Calico a pod has a route of its own, behind which the block is a black hole.
            cls.lab.ip(node, f"route add {pod_address(node)} dev pod0")
            subnet = address.rpartition(".")[0] + ".0/24"
            text = configuration(address, subnet, [block(node)], cls.neighbours(node))
            cls.birds[node] = Bird(cls.lab, node, text)
        for node in ADDRESSES:
            peers: dict[str, Any] = {other: (ADDRESSES[other], []) for other in ADDRESSES if other != node}
            cls.start(
                node,
                pools=[("10.244.0.0/16", "CrossSubnet", "Never")],
                peers=peers,
                local=[block(node)],
                extra="[source.kernel]\ntables = [100]\n",
            )
        wait_until(lambda: all(cls.known(node) == cls.others(node) for node in ADDRESSES), MESH_S, "all blocks")

    @classmethod
    def others(cls, node: str) -> dict[str, str]:
        return {block(other): other for other in ADDRESSES if other != node}

    @classmethod
    def known(cls, node: str) -> dict[str, str]:
        """The peers of the blocks that a node has learnt."""
        listed = cls.lab.daemons[node].json("route", "list", "--source", "kernel")
        return {route["prefix"]: route["peer"] for route in listed}

    def main_table(self, node: str) -> list[str]:
        """What BIRD has written to the main table."""
        output = self.lab.exec(node, "ip", "route", "show", "proto", "bird").stdout
        return sorted(" ".join(line.split()[:5]) for line in output.splitlines())

    def pings(self, source: str, target: str) -> Pings:
        entry = ("ip", "netns", "exec", self.lab.ns(PODS[int(source[1:]) - 1]))
        return Pings(entry, pod_address(target), f"{source} to {target}")

    def soon(self, what: str, predicate: Any, timeout: float = CHANGE_S) -> float:
        begun = time.monotonic()
        wait_until(predicate, timeout, what)
        return time.monotonic() - begun

    def test_1_all_pairs_and_how_they_travel(self) -> None:
        self.assertEqual(self.birds["n1"].established(), 2)
        self.assertEqual(
            self.main_table("n1"), [f"{block('n2')} via 192.0.2.2 dev eth0", f"blackhole {block('n1')} metric 32"]
        )
        # The kernel itself sends what is bare; all the rest is the tunnel's.
        for node in ADDRESSES:
            self.assertEqual(own_routes(self.lab, node), ["10.244.0.0/16"])
            self.assertEqual(self.lab.status(node)["missing"], [])
        tap = self.tap("sw", "port-n1")
        for source in ADDRESSES:
            for target in ADDRESSES:
                if source != target:
                    pod = PODS[int(source[1:]) - 1]
                    self.assertEqual(self.lab.ping(pod, pod_address(target)), 3, f"{source} to {target}")
        sent = [frame[14:] for frame in tap.incoming() if frame[12:14] == b"\x08\x00"]
        protocols = {(packet[9], packet[19]) for packet in sent if packet[9] in (1, 4)}
        # ICMP itself to podB, IP-in-IP to n3.
        self.assertEqual(protocols, {(1, 2), (4, 3)})

    def test_2_a_block_is_announced_and_withdrawn(self) -> None:
        with self.pings("n1", "n3") as others:
            self.birds["n2"].ask("disable", "blocks")
            took = self.soon("the end of the block", lambda: block("n2") not in self.known("n1"), 3)
            self.assertNotIn(block("n2"), " ".join(self.main_table("n1")))
            self.birds["n2"].ask("enable", "blocks")
            again = self.soon("the block", lambda: self.known("n1") == self.others("n1"), 3)
        print(f"withdrawn {took:.2f} s, announced {again:.2f} s after BIRD was told")
        self.assertEqual(others.lost, 0)
        self.assertEqual(self.lab.ping("podA", pod_address("n2")), 3)

    def test_3_a_crash_of_bird_and_its_graceful_restart_lose_nothing(self) -> None:
        with self.pings("n1", "n3") as tunnel, self.pings("n1", "n2") as bare:
            for node in ("n3", "n1"):
                self.crash(self.birds[node])
        for pings in (tunnel, bare):
            self.assertGreater(pings.sent, 100)
            self.assertEqual(pings.lost, 0, pings.what)

    def crash(self, bird: Bird) -> None:
        """It dies, and comes back as one that restarts gracefully; no route goes meanwhile."""
        bird.kill()
        time.sleep(2)
        self.assertEqual(self.known("n1"), self.others("n1"))
        bird.start("-R")
        wait_until(lambda: bird.established() == 2, MESH_S, f"the sessions of {bird.name}")
        # BIRD looks at the kernel's routes every two seconds.
        time.sleep(3)
        self.assertEqual(self.known("n1"), self.others("n1"))

    def test_4_equal_cost(self) -> None:
        """Two nodes announce the same block."""
        for node in ("n2", "n3"):
            text = self.birds[node].file.read_text(encoding="ascii")
            self.addCleanup(self.configure, node, text)
            self.configure(node, text.replace("blackhole;", "blackhole;\n  route 10.244.9.0/26 blackhole;", 1))

        def both() -> bool:
            found = [one for one in self.lab.daemons["n1"].json("route", "list") if one["prefix"] == "10.244.9.0/26"]
            return bool(found) and {hop["peer"] for hop in found[0].get("next_hops", [])} == {"n2", "n3"}

        self.soon("both", both, 5)

    def configure(self, node: str, text: str) -> None:
        self.birds[node].write(text)
        self.birds[node].ask("configure")

    def test_5_a_pod_that_there_is_not_is_no_loop(self) -> None:
        before = {node: self.lab.status(node)["counters"]["underlay"]["tx_packets"] for node in ADDRESSES}
        self.lab.ping("podA", "10.244.3.7", "-W", "0.3", count=5)
        after = {node: self.lab.status(node)["counters"]["underlay"]["tx_packets"] for node in ADDRESSES}
        sent = {node: after[node] - before[node] for node in ADDRESSES}
        self.assertEqual((sent["n1"], sent["n2"]), (5, 0))
        # At most the answers that it is not there.
        self.assertLessEqual(sent["n3"], 5)
