"""The oracle itself, beside what the specifications' own examples say in words; and what the generator promises."""

import json
import unittest
from typing import Any

import cluster
import features
import generate
import oracle

V1, K8S, CALICO = "v1", "networking.k8s.io/v1", "projectcalico.org/v3"


def thing(version: str, kind: str, name: str, namespace: str | None = None, **more: Any) -> dict[str, Any]:
    """An object; `labels` are its labels, everything else is its spec."""
    metadata: dict[str, Any] = {"name": name, "labels": more.pop("labels", {})}
    if namespace is not None:
        metadata["namespace"] = namespace
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": more}


def pod(name: str, namespace: str, address: str, ports: list[Any] | None = None, **labels: str) -> dict[str, Any]:
    made = thing(V1, "Pod", name, namespace, labels=labels, containers=[{"name": "one", "ports": ports or []}])
    made["status"] = {"podIP": address}
    return made


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return thing(V1, "Namespace", name, labels=labels)


class OracleCase(unittest.TestCase):
    """Asks about addresses by names."""

    addresses: dict[str, str] = {}
    objects: list[dict[str, Any]] = []

    def verdicts(
        self,
        policies: list[dict[str, Any]],
        source: str,
        destination: str,
        port: int | None = None,
        protocol: Any = "tcp",
        **more: Any,
    ) -> tuple[bool, bool]:
        probe = {
            "source": self.addresses.get(source, source),
            "destination": self.addresses.get(destination, destination),
            "protocol": protocol,
            "source_port": 40000,
            "destination_port": port,
            **more,
        }
        return oracle.verdicts(oracle.read(self.objects + policies), probe)

    def reaches(self, *words: Any, **more: Any) -> bool:
        return all(self.verdicts(*words, **more))


