"""Routes that others write to the kernel's tables: R6 without a routing daemon, storms, precedence."""

import bootstrap

import ipaddress
import pathlib
import time
from collections.abc import Iterable
from typing import Any

from pings import Pings
from shared import SharedLab, own_routes, scrape
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

# A change has to reach packets within this.
CHANGE_S = 1.0
FOLLOWED = '[source.kernel]\ntables = [100]\nprotocols = ["bird"]\n'
UNKNOWN = "192.0.2.77"


class Followed(SharedLab):
    """n1 learns the subnets of its peers from the kernel; the others have theirs from a file."""

    topology = "T3"
    daemons = ("n2", "n3")
    rest = FOLLOWED

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # A table in which every address of a node is one of the link: what BIRD's configuration does.
        cls.lab.ip("n1", "route add default dev eth0 scope link table 100")
        cls.begin()

    @classmethod
    def begin(cls) -> None:
        cls.start("n1", peers=cls.peers(), extra=cls.rest)

    @classmethod
    def peers(cls) -> Any:
        return {node: (ADDRESSES[node], []) for node in ("n2", "n3")}

    def setUp(self) -> None:
        self.addCleanup(self.lab.exec, "n1", "ip", "route", "flush", "table", "100", "proto", "bird", check=False)

    def route(self, *words: object) -> None:
        """`ip route …` on n1."""
        self.lab.exec("n1", "ip", "route", *" ".join(map(str, words)).split())

    def add(self, prefix: str, *hops: str, rest: str = "proto bird metric 32 table 100") -> None:
        via = " ".join(f"nexthop via {hop} dev eth0" for hop in hops) if len(hops) > 1 else f"via {hops[0]} dev eth0"
        self.route("replace", prefix, rest, via)

    def known(self, prefix: str) -> set[str] | None:
        """The peers of n1's kernel route to a prefix."""
        listed = self.lab.daemons["n1"].json("route", "list", "--source", "kernel")
        found = [route for route in listed if route["prefix"] == prefix]
        if not found:
            return None
        return {hop["peer"] for hop in found[0].get("next_hops") or [found[0]]}

    def source(self) -> Any:
        return next(iter(self.lab.status("n1")["sources"]), None)

    def soon(self, what: str, predicate: Any, timeout: float = CHANGE_S) -> None:
        wait_until(predicate, timeout, what)

    def test_routes_come_and_go(self) -> None:
        for node in ("n2", "n3"):
            self.assertEqual(self.lab.ping("podA", pod_address(node), "-W", "0.3", count=1), 0)
            self.add(subnet(node), ADDRESSES[node])
            self.soon(f"the route to {node}", lambda node=node: self.known(subnet(node)) == {node})
            self.assertEqual(self.lab.ping("podA", pod_address(node)), 3)
        # Nothing but the pool leads into the TUN: the table is nobody's way.
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        self.assertEqual((self.source()["state"], self.source()["routes"]), ("following", 2))
        entry = ("ip", "netns", "exec", self.lab.ns("podA"))
        with Pings(entry, pod_address("n3"), "podA to podC") as pings:
            self.route("del", subnet("n2"), "table", 100)
            self.soon("the end of the route", lambda: self.known(subnet("n2")) is None)
            time.sleep(0.5)
        self.assertGreater(pings.sent, 10)
        self.assertEqual(pings.lost, 0)
        self.assertEqual(self.lab.ping("podA", pod_address("n2"), "-W", "0.3", count=1), 0)

    def test_only_what_is_asked_for(self) -> None:
        for rest in ("proto static table 100", "proto bird table 101", "proto bird"):
            self.add("10.244.9.0/26", ADDRESSES["n2"], rest=rest)
            self.addCleanup(self.route, "del", "10.244.9.0/26", rest)
        self.add("10.9.0.0/26", ADDRESSES["n2"])
        self.route("add", "blackhole", "10.244.10.0/26", "proto bird table 100")
        self.add("10.244.11.0/26", ADDRESSES["n2"])
        self.soon("what is asked for", lambda: self.known("10.244.11.0/26") == {"n2"})
        self.assertEqual(self.source()["routes"], 1)
        self.assertEqual(self.known("10.244.9.0/26"), None)

    def test_next_hops_that_are_no_peers_are_named(self) -> None:
        self.add("10.244.12.0/26", UNKNOWN)
        self.add("10.244.13.0/26", ADDRESSES["n2"], UNKNOWN)
        self.add("10.244.1.0/24", ADDRESSES["n2"])
        self.soon("three refusals", lambda: self.source()["refused"] == 3)
        refusals = {one["object"]: one["reason"] for one in self.source()["refusals"]}
        self.assertIn(f"{UNKNOWN} is no peer", refusals["route 10.244.12.0/26"])
        self.assertIn(f"{UNKNOWN} is no peer", refusals["route 10.244.13.0/26"])
        self.assertIn("own subnet", refusals["route 10.244.1.0/24"])
        # What can be used of it is.
        self.assertEqual((self.known("10.244.12.0/26"), self.known("10.244.13.0/26")), (None, {"n2"}))
        # It becomes one.
        self.lab.daemons["n1"].command("peer", "add", "late", UNKNOWN)
        self.addCleanup(self.lab.daemons["n1"].command, "peer", "del", "late", check=False)
        self.soon("its route", lambda: self.known("10.244.12.0/26") == {"late"})
        self.soon("both", lambda: self.known("10.244.13.0/26") == {"n2", "late"})

    def test_what_others_put_in_the_place_of_a_route_ends_it(self) -> None:
        block = "10.244.17.0/26"
        self.add(block, ADDRESSES["n2"])
        self.soon("the route", lambda: self.known(block) == {"n2"})
        self.add(block, ADDRESSES["n2"], rest="proto static metric 32 table 100")
        self.addCleanup(self.route, "del", block, "table 100")
        self.soon("its end", lambda: self.known(block) is None)

    def test_a_peer_that_is_made_known_anew_gets_its_routes_again(self) -> None:
        if self.rest != FOLLOWED:
            self.skipTest("its next hop becomes a peer by itself")
        daemon, block = self.lab.daemons["n1"], "10.244.18.0/26"
        daemon.command("peer", "add", "again", UNKNOWN)
        self.addCleanup(daemon.command, "peer", "del", "again", check=False)
        self.add(block, UNKNOWN)
        self.soon("its route", lambda: self.known(block) == {"again"})
        for _ in range(5):
            daemon.command("peer", "del", "again")
            daemon.command("peer", "add", "again", UNKNOWN)
        self.soon("its route again", lambda: self.known(block) == {"again"})

    def test_equal_cost_and_metrics(self) -> None:
        block = "10.244.14.0/26"
        self.add(block, ADDRESSES["n2"], ADDRESSES["n3"])
        self.soon("both", lambda: self.known(block) == {"n2", "n3"})
        self.add(block, ADDRESSES["n3"], rest="proto bird metric 10 table 100")
        self.soon("the better one", lambda: self.known(block) == {"n3"})
        self.route("del", block, "metric 10 table 100")
        self.soon("both again", lambda: self.known(block) == {"n2", "n3"})

    def test_precedence(self) -> None:
        """R9: the next best takes over with no gap, and each source is named."""
        if self.rest != FOLLOWED:
            self.skipTest("peers have other names here")
        block = "10.244.15.0/26"
        daemon = self.lab.daemons["n1"]
        self.add(block, ADDRESSES["n3"])
        self.soon("the kernel's", lambda: self.known(block) == {"n3"})
        daemon.command("route", "add", block, "--via", "n2")

        def best() -> Any:
            entry = daemon.json("route", "get", "10.244.15.1")
            return entry["source"], entry["peer"], [one["source"] for one in entry["candidates"]]

        self.assertEqual(best(), ("control", "n2", ["control", "kernel"]))
        daemon.command("route", "del", block)
        self.assertEqual(best(), ("kernel", "n3", ["kernel"]))

    def test_an_interface_that_goes_takes_its_routes_along(self) -> None:
        """The kernel says nothing of IPv4 routes that go with their device."""
        self.lab.ip("n1", "link add gone0 type bridge", "link set gone0 up")
        self.addCleanup(self.lab.exec, "n1", "ip", "link", "del", "gone0", check=False)
        self.route("add", "10.244.16.0/26 via", ADDRESSES["n2"], "dev gone0 onlink proto bird table 100")
        self.soon("the route", lambda: self.known("10.244.16.0/26") == {"n2"})
        self.lab.ip("n1", "link set gone0 down")
        self.soon("its end", lambda: self.known("10.244.16.0/26") is None)

    def test_a_reload_changes_what_is_followed(self) -> None:
        self.add(subnet("n2"), ADDRESSES["n2"])
        self.soon("the route", lambda: self.known(subnet("n2")) == {"n2"})
        text = self.file().read_text(encoding="utf-8")
        self.addCleanup(self.reload, text)
        self.reload(text.replace('["bird"]', '["zebra"]'))
        self.soon("its end", lambda: self.known(subnet("n2")) is None)
        self.reload(text.replace(self.rest, ""))
        self.soon("the end of the source", lambda: self.source() is None)
        self.reload(text)
        self.soon("the route again", lambda: self.known(subnet("n2")) == {"n2"})

    def reload(self, text: str) -> None:
        self.file().write_text(text, encoding="utf-8")
        self.lab.daemons["n1"].command("reload")

    def file(self) -> pathlib.Path:
        return self.lab.dir / "n1.toml"


