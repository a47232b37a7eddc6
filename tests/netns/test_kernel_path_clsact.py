"""The kernel path where the kernel has no TCX: filters of clsact, which do not go with the process that made them."""

import bootstrap

import unittest
from typing import Any

# As modules: the test cases in them are not for this file.
import test_kernel_path
import test_offload_tap
from fast import MIB, MODES
from startup import refused
from test_kernel_path import A_TO_B, FLOWS, NODES, ON, Connection, take
from underpass_lab.command import wait_until

CLSACT = ON | {"kernel_path_hooks": "clsact"}
# Where the filters of a node are.
PLACES = (("eth0", "ingress"), ("up0", "egress"))
# What the log says of a filter that is not there any more.
REMOVED = "a filter of the daemon was removed"
# A filter of somebody else, which matches nothing.
FOREIGN = "protocol ip pref 10 u32 match ip dst 203.0.113.9/32 flowid 1:1"


class Filters(test_kernel_path.Path):
    """Tests of nodes whose daemons attach by filters."""

    config = {**MODES["vxlan"], "tunnel": CLSACT}

    @classmethod
    def in_mode(cls, mode: str, **tunnel: Any) -> None:
        super().in_mode(mode, **CLSACT | tunnel)

    def tc(self, *words: str) -> str:
        """What tc says on n1; nothing about an interface that there is not."""
        return str(self.lab.exec("n1", "tc", *" ".join(words).split(), check=False).stdout)

    def filters(self, interface: str, hook: str) -> list[str]:
        """Filters of daemons."""
        listed = self.tc("filter show dev", interface, hook).splitlines()
        return [line for line in listed if "underpass" in line]

    def attached(self) -> list[int]:
        """How many filters of daemons there are at the uplink and at the TUN."""
        return [len(self.filters(*place)) for place in PLACES]


class Carried(Filters, test_kernel_path.Carried):
    """A TCP connection of each family in each mode, and the books."""

    def test_tcp_is_carried_and_the_books_balance(self) -> None:
        super().test_tcp_is_carried_and_the_books_balance()
        for node in NODES:
            self.assertEqual(self.path(node)["hooks"], "clsact")


class Below(Filters, test_kernel_path.Below):
    """Link addresses and the uplink change; filters go where it is."""

    def test_the_address_moves_to_another_interface(self) -> None:
        super().test_the_address_moves_to_another_interface()
        self.assertEqual((self.attached(), self.filters("eth1", "ingress")), ([1, 1], []))


class Beside(Filters):
    """Filters of others, and the ends of daemons."""

    def test_filters_of_others_stay(self) -> None:
        self.stop("n1")
        self.tc("qdisc add dev eth0 clsact")
        self.tc("filter add dev eth0 ingress", FOREIGN)
        foreign = self.tc("filter show dev eth0 ingress")
        self.assertIn("u32", foreign)
        self.in_mode("vxlan")
        self.assertEqual(self.attached(), [1, 1])
        with Connection(self.lab) as connection:
            self.hand_over(connection, FLOWS["vxlan"])
            self.stop("n1")
            self.assertEqual(self.attached(), [0, 0])
            self.assertEqual(self.tc("filter show dev eth0 ingress"), foreign)
            self.start("n1", **self.config)
            self.hand_over(connection, FLOWS["vxlan"])
            connection.bulk(MIB)

    def test_what_somebody_removes_is_made_again(self) -> None:
        self.in_mode("vxlan")
        removals = ("qdisc del dev eth0 clsact", "filter del dev eth0 ingress", "filter del dev up0 egress")
        said = self.lab.daemons["n1"].log
        with Connection(self.lab) as connection:
            for number, removal in enumerate(removals, said().count(REMOVED) + 1):
                with self.subTest(removal):
                    self.hand_over(connection, FLOWS["vxlan"])
                    self.tc(removal)
                    connection.bulk(MIB)
                    wait_until(lambda: said().count(REMOVED) == number, 5, "a line in the log")
                    wait_until(lambda: self.attached() == [1, 1], 3, "the filters")
                    self.carry_away(connection.talk)

    def test_tcx_is_taken_where_it_is(self) -> None:
        for hooks, state in (("auto", "tcx"), ("tcx", "tcx"), ("clsact", "clsact")):
            with self.subTest(hooks):
                self.in_mode("vxlan", kernel_path_hooks=hooks)
                self.assertEqual(self.path()["hooks"], state)
                self.assertEqual(self.attached(), [int(state == "clsact")] * 2)
        self.stop("n1")
        said = refused(self.lab, "n1", self.lab.config("n1", tunnel={"kernel_path_hooks": "xdp"}))
        self.assertIn('kernel_path_hooks: "xdp" is not one of "auto", "tcx", "clsact"', said)
        self.start("n1", **self.config)


class Killed(Filters):
    """A daemon that is killed leaves its filters, which let everything pass, until the next one takes them over."""

    def setUp(self) -> None:
        self.stop("n1")
        # The TUN stays, and the filter at it.
        self.lab.ip("n1", "tuntap add dev up0 mode tun multi_queue vnet_hdr")
        self.addCleanup(self.lab.ip, "n1", "link del up0")

    def test_filters_that_are_left_do_nothing(self) -> None:
        wire = self.tap("sw", "port-n1")
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.in_mode(mode)
                with Connection(self.lab) as connection:
                    self.hand_over(connection, FLOWS[mode])
                    programs = test_offload_tap.End.programs(self.lab.daemons["n1"].pid)
                    self.kill("n1")
                    # What stays are the filters, which led to the others.
                    wait_until(
                        lambda: sum(map(test_offload_tap.End.exists, programs)) == len(PLACES),
                        3,
                        "the other programs to go",
                    )
                    self.assertEqual(self.attached(), [1, 1])
                    wire.drain()
                    self.silent(connection)
                    left = [frame for frame in wire.incoming() if A_TO_B in frame]
                    self.assertEqual(left, [], "no packet leaves without a daemon")
                    before = self.unknown(mode)
                    connection.server.sendall(b"meanwhile")
                    wait_until(lambda: self.unknown(mode) > before, 5, "a packet that reaches the host")
                    self.start("n1", **MODES[mode], tunnel=CLSACT)
                    self.assertEqual(self.attached(), [1, 1])
                    for end, said in ((connection.server, b"hello"), (connection.client, b"meanwhile")):
                        self.assertEqual(take(end, len(said)), said)
                    self.hand_over(connection, FLOWS[mode])
                    connection.bulk(MIB)
                self.stop("n1")
                self.assertEqual(self.attached(), [0, 0])

    def silent(self, connection: Connection) -> None:
        """Says something that does not arrive."""
        connection.patience(0.5)
        connection.client.sendall(b"hello")
        with self.assertRaises(TimeoutError):
            connection.server.recv(1)
        connection.patience()

    def unknown(self, mode: str) -> int:
        """Tunnel packets that n1 itself has found nobody for: those that nothing has taken away before."""
        name = {"vxlan": "UdpNoPorts", "ipip": "IpInUnknownProtos"}[mode]
        found = self.lab.exec("n1", "nstat", "-asz", name).stdout.splitlines()
        return int(next(line.split()[1] for line in found if line.startswith(name)))


if __name__ == "__main__":
    unittest.main()
