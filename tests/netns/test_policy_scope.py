"""`[policy] scope = "all"`: whatever local pods send and are sent passes the pump, but for what the node itself sends.

                      out 192.0.2.66
                       |
podA, podA2, podA3 -- n1 -- sw -- n2 -- podB
"""

import bootstrap

import json
import os
import pathlib
import re
import signal
import socket
import tempfile
from typing import Any

from scapy.layers.inet import IP, TCP

from fast import bulk
from rootless import NO_RIGHTS, hand_over, prepare_tun, shell
from shared import large_buffer
from test_nat_outgoing import NEIGHBOUR, OUT, OUT6, Nat, natted
from underlay6 import A6, ADDRESSES6, B6, subnets
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address

A, B = pod_address("n1"), pod_address("n2")
# One more pod in the subnet of podA, reached by routes to it alone, as the CNI plugin ptp makes them.
C, C6 = "10.244.1.3", "fd00:244:1::3"
NOBODY, NOBODY6 = "10.244.1.99", "fd00:244:1::99"
METADATA = "169.254.169.254"
ALL = '\n[policy]\nscope = "all"\n'
TABLE = "117"
PRIORITIES = [5170, 5171, 5172, 5173, 5180, 32764, 32765]
# By pods of their own endpoints, and from where nobody is known.
POLICIES = {
    "of-a": {
        "podSelector": {"matchLabels": {"app": "a"}},
        "policyTypes": ["Egress"],
        "egress": [
            {"to": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["b", "c"]}]}}]}
        ],
    },
    "of-c": {
        "podSelector": {"matchLabels": {"app": "c"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}]}, {"ports": [{"protocol": "UDP", "port": 7000}]}],
    },
}
_SOL_UDP, _UDP_SEGMENT = 17, 103
MIB = 1 << 20


