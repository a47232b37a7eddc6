"""The lab as the demo sees it from the inside: daemons, traffic, captures, a stranger."""

import os
import pathlib
import subprocess
import sys

from underpass_lab.command import CommandFailed, Failure, run, wait_until
from underpass_lab.daemon import Daemon, binary
from underpass_lab.demo.wire import pod_address
from underpass_lab.lab import daemons, namespaces
from underpass_lab.lab.topology import Node, Topology
from underpass_lab.network import Lab
from underpass_lab.paths import PYTHON, TRAFFIC

UDP_PORT = 5002
STRANGER, STRANGER_ADDRESS = "stranger", "192.0.2.66"
# Of each frame as much as the checks look at.
SNAP_BYTES = 128
TUN = "up0"


class Recording:
    """A capture of an interface from `begin` to `end`; frames are in the file a few milliseconds after they passed."""

    def __init__(self, lab: Lab, name: str, interface: str) -> None:
        self.file, self.log = lab.dir / f"{name}-{interface}.pcap", lab.dir / f"{name}-{interface}.log"
        words = (sys.executable, "-P", "-m", "underpass_lab.lab.ring", interface, 0, SNAP_BYTES)
        with open(self.file, "wb") as file, open(self.log, "wb") as log:
            self._process = lab.popen(name, *words, stdout=file, stderr=log)
        wait_until(self._listens, 5, f"a capture on {interface} of {name}")

    def _listens(self) -> bool:
        said = self.log.read_text(encoding="utf-8")
        if self._process.poll() is not None:
            raise Failure(said)
        return "listening on" in said

    def end(self) -> str:
        """Ends when all that passed is in the file; returns what it said when it missed a frame."""
        self._process.terminate()
        return self.log.read_text(encoding="utf-8") if self._process.wait(10) else ""

    def read(self, *words: str) -> str:
        """What tcpdump says of it. As root tcpdump wants to become another user, which it cannot where there is no
        other; one level further in it has no rights, and may still read the file."""
        known = pathlib.Path("/proc/self/uid_map").read_text(encoding="ascii").split()
        alone = ("unshare", "--user") if len(known) == 3 and known[2] == "1" else ()
        return run(*alone, "tcpdump", "-n", "-r", self.file, *words).stdout

    def count(self, expression: str) -> int:
        """How many frames match."""
        return int(self.read("--count", expression).split()[0])


class DemoLab(Lab):
    """The running lab; its namespaces have the names of the topology, and its end is not that of this `with` block."""

    def __init__(self, topology: Topology, directory: pathlib.Path) -> None:
        super().__init__("demo", directory=directory)
        self.topology = topology

    def ns(self, name: str) -> str:
        """Namespaces here have no prefix."""
        return name

    def build(self) -> None:
        """Adds a host in the subnet of node-a and node-b that is no node: who attacks in the demo."""
        namespaces.set_offloads(self.topology, on=False)
        switch = self.topology.subnets[0].switch
        self.add_namespace(STRANGER)
        self.link(STRANGER, "eth0", switch, STRANGER)
        self.ip(STRANGER, f"address add {STRANGER_ADDRESS}/24 dev eth0")
        self.ip(switch, f"link set {STRANGER} master br0")

    def router_knows_pods(self, verb: str) -> None:
        """Adds or deletes the routes that a network without encapsulation needs."""
        routes = (f"route {verb} {node.pod_network} via {node.address}" for node in self.topology.nodes)
        self.ip(self.topology.routers[0].name, *routes)

    # --- daemons ----------------------------------------------------------------------------------

    def start(self, ipip_mode: str, vxlan_mode: str) -> None:
        """Starts the daemon of every node with a configuration that `underpass check` finds good."""
        for node in self.topology.nodes:
            text = daemons.text(self.topology, node, self.dir, ipip_mode, vxlan_mode)
            file = self.dir / "check.toml"
            file.write_text(text, encoding="utf-8")
            run(binary(), "check", file)
            self.run_daemon(node.name, text)

    def stop(self) -> None:
        """Ends all daemons; what they made must be gone with them."""
        wrong = [word for name in list(self.daemons) for word in self._stop(name, self.daemons.pop(name))]
        if wrong:
            raise Failure("\n".join(wrong))

    def _stop(self, name: str, daemon: Daemon) -> list[str]:
        status = daemon.stop()
        wrong = [f"the daemon on {name} ended with status {status}; it said:\n{daemon.log()}"] if status else []
        if os.path.exists(daemon.socket):
            wrong.append(f"{daemon.socket} is left")
        if self.tool("ip", "-n", name, "link", "show", TUN, check=False).returncode == 0:
            wrong.append(f"{TUN} is left on {name}")
        if str(self.topology.pool) in self.tool("ip", "-n", name, "route", "show", "table", "all").stdout:
            wrong.append(f"a route to {self.topology.pool} is left on {name}")
        return wrong

    def drops(self, node: Node) -> dict[str, int]:
        """The drop counters of a node."""
        counters: dict[str, int] = self.daemons[node.name].json("drops")
        return counters

    # --- traffic ----------------------------------------------------------------------------------

    def start_ping(self, source: Node, target: Node, count: int) -> "subprocess.Popen[str]":
        """A ping from pod to pod that has begun."""
        words = ("ping", "-n", "-c", count, "-i", "0.05", "-W", "2", pod_address(target))
        return self.popen(pod(source), *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ping_all(self, pairs: list[tuple[Node, Node]], count: int = 3) -> str:
        """All pairs at once; every single question must be answered."""
        pings = [(source, target, self.start_ping(source, target, count)) for source, target in pairs]
        said = [(source, target, ping.communicate(timeout=30)[0]) for source, target, ping in pings]
        wrong = [
            f"{pod(source)} to {pod(target)}:\n{text}"
            for source, target, text in said
            if f" {count} received, 0% packet loss" not in text
        ]
        if wrong:
            raise Failure("\n".join(wrong))
        return f"{len(pairs)} pairs, {count} of {count} answered each"

    def no_answer(self, source: Node, target: Node) -> None:
        """Failure when a ping is answered."""
        text = self.start_ping(source, target, 1).communicate(timeout=30)[0]
        if " 1 received" in text:
            raise Failure(text)

    def udp_exchange(self, source: Node, target: Node) -> str:
        """Datagrams of many sizes, each answered with its own bytes."""
        echo = self.popen(pod(target), PYTHON, TRAFFIC, "udp-echo", UDP_PORT)
        try:
            self.listens(pod(target), UDP_PORT, "udp")
            words = (PYTHON, TRAFFIC, "udp-ask", pod_address(target), UDP_PORT)
            return self.exec(pod(source), *words).stdout.strip()
        except CommandFailed as failed:
            raise Failure(str(failed)) from None
        finally:
            echo.terminate()
            echo.wait(5)


def pod(node: Node) -> str:
    """The name of the one pod of a node."""
    return node.pod_names()[0]
