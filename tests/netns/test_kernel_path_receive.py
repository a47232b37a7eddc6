"""How packets that programs carry come in: bulk TCP that arrives packet by packet is joined on its way through a pair
of interfaces, super-packets are handed on as they are."""

import bootstrap

import json
import os
import threading
import unittest
from typing import Any

# As a module: the test cases in it are not for this file.
import test_kernel_path
from fast import MIB, MODES
from test_kernel_path import FLOWS, NODES, ON, Calls, Connection
from underpass_lab.command import wait_until

PAIR = ("up0-gro", "up0-grx")
WHOLE = "super-packets, as they come"
JOINED = "bulk TCP is joined on its way through up0-gro"


class Receive(test_kernel_path.Path):
    """Nodes on links that carry frames as a real wire does."""

    def pair(self, node: str = "n1") -> list[dict[str, Any]]:
        """The interfaces of the pair, with statistics."""
        links = json.loads(self.lab.exec(node, "ip", "-s", "-j", "link").stdout)
        return [link for link in links if link["ifname"] in PAIR]

    def indexes(self) -> set[int]:
        """Those of the interfaces of n1's pair."""
        return {link["ifindex"] for link in self.pair()}

    def joined(self, node: str) -> tuple[int, int]:
        """How many packets went into the pair, and came out; none without a pair."""
        found = {link["ifname"]: link["stats64"] for link in self.pair(node)}
        if set(found) != set(PAIR):
            return (0, 0)
        return (found[PAIR[0]]["tx"]["packets"], found[PAIR[1]]["rx"]["packets"])

    def no_room(self, node: str) -> int:
        """Packets that the pair of a node dropped."""
        return sum(int(link["stats64"]["tx"]["dropped"]) for link in self.pair(node) if link["ifname"] == PAIR[0])

    def by_pair(self, connection: Connection, node: str = "n1") -> None:
        """Transfers until bulk takes the way through the pair."""

        def taken() -> bool:
            connection.bulk(16 * MIB)
            return bool(self.path(node)["receive"] == JOINED and self.joined(node)[0] > 0)

        wait_until(taken, 20, "bulk that is joined")


