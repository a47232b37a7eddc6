"""W5 and docs/interop.md: kernel VXLAN devices that ask for our end, and the recipes as they are written there."""

import bootstrap

import json
import re
from typing import Any

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from fast import MIB
from shared import METRICS, SharedLab
from silent import SilentPeer
from tunnel import VNI, VXLAN_PORT, outer_vxlan, strip
from underlay6 import A6, B6, SixLab
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, KERNEL_VNI, NodeLab, pod_address
from underpass_lab.paths import REPO
from underpass_lab.vtep import vtep_mac

A, B = pod_address("n1"), pod_address("n2")


def neighbours(lab: NodeLab, node: str, device: str) -> dict[str, Any]:
    """{address: (link address, states)} of a device's neighbour table."""
    entries = json.loads(run("ip", "-n", lab.ns(node), "-j", "neighbour", "show", "dev", device).stdout or "[]")
    return {entry["dst"]: (entry.get("lladdr"), entry["state"]) for entry in entries}


class Recipes(SharedLab):
    """The recipes: underpass on n1, the kernel on n2."""

    daemons = ()

    def recipe(self, title: str) -> tuple[Any, Any]:
        """(configuration, shell commands) of a section of the document."""
        text = (REPO / "docs" / "interop.md").read_text(encoding="utf-8")
        (section,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.S | re.M)
        (config,), (commands,) = (
            re.findall(rf"^```{kind}\n(.*?)^```", section, re.S | re.M) for kind in ("toml", "sh")
        )
        return config, commands

    def try_recipe(self, title: str, device: str, asks: int) -> None:
        config, commands = self.recipe(title)
        self.lab.exec("n2", "sh", "-e", "-c", commands)
        self.addCleanup(self.lab.ip, "n2", f"link del {device}")
        self.addCleanup(self.stop, "n1")
        text = f'{config}\n[control]\nsocket = "{self.lab.dir}/n1.sock"\n{METRICS}'
        self.lab.start_daemon("n1", config_text=text)
        # From the far end first: whoever asks has to ask now.
        self.assertEqual(self.lab.ping("podB", A, count=5), 5)
        self.assertEqual(self.lab.ping("podA", B, "-s", 1400, count=5), 5)
        self.assertEqual(self.lab.ping("n2", A, count=3), 3, "from the host itself")
        for source, target, address in (("podA", "podB", B), ("podB", "podA", A)):
            self.lab.tcp_transfer(source, target, address, 16 * MIB)
        (link,) = json.loads(run("ip", "-n", self.lab.ns("n2"), "-s", "-j", "link", "show", device).stdout)
        errors = [link["stats64"][way][kind] for way in ("rx", "tx") for kind in ("errors", "dropped")]
        self.assertEqual(errors, [0] * 4)
        self.assertEqual({reason: n for reason, n in self.lab.drops("n1").items() if n}, {})
        address, states = neighbours(self.lab, "n2", device)["10.244.1.0"]
        self.assertEqual(address, vtep_mac("n1"))
        self.assertEqual(self.lab.status("n1")["tunnel"]["vtep_mac"], vtep_mac("n1"))
        self.assertEqual("PERMANENT" not in states, asks, states)

    def test_w5_a_kernel_device_without_entries(self) -> None:
        self.try_recipe("A kernel VXLAN device", "vx0", asks=True)

    def test_calico(self) -> None:
        self.try_recipe("Calico, VXLAN", "vxlan.calico", asks=False)

    def test_flannel(self) -> None:
        self.try_recipe("flannel, VXLAN", "flannel.1", asks=False)


class Solicitations(SixLab):
    """W5 over IPv6, inside and out."""

    daemons = ("n1",)
    mode = "vxlan"

    def test_w5_a_kernel_device_without_entries(self) -> None:
        self.lab.ip(
            "n2",
            f"link add vx0 address {vtep_mac('n2')} type vxlan id 4096 dstport {VXLAN_PORT}"
            " local 2001:db8::2 remote 2001:db8::1",
            "link set vx0 mtu 1430 up",
            "address add 10.244.2.0/32 dev vx0",
            "address add fd00:244:2::/128 dev vx0 nodad",
            "route add 10.244.1.0/24 via 10.244.1.0 dev vx0 onlink",
            "route add fd00:244:1::/64 via fd00:244:1:: dev vx0 onlink",
        )
        self.assertEqual(self.lab.ping("podB", A6, count=5), 5)
        self.assertEqual(self.lab.ping("podB", A, count=5), 5)
        self.assertEqual(self.lab.ping("podA", B6, count=5), 5)
        self.lab.tcp_transfer("podB", "podA", A, 4 * MIB)
        found = neighbours(self.lab, "n2", "vx0")
        for address in ("fd00:244:1::", "10.244.1.0"):
            self.assertEqual(found[address][0], vtep_mac("n1"), found)
            self.assertNotIn("PERMANENT", found[address][1])


