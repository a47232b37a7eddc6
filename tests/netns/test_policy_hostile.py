"""What a pod may try against the policies of another one: drops by name, bounded memory, and who is allowed goes on.

The pod on n1 lets TCP and UDP to one port come in, and nothing else. The pod on n2 attacks.
"""

import bootstrap

import contextlib
import errno
import functools
import json
import pathlib
import socket
import tempfile
import threading
import unittest
from collections.abc import Iterator
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import PODS, pod_address

A, B = pod_address("n1"), pod_address("n2")
OPEN, CLOSED = 7080, 7081
CONNECTIONS = 1024
FLOOD_PPS, FLOOD_MS = 100_000, 3000
# Of the allowed flow: the pieces that are sent one after the other, and how many have to come back during a flood.
PIECE, PIECES = 20_000, 5
# Refusals after which the table is taken for full.
REFUSALS = 20
# More than the table has room for, in KiB: what the daemon may grow by.
GROWTH_KIB = 8192

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "open-one-port", "namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "victim"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": OPEN}, {"protocol": "UDP", "port": OPEN}]}],
    },
}


def configuration(directory: str) -> str:
    """The part of the daemon's configuration that is about policies."""
    endpoint = f'\n[[endpoint]]\nname = "victim"\naddresses = ["{A}"]\nlabels = {{ app = "victim" }}\n'
    return (
        f"\n[policy]\ndirectory = {json.dumps(directory)}\nconnections = {CONNECTIONS}\n"
        f"[policy.timeouts]\npick_up = 0\n{endpoint}"
    )