class Bulk(Receive):
    """Bulk TCP, both ways."""

    def test_bulk_is_joined_and_the_books_balance(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.in_mode(mode, uplink="socket")
                self.assertEqual(self.path("n1")["receive"], "as it comes")
                with Connection(self.lab) as connection:
                    connection.talk(50)
                    self.hand_over(connection, FLOWS[mode])
                    self.assertEqual(self.pair(), [])
                    for node in NODES:
                        self.by_pair(connection, node)
                    before = {node: self.path(node) for node in NODES}
                    went = {node: self.joined(node) for node in NODES}
                    connection.bulk(16 * MIB)
                    connection.talk(20)
                    after = {node: self.path(node) for node in NODES}
                for node in NODES:
                    now = after[node]
                    self.assertEqual((now["returned"], now["refused"]), (before[node]["returned"], []), node)
                    into, out = (now - then for now, then in zip(self.joined(node), went[node], strict=True))
                    # 16 MiB are over ten thousand segments.
                    self.assertGreater(into, 10_000, node)
                    self.assertGreaterEqual(into, out, node)
                    self.assertEqual(self.drops(node), {}, node)
                    self.balanced(node)
                    # Looked at once a second.
                    wait_until(lambda: self.path(node)["lost"] == self.no_room(node), 5, f"losses of {node}")

    def balanced(self, node: str) -> None:
        """What came in at one edge went out at the other."""
        books = self.accounts(node)
        self.assertEqual(books["underlay_rx"], books["device_tx"], node)
        self.assertEqual(books["device_rx"] - books["unsupported"], books["underlay_tx"], node)

    def test_other_flows_stay_as_they_are(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection, Calls(self.lab) as calls:
            self.by_pair(connection)
            stop = threading.Event()

            def transfer() -> None:
                while not stop.is_set():
                    connection.bulk(4 * MIB)

            thread = threading.Thread(target=transfer)
            thread.start()
            try:
                with calls.running(500):
                    calls.sends(1000)
            finally:
                stop.set()
                thread.join()
            self.assertEqual(calls.faults(), [])

    def test_each_processor_has_its_queue(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection:
            self.by_pair(connection)
        path = "/sys/class/net/{}/queues"
        queues = [len(self.lab.exec("n1", "ls", path.format(name)).stdout.split()) for name in PAIR]
        # Those that receive and those that send.
        self.assertEqual(queues, [2 * os.sysconf("SC_NPROCESSORS_CONF")] * 2)

    def test_interfaces_of_others_are_let_alone(self) -> None:
        self.in_mode("vxlan")
        self.lab.ip("n1", f"link add {PAIR[0]} type veth peer name {PAIR[1]}")
        self.addCleanup(self.lab.ip, "n1", f"link delete {PAIR[0]}")
        before = self.indexes()

        def refused() -> bool:
            connection.bulk(16 * MIB)
            return f"{PAIR[0]} exists, and is not the daemon's" in str(self.path()["receive"])

        with Connection(self.lab) as connection:
            wait_until(refused, 20, "bulk that would be joined")
            connection.bulk(MIB)
        self.assertEqual(self.indexes(), before)
        self.assertEqual(self.joined("n1"), (0, 0))

    def test_the_switch(self) -> None:
        self.in_mode("vxlan", gro="off")

        def carried() -> bool:
            connection.bulk(16 * MIB)
            return int(self.path()["packets"]) > 100_000

        with Connection(self.lab) as connection:
            wait_until(carried, 20, "bulk that is carried")
            self.assertEqual((self.path()["receive"], self.pair()), ("as it comes: `gro` is off", []))

    def test_it_has_no_addresses_and_says_nothing(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection:
            self.by_pair(connection)
        found = json.loads(self.lab.exec("n1", "ip", "-j", "address").stdout)
        addresses = [link["addr_info"] for link in found if link["ifname"] in PAIR]
        self.assertEqual(addresses, [[], []])
        # Nothing goes the other way.
        self.assertEqual([link["stats64"]["rx"]["packets"] for link in self.pair() if link["ifname"] == PAIR[0]], [0])


class Ends(Receive):
    """The pair comes and goes."""

    def test_it_goes_with_the_daemon(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection:
            self.by_pair(connection)
            self.stop("n1")
            self.assertEqual(self.pair(), [])
            self.start("n1", **MODES["vxlan"], tunnel=ON)
            self.by_pair(connection)

    def test_what_a_killed_daemon_leaves_makes_room(self) -> None:
        self.in_mode("vxlan")
        with Connection(self.lab) as connection:
            self.by_pair(connection)
            self.kill("n1")
            left = self.indexes()
            self.assertEqual(len(left), 2)
            self.start("n1", **MODES["vxlan"], tunnel=ON)
            self.by_pair(connection)
            self.assertEqual(len(self.indexes() - left), 2)

    def test_one_that_somebody_removes_or_takes_down_is_made_again(self) -> None:
        self.in_mode("vxlan")
        for what in ("delete up0-gro", "set up0-grx down"):
            with self.subTest(what), Connection(self.lab) as connection:
                self.by_pair(connection)
                before = self.indexes()
                self.lab.ip("n1", f"link {what}")
                # What is under way then may have another pair made at once.
                wait_until(lambda: not self.indexes() & before, 5, "a daemon that notices")
                self.by_pair(connection)
                self.assertEqual(len(self.indexes() - before), 2)


class Whole(Receive):
    """Links that carry super-packets uncut."""

    options = {"virtual": True}

    def test_super_packets_are_handed_on_as_they_are(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.in_mode(mode)
                with Connection(self.lab) as connection:
                    self.hand_over(connection, FLOWS[mode])

                    def seen() -> bool:
                        connection.bulk(16 * MIB)
                        return all(self.path(node)["receive"] == WHOLE for node in NODES)

                    wait_until(seen, 20, "super-packets that are seen")
                    connection.bulk(16 * MIB)
                    self.assertEqual([self.pair(node) for node in NODES], [[], []])


if __name__ == "__main__":
    unittest.main()
