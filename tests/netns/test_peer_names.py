"""Peers by host name: resolved at start and again, changes followed, the last good answer kept.

n1 has a hosts file of its own, as `ip netns exec` mounts it; a last class asks a real DNS server."""

import bootstrap

import pathlib
import subprocess
import time
from typing import Any

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

B = pod_address("n2")
NAME, OTHER = "node-b.example", "192.0.2.22"
# From one question to the next, by itself, and after a failure.
AGAIN_S, FAILED_S = 60.0, 15.0


class Named(SharedLab):
    """n1 knows n2 by name, and n2 listens at two addresses."""

    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        cls.lab.ip("n2", f"address add {OTHER}/24 dev eth0")
        cls.etc().mkdir(parents=True)
        cls.addClassCleanup(cls.remove)
        cls.write("hosts", "127.0.0.1 localhost\n")
        # Who is not in the file is nowhere: nobody answers there.
        cls.write("resolv.conf", "nameserver 192.0.2.253\noptions timeout:1 attempts:1\n")
        cls.write("nsswitch.conf", "hosts: files dns\n")

    @classmethod
    def etc(cls) -> pathlib.Path:
        """What `ip netns exec` mounts over /etc in n1."""
        return pathlib.Path("/etc/netns", cls.lab.ns("n1"))

    @classmethod
    def remove(cls) -> None:
        for file in cls.etc().iterdir():
            file.unlink()
        cls.etc().rmdir()

    @classmethod
    def write(cls, name: str, text: str) -> None:
        """Writes a file in place: the mount is of its inode."""
        (cls.etc() / name).write_text(text, encoding="utf-8")

    def says(self, address: str | None) -> None:
        """What the hosts file says of n2."""
        self.write("hosts", "127.0.0.1 localhost\n" + (f"{address} {NAME}\n" if address else ""))

    def setUp(self) -> None:
        # n2 sends from its first address, and takes packets at both.
        self.start("n2", local=[subnet("n2")])

    def tearDown(self) -> None:
        super().tearDown()
        self.stop("n1")

    def source(self) -> dict[str, Any]:
        sources = self.lab.status("n1")["sources"]
        return next((source for source in sources if source["name"] == "peer-names"), {})

    def address(self) -> str | None:
        """Where n1 thinks that n2 is."""
        peers = self.lab.status("n1")["peers"]
        return next((peer["address"] for peer in peers if peer["name"] == "n2"), None)

    def sent(self) -> int:
        peers = self.lab.status("n1")["peers"]
        return next(int(peer["counters"]["tx_packets"]) for peer in peers if peer["name"] == "n2")

    def arrive_at(self, address: str) -> None:
        """Packets to podB leave n1 for this address."""
        wire = self.tap("sw", "port-n1")
        self.lab.exec("podA", "ping", "-c", "2", "-i", "0.1", "-W", "0.1", B, check=False)
        packets = [Ether(frame) for frame in wire.incoming() if frame[12:14] == b"\x08\x00" and frame[23] == 4]
        self.assertEqual([packet[IP].dst for packet in packets], [address] * 2)


