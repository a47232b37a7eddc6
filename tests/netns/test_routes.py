"""Routes and peers that change while packets flow: R5, R9, bulk, equal cost, kernel routes."""

import bootstrap

import ipaddress
import pathlib
import random
import re
import threading
import time
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from shared import SharedLab, own_routes
from underpass_lab.api import Api
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A = pod_address("n1")


class Routes(SharedLab):
    topology = "T3"
    daemons = ("n1",)

    def setUp(self) -> None:
        self.daemon = self.lab.daemons["n1"]
        self.api = Api(self.daemon.socket)
        self.addCleanup(self.api.close)
        self.addCleanup(self.forget)
        self.wire = self.tap("sw", "port-n1")

    def forget(self) -> None:
        self.assertEqual(self.api.ask("PUT", "/v1/routes?wait=true", "", "text/plain")[0], 200)

    def lines(self) -> Any:
        """The control routes, one a line."""
        return self.api.get("/v1/routes?source=control&format=text")

    def replace(self, lines: Any) -> None:
        """Replaces all control routes."""
        status, answer = self.api.ask("PUT", "/v1/routes?wait=true", lines, "text/plain")
        self.assertEqual(status, 200, answer)

    def send(self, target: str, count: int = 1, port: int = 9, first: int = 0) -> None:
        """Sends numbered packets from podA."""
        ports = {"sport": 1000, "dport": port}
        numbers = range(first, first + count)
        self.send_from_pod([IP(src=A, dst=target) / UDP(**ports) / number.to_bytes(4, "big") for number in numbers])

    def seen(self, target: str) -> Any:
        """What left n1 for `target` in IP-in-IP so far: (outer destination, port, number)."""
        seen = []
        for frame in self.wire.incoming():
            outer = Ether(frame).getlayer(IP)
            if outer is not None and outer.proto == 4 and outer.payload.dst == target:
                inner = outer.payload[UDP]
                seen.append((outer.dst, inner.sport, int.from_bytes(bytes(inner.payload)[:4], "big")))
        return seen

    def sent(self, target: str) -> Any:
        """As `seen`, since the last call."""
        seen = self.seen(target)
        self.wire.drain()
        return seen


class Changes(Routes):
    def test_the_next_packet_sees_a_change(self) -> None:
        for round_ in range(25):
            peer = ("n2", "n3")[round_ % 2]
            self.assertEqual(self.api.change(add=[("10.244.50.0/24", peer)], wait=True)[0], 200)
            self.send("10.244.50.7", first=2 * round_)
            expected = [(ADDRESSES[peer], 1000, 2 * round_)]
            wait_until(lambda: self.seen("10.244.50.7") == expected, 3, "the packet")
            self.wire.drain()
            with self.lab.expect_drops("n1", no_route=1):
                self.assertEqual(self.api.change(delete=["10.244.50.0/24"], wait=True)[0], 200)
                self.send("10.244.50.7", first=2 * round_ + 1)
            self.assertEqual(self.sent("10.244.50.7"), [])

    def test_without_wait_a_change_comes_soon(self) -> None:
        for change in ({"add": [("10.244.51.0/24", "n2")]}, {"delete": ["10.244.51.0/24"]}):
            self.assertEqual(self.api.change(**change)[0], 200)
            there = "add" in change

            def travels() -> bool:
                self.wire.drain()
                self.send("10.244.51.7")
                time.sleep(0.002)
                return bool(self.sent("10.244.51.7")) == there

            wait_until(travels, 3, "the change")

    def test_a_bad_batch_changes_nothing(self) -> None:
        self.replace("10.244.52.0/24 via n2\n10.244.53.0/24 via n2,n3 mtu 1300\n")
        before = self.lines()
        for body, culprits in (
            ("10.244.54.0/24 via n2\n10.244.55.0/24 via nobody\n", 1),
            ("10.244.54.0/24 via n2\ndel 10.244.99.0/24\n10.244.1.0/24 via n2\n", 2),
            ("del 10.244.52.0/24\n192.0.2.0/24 via n2\n10.244.56.1/24 via n2\n", 1),
        ):
            status, answer = self.api.ask("POST", "/v1/routes?wait=true", body, "text/plain")
            self.assertIn(status, (400, 409), answer)
            self.assertEqual(len(answer.get("errors", [answer["error"]])), culprits, answer)
            self.assertEqual(self.lines(), before)
        self.assertEqual(self.daemon.json("status")["routes"], 3 + 2)

    def test_flows_stick_to_one_of_two_nodes(self) -> None:
        self.assertEqual(self.api.change(add=[("10.244.57.0/24", "n2", "n3")], wait=True)[0], 200)
        flows = range(20000, 20100)
        packets = [IP(src=A, dst="10.244.57.7") / UDP(sport=port, dport=9) / b"flow" for port in flows] * 3
        self.send_from_pod(packets)
        wait_until(lambda: len(self.seen("10.244.57.7")) == len(packets), 5, "all packets")
        ways: dict[int, list[str]] = {}
        for outer, port, _ in self.sent("10.244.57.7"):
            ways.setdefault(port, []).append(outer)
        self.assertTrue(all(len(set(outers)) == 1 and len(outers) == 3 for outers in ways.values()), ways)
        share = sum(outers[0] == ADDRESSES["n2"] for outers in ways.values())
        self.assertTrue(20 <= share <= 80, share)
        route = self.api.get("/v1/routes/get?address=10.244.57.1")
        self.assertEqual([hop["peer"] for hop in route["next_hops"]], ["n2", "n3"])

    def test_r9_the_next_best_takes_over_without_a_gap(self) -> None:
        # Configured for n2, and by control for n3.
        self.restart(peers={"n2": (ADDRESSES["n2"], ["10.244.58.0/24"]), "n3": (ADDRESSES["n3"], [])})
        self.addCleanup(self.restart)
        self.daemon = self.lab.daemons["n1"]
        self.api = Api(self.daemon.socket)
        self.addCleanup(self.api.close)
        self.assertEqual(self.api.change(add=[("10.244.58.0/24", "n3")], wait=True)[0], 200)
        route = self.api.get("/v1/routes/get?address=10.244.58.1")
        said = [(one["source"], one["peer"]) for one in route["candidates"]]
        self.assertEqual(said, [("static", "n2"), ("control", "n3")])
        # The first hop to both is known before.
        for node in ("n2", "n3"):
            self.lab.ping("n1", ADDRESSES[node], count=1)
        count = 0
        stop = threading.Event()

        def flow() -> None:
            nonlocal count
            while not stop.is_set():
                self.send("10.244.58.7", first=count)
                count += 1
                time.sleep(0.001)

        thread = threading.Thread(target=flow)
        thread.start()
        try:
            wait_until(lambda: len(self.seen("10.244.58.7")) > 20, 5, "the flow")
            self.daemon.command("peer", "del", "n2")
            after = count
            wait_until(lambda: count > after + 20, 5, "the flow")
        finally:
            stop.set()
            thread.join()
        wait_until(lambda: len(self.seen("10.244.58.7")) >= count, 3, "all packets")
        seen = self.sent("10.244.58.7")
        self.assertEqual([number for _, _, number in seen], list(range(count)), "every packet has left, once")
        outers = [outer for outer, _, _ in seen]
        switch = outers.index(ADDRESSES["n3"])
        self.assertEqual(set(outers[:switch]), {ADDRESSES["n2"]})
        self.assertEqual(set(outers[switch:]), {ADDRESSES["n3"]})
        self.assertLessEqual(switch, after + 1, "the packets behind the answer take the other way")


