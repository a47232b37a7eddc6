"""The nodes of the fleet: their names, addresses and blocks."""

import ipaddress

# What the blocks and the addresses of nodes are in.
POOL = ipaddress.ip_network("10.64.0.0/10")
NODES = ipaddress.ip_network("172.16.0.0/12")
BLOCK_LEN = 26
# The first and the last are the lab's own.
MOST = 65_000


def block(number: int) -> str:
    """The block of a node, as Calico hands them out: 64 addresses."""
    size = 1 << (32 - BLOCK_LEN)
    return f"{POOL.network_address + size * (number + 1)}/{BLOCK_LEN}"


def pod(number: int) -> str:
    """The address of a pod on a node."""
    return str(ipaddress.ip_network(block(number))[9])


def address(number: int) -> str:
    """The underlay address of a node."""
    return str(NODES.network_address + number + 1)


def mac(number: int) -> str:
    """The Ethernet address of a node inside VXLAN."""
    return ":".join(f"{byte:02x}" for byte in b"\x0a\x55" + number.to_bytes(4, "big"))