class Questions(SilentPeer):
    """What is answered, byte by byte, and what is not."""

    config = {"ipip": "Never", "vxlan": "Always", "tunnel": {"workers": 1}}
    ASKER = "02:00:00:00:00:77"

    def ask(self, packet: Any) -> Any:
        """The VXLAN datagram with this question."""
        frame = Ether(src=self.ASKER, dst="ff:ff:ff:ff:ff:ff") / packet
        return outer_vxlan(bytes(VXLAN(flags=8, vni=self.vni)) + bytes(frame))

    vni = VNI

    def answers(self, question: Any) -> Any:
        """The frame inside the answer to a question."""
        wire = self.tap("n2", "eth0")
        with self.moves("n1"):
            self.inject([question])
            frames = wait_until(lambda: [f for f in wire.incoming() if f[12:14] == b"\x08\x00"], 3, "an answer")
        self.assertEqual(len(frames), 1)
        ip, _ = strip("vxlan", frames[0])
        self.assertEqual((ip.src, ip.dst, ip.dport), (ADDRESSES["n1"], ADDRESSES["n2"], VXLAN_PORT))
        # The option with an address makes an advertisement longer than the shortest question.
        self.assertLessEqual(len(frames[0]), len(bytes(question)) + 14 + 8, "no amplification")
        frame = ip[VXLAN].payload
        self.assertEqual((frame.src, frame.dst), (vtep_mac("n1"), self.ASKER))
        return frame

    def all_dropped(self, cases: Any) -> None:
        wire = self.tap("n2", "eth0")
        for what, (question, reason) in cases.items():
            with self.subTest(what), self.moves("n1", underlay_rx=1, **{reason: 1}):
                self.inject([question])
        self.assertEqual([f for f in wire.incoming() if f[12:14] == b"\x08\x00"], [])


class Arp(Questions):
    def arp(self, **fields: Any) -> Any:
        values = {"op": 1, "hwsrc": self.ASKER, "psrc": "10.244.2.0", "pdst": "10.244.1.0"} | fields
        return self.ask(ARP(**values))

    def test_a_question_about_our_address_is_answered(self) -> None:
        reply = self.answers(self.arp())[ARP]
        self.assertEqual((reply.op, reply.hwsrc, reply.psrc), (2, vtep_mac("n1"), "10.244.1.0"))
        self.assertEqual((reply.hwdst, reply.pdst), (self.ASKER, "10.244.2.0"))

    def test_others_are_dropped(self) -> None:
        stranger = self.arp()
        stranger.src = "192.0.2.99"
        self.vni = KERNEL_VNI
        foreign = self.arp()
        self.vni = VNI
        self.all_dropped({
            "another address": (self.arp(pdst="10.244.1.2"), "unsupported"),
            "from an address that is not the peer's": (self.arp(psrc="10.244.3.0"), "unsupported"),
            "a probe without an address": (self.arp(psrc="0.0.0.0"), "unsupported"),
            "a reply": (self.arp(op=2), "unsupported"),
            "a stranger": (stranger, "unknown_peer"),
            "another network": (foreign, "bad_vni"),
        })  # fmt: skip

    def test_a_flood_is_answered_in_part(self) -> None:
        wire = self.tap("n2", "eth0")
        before = self.lab.drops("n1")["unsupported"]
        self.inject([self.arp()] * 2000)

        def accounted() -> Any:
            answered = len([f for f in wire.incoming() if f[12:14] == b"\x08\x00"])
            refused = self.lab.drops("n1")["unsupported"] - before
            return answered + refused == 2000 and answered

        self.assertLess(wait_until(accounted, 10, "an end for each question"), 1500)


class Solicit(Questions):
    options = {"ipv6": True}
    multicast_reports = True
    config = {
        "local": ["10.244.1.0/24", "fd00:244:1::/64"],
        "peers": {"n2": (ADDRESSES["n2"], ["10.244.2.0/24", "fd00:244:2::/64"])},
        "pools": [("10.244.0.0/16", "Never", "Always"), ("fd00:244::/32", "Never", "Always")],
        "tunnel": {"workers": 1},
    }

    def solicit(self, source: str = "fd00:244:2::", target: str = "fd00:244:1::", hlim: int = 255) -> Any:
        return self.ask(IPv6(src=source, dst="ff02::1:ff00:0", hlim=hlim) / ICMPv6ND_NS(tgt=target))

    def test_a_question_about_our_address_is_answered(self) -> None:
        for source in ("fd00:244:2::", "fe80::77"):
            packet = self.answers(self.solicit(source))[IPv6]
            advert = packet[ICMPv6ND_NA]
            self.assertEqual((packet.src, packet.dst, packet.hlim), ("fd00:244:1::", source, 255))
            self.assertEqual((advert.S, advert.O, advert.tgt), (1, 1, "fd00:244:1::"))
            self.assertEqual(advert[ICMPv6NDOptDstLLAddr].lladdr, vtep_mac("n1"))

    def test_others_are_dropped(self) -> None:
        self.all_dropped({
            "another address": (self.solicit(target="fd00:244:1::2"), "not_local"),
            "from another network's address": (self.solicit(source="fd00:244:3::"), "spoofed_source"),
            "through a router": (self.solicit(hlim=64), "not_local"),
        })  # fmt: skip