class Scope(Nat):
    """podA and podA3 are single addresses behind an interface each, podA2 is in a subnet of its own."""

    scope = ALL

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        lab = cls.lab
        lab.add_namespace("podA3")
        lab.link("n1", "pod2", "podA3", "eth0")
        lab.ip("n1", "address flush dev pod0 scope global")
        for pod, interface, addresses in (("podA", "pod0", (A, A6)), ("podA3", "pod2", (C, C6))):
            lab.ip(pod, "address flush dev eth0 scope global")
            for address, gateway in zip(addresses, ("10.244.1.1", "fd00:244:1::1"), strict=True):
                flags = "nodad" if ":" in address else ""
                lab.ip("n1", f"address add {gateway} dev {interface} {flags}", f"route add {address} dev {interface}")
                lab.ip(
                    pod,
                    f"address add {address} dev eth0 {flags}",
                    f"route add {gateway} dev eth0",
                    f"route replace default via {gateway}",
                )
        lab.ip("out", f"address add {METADATA}/32 dev lo")
        for node in ("n1", "n2"):
            lab.ip(node, f"route add default via {OUT}", f"route add default via {OUT6}")

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        config["extra"] = config.get("extra", cls.scope)
        return super().start(node, **config)

    # --- what there is on n1 ----------------------------------------------------------------------

    def rules(self, family: str, node: str = "n1") -> list[int]:
        """The priorities of the daemon's rules."""
        lines = self.lab.exec(node, "ip", family, "rule", "show").stdout.splitlines()
        return [int(line.split(":")[0]) for line in lines if line.endswith(f" proto {TABLE}")]

    def routes(self, family: str, node: str = "n1") -> list[str]:
        """The routes of the daemon's table."""
        words = ("ip", family, "route", "show", "table", TABLE)
        lines = self.lab.exec(node, *words, check=False).stdout.splitlines()
        return sorted(line.split(" proto")[0] for line in lines)

    def is_led(self, node: str = "n1") -> bool:
        """Whether all rules and routes are there."""
        # n1 has a second subnet of IPv4, and n2 has one beside its pool.
        expected = {"-4": sorted([*PRIORITIES, 5172, 5173]), "-6": PRIORITIES}
        routes = {"-4": ["default dev up0", "unreachable default"]}
        routes["-6"] = ["default dev up0", "unreachable default dev lo"]
        return all(
            self.rules(family, node) == expected[family] and self.routes(family, node) == routes[family]
            for family in ("-4", "-6")
        )

    def is_clean(self, node: str = "n1") -> bool:
        """Whether nothing of it is there."""
        return not any(self.rules(family, node) or self.routes(family, node) for family in ("-4", "-6"))

    def await_led(self, node: str = "n1", timeout: float = 5) -> None:
        wait_until(lambda: self.is_led(node), timeout, f"the rules: {self.rules('-4', node)} {self.rules('-6', node)}")

    def hairpinned(self, node: str = "n1") -> int:
        """Packets that n1 has given back to its kernel."""
        return int(self.lab.status(node)["hairpinned_packets"])

    # --- traffic ----------------------------------------------------------------------------------

    def passes(self, source: str, address: str, given_back: int = 1, remote: int = 0) -> None:
        """Three pings are answered; of each so many packets of n1 are given back, and so many cross the tunnel both
        ways."""
        # Neighbours are resolved first.
        wait_until(lambda: self.lab.ping(source, address, count=1) == 1, 10, f"a ping from {source} to {address}")
        before = self.hairpinned()
        crossing = 3 * remote
        local = 3 * given_back
        moved = {"device_rx": local + crossing, "device_tx": local + crossing}
        with self.moves("n1", **moved, underlay_rx=crossing, underlay_tx=crossing):
            self.assertEqual(self.lab.ping(source, address), 3, f"{source} {address}")
        self.assertEqual(self.hairpinned() - before, local, f"{source} {address}")

    def everything_passes(self) -> None:
        """Each way once, and how often its packets pass the pump of n1."""
        for address in (C, NEIGHBOUR, OUT, METADATA, C6, OUT6):
            with self.subTest("podA", to=address):
                self.passes("podA", address, given_back=2)
        for address in (A, A6):
            for source in ("podA3", "out"):
                with self.subTest(source, to=address):
                    self.passes(source, address, given_back=2)
        for address in (B, B6):
            with self.subTest("podA", to=address):
                self.passes("podA", address, given_back=0, remote=1)
        # The node itself is not judged, and reaches its pods.
        for source, addresses in (("n1", (A, C, NEIGHBOUR, A6)), ("podA", (ADDRESSES["n1"], ADDRESSES6["n1"]))):
            for address in addresses:
                with self.subTest(source, to=address):
                    self.passes(source, address, given_back=0)


