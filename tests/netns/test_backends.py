"""Both device backends, persistent devices, several workers, and bulk transfers with offloads on and off."""

import bootstrap

import contextlib
import json
import struct
from typing import Any

from fast import MIB, MODES
from shared import SharedLab, large_buffer, own_routes
from startup import device_exists, refused
from tunnel import FORMATS
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import pod_address

A, B = pod_address("n1"), pod_address("n2")


class Persistent(SharedLab):
    """`plain` on TUNs that somebody made with `ip tuntap add`: one queue, there before and after us."""

    daemons = ()

    def setUp(self) -> None:
        for node in ("n1", "n2"):
            self.lab.ip(node, "tuntap add dev up0 mode tun")
            self.addCleanup(self.lab.ip, node, "link del up0")
            self.addCleanup(self.stop, node)

    def link(self) -> tuple[set[Any], list[Any]]:
        """(flags, addresses) of the TUN on n1."""
        (link,) = json.loads(run("ip", "-n", self.lab.ns("n1"), "-j", "address", "show", "dev", "up0").stdout)
        return set(link["flags"]), [address["local"] for address in link["addr_info"]]

    def start_both(self, **tunnel: Any) -> None:
        for node in ("n1", "n2"):
            self.start(node, tunnel=tunnel)
            self.assertEqual(self.lab.status(node)["backend"], "plain")

    def test_traffic_and_what_is_left(self) -> None:
        for tunnel in ({"backend": "plain"}, {}):
            with self.subTest(tunnel):
                self.start_both(**tunnel)
                self.assertEqual(self.lab.ping("podA", B, count=3), 3)
                self.lab.tcp_transfer("podA", "podB", B, 8 * MIB)
                self.assertEqual(self.link()[1], ["10.244.1.0"])
                self.accounts("n1")
                for node in ("n1", "n2"):
                    self.stop(node)
                self.assertTrue(device_exists(self.lab, "n1"))
                flags, addresses = self.link()
                self.assertEqual((own_routes(self.lab, "n1"), addresses), ([], []))
                self.assertNotIn("UP", flags)

    def test_what_somebody_prepared_stays(self) -> None:
        self.lab.ip(
            "n1",
            "link set up0 up",
            "address add 10.244.1.0/32 dev up0",
            "address add 10.77.0.1/32 dev up0",
            "route add 10.78.0.0/16 dev up0 proto static",
        )
        self.start_both(backend="plain")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        self.stop("n1")
        flags, addresses = self.link()
        self.assertIn("UP", flags)
        self.assertEqual(addresses, ["10.244.1.0", "10.77.0.1"])
        routes = run("ip", "-n", self.lab.ns("n1"), "route", "show", "dev", "up0").stdout
        self.assertEqual([line.split()[0] for line in routes.splitlines()], ["10.78.0.0/16"])

    def test_offload_needs_a_device_with_several_queues(self) -> None:
        said = refused(self.lab, "n1", self.lab.config("n1", tunnel={"backend": "offload"}))
        self.assertRegex(said, r"cannot open TUN device up0: it exists and is of another kind")

    def test_a_device_that_is_in_use(self) -> None:
        self.start("n1", tunnel={"backend": "plain"})
        text = self.lab.config("n1", tunnel={"backend": "plain"}, port=8472).replace("n1.sock", "other.sock")
        said = refused(self.lab, "n1", text)
        self.assertRegex(said, r"cannot open TUN device up0: another process holds it")
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])


class Transfers(SharedLab):
    """64 MiB of TCP with equal SHA-256, in every combination; nothing on the wire is oversized."""

    SIZE = 64 * MIB

    def transfer(self, backend: str) -> None:
        for mode in FORMATS:
            config = MODES[mode]
            self.restart(**config, tunnel={"backend": backend})
            self.assertEqual({self.lab.status(node)["backend"] for node in ("n1", "n2")}, {backend})
            for on in (True, False):
                with self.subTest(mode=mode, offloads=on):
                    for pod in ("podA", "podB"):
                        self.lab.offloads(pod, "eth0", on=on)
                    with self.lab.capture("sw", "port-n2", "greater 1515") as oversize:
                        self.lab.tcp_transfer("podA", "podB", B, self.SIZE)
                    self.assertEqual(oversize.packets(), [])
                    carried = self.accounts("n2")
                    self.assertGreaterEqual(self.counters("n2").status("bytes")["device_tx"], self.SIZE)
                    self.assertEqual(sum(carried[reason] for reason in self.lab.drops("n2")), 0)
        for pod in ("podA", "podB"):
            self.lab.offloads(pod, "eth0", on=True)

    def test_offload(self) -> None:
        self.transfer("offload")

    def test_plain(self) -> None:
        self.transfer("plain")


class ManyWorkers(SharedLab):
    """Four workers on four queues: every packet arrives once, and in order within its flow."""

    FLOWS, PACKETS = 64, 150
    SOURCES = [f"10.244.1.{n}" for n in range(2, 10)]

    @classmethod
    def prepare(cls) -> None:
        # IPIP is spread over the workers by inner addresses, so more than one pair is needed.
        cls.lab.ip("podA", *(f"address add {address}/24 dev eth0" for address in cls.SOURCES[1:]))

    def test_order_and_completeness(self) -> None:
        for mode in FORMATS:
            config = MODES[mode]
            with self.subTest(mode):
                self.restart(**config, tunnel={"workers": 4})
                for node in ("n1", "n2"):
                    self.assertEqual(self.lab.status(node)["workers"], 4)
                total = self.FLOWS * self.PACKETS
                with self.lab.socket("podB") as receiver:
                    large_buffer(receiver).bind((B, 5009))
                    receiver.settimeout(3)
                    with (
                        self.moves("n1", device_rx=total, underlay_tx=total),
                        self.moves("n2", underlay_rx=total, device_tx=total),
                    ):
                        self.send_flows()
                    received = [struct.unpack(">II", receiver.recv(2000)[:8]) for _ in range(total)]
                    receiver.settimeout(0.05)
                    self.assertRaises(TimeoutError, receiver.recv, 2000)
                for flow in range(self.FLOWS):
                    sequence = [number for of, number in received if of == flow]
                    self.assertEqual(sequence, list(range(self.PACKETS)), f"flow {flow}")
                self.assertGreater(self.busy_workers("n2"), 1)

    def send_flows(self) -> None:
        """All flows in turn, in sizes that neither equal each other nor fill the queues at once."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self.lab.socket("podA")) for _ in range(self.FLOWS)]
            for flow, client in enumerate(clients):
                client.bind((self.SOURCES[flow % len(self.SOURCES)], 30000 + flow))
            self.send_rounds(clients)

    def send_rounds(self, clients: Any) -> None:
        before = self.counters("n2").status()["device_tx"]
        for number in range(self.PACKETS):
            for flow, client in enumerate(clients):
                client.sendto(struct.pack(">II", flow, number) + bytes((flow * 13 + number * 7) % 1300), (B, 5009))
            # A few rounds ahead of the far end at most: nothing here may be lost to a full queue.
            if number % 16 == 0:
                due = before + number * self.FLOWS - 2000
                wait_until(lambda: self.counters("n2").status()["device_tx"] >= due, 5, "progress")

    def busy_workers(self, node: str) -> int:
        """How many workers have received something from the underlay."""
        counters = self.counters(node)
        return sum(count > 0 for count in counters.by_worker("underlay", "rx"))