class KernelRoutes(Routes):
    def test_routes_outside_the_pools_need_kernel_routes(self) -> None:
        base = own_routes(self.lab, "n1")
        self.assertEqual(self.api.change(add=[("10.244.60.0/24", "n2")], wait=True)[0], 200)
        self.assertEqual(own_routes(self.lab, "n1"), base, "the pool leads there")
        self.replace("172.20.1.0/24 via n2\n172.20.2.0/24 via n3\n172.21.0.0/16 via n2\n172.21.9.0/24 via n3\n")
        led = ["172.20.1.0/24", "172.20.2.0/24", "172.21.0.0/16"]
        self.assertEqual(own_routes(self.lab, "n1"), sorted(base + led))
        # A wider one takes over, and gives back what is inside.
        self.assertEqual(self.api.change(add=[("172.20.0.0/16", "n2")], wait=True)[0], 200)
        self.assertEqual(own_routes(self.lab, "n1"), sorted([*base, "172.20.0.0/16", "172.21.0.0/16"]))
        self.assertEqual(self.api.change(delete=["172.20.0.0/16", "172.21.0.0/16"], wait=True)[0], 200)
        self.assertEqual(own_routes(self.lab, "n1"), sorted([*base, *led[:2], "172.21.9.0/24"]))
        # And packets take them: direct, because no pool says otherwise.
        wire = self.tap("n2", "eth0")
        self.send("172.20.1.7")

        def arrived() -> bool:
            packets = [Ether(frame).getlayer(IP) for frame in wire.incoming()]
            return any(packet is not None and packet.dst == "172.20.1.7" for packet in packets)

        wait_until(arrived, 3, "the packet")
        self.forget()
        self.assertEqual(own_routes(self.lab, "n1"), base)

    def test_routes_of_others_stay(self) -> None:
        self.lab.ip("n1", "route add 172.22.0.0/16 via 192.0.2.254")
        for _ in range(2):
            routes = [("172.22.0.0/16", "n2"), ("172.23.0.0/16", "n2")]
            self.assertEqual(self.api.change(add=routes, wait=True)[0], 200)
            shown = run("ip", "-n", self.lab.ns("n1"), "route", "show", "172.22.0.0/16").stdout
            self.assertIn("via 192.0.2.254", shown)
            self.assertIn("172.23.0.0/16", own_routes(self.lab, "n1"))
            self.assertEqual(self.api.change(delete=["172.23.0.0/16"], wait=True)[0], 200)
        self.assertEqual(self.daemon.log().count("packets for 172.22.0.0/16 do not reach the tunnel"), 1)
        self.forget()
        shown = run("ip", "-n", self.lab.ns("n1"), "route", "show", "172.22.0.0/16").stdout
        self.assertIn("via 192.0.2.254", shown)

    def test_they_go_with_the_daemon(self) -> None:
        self.replace("".join(f"172.{n >> 8}.{n & 255}.0/24 via n2\n" for n in range(16 << 8, 20 << 8)))
        wait_until(lambda: len(own_routes(self.lab, "n1")) > 1000, 10)
        self.stop("n1")
        self.assertEqual(own_routes(self.lab, "n1"), [])
        self.start("n1")
        self.api.close()
        self.daemon = self.lab.daemons["n1"]


