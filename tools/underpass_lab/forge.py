"""Sends one hand-made tunnel packet, to show what the daemon lets in.

    forge FORMAT INTERFACE MAC OUTER_SRC OUTER_DST INNER_SRC INNER_DST PORT VNI VTEP_MAC

FORMAT is `ipip` or `vxlan`; inside is a UDP datagram to PORT. MAC is the link-layer destination, VTEP_MAC
the destination of the inner Ethernet header. Built by scapy, so that the packet owes nothing to the
code under test.
"""

import sys

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw
from scapy.sendrecv import sendp


def main() -> None:
    try:
        layout, interface, mac, outer_src, outer_dst, inner_src, inner_dst, port, vni, vtep_mac = sys.argv[1:]
    except ValueError:
        sys.exit(__doc__)
    outer = Ether(dst=mac) / IP(src=outer_src, dst=outer_dst)
    inner = IP(src=inner_src, dst=inner_dst) / UDP(sport=4000, dport=int(port)) / Raw(b"forged")
    if layout == "vxlan":
        outer /= UDP(sport=50000, dport=4789) / VXLAN(vni=int(vni)) / Ether(dst=vtep_mac, src="66:00:00:00:00:01")
    elif layout != "ipip":
        sys.exit(f"unknown format {layout}")
    sendp(outer / inner, iface=interface, verbose=False)
    print(f"sent {len(outer / inner)} bytes")


if __name__ == "__main__":
    main()
