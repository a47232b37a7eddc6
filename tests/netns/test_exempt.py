"""P10: nodes inside a pool are exempt from it, addresses move between nodes without a restart, and an underlay may be
too narrow for IPv6."""

import bootstrap

import re
import socket
import subprocess
from typing import Any

from scapy.layers.inet import IP, UDP

from fast import BOTH_WAYS, MIB, bulk
from shared import METRICS, SharedLab, own_routes
from underlay6 import ADDRESS6, SixLab, receiver
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, PODS, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
FLOATING = "10.9.9.9"


class NodesInAPool(SharedLab):
    """n3 is behind a router: a kernel route for the pool would lead its tunnel packets back into the TUN."""

    topology = "T3"
    POOLS = [
        ("10.244.0.0/16", "Never", "Always"),
        ("198.51.0.0/16", "Never", "Always"),
        ("192.0.0.0/8", "Always", "Never"),
    ]

    def test_nodes_are_exempt(self) -> None:
        subnets = {"n1": "192.168.1.0/24", "n2": "192.168.2.0/24", "n3": "198.51.3.0/24"}
        for node in self.lab.nodes:
            others = [other for other in self.lab.nodes if other != node]
            peers = {other: (ADDRESSES[other], [subnet(other), subnets[other]]) for other in others}
            self.start(node, pools=self.POOLS, peers=peers, local=[subnet(node), subnets[node]])
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16", "192.168.2.0/24", "198.51.3.0/24"])
        for target in (B, C):
            self.assertEqual(self.lab.ping("podA", target, count=3), 3, target)
        # Pods reach the nodes as ever, over the underlay, and nothing of that passes the tunnel.
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("n1", ADDRESSES["n3"], count=2), 2)
        self.lab.ip("podC", "address add 198.51.3.2/32 dev lo")
        self.lab.ip("n3", f"route add 198.51.3.0/24 via {C}")
        self.assertEqual(self.lab.ping("podA", "198.51.3.2", count=3), 3, "a pod inside such a pool")
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", "198.51.3.2")["next_hops"][0]["mode"], "vxlan")

    def test_s8_a_packet_to_a_node_that_comes_by_the_tun_ends_there(self) -> None:
        self.restart(pools=self.POOLS)
        for target in (ADDRESSES["n2"], ADDRESSES["n3"]):
            self.lab.ip("n1", f"route add {target}/32 dev up0")
            self.addCleanup(self.lab.ip, "n1", f"route del {target}/32 dev up0")
            with self.moves("n1", device_rx=10, no_route=10):
                self.lab.ping("podA", target, "-i", "0.05", "-W", "0.2", count=10)

    def test_s8_an_address_of_this_host_inside_the_subnet_of_a_peer(self) -> None:
        """No pod of the peer has it, so what is for it and comes by the TUN is sent to nobody."""
        self.restart()
        address = "10.244.2.9"
        self.lab.ip("n1", f"address add {address}/32 dev eth0")
        self.addCleanup(self.lab.ip, "n1", f"address del {address}/32 dev eth0")
        # Else the kernel would keep the packets to itself.
        self.lab.ip("n1", f"route del local {address} dev eth0 table local")
        packet = IP(src=A, dst=address) / UDP(sport=7, dport=9)

        counters = self.counters("n1")

        def loops() -> bool:
            before = counters.status()
            self.send_from_pod([packet])
            wait_until(lambda: counters.status()["device_rx"] > before["device_rx"], 2, "the packet")
            return counters.status()["loop"] > before["loop"]

        wait_until(loops, 5, "the address to be followed")
        with self.moves("n1", device_rx=10, loop=10):
            self.send_from_pod([packet] * 10)