class Peers(SharedLab):
    topology = "T3"
    daemons = ("n1", "n2", "n3")

    def test_peers_that_are_added_carry_traffic(self) -> None:
        a, b, c = (pod_address(node) for node in ("n1", "n2", "n3"))
        for node in self.daemons:
            self.start(node, peers={})
        self.assertEqual(self.lab.ping("podA", b, count=1), 0)
        for node in self.daemons:
            for other in self.daemons:
                if other != node:
                    subnet = f"10.244.{other[1:]}.0/24"
                    self.lab.daemons[node].command("peer", "add", other, ADDRESSES[other], "--subnet", subnet)
        for pod, target in (("podA", b), ("podA", c), ("podC", a), ("podC", b)):
            wait_until(lambda: self.lab.ping(pod, target, count=1) == 1, 5, f"{pod} {target}")
        # Gone, and another one in its place.
        first = self.lab.daemons["n1"]
        first.command("peer", "del", "n2")
        self.assertEqual(self.lab.ping("podA", b, count=1), 0)
        self.assertEqual(self.lab.ping("podA", c, count=1), 1)
        with self.lab.expect_drops("n1", unknown_peer=1):
            self.lab.exec("podB", "ping", "-c", "1", "-W", "1", a, check=False)
        first.command("peer", "add", "again", ADDRESSES["n2"], "--subnet", "10.244.2.0/24")
        wait_until(lambda: self.lab.ping("podA", b, count=1) == 1, 5)
        names = [peer["name"] for peer in first.json("peer", "list")]
        self.assertEqual(names, ["again", "n3"])


class Many(Routes):
    def test_r5_a_hundred_thousand_routes(self) -> None:
        draw = random.Random(5)
        prefixes: set[tuple[int, int]] = set()
        while len(prefixes) < 100_000:
            length = draw.choice((24, 26, 28, 32))
            address = int(ipaddress.ip_address("10.244.0.0")) + draw.randrange(1 << 16)
            prefixes.add((address >> (32 - length) << (32 - length), length))
            address = int(ipaddress.ip_address("11.0.0.0")) + draw.randrange(1 << 24)
            prefixes.add((address >> (32 - length) << (32 - length), length))
        own = {(int(ipaddress.ip_address("10.244.1.0")), 24)}
        routes = {prefix: draw.choice(("n2", "n3", "n2,n3")) for prefix in sorted(prefixes - own)}
        lines = "".join(f"{self.text(*prefix)} via {peers}\n" for prefix, peers in routes.items())
        file = self.lab.dir / "routes.txt"
        file.write_text(lines, encoding="ascii")
        base = own_routes(self.lab, "n1")
        idle = self.resident()
        for _ in range(2):
            self.daemon.command("route", "replace", "--file", file, timeout=120)
            self.assertEqual(self.lines(), lines, "list equals input")
            self.oracle(draw, routes)
            # One kernel route for each that no other covers, all outside the pool.
            self.assertGreater(len(own_routes(self.lab, "n1")), len(base))
            self.daemon.command("route", "del", "--file", file, timeout=120)
            self.assertEqual(self.lines(), "")
            self.assertEqual(own_routes(self.lab, "n1"), base)
            wait_until(lambda: self.resident() < idle * 1.1 + 4096, 10, f"{idle} KiB, now {self.resident()}")

    @staticmethod
    def text(address: int, length: int) -> str:
        return f"{ipaddress.IPv4Address(address)}/{length}"

    def oracle(self, draw: Any, routes: Any) -> None:
        known = list(routes)
        for _ in range(10_000):
            address, length = draw.choice(known)
            target = (address + draw.randrange(1 << (32 - length)) + draw.choice((0, 0, 1))) & 0xFFFFFFFF
            masks = ((target >> (32 - length) << (32 - length), length) for length in (32, 28, 26, 24))
            match = next((prefix for prefix in masks if prefix in routes), None)
            if match is None:
                continue
            route = self.api.get(f"/v1/routes/get?address={ipaddress.IPv4Address(target)}")
            peers = ",".join(hop["peer"] for hop in route["next_hops"])
            self.assertEqual((route["prefix"], peers), (self.text(*match), routes[match]))

    def resident(self) -> int:
        """KiB of memory that the daemon has."""
        text = pathlib.Path(f"/proc/{self.daemon.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", text)
        assert found
        return int(found[1])
