"""Network policy as an operator sees it: lists, traces, connections, counters, the log and captures, beside what
really happens between two pods.

The pod on n1 is shop/web, the pod on n2 is shop/db. What comes to the database is judged on n2, what leaves the web
server on n1.
"""

import bootstrap

import json
import pathlib
import re
import socket
import tempfile
import unittest
from typing import Any

from scapy.layers.inet import IP, TCP

from shared import SharedLab, scrape
from test_capture import Running
from underpass_lab.command import wait_until
from underpass_lab.nodes import PODS, pod_address

A, B = pod_address("n1"), pod_address("n2")
OPEN, CLOSED, UDP_CLOSED = 7080, 7081, 7090
VXLAN: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
WEB, DB = "shop/web", "shop/db"
CALICO = "projectcalico.org/v3"
MANIFESTS: list[dict[str, Any]] = [
    {
        "apiVersion": CALICO,
        "kind": "NetworkPolicy",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "order": 20,
            "selector": "app == 'db'",
            "types": ["Ingress"],
            "ingress": [
                {"action": "Log", "protocol": "TCP", "destination": {"ports": [CLOSED]}},
                {
                    "action": "Allow",
                    "protocol": "TCP",
                    "source": {"selector": "app == 'web'"},
                    "destination": {"ports": [OPEN]},
                },
                {"action": "Allow", "protocol": "ICMP"},
            ],
        },
    },
    {
        "apiVersion": CALICO,
        "kind": "GlobalNetworkPolicy",
        "metadata": {"name": "no-udp"},
        "spec": {
            "order": 10,
            "selector": "app == 'web'",
            "types": ["Egress"],
            "egress": [
                {"action": "Deny", "protocol": "UDP", "destination": {"ports": [UDP_CLOSED]}},
                {"action": "Allow"},
            ],
        },
    },
]
ENDPOINTS = "".join(
    f'\n[[endpoint]]\nnamespace = "shop"\nname = "{name}"\naddresses = ["{address}"]\nlabels = {{ app = "{name}" }}\n'
    for name, address in (("web", A), ("db", B))
)