class Implicit(Followed):
    """n1 knows nobody beforehand."""

    rest = FOLLOWED + 'implicit_peers = ["192.0.2.0/24", "198.51.100.0/24"]\n'

    @classmethod
    def peers(cls) -> Any:
        return {}

    def known(self, prefix: str) -> set[str] | None:
        names = {ADDRESSES[node]: node for node in ("n2", "n3")} | {UNKNOWN: UNKNOWN}
        found = super().known(prefix)
        return found and {names.get(name, name) for name in found}

    def test_next_hops_that_are_no_peers_are_named(self) -> None:
        self.add("10.244.12.0/26", UNKNOWN)
        self.soon("its route", lambda: self.known("10.244.12.0/26") == {UNKNOWN})
        self.add("10.244.13.0/26", "192.0.2.1")
        self.soon("a refusal", lambda: self.source()["refused"] == 1)
        self.assertIn("this node itself", self.source()["refusals"][0]["reason"])


class Main(SharedLab):
    """Where the routing daemon writes to the main table itself, its routes are outdone by better ones."""

    rest = '[source.kernel]\ntables = ["main"]\n'
    daemons = ("n2",)

    def test_the_main_table(self) -> None:
        self.start("n1", peers={"n2": (ADDRESSES["n2"], [])}, extra=self.rest)
        block = subnet("n2")
        self.lab.exec("n1", "ip", "route", "add", block, "via", ADDRESSES["n2"], "proto", "bird", "metric", "32")
        wait_until(lambda: own_routes(self.lab, "n1") == ["10.244.0.0/16", block], CHANGE_S, "a route of our own")
        with self.moves("n1", device_rx=3, device_tx=3, underlay_rx=3, underlay_tx=3):
            self.assertEqual(self.lab.ping("podA", pod_address("n2")), 3)
        self.assertEqual(self.missing(), [])
        self.lab.exec("n1", "ip", "route", "del", block, "proto", "bird")
        wait_until(lambda: own_routes(self.lab, "n1") == ["10.244.0.0/16"], CHANGE_S, "the end of it")

    def test_what_leaves_bare_is_left_to_the_kernel(self) -> None:
        pool = [("10.244.0.0/16", "CrossSubnet", "Never")]
        for node, peer in (("n1", "n2"), ("n2", "n1")):
            self.start(node, pools=pool, peers={peer: (ADDRESSES[peer], [])}, extra=self.rest)
            block = subnet(peer)
            self.lab.exec(node, "ip", "route", "add", block, "via", ADDRESSES[peer], "proto", "bird", "metric", "32")
            self.addCleanup(self.lab.exec, node, "ip", "route", "del", block, "proto", "bird")

        def bare() -> bool:
            return bool(self.lab.daemons["n1"].json("route", "list", "--source", "kernel"))

        wait_until(bare, CHANGE_S, "the kernel's route")
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("podA", pod_address("n2")), 3)
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        self.assertEqual(self.missing(), [])


