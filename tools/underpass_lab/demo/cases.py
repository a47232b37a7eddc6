"""The cases of the demo, inside its lab: `cases DIRECTORY`, the directory of the lab."""

import functools
import pathlib
import sys
import time
from subprocess import SubprocessError

from underpass_lab.command import Failure, wait_until
from underpass_lab.demo import wire
from underpass_lab.demo.forge import forge
from underpass_lab.demo.inside import STRANGER, STRANGER_ADDRESS, DemoLab, Recording, pod
from underpass_lab.demo.story import Story
from underpass_lab.lab import topology as topologies
from underpass_lab.lab.topology import Node

TRANSFER_BYTES = 64 << 20
NEVER, ALWAYS, CROSS = "Never", "Always", "CrossSubnet"
# (title, ipip_mode, vxlan_mode, form between nodes of one subnet, form through the router)
MODES = (
    ("ipip_mode Always", ALWAYS, NEVER, "ipip", "ipip"),
    ("vxlan_mode Always", NEVER, ALWAYS, "vxlan", "vxlan"),
    ("ipip_mode CrossSubnet", CROSS, NEVER, "direct", "ipip"),
    ("vxlan_mode CrossSubnet", NEVER, CROSS, "direct", "vxlan"),
)
ENDED = "daemons end on SIGTERM with status 0, device, routes and socket removed"