class Passes(Scope):
    def setUp(self) -> None:
        for node in ("n1", "n2"):
            self.await_led(node)

    def test_everything_of_local_pods_passes_the_pump_and_works(self) -> None:
        self.everything_passes()
        self.assertEqual(self.missing(), [])

    def test_strict_reverse_path_filtering_drops_nothing(self) -> None:
        names = ["all", "default", "eth0", "pod0", "pod1", "pod2"]
        settings = [f"ipv4/conf/{name}/rp_filter" for name in names]
        self.lab.sysctl("n1", dict.fromkeys(settings, 1))
        self.addCleanup(self.lab.sysctl, "n1", dict.fromkeys(settings, 0))
        self.everything_passes()

    def test_connections_of_each_kind_and_who_is_seen(self) -> None:
        """ICMP, UDP and TCP by sockets; what leaves the cluster gets the address of the node, and nothing else does."""
        reject = "table inet strict { chain c { type filter hook forward priority 0; ct state invalid drop; }; }"
        self.lab.exec("n1", "nft", reject)
        self.addCleanup(self.lab.exec, "n1", "nft", "delete table inet strict")
        self.assertEqual(self.seen("podA", "podA3", C), {A})
        self.assertEqual(self.seen("podA3", "podA", A6), {C6})
        self.assertEqual(self.seen("podA", "podA2", NEIGHBOUR), {A})
        self.assertLeavesAs(ADDRESSES["n1"], ADDRESSES6["n1"])
        self.assertEqual(self.seen("podA2", "out", OUT), {ADDRESSES["n1"]})
        self.assertEqual(self.seen("out", "podA", A), {OUT})
        self.assertEqual(self.seen("out", "podA3", C6), {OUT6})
        self.assertEqual(self.seen("podA", "podB", B), {A})
        self.assertEqual(self.seen("podB", "podA3", C), {B})
        self.assertEqual(self.seen("n1", "podA", A), {"10.244.1.1"})

    def test_super_packets_pass_whole(self) -> None:
        before, frames = self.hairpinned(), self.tun_packets()
        addresses = {"podA": A, "podA3": C}
        bulk(self.lab, 32 * MIB, ways=(("podA", "podA3"), ("podA3", "podA")), addresses=addresses)
        packets, frames = self.hairpinned() - before, self.tun_packets() - frames
        self.assertGreater(packets, 2 * 32 * MIB // 1500)
        self.assertLess(frames, packets // 4, "mostly super-packets")
        bulk(self.lab, 8 * MIB, ways=(("podA", "podA3"),), addresses={"podA": A6, "podA3": C6})
        # To the outside and back, masqueraded.
        bulk(self.lab, 8 * MIB, ways=(("podA", "out"),), addresses={"out": OUT})
        bulk(self.lab, 8 * MIB, ways=(("out", "podA"),), addresses={"podA": A})

    def tun_packets(self) -> int:
        """Packets and super-packets that n1 has written to its TUN."""
        path = "/sys/class/net/up0/statistics/rx_packets"
        return int(self.lab.exec("n1", "cat", path).stdout)

    def test_a_datagram_super_packet_arrives_as_its_datagrams(self) -> None:
        with large_buffer(self.lab.socket("podA3")) as sink, self.lab.socket("podA") as out:
            sink.bind((C, 7000))
            sink.settimeout(5)
            out.setsockopt(_SOL_UDP, _UDP_SEGMENT, 1000)
            parts = [os.urandom(1000) for _ in range(19)] + [os.urandom(300)]
            out.sendto(b"".join(parts), (C, 7000))
            self.assertEqual([sink.recv(2000) for _ in parts], parts)

    def test_one_hop_more_and_a_smaller_path(self) -> None:
        """What docs/policy.md says that it costs: the node forwards twice, and the TUN carries less than the wire."""
        tap = self.tap("podA3", "eth0")
        self.assertEqual(self.lab.ping("podA", C, count=1), 1)
        (packet,) = tap.wait(1, lambda packet: IP in packet and packet[IP].dst == C)
        self.assertEqual(packet[IP].ttl, 62)
        text = self.lab.exec("out", "ping", "-n", "-c", 1, "-W", 2, "-M", "do", "-s", 1472, A, check=False).stdout
        self.assertIn(f"mtu = {self.lab.status('n1')['tunnel']['mtu']}", text)
        self.lab.tcp_transfer("out", "podA", A, MIB)

    def test_a_pod_that_does_not_exist_is_answered_and_nothing_goes_round(self) -> None:
        for source, address, said in (
            ("podA", NOBODY, "Net Unreachable"),
            ("podA", NOBODY6, "No route"),
            ("out", NOBODY, "Net Unreachable"),
            ("out", NOBODY6, "No route"),
        ):
            with self.subTest(source, to=address):
                before = self.hairpinned()
                words = ("ping", "-n", "-c", 3, "-i", 0.5, "-W", 1, address)
                text = self.lab.exec(source, *words, check=False).stdout
                self.assertIn(said, text)
                self.assertLessEqual(self.hairpinned() - before, 3)
        # From another node, and to an address of the pool that is no node's.
        with self.moves("n1", underlay_rx=1, device_tx=1, device_rx=1, underlay_tx=1):
            self.assertEqual(self.lab.ping("podB", NOBODY, "-W", "0.5", count=1), 0)
        with self.moves("n1", device_rx=1, no_route=1):
            self.assertEqual(self.lab.ping("podA", "10.244.200.1", "-W", "0.5", count=1), 0)

    def test_services_keep_their_connections(self) -> None:
        """What kube-proxy's rules do: the pump sees the pods at both ends, in both directions."""
        service = (
            "table inet services { chain pre { type nat hook prerouting priority dstnat; "
            f"ip daddr 10.96.0.10 tcp dport 80 dnat ip to {C}:8080; "
            f'iifname "eth0" ip daddr {ADDRESSES["n1"]} tcp dport 30080 dnat ip to {C}:8080; }}; }}'
        )
        self.lab.exec("n1", "nft", service)
        self.addCleanup(self.lab.exec, "n1", "nft", "delete table inet services")
        tun = self.tap("n1", "up0")
        with self.lab.socket("podA3", kind=socket.SOCK_STREAM) as server:
            server.bind((C, 8080))
            server.listen()
            for client, address, port, seen in (("podA", "10.96.0.10", 80, A), ("out", ADDRESSES["n1"], 30080, OUT)):
                with self.subTest(client), self.lab.socket(client, kind=socket.SOCK_STREAM) as ours:
                    ours.settimeout(5)
                    ours.connect((address, port))
                    accepted, sender = server.accept()
                    with accepted:
                        accepted.settimeout(5)
                        self.assertEqual(sender[0], seen)
                        ours.send(b"question")
                        self.assertEqual(accepted.recv(100), b"question")
                        accepted.send(b"answer")
                        self.assertEqual(ours.recv(100), b"answer")
        # An outgoing packet of the TUN comes to the pump; it begins at the IP header.
        packets = [IP(frame) for frame in tun.outgoing() if frame[0] >> 4 == 4]
        ends = {frozenset((packet[IP].src, packet[IP].dst)) for packet in packets if TCP in packet}
        self.assertEqual(ends, {frozenset((A, C)), frozenset((OUT, C))})

    def test_rules_of_others_hold_for_what_was_given_back(self) -> None:
        """As of a VPN that takes everything to the outside."""
        self.lab.ip("n1", f"route add {OUT}/32 dev eth0 mtu 1300 table 200", "rule add pref 6000 lookup 200")
        self.addCleanup(self.lab.ip, "n1", "rule del pref 6000 lookup 200", "route flush table 200")
        for name in ("podA", "n1"):
            words = ("ping", "-n", "-c", 1, "-W", 2, "-M", "do", "-s", 1400, OUT)
            done = self.lab.exec(name, *words, check=False)
            self.assertRegex(done.stdout + done.stderr, "mtu.{1,3}1300", name)


class Denies(Scope):
    """podA may speak to podA3 and to podB alone, podA3 takes nothing from the outside but UDP to one port."""

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        for name, about in POLICIES.items():
            policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
            text = json.dumps(policy | {"metadata": {"name": name, "namespace": "default"}, "spec": about})
            (pathlib.Path(directory) / f"{name}.json").write_text(text, encoding="ascii")
        endpoints = "".join(
            f'[[endpoint]]\nname = "{name}"\naddresses = {json.dumps(list(addresses))}\nlabels = {{ app = "{name}" }}\n'
            for name, addresses in (("a", (A, A6)), ("c", (C, C6)), ("b", (B, B6)))
        )
        cls.scope = f"{ALL}directory = {json.dumps(directory)}\n{endpoints}"

    def setUp(self) -> None:
        self.await_led()

    def denied(self, source: str, address: str, reason: str) -> None:
        """Three pings are dropped for this reason."""
        before = self.hairpinned()
        with self.moves("n1", device_rx=3, **{reason: 3}):
            self.assertEqual(self.lab.ping(source, address, "-W", "0.3"), 0, f"{source} {address}")
        self.assertEqual(self.hairpinned(), before)

    def test_what_leaves_a_pod(self) -> None:
        for address in (C, C6):
            self.passes("podA", address, given_back=2)
        for address in (B, B6):
            self.passes("podA", address, given_back=0, remote=1)
        for address in (NEIGHBOUR, OUT, OUT6, METADATA):
            self.denied("podA", address, "policy_egress")
        # Of a connection that the other side began the answers may leave.
        for source, address in (("podA2", A), ("out", A), ("out", A6)):
            self.passes(source, address, given_back=2)

    def test_what_comes_to_a_pod(self) -> None:
        for address in (C, C6):
            self.denied("out", address, "policy_ingress")
            self.passes("podA", address, given_back=2)
        self.passes("podA3", OUT, given_back=2)
        self.assertEqual(self.by_socket("out", "podA3", C, socket.SOCK_DGRAM, 7000), OUT)
        with self.assertRaises(OSError):
            self.by_socket("out", "podA3", C, socket.SOCK_DGRAM, 7001)
        # What was denied by one pod's rules is no other's matter.
        self.assertEqual(self.seen("podA2", "out", OUT), {ADDRESSES["n1"]})

    def test_the_node_reaches_its_pods(self) -> None:
        for address in (A, C, NEIGHBOUR, A6, C6):
            self.passes("n1", address, given_back=0)
        for address in (ADDRESSES["n1"], ADDRESSES6["n1"]):
            self.passes("podA", address, given_back=0)


class DirectByKernel(Scope):
    """Bare packets that come from other nodes are led into the TUN as well."""

    scope = ALL + '\n[direct]\nvia = "kernel"\n'
    mode = "direct"

    def test_bare_packets_are_judged_at_both_ends(self) -> None:
        for node in ("n1", "n2"):
            self.await_led(node)
        for address in (B, B6):
            wait_until(lambda: self.lab.ping("podA", address, count=1) == 1, 10, "a ping")
            before = self.hairpinned()
            with self.moves("n1", device_rx=6, device_tx=3, underlay_tx=3):
                self.assertEqual(self.lab.ping("podA", address), 3)
            self.assertEqual(self.hairpinned() - before, 3)
        self.assertEqual(self.seen("podA", "podB", B), {A})
        self.lab.tcp_transfer("podA", "podB", B, 8 * MIB)
        # What the node itself sends goes by the kernel.
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("n1", B), 3)


class Heals(Scope):
    """What others do to it, and how it comes and goes. n1 alone has a daemon."""

    daemons = ("n1",)

    def setUp(self) -> None:
        if "n1" not in self.lab.daemons:
            self.start("n1")
        self.await_led()

    def test_what_others_remove_comes_back(self) -> None:
        for family in ("-4", "-6"):
            for priority in PRIORITIES:
                with self.subTest(family, priority=priority):
                    self.lab.exec("n1", "ip", family, "rule", "del", "pref", priority)
                    self.await_led(timeout=3)
            with self.subTest(f"{family} table"):
                self.lab.exec("n1", "ip", family, "route", "flush", "table", TABLE)
                self.await_led(timeout=3)
        self.lab.ip("n1", "link set dev up0 group 0")
        group = lambda: "group 117" in self.lab.exec("n1", "ip", "link", "show", "up0").stdout  # noqa: E731
        wait_until(group, 3, "the group")
        wait_until(lambda: self.missing() == [], 3, "all well")
        self.passes("podA", C, given_back=2)

    def test_a_tun_that_is_down_lets_nothing_pass_unjudged(self) -> None:
        self.lab.ip("n1", "link set dev up0 down")
        self.assertEqual(self.lab.ping("podA", C, "-W", "0.5", count=2), 0)
        self.assertEqual(self.lab.ping("n1", A, count=1), 1)
        self.lab.ip("n1", "link set dev up0 up")
        self.await_led()
        self.passes("podA", C, given_back=2)

    def test_an_end_leaves_nothing_and_a_start_takes_over_what_a_crash_left(self) -> None:
        self.stop("n1")
        self.assertTrue(self.is_clean())
        self.assertEqual(self.lab.ping("podA", C), 3)
        for scope in (ALL, ""):
            daemon = self.start("n1")
            self.await_led()
            os.kill(daemon.pid, signal.SIGKILL)
            daemon.process.wait()
            # Nothing passes without its judgement, but for the node itself.
            self.assertEqual(self.lab.ping("podA", C, "-W", "0.5", count=2), 0)
            self.assertEqual(self.lab.ping("n1", A, count=1), 1)
            self.start("n1", extra=scope)
            if scope:
                self.await_led()
                self.passes("podA", C, given_back=2)
            else:
                wait_until(self.is_clean, 5, "no rules")
                with self.moves("n1"):
                    self.assertEqual(self.lab.ping("podA", C), 3)
        self.stop("n1")

    def test_a_reload_turns_it_on_and_off_without_loss(self) -> None:
        daemon = self.lab.daemons["n1"]
        file = self.lab.dir / "n1.toml"
        text = file.read_text(encoding="utf-8")
        pings = self.lab.dir / "pings"
        with pings.open("w", encoding="utf-8") as out:
            stream = self.lab.popen("podA", "ping", "-n", "-i", 0.01, "-q", C, stdout=out)
        self.addCleanup(stream.kill)
        for scope in ("overlay", "all") * 3:
            file.write_text(text.replace('scope = "all"', f'scope = "{scope}"'), encoding="utf-8")
            daemon.command("reload")
            wait_until(self.is_clean if scope == "overlay" else self.is_led, 5, scope)
        stream.send_signal(signal.SIGINT)
        stream.wait(10)
        said = pings.read_text(encoding="utf-8")
        found = re.search(r"(\d+) packets transmitted, (\d+) received", said)
        self.assertTrue(found and int(found[1]) - int(found[2]) <= 1 and int(found[1]) > 50, said)

    def test_a_table_that_others_use_is_left_alone_and_shown(self) -> None:
        self.stop("n1")
        self.lab.ip("n1", f"route add 203.0.113.0/24 via {OUT} table {TABLE}")
        self.start("n1")
        wait_until(lambda: self.shows("table 117.*has a route of others to 203.0.113.0/24"), 5, "what is in the way")
        self.assertNotIn(5172, self.rules("-4"))
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("podA", C), 3)
        (command,) = [one for one in self.missing("command") if "203.0.113.0" in one]
        shell(self.lab, "n1", command)
        self.await_led()
        wait_until(lambda: self.missing() == [], 3, "all well")
        self.passes("podA", C, given_back=2)


