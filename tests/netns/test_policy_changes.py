"""Policies, labels and namespaces change while connections are open: what is denied now stops with its next packet,
what is allowed again works, and what is not meant loses nothing.

    p12 (n1, namespace a) ─▶ p22 (n2, namespace b)     what the changes are about
    p13 (n1, namespace c) ─▶ p33 (n3, namespace c)     beside it
"""

import bootstrap

import contextlib
import socket
import struct
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Any

from policy_lab import NODES, PolicyLab, addresses, pod_name
from underpass_lab.command import wait_until

CLIENT, SERVER = ("n1", 2), ("n2", 2)
OTHER_CLIENT, OTHER_SERVER = ("n1", 3), ("n3", 3)
SPACES = {CLIENT: "a", SERVER: "b", OTHER_CLIENT: "c", OTHER_SERVER: "c"}
PORT, OTHER_PORT = 7001, 7002
PERIOD_S = 0.005
# What is denied is over within this time, and stays so for as long.
STOPS_S = 1.0
PROTOCOLS = ("tcp", "udp")


class Talk:
    """Numbers sent to a pod, which sends each back, from a thread of this process."""

    def __init__(self, lab: PolicyLab, protocol: str, client: Any, server: Any, port: int, place: int = 0) -> None:
        self._lab, self.protocol = lab, protocol
        self._family = (socket.AF_INET, socket.AF_INET6)[place]
        self._kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self.sent = 0
        self.answered: set[int] = set()
        self.latest, self.last_answer = -1, 0.0
        self._stop = threading.Event()
        self._stack = contextlib.ExitStack()
        names = [pod_name(*end) for end in (client, server)]
        listening = self._socket(names[1])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((addresses(*server)[place], port))
        self._client = self._socket(names[0])
        if protocol == "tcp":
            listening.listen()
            self._client.settimeout(5)
            self._client.connect((addresses(*server)[place], port))
            served = self._stack.enter_context(listening.accept()[0])
            for one in (self._client, served):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._client.connect((addresses(*server)[place], port))
            served = listening
        self._threads = [
            threading.Thread(target=self._send),
            threading.Thread(target=self._answer, args=(served,)),
            threading.Thread(target=self._hear),
        ]
        for one in (self._client, served):
            one.settimeout(0.05)
        for thread in self._threads:
            thread.start()

    def _socket(self, pod: str) -> socket.socket:
        return self._stack.enter_context(self._lab.socket(pod, self._family, self._kind))

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                self._client.sendall(struct.pack("!I", self.sent))
                self.sent += 1
            time.sleep(max(0.0, begin + self.sent * PERIOD_S - time.monotonic()))

    def _answer(self, served: socket.socket) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                if self.protocol == "tcp":
                    served.sendall(served.recv(4096))
                else:
                    data, sender = served.recvfrom(4096)
                    served.sendto(data, sender)

    def _hear(self) -> None:
        rest = b""
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                rest += self._client.recv(4096)
                while len(rest) >= 4:
                    (self.latest,), rest = struct.unpack("!I", rest[:4]), rest[4:]
                    self.answered.add(self.latest)
                    self.last_answer = time.monotonic()

    def goes_on(self) -> None:
        """Waits for answers to what is sent from now on."""
        since = self.sent
        wait_until(lambda: self.latest > since, 10, f"{self.protocol}: answers")

    def finish(self) -> None:
        """Ends it."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def lost(self) -> int:
        """How many were not answered, once nothing more is sent and all answers had time to come."""
        sent = self.sent
        with contextlib.suppress(AssertionError):
            wait_until(lambda: all(number in self.answered for number in range(sent)), 5)
        return sum(number not in self.answered for number in range(sent))


class Changes(unittest.TestCase):
    lab: PolicyLab

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(PolicyLab())
        cls.lab.write(cls.namespaces())
        cls.lab.start_all({})
        cls.addClassCleanup(cls.lab.forget)
        for (node, slot), server in ((CLIENT, SERVER), (OTHER_CLIENT, OTHER_SERVER)):
            for address in addresses(*server):
                wait_until(lambda: cls.lab.ping(pod_name(node, slot), address, count=1), 30, f"an answer of {address}")

    def setUp(self) -> None:
        self.labels = {"role": "friend"}
        self.set_policies([])

    @staticmethod
    def namespaces(env: str = "prod") -> list[Any]:
        labels = {"a": {"env": env}, "b": {"env": "prod"}, "c": {}}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": its}}
            for name, its in labels.items()
        ]

    def set_policies(self, policies: list[Any], env: str = "prod") -> float:
        """Manifests, and endpoints with `self.labels` for the client; returns when the daemons had read them."""
        self.lab.write(self.namespaces(env) + policies)
        endpoints = [
            {
                "name": f"{node}-{slot}",
                "namespace": space,
                "addresses": list(addresses(node, slot)),
                "labels": self.labels if (node, slot) == CLIENT else {"role": "friend"},
            }
            for (node, slot), space in SPACES.items()
        ]
        self.lab.reload({node: self.lab.text(node, {}, endpoints) for node in NODES})
        return time.monotonic()

    @contextlib.contextmanager
    def talks(self) -> Iterator[list[Talk]]:
        """Open connections by TCP and UDP in both families, and others beside them, of which nothing may be lost."""
        talks, beside = [], []
        try:
            for place, protocol in ((0, "tcp"), (0, "udp"), (1, "tcp"), (1, "udp")):
                port = PORT + 10 * place
                talks.append(Talk(self.lab, protocol, CLIENT, SERVER, port, place))
                beside.append(Talk(self.lab, protocol, OTHER_CLIENT, OTHER_SERVER, port + 1, place))
            for talk in talks + beside:
                talk.goes_on()
            yield talks
            for talk in beside:
                talk.goes_on()
                self.assertEqual(talk.lost(), 0, f"{talk.protocol} beside")
        finally:
            for talk in talks + beside:
                talk.finish()

    def stops(self, talks: list[Talk], since: float, node: str, reason: str, before: int) -> None:
        """All of them stop within a second, which is counted under this reason at this node."""
        time.sleep(max(0.0, since + 2 * STOPS_S - time.monotonic()))
        for talk in talks:
            self.assertLess(talk.last_answer, since + STOPS_S, talk.protocol)
        wait_until(lambda: self.dropped(node, reason) >= before + len(talks), 5, f"{reason} at {node}")

    def dropped(self, node: str, reason: str) -> int:
        return self.lab.drop_counters(node)[reason]

    def denied_now(self, node: str, reason: str, change: Any, back: Any) -> None:
        """Open connections stop by a change; when it is taken back, new ones are made."""
        with self.talks() as talks:
            before = self.dropped(node, reason)
            since = change()
            self.stops(talks, since, node, reason, before)
            back()
        with self.talks():
            pass
        for other in NODES:
            counters = self.lab.drop_counters(other)
            others = [name for name in ("policy_egress", "policy_ingress") if (other, name) != (node, reason)]
            self.assertEqual([counters[name] for name in others], self.unmoved(other, others), other)

    def unmoved(self, node: str, names: list[str]) -> list[int]:
        return [self.begin[node][name] for name in names]

    def run(self, result: unittest.TestResult | None = None) -> Any:
        self.begin: dict[str, dict[str, int]] = {node: self.lab.drop_counters(node) for node in NODES}
        return super().run(result)

    # --- the changes ------------------------------------------------------------------------------

    def test_a_policy_against_what_comes_in(self) -> None:
        deny = kubernetes("b", {"policyTypes": ["Ingress"]})
        self.denied_now("n2", "policy_ingress", lambda: self.set_policies([deny]), lambda: self.set_policies([]))

    def test_a_policy_against_what_leaves(self) -> None:
        deny = kubernetes("a", {"policyTypes": ["Egress"]})
        self.denied_now("n1", "policy_egress", lambda: self.set_policies([deny]), lambda: self.set_policies([]))

    def test_a_rule_before_another(self) -> None:
        allow = calico("allow", 20, "Allow")
        deny = calico("deny", 10, "Deny")
        self.set_policies([allow])
        self.denied_now(
            "n2", "policy_ingress", lambda: self.set_policies([allow, deny]), lambda: self.set_policies([allow])
        )

    def test_labels_of_an_endpoint(self) -> None:
        peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "friend"}}}
        policy = kubernetes("b", {"ingress": [{"from": [peer]}]})

        def called(role: str) -> float:
            self.labels = {"role": role}
            return self.set_policies([policy])

        called("friend")
        self.denied_now("n2", "policy_ingress", lambda: called("stranger"), lambda: called("friend"))

    def test_labels_of_a_namespace(self) -> None:
        peer = {"namespaceSelector": {"matchLabels": {"env": "prod"}}}
        policy = kubernetes("b", {"ingress": [{"from": [peer]}]})
        self.set_policies([policy])
        self.denied_now(
            "n2",
            "policy_ingress",
            lambda: self.set_policies([policy], env="dev"),
            lambda: self.set_policies([policy]),
        )


def kubernetes(namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A policy for all endpoints of a namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "policy", "namespace": namespace},
        "spec": {"podSelector": {}} | spec,
    }


def calico(name: str, order: int, action: str) -> dict[str, Any]:
    """A policy for what comes from namespace a to namespace b."""
    rule = {"action": action, "source": {"namespaceSelector": "projectcalico.org/name == 'a'"}}
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "b"},
        "spec": {"order": order, "ingress": [rule]},
    }