class HostsFile(Named):
    """Names by /etc/hosts."""

    def test_a_name_is_resolved_at_start(self) -> None:
        self.says(ADDRESSES["n2"])
        self.start("n1", peers={"n2": (NAME, [subnet("n2")])})
        self.assertEqual(self.address(), ADDRESSES["n2"])
        self.assertEqual(self.lab.ping("podA", B), 3)
        source = self.source()
        self.assertEqual((source["state"], source["nodes"], source["refused"]), ("following", 1, 0))

    def test_another_answer_is_followed_by_itself_and_by_a_reload(self) -> None:
        self.says(ADDRESSES["n2"])
        self.start("n1", peers={"n2": (NAME, [subnet("n2")])})
        n1 = self.lab.daemons["n1"]
        self.arrive_at(ADDRESSES["n2"])
        sent = self.sent()
        self.assertGreaterEqual(sent, 2)
        self.says(OTHER)
        begun = time.monotonic()
        wait_until(lambda: self.address() == OTHER, AGAIN_S + 20, "the new address")
        self.assertGreater(time.monotonic() - begun, 1)
        self.arrive_at(OTHER)
        # The same peer with the same counters.
        self.assertEqual(self.sent(), sent + 2)
        self.assertIn(f"peer n2: {NAME} is {OTHER} now, it was {ADDRESSES['n2']}", n1.log())
        self.says(ADDRESSES["n2"])
        n1.command("reload")
        self.assertEqual(self.address(), ADDRESSES["n2"])
        self.arrive_at(ADDRESSES["n2"])
        self.assertEqual(self.sent(), sent + 4)

    def test_a_name_that_nobody_knows_is_left_out_until_it_comes(self) -> None:
        self.says(None)
        self.start("n1", peers={"n2": (NAME, [subnet("n2")]), "n9": ("192.0.2.9", ["10.244.9.0/24"])})
        status = self.lab.status("n1")
        self.assertEqual([peer["name"] for peer in status["peers"]], ["n9"])
        source = self.source()
        self.assertEqual((source["state"], source["refused"]), ("degraded", 1))
        refusal = source["refusals"][0]
        self.assertEqual(refusal["object"], "peer n2")
        self.assertRegex(refusal["reason"], f"^{NAME} is not resolved: .*name resolution|not known")
        n1 = self.lab.daemons["n1"]
        self.assertRegex(n1.command("status").stdout, f"peer n2 is left out: {NAME} is not resolved")
        self.assertIn(f"peer n2 is left out: {NAME} is not resolved", n1.log())
        self.says(ADDRESSES["n2"])
        wait_until(lambda: self.address() == ADDRESSES["n2"], FAILED_S + 10, "the peer")
        wait_until(lambda: self.lab.ping("podA", B) == 3, 5, "traffic")
        self.assertEqual((self.source()["state"], self.source()["refused"]), ("following", 0))

    def test_the_last_good_answer_is_kept(self) -> None:
        self.says(ADDRESSES["n2"])
        self.start("n1", peers={"n2": (NAME, [subnet("n2")])})
        self.says(None)
        self.lab.daemons["n1"].command("reload")
        wait_until(lambda: self.source()["state"] == "degraded", 10, "degraded")
        self.assertIn(f"{NAME} is not resolved", self.source()["reason"])
        self.assertEqual((self.address(), self.source()["refused"]), (ADDRESSES["n2"], 0))
        self.assertEqual(self.lab.ping("podA", B), 3)

    def test_an_answer_that_breaks_a_rule_is_left_out(self) -> None:
        self.says(ADDRESSES["n1"])
        self.start("n1", peers={"n2": (NAME, [subnet("n2")])})
        self.assertEqual(
            self.source()["refusals"][0]["reason"], f"{NAME} is 192.0.2.1, which is this node's own address"
        )

    def test_it_goes_on_when_this_node_has_another_address(self) -> None:
        """Also without the resolver: the last good answer outlives the beginning anew."""
        self.says(ADDRESSES["n2"])
        self.start("n1", address="auto", peers={"n2": (NAME, [subnet("n2")])})
        self.says(None)
        self.lab.ip("n1", "address del 192.0.2.1/24 dev eth0", "address add 192.0.2.11/24 dev eth0")
        self.addCleanup(self.lab.ip, "n1", "address flush dev eth0", "address add 192.0.2.1/24 dev eth0")
        begun = time.monotonic()
        wait_until(lambda: "ready;" in self.lab.daemons["n1"].log().split("beginning anew", 1)[-1], 15, "anew")
        self.lab.daemons["n1"].wait_ready()
        self.assertLess(time.monotonic() - begun, 5)
        self.assertEqual(self.address(), ADDRESSES["n2"])

    def test_a_destination_by_name(self) -> None:
        self.write("hosts", "127.0.0.1 localhost\n192.0.2.77 gw.example\n")
        self.start("n1", address="can-reach=gw.example")
        sources = {source["name"]: source for source in self.lab.status("n1")["sources"]}
        self.assertRegex(sources["node-address"]["detail"], "^192.0.2.1/24 on eth0: the source of packets to there")


class NameServer(Named):
    """Names by a DNS server on the router's place, 192.0.2.53, that comes and goes."""

    server: subprocess.Popen[Any] | None = None

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        cls.write("resolv.conf", "nameserver 192.0.2.53\noptions timeout:1 attempts:1\n")
        cls.lab.add_host("dns", "192.0.2.53/24")

    def serve(self, *records: str) -> None:
        """Starts the server in place of the one that runs."""
        self.end_server()
        words = ("--no-daemon", "--no-hosts", "--no-resolv", "--conf-file=/dev/null", "--user=root", "--pid-file")
        records = tuple(f"--host-record={NAME},{address}" for address in records)
        type(self).server = self.lab.popen(
            "dns",
            "dnsmasq",
            *words,
            "--local=/example/",
            "--listen-address=192.0.2.53",
            "--bind-interfaces",
            *records,
            stderr=subprocess.DEVNULL,
        )
        self.lab.listens("dns", 53, "udp")

    def end_server(self) -> None:
        if self.server:
            self.server.terminate()
            self.server.wait(5)
            type(self).server = None

    def tearDown(self) -> None:
        super().tearDown()
        self.end_server()

    def test_answers_come_change_and_fail(self) -> None:
        self.start("n1", peers={"n2": (NAME, [subnet("n2")])})
        self.assertIsNone(self.address())
        self.assertIn("is not resolved", self.source()["refusals"][0]["reason"])
        self.serve(ADDRESSES["n2"])
        wait_until(lambda: self.address() == ADDRESSES["n2"], FAILED_S + 10, "the first answer")
        self.assertEqual(self.lab.ping("podA", B), 3)
        n1 = self.lab.daemons["n1"]
        # A name with several addresses stays where it is.
        self.serve(ADDRESSES["n2"], "192.0.2.1", "192.0.2.3")
        n1.command("reload")
        self.assertEqual((self.address(), self.source()["state"]), (ADDRESSES["n2"], "following"))
        self.serve(OTHER)
        n1.command("reload")
        self.assertEqual(self.address(), OTHER)
        self.arrive_at(OTHER)
        # It forgets the name, and then it is gone.
        self.serve()
        n1.command("reload")
        wait_until(lambda: self.source()["state"] == "degraded", 10, "degraded")
        self.end_server()
        n1.command("reload")
        wait_until(lambda: self.source()["state"] == "degraded", 10, "degraded")
        self.assertEqual((self.address(), self.source()["refused"]), (OTHER, 0))
        self.arrive_at(OTHER)