class Kubernetes(OracleCase):
    """The examples of the page "Network Policies" of Kubernetes."""

    addresses = {
        "db": "10.0.0.1",
        "frontend": "10.0.0.2",
        "other": "10.0.0.3",
        "project": "10.1.0.1",
        "far": "10.2.0.1",
    }
    objects = [
        namespace("default"),
        namespace("myproject", project="myproject"),
        namespace("elsewhere"),
        pod("db", "default", "10.0.0.1", [{"name": "sql", "containerPort": 6379}], role="db"),
        pod("frontend", "default", "10.0.0.2", role="frontend"),
        pod("other", "default", "10.0.0.3"),
        pod("project", "myproject", "10.1.0.1", role="frontend"),
        pod("far", "elsewhere", "10.2.0.1", role="frontend"),
    ]

    def policy(self, **spec: Any) -> dict[str, Any]:
        return thing(K8S, "NetworkPolicy", "test", "default", **spec)

    def test_the_large_example(self) -> None:
        policy = self.policy(
            podSelector={"matchLabels": {"role": "db"}},
            policyTypes=["Ingress", "Egress"],
            ingress=[
                {
                    "from": [
                        {"ipBlock": {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}},
                        {"namespaceSelector": {"matchLabels": {"project": "myproject"}}},
                        {"podSelector": {"matchLabels": {"role": "frontend"}}},
                    ],
                    "ports": [{"protocol": "TCP", "port": 6379}],
                }
            ],
            egress=[
                {"to": [{"ipBlock": {"cidr": "10.0.0.0/24"}}], "ports": [{"protocol": "TCP", "port": 5978}]},
            ],
        )
        for source, expected in (
            ("172.17.0.5", True),
            ("172.17.1.5", False),
            ("172.18.0.1", False),
            ("project", True),
            ("frontend", True),
            ("other", False),
            ("far", False),
        ):
            self.assertEqual(self.reaches([policy], source, "db", 6379), expected, source)
        self.assertFalse(self.reaches([policy], "frontend", "db", 6380))
        self.assertFalse(self.reaches([policy], "frontend", "db", 6379, "udp"))
        self.assertTrue(self.reaches([policy], "db", "other", 5978))
        self.assertFalse(self.reaches([policy], "db", "other", 5979))
        self.assertFalse(self.reaches([policy], "db", "project", 5978))
        # Others are not isolated.
        self.assertTrue(self.reaches([policy], "far", "other", 1))

    def test_and_within_a_peer_or_between_peers(self) -> None:
        namespaces, pods = {"matchLabels": {"project": "myproject"}}, {"matchLabels": {"role": "frontend"}}
        one = self.policy(podSelector={}, ingress=[{"from": [{"namespaceSelector": namespaces, "podSelector": pods}]}])
        two = self.policy(
            podSelector={}, ingress=[{"from": [{"namespaceSelector": namespaces}, {"podSelector": pods}]}]
        )
        self.assertEqual([self.reaches([one], who, "db", 1) for who in ("project", "frontend")], [True, False])
        self.assertEqual([self.reaches([two], who, "db", 1) for who in ("project", "frontend")], [True, True])

    def test_the_defaults_for_a_namespace(self) -> None:
        """Deny or allow everything in one direction or both."""
        for spec, expected in (
            ({"policyTypes": ["Ingress"]}, {"egress": True, "ingress": False}),
            ({"policyTypes": ["Ingress"], "ingress": [{}]}, {"egress": True, "ingress": True}),
            ({"policyTypes": ["Egress"]}, {"egress": False, "ingress": True}),
            ({"policyTypes": ["Egress"], "egress": [{}]}, {"egress": True, "ingress": True}),
            ({"policyTypes": ["Ingress", "Egress"]}, {"egress": False, "ingress": False}),
            ({}, {"egress": True, "ingress": False}),
            ({"egress": [{}]}, {"egress": True, "ingress": False}),
        ):
            policy = self.policy(podSelector={}, **spec)
            self.assertEqual(self.verdicts([policy], "db", "far", 1)[0], expected["egress"], spec)
            self.assertEqual(self.verdicts([policy], "far", "db", 1)[1], expected["ingress"], spec)
            self.assertEqual(self.verdicts([policy], "far", "db", protocol="icmp")[1], expected["ingress"], spec)

    def test_policies_add_up(self) -> None:
        deny = self.policy(podSelector={}, policyTypes=["Ingress"])
        allow = self.policy(podSelector={"matchLabels": {"role": "db"}}, ingress=[{"ports": [{"port": 80}]}])
        self.assertTrue(self.reaches([deny, allow], "far", "db", 80))
        self.assertFalse(self.reaches([deny, allow], "far", "db", 81))
        self.assertFalse(self.reaches([deny, allow], "far", "other", 80))

    def test_ports(self) -> None:
        def reaches(number: int, by: str, **one: Any) -> bool:
            policy = self.policy(podSelector={}, policyTypes=["Egress"], egress=[{"ports": [one]}])
            return self.verdicts([policy], "frontend", "db", number, by)[0]

        self.assertTrue(reaches(32768, "tcp", protocol="TCP", port=32000, endPort=32768))
        self.assertTrue(reaches(32000, "tcp", port=32000, endPort=32768))
        self.assertFalse(reaches(31999, "tcp", port=32000, endPort=32768))
        self.assertFalse(reaches(32769, "tcp", port=32000, endPort=32768))
        self.assertTrue(reaches(1, "sctp", protocol="SCTP"))
        self.assertFalse(reaches(1, "udp", protocol="SCTP"))
        self.assertTrue(reaches(6379, "tcp", port="sql"))
        self.assertFalse(reaches(6379, "udp", port="sql", protocol="UDP"))
        self.assertFalse(reaches(80, "tcp", port="sql"))

    def test_labels(self) -> None:
        for operator, values, expected in (
            ("In", ["frontend"], {"frontend"}),
            ("NotIn", ["frontend"], {"db", "other"}),
            ("Exists", None, {"frontend", "db"}),
            ("DoesNotExist", None, {"other"}),
        ):
            one = {"key": "role", "operator": operator} | ({"values": values} if values else {})
            policy = self.policy(podSelector={}, ingress=[{"from": [{"podSelector": {"matchExpressions": [one]}}]}])
            near = {who for who in ("frontend", "db", "other") if self.verdicts([policy], who, "10.0.0.1", 1)[1]}
            # The one that asks itself always gets there.
            self.assertEqual(near | {"db"}, expected | {"db"}, operator)

    def test_an_endpoint_reaches_itself_and_namespaces_have_their_name_as_label(self) -> None:
        deny = self.policy(podSelector={}, policyTypes=["Ingress", "Egress"])
        self.assertTrue(self.reaches([deny], "db", "db", 1))
        name = {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}
        policy = self.policy(podSelector={}, ingress=[{"from": [{"namespaceSelector": name}]}])
        self.assertEqual([self.reaches([policy], who, "db", 1) for who in ("far", "project")], [True, False])


