#!/usr/bin/env python3
"""Writes the seeds of all fuzz targets to fuzz/seeds, built by scapy; run it after a change and commit both.

The framing of each target is described at the head of its file in fuzz/src.
"""

import itertools
import pathlib
import shutil
import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

SEEDS = pathlib.Path(__file__).parent / "seeds"
REPOSITORY = SEEDS.parent.parent
POD1, POD2 = "10.244.1.2", "10.244.2.2"
POD1_V6, POD2_V6 = "fd00:10:244:1::2", "fd00:10:244:2::2"
NODE1, NODE2 = "192.0.2.1", "192.0.2.2"


def write(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def inner(transport, v6=False, **fields):
    """A packet from node 2's pod to node 1's."""
    ip = IPv6(src=POD2_V6, dst=POD1_V6, hlim=63, **fields) if v6 else IP(src=POD2, dst=POD1, ttl=63, **fields)
    return ip / transport


def tcp(sequence=1000, size=40, flags="A", v6=False, **fields):
    segment = TCP(sport=40000, dport=80, seq=sequence, ack=77, flags=flags) / Raw(bytes(range(size)))
    return inner(segment, v6, **({} if v6 else {"flags": "DF"} | fields))


def ipip(packet, **outer):
    fields = {"proto": 41 if packet.version == 6 else 4, "flags": "DF"} | outer
    return bytes(IP(src=NODE2, dst=NODE1, **fields) / Raw(bytes(packet)))


def vxlan(packet, flags=8, vni=4096, kind=None):
    kind = kind or (0x86DD if packet.version == 6 else 0x0800)
    frame = Ether(src="66:00:00:00:00:02", dst="66:00:00:00:00:01", type=kind) / Raw(bytes(packet))
    return bytes(VXLAN(flags=flags, vni=vni)) + bytes(frame)


def receive(data, sender=0, tos=0, segment=0):
    return struct.pack(">BBHH", sender, tos, segment, len(data)) + data


def inner_packets():
    """Name and packets of one batch."""
    udp = UDP(sport=5000, dport=6000) / Raw(b"payload")
    yield "udp", [inner(udp)]
    yield "udp-v6", [inner(udp, v6=True)]
    yield "echo", [inner(ICMP(id=1, seq=2) / Raw(b"ping"))]
    yield "echo-v6", [inner(ICMPv6EchoRequest(id=1, seq=2, data=b"ping"), v6=True)]
    yield "tcp-run", [tcp(1000 + 40 * n) for n in range(4)]
    yield "tcp-run-v6", [tcp(1000 + 40 * n, v6=True) for n in range(3)] + [tcp(1120, 9, "PA", v6=True)]
    yield "tcp-push", [tcp(1000), tcp(1040, 7, "PA"), tcp(1047)]
    yield "udp-run", [inner(UDP(sport=5000, dport=6000) / Raw(bytes([n] * 32)), id=n, flags="DF") for n in range(4)]
    yield "fragments", [inner(udp, flags="MF", id=7), inner(Raw(b"rest"), proto=17, frag=1, id=7)]
    yield "options", [IP(src=POD2, dst=POD1, options=[b"\x94\x04\0\0"]) / udp]
    yield "extension", [inner(IPv6ExtHdrDestOpt() / udp, v6=True)]
    yield "fragment-v6", [inner(IPv6ExtHdrFragment(m=1, id=7) / udp, v6=True)]
    yield "nested-ipip", [inner(IP(src=POD2, dst=POD1) / udp)]
    yield "nested-vxlan", [inner(UDP(sport=50000, dport=4789) / Raw(vxlan(inner(udp))))]
    yield "nested-gre", [inner(Raw(b"\0\0\x08\0"), proto=47)]
    yield "stranger", [IP(src="8.8.8.8", dst=POD1) / udp]
    yield "not-local", [IP(src=POD2, dst="10.244.3.9") / udp]
    yield "marked", [inner(udp, tos=3)]


def partial_tcp(size):
    """A segment whose checksum field holds the sum of its pseudo-header: what a kernel tunnel hands over."""
    packet = bytearray(bytes(tcp(size=0) / Raw(bytes(size))))
    pseudo = packet[12:20] + struct.pack(">HH", 6, len(packet) - 20)
    packet[36:38] = struct.pack(">H", fold(pseudo))
    return IP(bytes(packet))


def fold(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def inbound():
    for name, packets in inner_packets():
        write("inbound_ipip", name, b"\0" + b"".join(receive(ipip(packet)) for packet in packets))
        datagrams = [vxlan(packet) for packet in packets]
        write("inbound_vxlan", name, b"\0" + b"".join(map(receive, datagrams)))
        if len(packets) > 1:
            write("inbound_vxlan", f"{name}-gro", b"\0" + receive(b"".join(datagrams), segment=len(datagrams[0])))
    good = tcp()
    for name, data in (("options", ipip(good, options=[b"\x94\x04\0\0"])), ("ce", ipip(good, tos=3))):
        write("inbound_ipip", f"outer-{name}", b"\0" + receive(data))
    write("inbound_ipip", "unknown", b"\0" + receive(ipip(good), sender=0xC7))
    write("inbound_ipip", "probe", b"\4" + receive(ipip(IP(src=NODE2, dst=NODE1, proto=59, ttl=1))))
    write("inbound_vxlan", "probe", b"\0" + receive(b"underpass probe "))
    write("inbound_vxlan", "wrong-vni", b"\0" + receive(vxlan(good, vni=1)))
    write("inbound_vxlan", "flag-clear", b"\0" + receive(vxlan(good, flags=0)))
    write("inbound_vxlan", "arp", b"\0" + receive(vxlan(good, kind=0x0806)))
    for name, flags in (("plain", 1), ("unmerged", 2), ("unmended", 4)):
        data = b"".join(receive(vxlan(tcp(1000 + 40 * n))) for n in range(3))
        write("inbound_vxlan", f"three-{name}", bytes([flags]) + data)
    uncut = vxlan(partial_tcp(3000))
    write("inbound_vxlan", "uncut", b"\0" + receive(uncut))
    write("inbound_vxlan", "uncut-plain", b"\1" + receive(uncut, segment=1400))
    write("inbound_ipip", "uncut", b"\0" + receive(ipip(partial_tcp(3000))))


def read(packet, gso_type=0, size=0, needs=0, start=0, offset=0):
    data = bytes(packet)
    return struct.pack("<BBHHHH", needs, gso_type, start + 20, size, start, offset) + struct.pack(">H", len(data)) + data


def outbound():
    udp = UDP(sport=5000, dport=6000) / Raw(b"payload")

    def packet(transport, v6=False, **fields):
        ip = IPv6(src=POD1_V6, dst=POD2_V6, **fields) if v6 else IP(src=POD1, dst=POD2, **fields)
        return ip / transport

    stream = TCP(sport=40000, dport=80, seq=7, flags="PA") / Raw(bytes(3000))
    datagrams = UDP(sport=5000, dport=6000) / Raw(bytes(2000))
    cases = {
        "udp": read(packet(udp)),
        "udp-v6": read(packet(udp, v6=True)),
        "partial": read(packet(udp), needs=1, start=20, offset=6),
        "tso": read(packet(stream), 1, 1000, 1, 20, 16),
        "tso-v6": read(packet(stream, v6=True), 4, 1000, 1, 40, 16),
        "tso-ecn": read(packet(stream, tos=2), 0x81, 1000, 1, 20, 16),
        "uso": read(packet(datagrams), 5, 700, 1, 20, 6),
        "uso-v6": read(packet(datagrams, v6=True), 5, 700, 1, 40, 6),
        "too-big": read(packet(Raw(bytes(1600)))),
        "spoofed": read(IP(src="8.8.8.8", dst=POD2) / udp),
        "no-route": read(IP(src=POD1, dst="10.244.9.9") / udp),
        "multicast": read(IP(src=POD1, dst="224.0.0.1") / udp),
        "loop": read(IP(src=POD1, dst=NODE2) / udp),
        "nested": read(packet(IP(src=POD1, dst=POD2) / udp)),
        "several": read(packet(udp)) * 3 + read(packet(stream), 1, 1000, 1, 20, 16),
    }
    for (name, data), flags in itertools.product(cases.items(), range(8)):
        # Each case once, and each mode with and without the fast paths by a few of them.
        if flags == sum(name.encode()) % 8 or name in ("tso", "uso"):
            write("tun_read", f"{name}-{flags}", bytes([flags]) + data)


def offload():
    for flags in range(16):
        head = struct.pack(">BBHHB4s", flags, 3, 999, 4000, 0x08, b"\0\xff\xff\xf0")
        write("split_merge", f"clean-{flags}", head)
    tail = struct.pack(">BBHHB4s", 8, 3, 99, 1050, 0, bytes(4))
    write("split_merge", "short-tail", tail)
    for name, at in (("tos", 1), ("id", 5), ("ttl", 8), ("port", 21), ("sequence", 27), ("flags", 33), ("payload", 60)):
        write("split_merge", f"damage-{name}", tail + bytes([4, at, 0x5A]))


def configuration():
    for file in (REPOSITORY / "config").glob("*.toml"):
        write("config", file.stem, file.read_bytes())
    write("config", "errors", b'[node]\nname = ""\naddress = "192.0.2.1/33"\n[[peer]]\nname = 7\nnonsense = true\n')
    write("config", "loop", b'[node]\nname = "a"\naddress = "192.0.2.1/24"\n[[pool]]\ncidr = "192.0.0.0/16"\n')
    write("config", "dual", b"""[node]
name = "a"
address = "192.0.2.1/24"
[local]
subnets = ["fd00:1::/64", "10.1.0.0/24"]
[[peer]]
name = "b"
address = "192.0.2.2"
subnets = ["10.2.0.0/24", "fd00:2::/64"]
vtep_mac = "66:0a:1b:2c:3d:4e"
""")


def policy():
    document = (REPOSITORY / "docs" / "policy.md").read_text()
    blocks = [block.split("\n```")[0] for block in document.split("\n```yaml\n")[1:]]
    for name, block in zip(("kubernetes", "namespace", "calico"), blocks, strict=True):
        write("policy", name, block.encode() + b"\n")
    write("policy", "pods", b"""kind: List
items:
- &pod
  apiVersion: v1
  kind: Pod
  metadata: {name: a, namespace: shop, labels: {app: web}}
  spec: {serviceAccountName: sa, containers: [{ports: [{name: http, containerPort: 80}]}]}
  status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
- <<: *pod
  metadata: {name: b, namespace: shop, labels: {app: db}}
  status: {podIP: 10.0.0.2}
- apiVersion: projectcalico.org/v3
  kind: NetworkPolicy
  metadata: {name: p, namespace: shop}
  spec:
    selector: app == 'db' && !has(x)
    types: [Ingress, Egress]
    ingress:
    - {action: Allow, protocol: TCP, source: {notSelector: app != 'web'}, destination: {ports: [80, '90:99', http]}}
    - {action: Deny, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16]}}
""")
    write("policy", "set.json", b'{"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",'
          b' "metadata": {"name": "s", "labels": {"a": "b"}}, "spec": {"nets": ["192.0.2.0/24"]}}\n')


def control():
    def request(target, method="GET", extra="", body=""):
        return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{extra}\r\n{body}".encode()

    for name in ("status", "routes", "drops", "nonsense"):
        write("control", name, request(f"/v1/{name}"))
    for name, query in (
        ("all", ""),
        ("drops", "point=drop,device&count=1&snaplen=96"),
        ("filter", "filter=host%2010.244.2.7%20and%20not%20(tcp%20or%20port%2053)"),
        ("wrong", "point=nowhere&snaplen=0&filter=host"),
    ):
        write("control", f"capture-{name}", request(f"/v1/capture?{query}"))
    for name, address in (("v4", "10.244.2.9"), ("v6", "fd00::1"), ("bad", "%zz"), ("none", "")):
        write("control", f"get-{name}", request(f"/v1/routes/get?address={address}"))
    write("control", "post", request("/v1/routes", "POST", "Content-Length: 2\r\n", "{}"))
    chunked = "Transfer-Encoding: chunked\r\n"
    write("control", "chunked", request("/v1/routes", "POST", chunked, "2\r\n{}\r\n0\r\n\r\n"))
    write("control", "old", b"GET /v1/status HTTP/1.0\r\n\r\n")
    write("control", "bare", b"GET /v1/status\r\n\r\n")


def capture_filter():
    packets = {"ipip": ipip(tcp()), "v6": bytes(tcp(v6=True))}
    packets["vxlan"] = bytes(IP(src=NODE2, dst=NODE1) / UDP(sport=50000, dport=4789) / Raw(vxlan(tcp())))
    filters = ("host 10.244.1.2 and tcp", "not (net fd00::/8 or port 80)", "proto 47 or icmp6 and not gre")
    for (name, packet), (index, text) in itertools.product(packets.items(), enumerate(filters)):
        write("capture_filter", f"{name}-{index}", text.encode() + b"\n" + packet)


if __name__ == "__main__":
    shutil.rmtree(SEEDS, ignore_errors=True)
    for make in (inbound, outbound, offload, configuration, policy, control, capture_filter):
        make()
    print(f"{sum(1 for file in SEEDS.rglob('*') if file.is_file())} seeds")