class Floating(SharedLab):
    """An address that belongs to a pod here and then to one there."""

    def configure(self, owner: str) -> None:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            extra = [f"{FLOATING}/32"]
            local = [subnet(node), *(extra if owner == node else [])]
            peers = {other: (ADDRESSES[other], [subnet(other), *(extra if owner == other else [])])}
            text = self.lab.config(node, local=local, peers=peers)
            (self.lab.dir / f"{node}.toml").write_text(text + METRICS, encoding="utf-8")

    def settle(self, owner: str) -> None:
        """The pod of a node has the address from now on, and the daemons are told."""
        self.configure(owner)
        for node in ("n1", "n2"):
            self.lab.daemons[node].command("reload")
        # Outside of all pools the daemon had a kernel route of that prefix, which goes with the reload.
        wait_until(lambda: FLOATING not in own_routes(self.lab, owner), 3, "no kernel route of the daemon")
        self.lab.ip(PODS[owner], f"address add {FLOATING}/32 dev lo")
        self.lab.ip(owner, f"route add {FLOATING}/32 via {pod_address(owner)}")

    def leave(self, owner: str) -> None:
        self.lab.ip(PODS[owner], f"address del {FLOATING}/32 dev lo")
        self.lab.ip(owner, f"route del {FLOATING}/32")

    def test_local_prefixes_come_and_go_live(self) -> None:
        flow = self.lab.popen("podA", "ping", "-i", "0.01", "-c", "200", B, stdout=subprocess.PIPE)
        for owner, other in (("n2", "n1"), ("n1", "n2")) * 2:
            self.settle(owner)
            wait_until(lambda: self.asks(PODS[other]), 5, f"an answer of the pod of {owner}")
            self.assertEqual(self.lab.daemons[owner].json("route", "get", FLOATING)["source"], "local")
            self.leave(owner)
        said = flow.communicate(timeout=20)[0]
        self.assertRegex(said, r"200 packets transmitted, 200 received", "others lose nothing")
        # What makes the TUN's address takes a restart still.
        file = self.lab.dir / "n1.toml"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"10\.244\.1\.0/24", "10.244.1.128/25", text, count=1))
        refused = self.lab.daemons["n1"].command("reload", check=False)
        self.assertIn("the TUN's address, has changed", refused.stderr)

    def asks(self, pod: str) -> Any:
        return self.lab.ping(pod, FLOATING, "-W", "0.3", count=1) == 1


class Narrow(SixLab):
    """IPv6 pods on an underlay of 1280 bytes, which leaves them less than IPv6 demands of every link: what does not
    fit leaves in fragments of the outer packet, as from the kernel's tunnels."""

    options = {"ipv6": True, "mtu": 1280}
    underlay = "both"
    header = 20
    # In a datagram of 1280 bytes, the longest packet that every link has to carry.
    longest = b"\x5a" * (1280 - 48)

    def test_everything_gets_through_and_the_path_is_shown(self) -> None:
        for mode, overhead in (("vxlan", self.header + 30), ("ipip", self.header)):
            with self.subTest(mode):
                type(self).mode = mode
                self.restart()
                bulk(self.lab, MIB, BOTH_WAYS, addresses=ADDRESS6)
                wire = self.tap("sw", "port-n1")
                for pod, other in BOTH_WAYS:
                    server = receiver(self, other, ADDRESS6[other], 5300)
                    client = self.lab.socket(pod, socket.AF_INET6)
                    self.addCleanup(client.close)
                    for data in (self.longest, self.longest[:100], self.longest[1:]):
                        client.sendto(data, (ADDRESS6[other], 5300))
                        self.assertEqual(server.recv(2000), data)
                    server.close()
                frames = wire.incoming()
                self.assertLessEqual(max(map(len, frames)), 14 + 1280)
                # The first fragments of two datagrams, one of them with all but a byte.
                self.assertEqual(sum(self.begins(frame) for frame in frames), 2)
                self.assertEqual([self.lab.drops(node)["too_big"] for node in ("n1", "n2")], [0, 0])
                missing = self.lab.status("n1")["missing"]
                commands = [one["command"] for one in missing if "IPv6 demands 1280" in one["what"]]
                self.assertEqual(commands, [f"ip link set eth0 mtu {1280 + overhead}"])
                log = self.lab.daemons["n1"].log()
                self.assertIn(f"carries IPv6 packets of {1280 - overhead} bytes by {mode}", log)

    def begins(self, frame: bytes) -> bool:
        """Whether this is the first fragment of an IPv4 packet."""
        return frame[12:14] == b"\x08\x00" and frame[20:22] == b"\x20\x00"


class Narrow6(Narrow):
    """The same over IPv6, where nobody but the sender fragments."""

    underlay = "ipv6"
    header = 40

    def begins(self, frame: bytes) -> bool:
        """Whether the header behind the first one is that of a first fragment (RFC 8200 §4.5)."""
        return frame[12:14] == b"\x86\xdd" and frame[20] == 44 and frame[56:58] == b"\x00\x01"