class Storm(SharedLab):
    """200 000 routes at once, and gone again."""

    daemons = ("n2",)
    ROUTES = 200_000

    def batch(self, verb: str, blocks: Iterable[Any]) -> float:
        file = self.lab.dir / "batch"
        with open(file, "w", encoding="ascii") as lines:
            for block in blocks:
                lines.write(f"route {verb} {block} via {ADDRESSES['n2']} dev eth0 proto bird table 100\n")
        begun = time.monotonic()
        self.lab.exec("n1", "ip", "-batch", file, timeout=120)
        return time.monotonic() - begun

    def test_200_000_routes(self) -> None:
        self.lab.ip("n1", "route add default dev eth0 scope link table 100")
        pools = [("10.0.0.0/8", "Always", "Never")]
        self.start("n1", pools=pools, peers={"n2": (ADDRESSES["n2"], [])}, extra=FOLLOWED)
        blocks = [f"{ipaddress.ip_address((10 << 24) + (n << 6))}/26" for n in range(self.ROUTES)]
        status = self.lab.daemons["n1"].pid
        for verb, count in (("add", self.ROUTES), ("del", 0)):
            took = self.batch(verb, blocks)
            begun = time.monotonic()

            def settled(count: int = count) -> bool:
                return bool(self.lab.status("n1")["sources"][0]["routes"] == count) and self.followed() == count

            # Sooner than all routes are read anyway.
            wait_until(settled, 20, f"{count} routes")
            resident = int(pathlib.Path(f"/proc/{status}/statm").read_text().split()[1]) * 4096 >> 20
            print(f"{verb}: written in {took:.1f} s, followed {time.monotonic() - begun:.1f} s later, {resident} MiB")
        print(f"overruns: {self.lab.status('n1')['sources'][0]['overruns']}")
        self.assertIn('underpass_source_overruns_total{source="kernel"}', scrape(self.lab, "n1"))

    def followed(self) -> int:
        # Its own subnet is the other one.
        return int(self.lab.status("n1")["routes"]) - 1
