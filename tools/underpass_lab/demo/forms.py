"""In what form packets of pods passed, by the captures at both ends."""

import functools
import ipaddress
import itertools
from collections.abc import Iterable, Mapping

from underpass_lab.command import Failure
from underpass_lab.demo.inside import Recording
from underpass_lab.demo.story import Story
from underpass_lab.nodes import ADDRESSES, PODS, NodeLab

# The labs of three nodes: whose traffic passes where on the underlay, (namespace, interface) by node, and who is behind
# the router.
WIRES = {"n1": ("sw", "port-n1"), "n2": ("sw", "port-n2"), "n3": ("R", "eth1")}
FAR = "n3"
PAIRS = list(itertools.permutations(ADDRESSES, 2))
TRANSFER_BYTES = 4 << 20
# Packets of the daemons that look after the path: no pod has sent them.
PROBE = "ip[29] = 59"


def expressions(nodes: tuple[str, str], pods: tuple[str, str]) -> dict[str, str]:
    """What matches packets from pod to pod, addresses all, in each form between their nodes."""
    inner = [f"{int(ipaddress.IPv4Address(pod)):#010x}" for pod in pods]
    between = f"src host {nodes[0]} and dst host {nodes[1]} and ip[0] = 0x45"
    return {
        "direct": f"src host {pods[0]} and dst host {pods[1]}",
        "ipip": f"{between} and ip proto 4 and not ({PROBE}) and ip[32:4] = {inner[0]} and ip[36:4] = {inner[1]}",
        # Behind the headers of UDP, VXLAN and Ethernet; the port is flannel's.
        "vxlan": f"{between} and udp dst port 8472 and ip[62:4] = {inner[0]} and ip[66:4] = {inner[1]}",
    }


def expected(source: str, target: str, tunnel: str = "ipip") -> str:
    """The form between two nodes, where pools are CrossSubnet with this tunnel."""
    return tunnel if FAR in (source, target) else "direct"


def seen(form: str, ends: tuple[Recording, Recording], nodes: tuple[str, str], pods: tuple[str, str]) -> str:
    """Frames in this form at both ends, as many here as there, and none in another form."""
    counts = {
        name: [recording.count(expression) for recording in ends]
        for name, expression in expressions(nodes, pods).items()
    }
    first, last = counts.pop(form)
    if not first or first != last or any(itertools.chain(*counts.values())):
        raise Failure(f"{first} frames left {nodes[0]}, {last} arrived at {nodes[1]}; others: {counts}")
    return f"{first} frames"


def traffic(lab: NodeLab, story: Story, pods: Mapping[str, str], tunnel: str = "ipip") -> None:
    """All ordered pairs of pods, given by their nodes, and how their packets travelled."""
    wires = {node: Recording(lab, *place) for node, place in WIRES.items()}
    for source, target in PAIRS:
        what = f"ping and TCP 4 MiB {source} to {target}"
        story.check(what, functools.partial(send, lab, pods, source, target))
    story.check("captures are complete", lambda: end_all(wires.items()))
    for source, target in PAIRS:
        form = expected(source, target, tunnel)
        ends = (wires[source], wires[target])
        nodes = (ADDRESSES[source], ADDRESSES[target])
        arrived = functools.partial(seen, form, ends, nodes, (pods[source], pods[target]))
        story.check(f"wire {source} to {target}: {form}", arrived)


def send(lab: NodeLab, pods: Mapping[str, str], source: str, target: str) -> str:
    """Three pings and a transfer."""
    ping(lab, pods, source, target)
    digest = lab.tcp_transfer(PODS[source], PODS[target], pods[target], TRANSFER_BYTES)
    return f"3 of 3, sha256 {digest[:12]}… at both ends"


def ping(lab: NodeLab, pods: Mapping[str, str], source: str, target: str) -> None:
    """Three pings that are answered."""
    answered = lab.ping(PODS[source], pods[target])
    if answered != 3:
        raise Failure(f"{answered} of 3 answered")


def end_all(recordings: Iterable[tuple[str, Recording]]) -> None:
    """Ends all captures; Failure when one of them missed a frame."""
    wrong = [f"{name}: {said}" for name, recording in recordings if (said := recording.end())]
    if wrong:
        raise Failure("\n".join(wrong))