class Commands(SharedLab):
    config: dict[str, Any] = {**VXLAN, "tunnel": {"workers": 2}}
    directory: pathlib.Path

    @classmethod
    def prepare(cls) -> None:
        cls.directory = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        for number, manifest in enumerate(MANIFESTS):
            (cls.directory / f"{number}.json").write_text(json.dumps(manifest), encoding="ascii")

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        directory = json.dumps(str(cls.directory))
        extra = f"\n[policy]\ndirectory = {directory}\nconnections = 4096\n{ENDPOINTS}"
        return super().start(node, **config, extra=extra)

    def ask(self, node: str, *words: object) -> Any:
        """The JSON that a command prints."""
        return self.lab.daemons[node].json(*words)

    def trace(self, node: str, *words: object) -> Any:
        return self.ask(node, "policy", "trace", *words)

    def policy(self, node: str, name: str) -> Any:
        """An entry of `policy list`."""
        return next(one for one in self.ask(node, "policy", "list") if one["name"] == name)

    def name(self) -> str:
        """What the policy in a namespace is called."""
        return str(next(one["name"] for one in self.ask("n2", "policy", "list") if one["namespace"]))

    def connect(self, port: int, timeout: float = 5) -> socket.socket:
        """A TCP connection from the web server to the database."""
        client = self.lab.socket(PODS["n1"], kind=socket.SOCK_STREAM)
        self.addCleanup(client.close)
        client.settimeout(timeout)
        client.connect((B, port))
        return client

    def listen(self) -> socket.socket:
        """A server at the port of the database that is open."""
        server = self.lab.socket(PODS["n2"], kind=socket.SOCK_STREAM)
        self.addCleanup(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((B, OPEN))
        server.listen()
        server.settimeout(5)
        return server

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection that is allowed."""
        server = self.listen()
        client = self.connect(OPEN)
        served = server.accept()[0]
        self.addCleanup(served.close)
        served.settimeout(5)
        return client, served

    def refuse(self, count: int = 1, sport: int = 3000) -> None:
        """Attempts at a port that is closed, each dropped on n2."""
        attempts = [IP(src=A, dst=B) / TCP(sport=sport + number, dport=CLOSED, flags="S") for number in range(count)]
        with (
            self.moves("n1", device_rx=count, underlay_tx=count),
            self.moves("n2", underlay_rx=count, policy_ingress=count),
        ):
            self.send_from_pod(attempts)

    def test_the_list_counts_what_policies_decide(self) -> None:
        policies = self.ask("n2", "policy", "list")
        self.assertEqual([one["kind"] for one in policies], ["GlobalNetworkPolicy", "NetworkPolicy"])
        global_one, local_one = policies
        self.assertEqual((global_one["order"], global_one["namespace"], local_one["namespace"]), (10, None, "shop"))
        keys = ("ingress_endpoints", "egress_endpoints", "ingress_rules", "egress_rules")
        self.assertEqual([global_one[key] for key in keys], [0, 1, 0, 2])
        self.assertEqual([local_one[key] for key in keys], [1, 0, 3, 0])
        self.pair()
        self.refuse(3)
        now = self.policy("n2", local_one["name"])
        self.assertEqual(now["connections_allowed"], local_one["connections_allowed"] + 1)
        self.assertEqual(now["packets_denied"], local_one["packets_denied"] + 3)
        text = self.lab.daemons["n2"].command("policy", "list").stdout
        self.assertRegex(text, r"(?m)^default +20 +NetworkPolicy +shop +\S*db +1/0 +3/0 +\d+ +\d+$")
        self.assertEqual(self.policy("n1", "no-udp")["packets_denied"], 0)
        with self.moves("n1", device_rx=1, policy_egress=1), self.lab.socket(PODS["n1"]) as client:
            client.sendto(b"x", (B, UDP_CLOSED))
        self.assertEqual(self.policy("n1", "no-udp")["packets_denied"], 1)
        # The other node did not see it.
        self.assertEqual(self.policy("n2", "no-udp")["packets_denied"], 0)

    def test_a_trace_says_what_happens_and_who_sees_to_it(self) -> None:
        allowed = self.trace("n1", WEB, DB, f"tcp/{OPEN}")
        self.assertEqual((allowed["allowed"], allowed["source"], allowed["destination"]), (True, A, B))
        egress, ingress = allowed["egress"], allowed["ingress"]
        self.assertEqual((egress["enforced_here"], egress["enforced_by"]), (True, "n1"))
        self.assertEqual((ingress["enforced_here"], ingress["enforced_by"]), (False, "n2"))
        self.assertEqual(egress["decided"]["policy"], "no-udp")
        self.assertEqual((ingress["decided"]["rule"], ingress["decided"]["action"]), (1, "Allow"))
        self.pair()
        there = self.trace("n2", A, B, f"tcp/{OPEN}")
        self.assertEqual((there["egress"]["enforced_here"], there["ingress"]["enforced_here"]), (False, True))

        logged = self.trace("n2", WEB, DB, f"tcp/{CLOSED}")
        self.assertEqual((logged["allowed"], logged["ingress"]["decided"]["by"]), (False, "tier_end"))
        matched = logged["ingress"]["tiers"][0]["policies"][0]["matched"]
        self.assertEqual(matched, [{"rule": 0, "action": "Log"}])
        self.refuse()
        denied = self.trace("n1", WEB, B, f"udp/{UDP_CLOSED}")
        self.assertEqual((denied["allowed"], denied["egress"]["decided"]["action"]), (False, "Deny"))
        self.assertTrue(self.trace("n1", WEB, DB, "icmp")["allowed"])

        beside = self.trace("n1", WEB, "10.244.1.77", "tcp/80")
        self.assertEqual((beside["egress"]["enforced_here"], beside["egress"]["enforced_by"]), (False, None))
        self.assertIn("both ends are on this node", beside["egress"]["enforcement"])
        outside = self.trace("n1", WEB, "203.0.113.9", "tcp/80")
        self.assertFalse(outside["egress"]["enforced_here"])
        self.assertIn("outside of the tunnel", outside["egress"]["enforcement"])
        text = self.lab.daemons["n1"].command("policy", "trace", WEB, DB, f"tcp/{OPEN}").stdout
        self.assertTrue(text.startswith(f"tcp {A}:49152 > {B}:{OPEN}: allowed\n"), text)
        unknown = self.lab.daemons["n1"].command("policy", "trace", "shop/gone", DB, "tcp/80", check=False)
        self.assertEqual(unknown.returncode, 1)
        self.assertIn("no endpoint is called shop/gone", unknown.stderr)

    def test_connections_are_listed_and_forgotten(self) -> None:
        client, served = self.pair()
        port = client.getsockname()[1]
        mine = ("connections", "list", "--port", port)
        for node in ("n1", "n2"):
            wait_until(lambda: [one["state"] for one in self.ask(node, *mine)] == ["established"], 5, f"{node}: it")
            (one,) = self.ask(node, *mine)
            ends = [one[key] for key in ("protocol", "source", "source_port", "destination", "destination_port")]
            self.assertEqual(ends, ["tcp", A, port, B, OPEN])
            self.assertLess(one["age_seconds"], 60)
            self.assertGreater(one["expires_in_seconds"], 400_000)
            self.assertIn(one["worker"], (0, 1))
        for filters, count in (
            (("--protocol", "tcp"), 1),
            (("--protocol", "udp"), 0),
            (("--source", A), 1),
            (("--source", B), 0),
            (("--address", "10.244.2.0/24", "--state", "established"), 1),
            (("--state", "closing"), 0),
        ):
            with self.subTest(filters):
                self.assertEqual(len(self.ask("n2", *mine, *filters)), count)
        text = self.lab.daemons["n2"].command(*mine).stdout
        self.assertRegex(text, rf"(?m)^tcp +{A}:{port} +{B}:{OPEN} +established ")
        flushed = self.ask("n2", "connections", "flush", "--port", port)
        self.assertEqual(flushed, {"flushed": 1})
        self.assertEqual(self.ask("n2", *mine), [])
        # The rules still allow it.
        client.sendall(b"goes on")
        self.assertEqual(served.recv(100), b"goes on")
        self.assertEqual(len(self.ask("n2", *mine)), 1)
        known = len(self.ask("n2", "connections", "list"))
        self.assertEqual(len(self.ask("n2", "connections", "list", "--limit", 1)), 1)
        self.assertEqual(self.ask("n2", "connections", "flush", "--all"), {"flushed": known})
        self.assertEqual(self.ask("n2", "connections", "list"), [])

    def test_many_connections_are_one_list(self) -> None:
        self.ask("n1", "connections", "flush", "--all")
        # Nobody answers, and both workers have their part.
        attempts = [IP(src=A, dst=B) / TCP(sport=10_000 + number, dport=OPEN + 9, flags="S") for number in range(2000)]
        with self.moves("n1", timeout=10, device_rx=2000, underlay_tx=2000):
            self.send_from_pod(attempts)
        known = self.ask("n1", "connections", "list", "--destination", B, "--port", OPEN + 9)
        self.assertEqual(sorted(one["source_port"] for one in known), list(range(10_000, 12_000)))
        self.assertEqual({one["state"] for one in known}, {"unanswered"})
        status = self.lab.status("n1")["policy"]
        self.assertGreaterEqual(status["connections_capacity"], 4096)
        self.assertEqual(self.ask("n1", "connections", "flush", "--port", OPEN + 9), {"flushed": 2000})

    def test_status_says_how_policies_do(self) -> None:
        status = self.lab.status("n1")["policy"]
        known = {key: status[key] for key in ("scope", "policies", "endpoints", "untracked", "left_out")}
        self.assertEqual(known, {"scope": "overlay", "policies": 2, "endpoints": 2, "untracked": 0, "left_out": []})
        text = self.lab.daemons["n1"].command("status").stdout
        self.assertIn("scope overlay, 2 policies, 2 endpoints in", text)

    def test_rules_that_log_do_so_within_bounds(self) -> None:
        daemon = self.lab.daemons["n2"]
        before = len(daemon.log())
        self.refuse(1, sport=4321)
        line = f"policy shop/{self.name()} logs by ingress[0]: tcp {A}:4321 > {B}:{CLOSED}"
        wait_until(lambda: line in daemon.log()[before:], 5, line)
        lost = self.lab.status("n2")["policy"]["log_lost"]
        self.refuse(200, sport=5000)
        pattern = r"and (\d+) more packets that rules of policies want logged"

        def told() -> int:
            return sum(map(int, re.findall(pattern, daemon.log()[before:])))

        def shown() -> int:
            return len(re.findall(r"logs by ingress\[0\]: tcp \S+:5\d\d\d > ", daemon.log()[before:]))

        wait_until(lambda: shown() + told() == 200, 5, "each packet as a line or in the count")
        self.assertLessEqual(shown(), 60)
        self.assertEqual(self.lab.status("n2")["policy"]["log_lost"] - lost, told())

    def test_captures_name_the_policy(self) -> None:
        name = self.name()
        for point, words in (("drop", ["policy_ingress", f"policy shop/{name}"]), ("log", [f"policy shop/{name}"])):
            with self.subTest(point):
                capture = Running(self, "n2", "--point", point, "--filter", f"port {CLOSED}", "--count", "2")
                self.refuse(2)
                self.assertEqual(capture.result(), {"packets": 2, "lost": 0})
                data = capture.file.read_bytes()
                for word in words:
                    self.assertEqual(data.count(word.encode()), 2, (point, word))
                self.assertEqual({row[0] for row in capture.rows("frame.interface_name")}, {point})

    def test_metrics_have_the_policies(self) -> None:
        self.pair()
        self.refuse(2)
        text = scrape(self.lab, "n2")
        for policy in self.ask("n2", "policy", "list"):
            name = f"{policy['namespace']}/{policy['name']}" if policy["namespace"] else policy["name"]
            for metric, key in (("connections_allowed", "connections_allowed"), ("packets_denied", "packets_denied")):
                line = f'underpass_policy_{metric}_total{{policy="{name}"}} {policy[key]}'
                self.assertIn(line, text.splitlines())
        self.assertIn("underpass_connections_untracked_total 0", text.splitlines())
        # Each worker counts its connections when it looks for old ones.
        gauge = re.compile(r"^underpass_connections [1-9]\d*$", re.M)
        wait_until(lambda: gauge.search(scrape(self.lab, "n2")), 10, "the number of connections")


class Off(SharedLab):
    daemons = ("n1",)
    config = VXLAN

    def test_nothing_is_there_without_policies(self) -> None:
        daemon = self.lab.daemons["n1"]
        for words in (
            ("policy", "list"),
            ("policy", "trace", A, B, "tcp/80"),
            ("connections", "list"),
            ("connections", "flush", "--all"),
        ):
            with self.subTest(words):
                result = daemon.command(*words, check=False)
                self.assertEqual((result.returncode, result.stdout), (1, ""))
                self.assertIn("policies are off on this node", result.stderr)
        self.assertNotIn("policy", self.lab.status("n1"))
        self.assertIn("underpass_connections 0", scrape(self.lab, "n1").splitlines())


if __name__ == "__main__":
    unittest.main()