class Calico(OracleCase):
    """What Calico's reference says of its policies, tiers, sets and selectors."""

    addresses = {"web": "10.0.0.1", "db": "10.0.0.2", "far": "10.1.0.1", "outside": "203.0.113.1"}
    objects = [
        namespace("prod", env="prod"),
        namespace("dev", env="dev"),
        pod("web", "prod", "10.0.0.1", [{"name": "http", "containerPort": 8080}], role="frontend"),
        pod("db", "prod", "10.0.0.2", [{"name": "http", "containerPort": 80}], role="database"),
        pod("far", "dev", "10.1.0.1", role="frontend"),
        thing(CALICO, "GlobalNetworkSet", "world", labels={"role": "world"}, nets=["203.0.113.0/24"]),
        thing(CALICO, "NetworkSet", "own", "prod", labels={"role": "own"}, nets=["198.51.100.0/24"]),
    ]

    @staticmethod
    def policy(name: str = "p", space: str | None = "prod", **spec: Any) -> dict[str, Any]:
        return thing(CALICO, "GlobalNetworkPolicy" if space is None else "NetworkPolicy", name, space, **spec)

    def from_to(self, entity: dict[str, Any], space: str | None = "prod", **rule: Any) -> list[str]:
        """Whom a rule with this source lets in to db."""
        policy = self.policy(space=space, ingress=[{"action": "Allow", "source": entity} | rule])
        everyone = ["web", "far", "outside", "198.51.100.1", "192.0.2.1"]
        return [who for who in everyone if self.verdicts([policy], who, "db", 80)[1]]

    def test_the_example(self) -> None:
        policy = self.policy(
            selector="role == 'database'",
            types=["Ingress", "Egress"],
            ingress=[
                {
                    "action": "Allow",
                    "protocol": "TCP",
                    "source": {"selector": "role == 'frontend'"},
                    "destination": {"ports": [6379]},
                }
            ],
            egress=[{"action": "Allow"}],
        )
        self.assertTrue(self.reaches([policy], "web", "db", 6379))
        self.assertFalse(self.reaches([policy], "web", "db", 6380))
        # Of another namespace than the policy's.
        self.assertFalse(self.reaches([policy], "far", "db", 6379))
        self.assertTrue(self.reaches([policy], "db", "outside", 1))

    def test_scopes_of_selectors(self) -> None:
        near, every = ["web"], ["web", "far", "outside", "198.51.100.1", "192.0.2.1"]
        self.assertEqual(self.from_to({}), every)
        self.assertEqual(self.from_to({"selector": "all()"}), [*near, "198.51.100.1"])
        self.assertEqual(self.from_to({"selector": "all()"}, None), ["web", "far", "outside", "198.51.100.1"])
        self.assertEqual(self.from_to({"namespaceSelector": "all()"}), ["web", "far", "198.51.100.1"])
        self.assertEqual(self.from_to({"namespaceSelector": "env == 'dev'"}), ["far"])
        self.assertEqual(self.from_to({"namespaceSelector": "projectcalico.org/name == 'dev'"}), ["far"])
        self.assertEqual(self.from_to({"namespaceSelector": "global()"}), ["outside"])
        self.assertEqual(self.from_to({"namespaceSelector": "global()", "selector": "role == 'world'"}), ["outside"])
        self.assertEqual(self.from_to({"namespaceSelector": "global()", "selector": "role == 'own'"}), [])
        self.assertEqual(self.from_to({"selector": "projectcalico.org/namespace == 'dev'"}, None), ["far"])

    def test_not_selector(self) -> None:
        unwanted = {"notSelector": "role == 'frontend'"}
        self.assertEqual(self.from_to(unwanted, None), ["outside", "198.51.100.1", "192.0.2.1"])
        self.assertEqual(self.from_to(unwanted), ["198.51.100.1"])
        self.assertEqual(self.from_to({"selector": "!(role == 'frontend')"}, None), ["outside", "198.51.100.1"])
        self.assertEqual(self.from_to({"notSelector": "all()"}, None), ["192.0.2.1"])
        self.assertEqual(self.from_to({"namespaceSelector": "all()"} | unwanted), ["198.51.100.1"])

    def test_networks(self) -> None:
        self.assertEqual(self.from_to({"nets": ["10.0.0.0/8"]}), ["web", "far"])
        self.assertEqual(self.from_to({"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]}), ["web"])
        self.assertEqual(self.from_to({"notNets": ["10.0.0.0/8"]}), ["outside", "198.51.100.1", "192.0.2.1"])
        self.assertEqual(self.from_to({"nets": ["10.0.0.0/8"], "selector": "has(role)"}), ["web"])

    def test_types_left_out(self) -> None:
        allow = [{"action": "Allow", "protocol": "UDP"}]
        cases: tuple[tuple[dict[str, Any], tuple[bool, bool]], ...] = (
            ({}, (True, False)),
            ({"ingress": allow}, (True, False)),
            ({"egress": allow}, (False, True)),
            ({"ingress": allow, "egress": allow}, (False, False)),
        )
        for spec, expected in cases:
            policy = [self.policy(**spec)]
            found = self.verdicts(policy, "db", "far", 1)[0], self.verdicts(policy, "far", "db", 1)[1]
            self.assertEqual(found, expected, spec)

    def test_order(self) -> None:
        allow, deny = ([{"action": action}] for action in ("Allow", "Deny"))
        for first, second, expected in (
            ({"order": 1}, {"order": 2}, True),
            ({"order": 2}, {"order": 1}, False),
            ({"order": 1}, {}, True),
            ({}, {"order": 1}, False),
            ({"order": 1.5}, {"order": 1.25}, False),
            ({}, {}, True),
        ):
            policies = [self.policy("b", ingress=deny, **second), self.policy("a", None, ingress=allow, **first)]
            self.assertEqual(self.reaches(policies, "far", "db", 1), expected, (first, second))

    def test_actions_and_tiers(self) -> None:
        security = thing(CALICO, "Tier", "security", order=100)
        passing = thing(CALICO, "Tier", "security", order=100, defaultAction="Pass")
        deny = self.policy("z", ingress=[{"action": "Deny"}])
        for tier, rules, expected in (
            (security, [{"action": "Allow"}], True),
            (security, [{"action": "Pass"}], False),
            (security, [{"action": "Log"}, {"action": "Allow"}], True),
            (security, [{"action": "Allow", "protocol": "UDP"}], False),
            (passing, [{"action": "Allow", "protocol": "UDP"}], False),
            (passing, [{"action": "Deny", "protocol": "UDP"}, {"action": "Allow"}], True),
        ):
            first = self.policy("security.a", None, tier="security", ingress=rules)
            self.assertEqual(self.reaches([tier, first, deny], "far", "db", 1), expected, (tier, rules))
        # What is passed on behind the last tier is allowed; a tier without policies for an endpoint is not asked.
        only = self.policy("security.a", None, tier="security", ingress=[{"action": "Pass"}])
        self.assertTrue(self.reaches([security, only], "far", "db", 1))
        others = self.policy("security.a", None, tier="security", selector="role == 'nobody'", ingress=[])
        self.assertTrue(self.reaches([security, others], "far", "db", 1))

    def test_both_kinds_together(self) -> None:
        kubernetes = thing(K8S, "NetworkPolicy", "k", "prod", podSelector={}, ingress=[{"ports": [{"port": 80}]}])
        for order, expected in ((999, (False, False)), (1001, (True, False)), (None, (True, False))):
            deny = self.policy("p", None, ingress=[{"action": "Deny"}], **({} if order is None else {"order": order}))
            found = tuple(self.reaches([kubernetes, deny], "far", "db", port) for port in (80, 81))
            self.assertEqual(found, expected, order)

    def test_ports(self) -> None:
        def reaches(port: int, protocol: Any = "tcp", end: str = "db", **entity: Any) -> bool:
            rule = {"action": "Allow", "protocol": protocol.upper(), "destination": entity}
            return self.verdicts([self.policy(space=None, ingress=[rule])], "far", end, port, protocol)[1]

        ports = [8080, "1234:5678", "http"]
        self.assertEqual([reaches(n, ports=ports) for n in (8080, 1233, 1234, 5678, 5679, 80)], [1, 0, 1, 1, 0, 1])
        self.assertEqual([reaches(n, notPorts=ports) for n in (8080, 1234, 80, 81)], [0, 0, 0, 1])
        self.assertEqual([reaches(n, end="web", ports=["http"]) for n in (80, 8080)], [0, 1])
        self.assertEqual([reaches(n, "udp", ports=["http"]) for n in (80, 8080)], [0, 0])

    def test_protocols(self) -> None:
        def passes(probe: dict[str, Any], **rule: Any) -> bool:
            policy = self.policy(ingress=[{"action": "Allow"} | rule])
            return self.verdicts([policy], "far", "db", **probe)[1]

        ping, unreachable = ({"protocol": "icmp", "icmp_type": kind, "icmp_code": 1} for kind in (8, 3))
        tcp = {"protocol": "tcp", "port": 80}
        self.assertTrue(passes(ping, protocol="ICMP") and passes(ping, protocol=1))
        self.assertFalse(passes(ping, protocol="ICMPv6") or passes(tcp, protocol="ICMP"))
        self.assertTrue(passes(ping, protocol="ICMP", icmp={"type": 8}))
        self.assertFalse(passes(ping, protocol="ICMP", icmp={"type": 8, "code": 0}))
        self.assertFalse(passes(ping, protocol="ICMP", notICMP={"type": 8}))
        self.assertTrue(passes(unreachable, protocol="ICMP", notICMP={"type": 8}))
        self.assertTrue(passes({"protocol": 47}, notProtocol="TCP"))
        self.assertFalse(passes(tcp, notProtocol=6))
        self.assertTrue(passes(tcp, ipVersion=4))
        self.assertFalse(passes(tcp, ipVersion=6))


class Selectors(unittest.TestCase):
    """Calico's grammar."""

    def test_expressions(self) -> None:
        labels = {"k": "value", "role": "frontend", "a.b/c": "d"}
        for text, expected in (
            ("all()", True),
            ("!all()", False),
            ("k == 'value'", True),
            ('k == "value"', True),
            ("k != 'value'", False),
            ("missing != 'value'", True),
            ("has(k)", True),
            ("!has(missing)", True),
            ("k in { 'value', 'v2' }", True),
            ("missing in {'value'}", False),
            ("k not in {'value'}", False),
            ("missing not in {'value'}", True),
            ("k contains 'al'", True),
            ("k starts with 'val'", True),
            ("k starts with 'al'", False),
            ("k ends with 'lue'", True),
            ("missing contains ''", False),
            ("a.b/c == 'd'", True),
            ("k=='value'&&role=='frontend'", True),
            ("k == 'x' && k == 'y' || role == 'frontend'", True),
            ("k == 'x' && (k == 'y' || role == 'frontend')", False),
            ("!k == 'x' && has(role)", True),
            ("!(k == 'value' || has(missing))", False),
        ):
            self.assertEqual(oracle.selector(text)(labels), expected, text)

    def test_the_example_of_precedence(self) -> None:
        text = "! has(my-label) || my-label starts with 'prod' && role in {'frontend','business'}"
        for labels, expected in (
            ({}, True),
            ({"my-label": "production", "role": "business"}, True),
            ({"my-label": "production", "role": "x"}, False),
            ({"my-label": "dev", "role": "business"}, False),
        ):
            self.assertEqual(oracle.selector(text)(labels), expected, labels)

    def test_what_is_none(self) -> None:
        for text in ("k ==", "k = 'v'", "k == 'v' &&", "(has(k)", "has(k))", "k in 'v'", "none()", "k like 'v'", "'v'"):
            with self.assertRaises(ValueError, msg=text):
                oracle.selector(text)


class Generator(unittest.TestCase):
    """Its cases."""

    def test_the_same_seed_gives_the_same_lines(self) -> None:
        self.assertEqual(generate.line(3, 700), generate.line(3, 700))
        self.assertNotEqual(generate.line(3, 700), generate.line(4, 700))

    def test_all_combinations_and_all_features_in_a_sample(self) -> None:
        names = [name for name, _, _ in generate.known_cases()]
        self.assertGreater(len(names), 2000)
        self.assertEqual(len(names), len(set(names)))
        wanted = {mark for _, marks, _ in generate.known_cases() for mark in marks}
        sample = [generate.case(1, number) for number in generate.numbers_of(200, 1)]
        self.assertEqual(len(sample), 200)
        self.assertLessEqual(wanted, {mark for case in sample for mark in case["features"]})
        self.assertIn("by chance", {mark for case in sample for mark in case["features"]})

    def test_all_pairs_are_probed(self) -> None:
        case = json.loads(generate.line(1, 5))
        pods = {
            cluster.addresses_of(case["placement"], space, name)[place]
            for space in cluster.NAMESPACES
            for name in cluster.NAMES
            for place in (0, 1)
        }
        pairs = {(probe["source"], probe["destination"]) for probe in case["probes"]}
        inner = {(source, to) for source, to in pairs if source in pods and to in pods}
        self.assertGreaterEqual(len(inner), 81)
        self.assertGreater(len(pairs - inner), 18)

    def test_rules_are_what_calico_takes(self) -> None:
        """Ports only of a protocol that has them, or by name alone."""
        for number in generate.numbers_of(3000, 1)[1000::7]:
            for item in generate.case(1, number)["objects"]:
                if item["apiVersion"] == CALICO and item["kind"].endswith("Policy"):
                    for direction in features.DIRECTIONS:
                        for rule in item["spec"].get(direction, []):
                            self.check(rule)

    def check(self, rule: dict[str, Any]) -> None:
        self.assertIn(rule["action"], features.ACTIONS)
        for side in ("source", "destination"):
            for key in ("ports", "notPorts"):
                for port in rule.get(side, {}).get(key, []):
                    by_name = isinstance(port, str) and not port[0].isdigit()
                    self.assertTrue(by_name or rule.get("protocol") in (*oracle.WITH_PORTS, "TCP", "UDP", "SCTP"), rule)
        if "icmp" in rule or "notICMP" in rule:
            self.assertIn(rule["protocol"], ("ICMP", "ICMPv6"))


if __name__ == "__main__":
    unittest.main()