class Hostile(SharedLab):
    policy: str
    config: dict[str, Any] = {"ipip": "Never", "vxlan": "Always", "tunnel": {"workers": 1}}

    @classmethod
    def prepare(cls) -> None:
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        (pathlib.Path(directory) / "policy.json").write_text(json.dumps(POLICY), encoding="ascii")
        cls.policy = configuration(directory)

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        more = {"extra": cls.policy} if node == "n1" else {}
        return super().start(node, **config, **more)

    def setUp(self) -> None:
        self.lab.daemons["n1"].command("connections", "flush", "--all")

    def attack(self, packets: Any) -> None:
        """Sends packets from the pod on n2."""
        self.send_from_pod(packets, "n2")

    def connections(self) -> list[Any]:
        """The connections that n1 knows."""
        return list(self.lab.daemons["n1"].json("connections", "list"))

    def server(self, kind: int, port: int = OPEN) -> socket.socket:
        """A socket of the pod on n1."""
        server = self.lab.socket(PODS["n1"], kind=kind)
        self.addCleanup(server.close)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((A, port))
        if kind == socket.SOCK_STREAM:
            server.listen(64)
        server.settimeout(5)
        return server

    def client(self, kind: int, port: int = 0) -> socket.socket:
        """A socket of the pod on n2."""
        client = self.lab.socket(PODS["n2"], kind=kind)
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((B, port))
        client.settimeout(5)
        return client

    def test_spoofed_segments_of_connections_that_there_are_not(self) -> None:
        spoofed = [
            IP(src=B, dst=A) / TCP(sport=2000 + number, dport=CLOSED, flags=flags) / Raw(b"data")
            for number in range(50)
            for flags in ("A", "PA", "R", "FA", "SA")
        ]
        with self.moves("n1", underlay_rx=len(spoofed), policy_ingress=len(spoofed)):
            self.attack(spoofed)
        self.assertEqual([one for one in self.connections() if one["protocol"] == "tcp"], [])

    def test_fragments_that_hide_their_ports(self) -> None:
        def datagram(number: int, port: int) -> Any:
            return IP(src=B, dst=A, id=number) / UDP(sport=3000, dport=port) / Raw(b"f" * 200)

        places = ((8, 1), (16, 0))
        hidden = [IP(src=B, dst=A, id=77, proto=17, frag=n, flags=more) / Raw(b"h" * 64) for n, more in places]
        # Too short a first fragment, and the rest of the header behind it.
        tiny = [IP(src=B, dst=A, id=78, proto=6, flags=1) / Raw(b"\x0b\xb8" + b"\0" * 6)]
        tiny += [IP(src=B, dst=A, id=78, proto=6, frag=1) / Raw(b"\0" * 16)]
        denied = [bytes(part) for part in fragments(datagram(79, CLOSED))]
        for what, packets in (("later ones", hidden), ("a cut header", tiny), ("a closed port", denied)):
            with self.subTest(what), self.moves("n1", underlay_rx=len(packets), policy_ingress=len(packets)):
                self.attack(packets)
        allowed = [bytes(part) for part in fragments(datagram(80, OPEN))]
        server = self.server(socket.SOCK_DGRAM)
        with self.moves("n1", underlay_rx=len(allowed), device_tx=len(allowed)):
            self.attack(allowed)
        self.assertEqual(server.recv(1000), b"f" * 200)

    def test_errors_that_quote_connections(self) -> None:
        victim, server = self.lab.socket(PODS["n1"]), self.client(socket.SOCK_DGRAM, 5300)
        self.addCleanup(victim.close)
        victim.bind((A, 4400))
        victim.connect((B, 5300))
        victim.settimeout(5)
        victim.send(b"question")
        server.recv(100)

        def error(source: str, sport: int, target: str, dport: int) -> Any:
            quoted = IP(src=source, dst=target) / UDP(sport=sport, dport=dport)
            return IP(src=B, dst=A) / ICMP(type=3, code=3) / quoted

        foreign = [error(A, 4401, B, 5300), error(A, 4400, B, 5301), error(B, 5300, A, 4400), error(A, 4400, A, 5300)]
        foreign += [IP(src=B, dst=A) / ICMP(type=3, code=3) / Raw(b"\x45" + bytes(length)) for length in (0, 19, 26)]
        with self.moves("n1", underlay_rx=len(foreign), policy_ingress=len(foreign)):
            self.attack(foreign)
        victim.send(b"again")
        server.recv(100)
        with self.moves("n1", underlay_rx=1, device_tx=1):
            self.attack([error(A, 4400, B, 5300)])
        with self.assertRaises(ConnectionRefusedError):
            victim.recv(100)

    def test_the_same_port_once_more(self) -> None:
        server, drops = self.server(socket.SOCK_STREAM), self.lab.drops("n1")
        for number in range(5):
            with self.subTest(number), self.client(socket.SOCK_STREAM, 4100) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0" if number % 2 else bytes(8))
                wait_until(functools.partial(connects, client), 5, "the client's port")
                with server.accept()[0] as served:
                    served.settimeout(5)
                    client.sendall(b"hello")
                    self.assertEqual(served.recv(100), b"hello")
                    # Closed here first, and there known, so that it is not the client's port that waits for a minute.
                    served.shutdown(socket.SHUT_RDWR)
                    self.assertEqual(client.recv(100), b"")
        self.assertEqual(self.lab.drops("n1"), drops)

    def test_a_table_that_is_full_of_answered_connections(self) -> None:
        server, drops = self.server(socket.SOCK_DGRAM), self.lab.drops("n1")
        answered = threading.Thread(target=echo, args=(server,))
        answered.start()
        self.addCleanup(answered.join)
        self.addCleanup(server.sendto, b"", server.getsockname())
        server.settimeout(None)
        first = self.client(socket.SOCK_DGRAM, 10_000)
        self.talk(first)
        # Each of them is answered before the next one.
        for port in range(10_001, 10_001 + 2 * CONNECTIONS):
            with self.client(socket.SOCK_DGRAM, port) as client:
                client.settimeout(0.2)
                client.sendto(b"x", (A, OPEN))
                try:
                    client.recv(100)
                except TimeoutError:
                    if self.lab.drops("n1")["connections_full"] - drops["connections_full"] >= REFUSALS:
                        break
        else:
            self.fail("the table is never full")
        self.talk(first)
        shown = self.connections()
        self.assertGreaterEqual(len(shown), CONNECTIONS)
        self.assertLessEqual(len(shown), 2 * CONNECTIONS)
        # Room is where somebody makes it.
        self.lab.daemons["n1"].command("connections", "flush", "--all")
        self.assertEqual(self.connections(), [])
        self.talk(self.client(socket.SOCK_DGRAM, 20_000))

    def talk(self, client: socket.socket) -> None:
        """One question and its answer."""
        client.sendto(b"hello", (A, OPEN))
        self.assertEqual(client.recv(100), b"hello")

    def test_a_flood_beside_a_flow_that_is_allowed(self) -> None:
        netload = pathlib.Path(binary()).parent / "netload"
        if not netload.exists():
            raise unittest.SkipTest("netload is not built beside the daemon: cargo build --package underpass-tools")
        before, memory = self.lab.drops("n1"), self.memory()
        for kind, port in (("syn", CLOSED), ("udp", CLOSED), ("udp", OPEN + 2)):
            with self.subTest(kind=kind, port=port), self.flow() as pieces:
                begun = pieces()
                pace = ("--rate", FLOOD_PPS, "--ms", FLOOD_MS)
                command = (netload, "flood", A, "--kind", kind, "--port", port, *pace)
                flood = self.lab.exec(PODS["n2"], *command, timeout=60)
                self.assertGreater(json.loads(flood.stdout)["sent"], 0)
                self.assertGreaterEqual(pieces() - begun, PIECES)
        moved = {reason: count - before[reason] for reason, count in self.lab.drops("n1").items()}
        self.assertGreater(moved["policy_ingress"], 0)
        self.assertEqual(moved["connections_full"], 0, "nobody has answered the flood")
        self.assertLessEqual(self.memory() - memory, GROWTH_KIB)
        self.assertLessEqual(len(self.connections()), 2 * CONNECTIONS)

    def memory(self) -> int:
        """KiB that the daemon on n1 has in memory."""
        status = pathlib.Path(f"/proc/{self.lab.daemons['n1'].process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])

    @contextlib.contextmanager
    def flow(self) -> Iterator[Any]:
        """Pieces that go to the port that is open and come back by TCP, one after the other; gives what says how many
        have come back."""
        server, client = self.server(socket.SOCK_STREAM), self.client(socket.SOCK_STREAM)
        client.connect((A, OPEN))
        served = server.accept()[0]
        done, stop = [0], threading.Event()

        def send() -> None:
            while not stop.is_set():
                piece = bytes([done[0] % 256]) * PIECE
                client.sendall(piece)
                if receive(client) != piece:
                    raise AssertionError("another piece came back")
                done[0] += 1
            client.shutdown(socket.SHUT_WR)

        def answer() -> None:
            while piece := receive(served):
                served.sendall(piece)

        for one in (client, served):
            one.settimeout(30)
        threads = [threading.Thread(target=one) for one in (send, answer)]
        for thread in threads:
            thread.start()
        try:
            yield lambda: done[0]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            for one in (client, served, server):
                one.close()


def connects(client: socket.socket) -> bool:
    """Connects to the open port, unless the last acknowledgment of the port's connection before is still on its way."""
    try:
        client.connect((A, OPEN))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return False
    return True


def receive(connection: socket.socket) -> bytes:
    """One piece; less at the end."""
    piece = bytearray()
    while len(piece) < PIECE and (part := connection.recv(PIECE - len(piece))):
        piece += part
    return bytes(piece)


def fragments(packet: Any) -> Any:
    """A datagram in pieces of 64 bytes."""
    return packet.fragment(64) if hasattr(packet, "fragment") else [packet]


def echo(server: socket.socket) -> None:
    """Sends back what comes, until an empty datagram does."""
    with contextlib.suppress(OSError):
        while True:
            data, sender = server.recvfrom(100)
            if not data:
                return
            server.sendto(data, sender)


if __name__ == "__main__":
    unittest.main()
