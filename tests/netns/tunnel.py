"""A second implementation of the tunnel formats, by scapy: what the daemon must understand and be understood by."""

import bootstrap

from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from underpass_lab.nodes import ADDRESSES, pod_address
from underpass_lab.vtep import vtep_mac

VNI = 4096
VXLAN_PORT = 4789
FORMATS = ("ipip", "vxlan")


def inner(
    sport: int = 1000, payload: bytes = b"payload", source: str | None = None, target: str | None = None, **ip: Any
) -> Any:
    """A UDP packet from the pod on n2 to the one on n1, to the discard port."""
    fields = {"src": source or pod_address("n2"), "dst": target or pod_address("n1"), "ttl": 63} | ip
    return IP(**fields) / UDP(sport=sport, dport=9) / Raw(payload)


def outer(form: str, content: Any, source: str = ADDRESSES["n2"], target: str = ADDRESSES["n1"], **ip: Any) -> Any:
    """The outer IP packet around `content`, an inner packet or bytes that claim to be one."""
    if form == "ipip":
        return outer_ipip(content, source, target, **ip)
    ethertype = 0x86DD if isinstance(content, IPv6) else 0x0800
    frame = Ether(src=vtep_mac("n2"), dst=vtep_mac("n1"), type=ethertype) / as_payload(content)
    return outer_vxlan(bytes(VXLAN(flags=8, vni=VNI)) + bytes(frame), source, target, **ip)


def outer_ipip(content: Any, source: str = ADDRESSES["n2"], target: str = ADDRESSES["n1"], **ip: Any) -> Any:
    """Outer IPv4 header with protocol 4, or 41 in front of IPv6."""
    fields = {"ttl": 64, "flags": "DF", "proto": 41 if isinstance(content, IPv6) else 4} | ip
    return IP(src=source, dst=target, **fields) / as_payload(content)


def outer_vxlan(
    datagram: Any, source: str = ADDRESSES["n2"], target: str = ADDRESSES["n1"], port: int = VXLAN_PORT, **ip: Any
) -> Any:
    """Outer IPv4 and UDP header in front of bytes that begin with a VXLAN header. No UDP checksum, as usual."""
    udp = UDP(sport=50000, dport=port, chksum=0)
    return IP(**{"src": source, "dst": target, "ttl": 64, "flags": "DF"} | ip) / udp / Raw(datagram)


def as_payload(content: Any) -> Any:
    """Raw bytes stay as they are; scapy fills in a real packet."""
    return Raw(content) if isinstance(content, bytes) else content


def strip(form: str, frame: Any) -> Any:
    """Decapsulates a captured frame: (outer IP packet, bytes of the inner packet).

    AssertionError when it is not of the format.
    """
    packet = frame if isinstance(frame, Ether) else Ether(frame)
    ip = packet[IP]
    if form == "ipip":
        if ip.proto not in (4, 41):
            raise AssertionError(f"not IPIP: {packet.summary()}")
        return ip, bytes(ip.payload)[: ip.len - 4 * ip.ihl]
    if ip.proto != 17 or not packet.haslayer(VXLAN):
        raise AssertionError(f"not VXLAN: {packet.summary()}")
    return ip, bytes(packet[VXLAN].payload.payload)


def checksums_valid(packet_bytes: bytes, kind: Any = IP) -> bool:
    """Whether scapy computes the very checksums that the packet has, at every layer."""
    packet = layer = kind(packet_bytes)
    while layer:
        if "chksum" in layer.fields:
            del layer.chksum
        layer = layer.payload
    return bytes(packet) == packet_bytes