class Demo:
    """All cases in one lab."""

    def __init__(self, lab: DemoLab, story: Story) -> None:
        self.lab, self.story, self.topology = lab, story, lab.topology
        nodes = self.topology.nodes
        self.pairs = [(nodes[a], nodes[b]) for a, b in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1))]

    def run(self) -> None:
        """Every case."""
        with self.story.case("without the daemon no pod reaches another"):
            for source, target in self.pairs:
                silent = functools.partial(self.lab.no_answer, source, target)
                self.story.check(f"no answer to {pod(source)} from {pod(target)}", silent)
        for mode in MODES:
            self.mode(*mode)
        self.lab.router_knows_pods("add")
        self.mode("Never (the router knows the pods)", NEVER, NEVER, "direct", "direct")
        self.lab.router_knows_pods("del")
        self.spoofed()

    # --- a mode -----------------------------------------------------------------------------------

    def mode(self, title: str, ipip_mode: str, vxlan_mode: str, near: str, far: str) -> None:
        """Real traffic between all pods, and that all of it travelled as the mode says."""
        with self.story.case(title):
            if self.story.check("three daemons up", functools.partial(self.lab.start, ipip_mode, vxlan_mode)):
                wires: dict[str, Recording] = {}
                self.story.check("captures on the three links", functools.partial(self.begin_captures, wires))
                self.traffic()
                self.wire(wires, {True: near, False: far})
            self.story.check(ENDED, self.lab.stop)

    def begin_captures(self, wires: dict[str, Recording]) -> None:
        """All traffic of a node passes its port of the switch."""
        for node in self.topology.nodes:
            wires[node.name] = Recording(self.lab, node.subnet.switch, node.name)

    def traffic(self) -> None:
        """Ping, TCP and UDP."""
        self.story.check("ping between all pods", functools.partial(self.lab.ping_all, self.pairs))
        for source, target in (self.pairs[0], self.pairs[2]):
            way = f"{pod(source)} to {pod(target)}"
            self.story.check(f"TCP 64 MiB {way}", functools.partial(self.transfer, source, target))
            self.story.check(f"UDP {way} and back", functools.partial(self.lab.udp_exchange, source, target))

    def transfer(self, source: Node, target: Node) -> str:
        """A TCP transfer of random bytes."""
        begun = time.monotonic()
        digest = self.lab.tcp_transfer(pod(source), pod(target), str(wire.pod_address(target)), TRANSFER_BYTES)
        rate = TRANSFER_BYTES * 8 / (time.monotonic() - begun) / 1e6
        return f"sha256 {digest[:12]}… at both ends, {rate:.0f} Mbit/s"

    def wire(self, wires: dict[str, Recording], forms: dict[bool, str]) -> None:
        """What the captures must show; `forms` by whether both nodes are in one subnet."""
        self.story.check("captures are complete", functools.partial(end_captures, wires))
        expected: dict[str, list[str]] = {name: [] for name in wires}
        for source, target in self.pairs:
            form = forms[source.subnet is target.subnet]
            frames = wire.frames(self.topology, form, source, target)
            for node in (source, target):
                expected.setdefault(node.name, []).append(frames)
            seen = functools.partial(self.seen, wires, source, target, frames)
            self.story.check(f"wire {source.name} to {target.name}: {form}", seen)
        for name, recording in wires.items():
            other = functools.partial(nothing_else, recording, wire.anything_but(self.topology, expected[name]))
            self.story.check(f"wire of {name}: nothing else, no frame above {wire.LARGEST_FRAME} bytes", other)

    def seen(self, wires: dict[str, Recording], source: Node, target: Node, frames: str) -> str:
        """The same number of frames at both ends, from the right machine to the right machine."""
        first, last = (
            wires[node.name].count(f"{frames} and {wire.hop(self.topology, source, target, node)}")
            for node in (source, target)
        )
        if not first or first != last:
            raise Failure(f"{first} frames left {source.name}, {last} arrived at {target.name}; filter: {frames}")
        return f"{first} frames"

    # --- forged packets ---------------------------------------------------------------------------

    def spoofed(self) -> None:
        """Packets that a node must not let in, and that it lets in those beside them."""
        node, other = self.topology.nodes[:2]
        with self.story.case("forged packets are dropped and counted"):
            if self.story.check("three daemons up", functools.partial(self.lab.start, ALWAYS, NEVER)):
                pods: dict[str, Recording] = {}
                if self.story.check("capture inside pod-a", functools.partial(self.begin_inside, pods, node)):
                    self.forgeries(node, str(other.address), pods[pod(node)])
            self.story.check(ENDED, self.lab.stop)

    def begin_inside(self, pods: dict[str, Recording], node: Node) -> None:
        """A capture in the pod of a node."""
        pods[pod(node)] = Recording(self.lab, pod(node), "eth0")

    def forgeries(self, node: Node, peer: str, seen: Recording) -> None:
        """In both forms three packets, of which one is good."""
        before = self.lab.drops(node)
        for form in ("ipip", "vxlan"):
            self.three_packets(form, node, peer, seen)
        good = functools.partial(only_the_good, seen)
        self.story.check("the pod saw the two good packets and none of the four others", good)
        moved = functools.partial(self.moved, node, before, {"unknown_peer": 2, "spoofed_source": 2})
        self.story.check("drops counts exactly these four", moved)

    def three_packets(self, form: str, node: Node, peer: str, seen: Recording) -> None:
        """To a node: from a stranger, with a wrong inner source, and a good one."""
        dropped = functools.partial(self.dropped, node, form)
        self.story.check(
            f"{form} from a stranger, {STRANGER_ADDRESS}: unknown_peer",
            functools.partial(dropped, "unknown_peer", STRANGER_ADDRESS, "10.244.2.2", 7001),
        )
        self.story.check(
            f"{form} with node-b's address and an inner source of node-c: spoofed_source",
            functools.partial(dropped, "spoofed_source", peer, "10.244.3.9", 7002),
        )
        delivered = functools.partial(self.delivered, node, form, peer, "10.244.2.9", 7003, seen)
        self.story.check(f"{form} as node-b would send it: delivered", delivered)

    def forge(self, form: str, node: Node, outer: str, inner: str, port: int) -> None:
        """The stranger sends a packet with these sources to a node."""
        mac = self.lab.mac(STRANGER, "eth0")
        self.lab.send(STRANGER, "eth0", forge(self.topology, form, mac, node, outer, inner, port))

    def dropped(self, node: Node, form: str, reason: str, outer: str, inner: str, port: int) -> None:
        """Exactly this one counter moves, by one."""
        before = self.lab.drops(node)
        self.forge(form, node, outer, inner, port)
        self.moved(node, before, {reason: 1})

    def moved(self, node: Node, before: dict[str, int], expected: dict[str, int]) -> str:
        """The drop counters move by exactly this, at once or a little later."""

        def now() -> dict[str, int]:
            return {name: by for name, count in self.lab.drops(node).items() if (by := count - before[name])}

        try:
            wait_until(lambda: now() == expected, 2)
        except Failure:
            raise Failure(f"moved by {now()}, expected {expected}") from None
        return ", ".join(f"{name} {by}" for name, by in expected.items())

    def delivered(self, node: Node, form: str, outer: str, inner: str, port: int, seen: Recording) -> None:
        """One more packet to this port in the pod."""
        expression = f"udp dst port {port}"
        before = seen.count(expression)
        self.forge(form, node, outer, inner, port)
        try:
            wait_until(lambda: seen.count(expression) == before + 1, 2)
        except Failure:
            raise Failure(f"not seen in the pod; drops: {self.lab.drops(node)}") from None


def end_captures(wires: dict[str, Recording]) -> None:
    """Ends all captures; Failure when one of them missed a frame."""
    wrong = [f"{name}: {said}" for name, recording in wires.items() if (said := recording.end())]
    if wrong:
        raise Failure("\n".join(wrong))


def nothing_else(recording: Recording, others: str) -> None:
    """Failure with the first of the frames that were not expected."""
    if recording.count(others):
        raise Failure(f"other frames, the first of them:\n{recording.read('-e', '-c', '3', others)}")


def only_the_good(recording: Recording) -> None:
    """Two packets in all, both of them good ones."""
    if said := recording.end():
        raise Failure(said)
    if (recording.count("udp dst port 7003"), recording.count("udp")) != (2, 2):
        raise Failure(recording.read())


def main() -> int:
    """All cases in the lab of a directory."""
    directory = pathlib.Path(sys.argv[1])
    path = directory / "topology.toml"
    topology = topologies.load(path, path.read_text(encoding="utf-8"))
    story = Story()
    own = directory / "demo"
    own.mkdir()
    with DemoLab(topology, own) as lab:
        Demo(lab, story).run()
    return story.summary()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failure, SubprocessError) as failure:
        sys.exit(f"error: {failure}")
