"""Hand-made tunnel packets, built by scapy, so that they owe nothing to the code under test."""

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from underpass_lab.demo.wire import pod_address
from underpass_lab.lab.topology import Node, Topology
from underpass_lab.vtep import vtep_mac


def forge(
    topology: Topology, form: str, mac: str, target: Node, outer_source: str, inner_source: str, port: int
) -> bytes:
    """A frame from a MAC for a node with a UDP datagram to its pod inside."""
    outer = Ether(src=mac, dst=target.mac) / IP(src=outer_source, dst=str(target.address))
    if form == "vxlan":
        outer /= UDP(sport=50000, dport=topology.vxlan["port"]) / VXLAN(vni=topology.vxlan["vni"])
        outer /= Ether(dst=vtep_mac(target.name), src="66:00:00:00:00:01")
    inner = IP(src=inner_source, dst=str(pod_address(target))) / UDP(sport=4000, dport=port) / Raw(b"forged")
    return bytes(outer / inner)
