"""The daemons of a lab: what they are told, and how they are asked."""

import http.client
import json
import socket


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("underpass", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def status(path, timeout=5):
    """The status object of the daemon behind a control socket; None when nobody answers."""
    connection = _Connection(path, timeout)
    try:
        connection.request("GET", "/v1/status")
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def configuration(topology, node, directory, ipip_mode=None, vxlan_mode=None):
    """The text of a node's configuration file; the modes are those of the topology unless given."""
    modes = (ipip_mode, vxlan_mode) if ipip_mode else (topology.ipip_mode, topology.vxlan_mode)
    sections = [
        ("[node]", {"name": node.name, "address": f"{node.address}/{node.subnet.network.prefixlen}"}),
        ("[tunnel]", topology.tunnel),
        ("[vxlan]", topology.vxlan),
        ("[[pool]]", {"cidr": str(topology.pool), "ipip_mode": modes[0], "vxlan_mode": modes[1]}),
        ("[local]", {"subnets": [str(node.pod_network)]}),
        ("[control]", {"socket": str(directory / f"{node.name}.sock")}),
    ]
    for peer in topology.nodes:
        if peer is not node:
            sections.append(("[[peer]]", {"name": peer.name, "address": str(peer.address),
                                          "subnets": [str(peer.pod_network)]}))
    # JSON's strings, numbers, booleans and lists of them are TOML's too.
    return "\n".join(
        "\n".join([head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])
        for head, keys in sections if keys)
