"""BIRD on the nodes of a lab, with the configuration of config/bird, and labs whose nodes find each other by it."""

import pathlib
import re
import subprocess
from collections.abc import Mapping, Sequence

from underpass_lab import routing
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.network import Lab
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address
from underpass_lab.paths import REPO

COMMON = REPO / "config" / "bird" / "underpass.conf"
AS = 64512


def configuration(address: str, subnet: str, blocks: Sequence[str], neighbours: Mapping[str, str]) -> str:
    """A node's file, as config/bird/node.conf. `neighbours` has the template by address: `node`, or `reflected` where
    this is the route reflector."""
    lines = [
        "log stderr all;",
        *(f"define NODE = {address};", f"define SUBNET = {subnet};", "define PODS = [ 10.244.0.0/16+ ];"),
        *(f"define AS = {AS};", f'include "{COMMON}";'),
        *("protocol static blocks {", "  ipv4;", *(f"  route {block} blackhole;" for block in blocks), "}"),
        *("protocol static uplink {", "  ipv4;", '  route 0.0.0.0/0 via "eth0";', "}"),
    ]
    for neighbour, template in neighbours.items():
        name = "Mesh_" + neighbour.replace(".", "_")
        passive = " passive on;" if _number(address) > _number(neighbour) else ""
        lines.append(f"protocol bgp {name} from {template} {{ neighbor {neighbour} as {AS};{passive} }}")
    return "\n".join(lines) + "\n"


def configuration6(address: str, subnet: str, blocks: Sequence[str], neighbours: Sequence[str]) -> str:
    """What a node's file has besides where pods use IPv6."""
    lines = [
        *(f"define NODE6 = {address};", f"define SUBNET6 = {subnet};", "define PODS6 = [ fd00:244::/32+ ];"),
        f'include "{COMMON.with_name("underpass6.conf")}";',
        *("protocol static blocks6 {", "  ipv6;", *(f"  route {block} blackhole;" for block in blocks), "}"),
        *("protocol static uplink6 {", "  ipv6;", '  route ::/0 via "eth0";', "}"),
    ]
    for neighbour in neighbours:
        name = "Mesh_" + neighbour.replace(":", "_")
        lines.append(f"protocol bgp {name} from node6 {{ neighbor {neighbour} as {AS}; }}")
    return "\n".join(lines) + "\n"


def _number(address: str) -> tuple[int, ...]:
    return tuple(int(part) for part in address.split("."))


class Bird:
    """BIRD in a namespace of a lab."""

    def __init__(self, lab: Lab, name: str, text: str) -> None:
        self.lab, self.name = lab, name
        self.directory = lab.dir / f"{name}.bird"
        self.directory.mkdir(exist_ok=True)
        self.file = self.directory / "bird.conf"
        self.socket = self.directory / "bird.ctl"
        self.programs = routing.directory()
        self.write(text)
        self.start()

    def write(self, text: str) -> None:
        self.file.write_text(text, encoding="ascii")

    def start(self, *options: str) -> None:
        """Starts it, and waits until it answers."""
        words = (self.programs / "usr/sbin/bird", "-f", "-c", self.file, "-s", self.socket, *options)
        with open(self.log, "a", encoding="utf-8") as log:
            self.process: subprocess.Popen[str] = self.lab.popen(
                self.name, *words, env=routing.environment(self.programs), stdout=log, stderr=log
            )
        what = f"BIRD on {self.name}, see {self.log}"
        wait_until(lambda: self.process.poll() is not None or self.answers(), 10, what)
        if self.process.poll() is not None:
            raise Failure(f"BIRD on {self.name} has ended: {self.log.read_text(encoding='utf-8')}")

    @property
    def log(self) -> pathlib.Path:
        return self.directory / "log"

    def answers(self) -> bool:
        return self.socket.exists() and "BIRD" in self.ask("show", "status", check=False)

    def ask(self, *words: str, check: bool = True) -> str:
        """What `birdc` says."""
        command = (self.programs / "usr/sbin/birdc", "-s", self.socket, *words)
        return run(*command, env=routing.environment(self.programs), check=check).stdout

    def established(self) -> int:
        """How many sessions are up."""
        return self.ask("show", "protocols").count("Established")

    def kill(self) -> None:
        """As if it had crashed: it takes nothing back."""
        self.process.kill()
        self.process.wait(10)


def block(node: str) -> str:
    """The block of a node, as Calico hands them out: 64 addresses."""
    return f"10.244.{node[1:]}.0/26"


class BirdLab(NodeLab):
    """Three nodes in two subnets with BIRD on each; pods as with Calico, each with a route of its own in front of its
    node's block. n1 and n2 reach each other bare, n3 by IP-in-IP."""

    MESH_S = 30.0
    # The node that all others have their only session with; without one there is a mesh.
    reflector: str | None = None

    def __init__(self, topology: str = "T3", **options: bool) -> None:
        super().__init__(topology, **options)
        self.birds: dict[str, Bird] = {}

    def begin(self, extra: str = "", tables: str = "[100]", verify: bool = False) -> None:
        """Starts BIRD and a daemon on each node, and waits until all know all blocks."""
        for node, address in ADDRESSES.items():
            self.ip(node, f"route add {pod_address(node)} dev pod0")
            neighbours = {other: "node" for name, other in ADDRESSES.items() if name in self.neighbours(node)}
            if node == self.reflector:
                neighbours = dict.fromkeys(neighbours, "reflected")
            subnet = address.rpartition(".")[0] + ".0/24"
            self.birds[node] = Bird(self, node, configuration(address, subnet, [block(node)], neighbours))
        for node in ADDRESSES:
            self.start_daemon(
                node,
                pools=[("10.244.0.0/16", "CrossSubnet", "Never", False, verify)],
                peers={other: (address, []) for other, address in ADDRESSES.items() if other != node},
                local=[block(node)],
                extra=f"[source.kernel]\ntables = {tables}\n{extra}",
            )
        wait_until(lambda: all(self.knows_all(node) for node in ADDRESSES), self.MESH_S, "all blocks on all nodes")

    def neighbours(self, node: str) -> set[str]:
        """The nodes that a node has a session with."""
        others = set(ADDRESSES) - {node}
        return others if self.reflector in (None, node) else {str(self.reflector)}

    def known(self, node: str) -> dict[str, str]:
        """The peers of the blocks that a node has learnt."""
        listed = self.daemons[node].json("route", "list", "--source", "kernel")
        return {route["prefix"]: route["peer"] for route in listed}

    def knows_all(self, node: str) -> bool:
        """Whether a node has learnt the blocks of the others, and nothing else."""
        return self.known(node) == {block(other): other for other in ADDRESSES if other != node}

    def main_table(self, node: str) -> list[str]:
        """What BIRD has written to the main table: the article's line is `BLOCK via NODE dev eth0 proto bird`."""
        lines = self.exec(node, "ip", "route", "show", "proto", "bird").stdout.splitlines()
        # `show proto bird` leaves out what it was asked for.
        return sorted(re.sub(r" +metric \d+ *$", " proto bird", line.strip()) for line in lines)