class Unprivileged(Scope):
    """Without CAP_NET_ADMIN an administrator runs what `status` lists."""

    daemons = ()

    def test_what_is_missing_is_listed_and_helps(self) -> None:
        prepare_tun(self.lab, "n1", routes=("10.244.0.0/16", "fd00:244::/32"))
        self.lab.ip("n1", "address add fd00:244:1:: dev up0 nodad")
        self.addCleanup(self.lab.ip, "n1", "link del up0")
        program = hand_over(self.lab)
        peers = {"n2": (ADDRESSES["n2"], subnets("n2"))}
        config = {"pools": natted("vxlan", on=False), "peers": peers, "command": [*NO_RIGHTS, program]}
        self.start("n1", **config)
        self.addCleanup(self.stop, "n1")
        wait_until(lambda: len(self.commands()) == 1 + 2 * 2 + 5 * 2 + 6, 10, "all commands")
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("podA", C), 3)
        self.assertIn(f"ip rule add pref 5172 from 10.244.1.0/24 lookup {TABLE} protocol {TABLE}", self.commands())
        for command in self.commands():
            shell(self.lab, "n1", command)
        self.await_led()
        wait_until(lambda: not self.commands(), 5, "nothing more to do")
        self.passes("podA", C, given_back=2)
        self.passes("podA", C6, given_back=2)
        # What is left when nobody wants it any more is listed, too.
        self.start("n1", **config, extra="")
        wait_until(lambda: sum(" rule del " in one for one in self.commands()) == 16, 10, "all commands")
        self.assertEqual(self.lab.ping("podA", C), 3)
        for command in self.commands():
            shell(self.lab, "n1", command)
        wait_until(self.is_clean, 5, "nothing left")

    def commands(self) -> list[str]:
        """What an administrator has to run for it."""
        return [one for one in self.missing("command") if " rule " in one or TABLE in one]
