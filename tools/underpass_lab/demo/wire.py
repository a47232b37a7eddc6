"""What packets of a mode look like on the wire, as filters in tcpdump's words."""

import ipaddress

from underpass_lab.lab.topology import Node, Topology

# What the daemons send to test their own way to the wire.
PROBES = "(ip proto 4 and ip[29] = 59) or (udp dst port {port} and udp[8:4] = 0x756e6465)"
LARGEST_FRAME = 1514


def pod_address(node: Node) -> ipaddress.IPv4Address:
    """The address of the one pod of a node."""
    return next(iter(node.pod_addresses().values()))


def frames(topology: Topology, form: str, source: Node, target: Node) -> str:
    """The frames of one pod to another in a form, between their two nodes. Offsets of IPIP count from the outer IP
    header (20 bytes), of VXLAN from the UDP header (8 bytes, then VXLAN 8, Ethernet 14)."""
    inner = [f"{int(pod_address(node)):#010x}" for node in (source, target)]
    if form == "direct":
        return f"src host {pod_address(source)} and dst host {pod_address(target)}"
    nodes = f"src host {source.address} and dst host {target.address} and ip[0] = 0x45"
    if form == "ipip":
        return f"{nodes} and ip proto 4 and ip[32:4] = {inner[0]} and ip[36:4] = {inner[1]}"
    port, vni = topology.vxlan["port"], topology.vxlan["vni"]
    header = f"udp dst port {port} and udp[8:4] = 0x08000000 and udp[12:4] = {vni << 8} and udp[28:2] = 0x0800"
    return f"{nodes} and {header} and udp[42:4] = {inner[0]} and udp[46:4] = {inner[1]}"


def hop(topology: Topology, source: Node, target: Node, link: Node) -> str:
    """The link-layer addresses of frames from one node to another on the link of a node. Between subnets the router
    stands in for the node that is not on this link."""
    macs = {node.name: node.mac for node in (source, target)}
    if source.subnet is not target.subnet:
        far = target if link is source else source
        router = topology.routers[0]
        ports = [subnet for subnet, _ in router.ports]
        macs[far.name] = router.mac(ports.index(link.subnet))
    return f"ether src {macs[source.name]} and ether dst {macs[target.name]}"


def anything_but(topology: Topology, expected: list[str]) -> str:
    """IPv4 frames that are none of those expected, and all that are oversized."""
    probes = PROBES.format(port=topology.vxlan["port"])
    known = " or ".join(f"({one})" for one in expected)
    return f"not arp and not ({probes}) and not ({known}) or greater {LARGEST_FRAME + 1}"
