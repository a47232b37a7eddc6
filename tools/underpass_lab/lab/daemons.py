"""What the daemons of a lab are told."""

import pathlib

from underpass_lab import configuration
from underpass_lab.lab.topology import Node, Topology


def text(
    topology: Topology,
    node: Node,
    directory: pathlib.Path,
    ipip_mode: str | None = None,
    vxlan_mode: str | None = None,
) -> str:
    """The configuration file of a node; the modes are those of the topology unless given."""
    modes = (ipip_mode or topology.ipip_mode, vxlan_mode or topology.vxlan_mode)
    return configuration.text(
        node={"name": node.name, "address": f"{node.address}/{node.subnet.network.prefixlen}"},
        socket=directory / f"{node.name}.sock",
        local=[str(node.pod_network)],
        pools=[configuration.Pool(str(topology.pool), *modes)],
        peers=[
            configuration.Peer(peer.name, str(peer.address), [str(peer.pod_network)])
            for peer in topology.nodes
            if peer is not node
        ],
        tunnel=topology.tunnel,
        vxlan=topology.vxlan,
    )
