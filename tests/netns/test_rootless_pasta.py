"""docs/rootless.md: nodes in user namespaces, whose UDP leaves through pasta. No root on the way."""

import bootstrap

import os
import pathlib
import signal
import subprocess
from typing import Any

from rootless import AS_USER, OPEN_TUN, hand_over
from shared import SharedLab
from underpass_lab.command import run, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.network import TCP_PORT
from underpass_lab.nodes import pod_address, subnet
from underpass_lab.paths import PYTHON, REPO

SHIPPED = REPO / "config" / "rootless"
VXLAN: dict[str, Any] = {"ipip": "Never", "vxlan": "Always"}
HOST = "192.0.2.10"
SIZE = 20 << 20
# What is not forwarded by itself, and packets that fit an ordinary network.
PASTA = ("pasta", "--foreground", "--quiet", "--config-net", "--mtu", "1500")
CLOSED = ("--tcp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none")


class Nodes(SharedLab):
    """Two nodes that nobody but their user has made."""

    daemons = ()
    program: str

    @classmethod
    def prepare(cls) -> None:
        cls.program = hand_over(cls.lab)

    def start_node(self, node: str, namespace: str, options: Any, text: str) -> None:
        """Starts pasta as the user in the namespace of a host, and in there node.sh and the daemon."""
        file = self.lab.dir / f"{node}.toml"
        file.write_text(text, encoding="utf-8")
        script = self.lab.dir / "node.sh"
        script.write_bytes((SHIPPED / "node.sh").read_bytes())
        script.chmod(0o755)
        command = [
            *(*OPEN_TUN, *AS_USER, "env", f"UNDERPASS={self.program}"),
            *(*PASTA, *CLOSED, *options, "--", "unshare", "--mount", script, node[1:]),
        ]
        daemon = Daemon(self.lab, node, file, command=command, namespace=namespace)
        self.lab.daemons[node] = daemon
        self.addCleanup(self.end, node)
        daemon.wait_ready()

    def inside(self, node: str) -> int:
        """The process in the namespaces of a node: pasta's child."""
        pid = self.lab.daemons[node].pid
        return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])

    def end(self, node: str) -> None:
        daemon = self.lab.daemons[node]
        if daemon.process.poll() is None:
            # The namespaces end with it, and pasta when they do; not the other way round.
            inside = self.inside(node)
            os.kill(inside, signal.SIGTERM)
            try:
                self.assertEqual(daemon.process.wait(5), 0, daemon.log())
            except subprocess.TimeoutExpired:
                os.kill(inside, signal.SIGKILL)
                raise
        del self.lab.daemons[node]

    def enter(self, node: str, *command: Any) -> list[Any]:
        """A command, by the user, in the pod of a node."""
        into = ("nsenter", "--preserve-credentials", "--user", "--mount", "--net", "--target", self.inside(node))
        return [*map(str, (*AS_USER, *into, "ip", "netns", "exec", "pod", *command))]

    def ping(self, source: str, target: str) -> None:
        options = ("-n", "-c", 3, "-i", "0.05", "-W", "5", "-s", 1400)
        run(*self.enter(source, "ping", *options, pod_address(target)))

    def tcp(self, source: str, target: str) -> None:
        """20 MiB from pod to pod, with equal SHA-256."""
        traffic = self.lab.dir / "traffic.py"
        receive = self.enter(target, PYTHON, traffic, "tcp-receive", TCP_PORT)
        with subprocess.Popen(receive, stdout=subprocess.PIPE, text=True) as receiver:
            self.addCleanup(receiver.kill)
            listens = self.enter(target, "ss", "-Hnlt", f"sport = :{TCP_PORT}")
            wait_until(lambda: run(*listens).stdout, 10, "the receiver")
            send = self.enter(source, PYTHON, traffic, "tcp-send", pod_address(target), TCP_PORT, SIZE)
            sent = run(*send, timeout=120).stdout
            received, _ = receiver.communicate(timeout=30)
        self.assertEqual(sent, received)
        self.assertTrue(sent.startswith(f"{SIZE} "), sent)

    def carry(self) -> None:
        for source, target in (("n1", "n2"), ("n2", "n1")):
            self.ping(source, target)
            self.tcp(source, target)
        for node in ("n1", "n2"):
            status = self.lab.status(node)
            edges = status["counters"]
            inward = edges["device"]["rx_packets"] + edges["underlay"]["rx_packets"]
            outward = edges["device"]["tx_packets"] + edges["underlay"]["tx_packets"]
            self.assertEqual(status["missing"], [])
            self.assertEqual(inward, outward + sum(status["drops"].values()))

    def tearDown(self) -> None:
        """What they have in common with other labs, the metrics endpoint, is out of reach."""


class OneMachine(Nodes):
    """Both on one host, of which each sees the other as a port."""

    PORTS = {"n1": 4801, "n2": 4802}

    def test_two_user_namespaces(self) -> None:
        self.lab.add_host("h", f"{HOST}/24")
        self.lab.ip("h", "route add default via 192.0.2.254")
        for node, other in (("n1", "n2"), ("n2", "n1")):
            net = f"10.99.{node[1:]}"
            options = ("--address", f"{net}.2", "--netmask", "24", "--gateway", f"{net}.1")
            port, peer = self.PORTS[node], (HOST, [subnet(other)], {"port": self.PORTS[other]})
            text = self.lab.config(node, **VXLAN, address=f"{net}.2/24", port=port, peers={other: peer})
            self.start_node(node, "h", (*options, "--udp-ports", port), text)
        (peer,) = self.lab.daemons["n1"].json("peer", "list")
        self.assertEqual((peer["address"], peer["port"]), (HOST, self.PORTS["n2"]))
        self.carry()


class TwoMachines(Nodes):
    """On a host each, whose address pasta gives to the namespace as well, by the files of config/rootless."""

    def test_a_user_namespace_on_each(self) -> None:
        for node, letter in (("n1", "a"), ("n2", "b")):
            self.lab.ip(node, "route add default via 192.0.2.254")
            text = (SHIPPED / f"node-{letter}.toml").read_text(encoding="utf-8")
            text = text.replace(f"/tmp/underpass-{letter}/control.sock", str(self.lab.dir / f"{node}.sock"))
            self.start_node(node, node, ("--udp-ports", 4789), text)
        self.carry()
