"""In what form packets of pods passed, by the captures at both ends."""

import ipaddress
import itertools
from collections.abc import Iterable

from underpass_lab.command import Failure
from underpass_lab.demo.inside import Recording

# The labs of three nodes: whose traffic passes where on the underlay, (namespace, interface) by node, and who is behind
# the router.
WIRES = {"n1": ("sw", "port-n1"), "n2": ("sw", "port-n2"), "n3": ("R", "eth1")}
FAR = "n3"
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


def end_all(recordings: Iterable[tuple[str, Recording]]) -> None:
    """Ends all captures; Failure when one of them missed a frame."""
    wrong = [f"{name}: {said}" for name, recording in recordings if (said := recording.end())]
    if wrong:
        raise Failure("\n".join(wrong))
