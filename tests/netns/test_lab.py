"""The lab itself: what the other namespace tests build on has to hold before they can tell anything."""

import bootstrap

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import tomllib
import unittest
from typing import Any
from unittest import mock

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from cases import LabTestCase
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, KERNEL_VNI, NodeLab, pod_address
from underpass_lab.paths import PYTHON
from underpass_lab.vtep import vtep_mac


def namespaces(process: Any = None) -> set[Any]:
    """The namespaces of labs that a process has made, by default this one: others may run tests too."""
    names = {entry["name"] for entry in json.loads(run("ip", "-j", "netns", "list").stdout or "[]")}
    return {name for name in names if name.startswith(f"up{process or os.getpid()}x")}


class T2(LabTestCase):
    def test_nodes_reach_each_other_and_pods_do_not(self) -> None:
        self.assertEqual(self.lab.ping("n1", ADDRESSES["n2"]), 3)
        self.assertEqual(self.lab.ping("podA", "10.244.1.1"), 3)
        self.assertEqual(self.lab.ping("podA", pod_address("n2"), count=1), 0)

    def test_a_sent_frame_is_captured_byte_for_byte(self) -> None:
        packet = IP(src="192.0.2.1", dst="192.0.2.2", ttl=7) / UDP(sport=1, dport=2) / Raw(bytes(range(256)))
        frame = self.lab.frame("n1", "n2", packet)
        with self.lab.capture("sw", "port-n2", "udp") as capture:
            self.lab.send("n1", "eth0", [frame, frame])
            seen = capture.wait(2)
        self.assertEqual([bytes(packet) for packet in seen], [bytes(frame)] * 2)
        self.assertEqual([bytes(packet) for packet in capture.packets()], [bytes(frame)] * 2)

    def test_a_capture_that_saw_nothing_is_empty(self) -> None:
        with self.lab.capture("sw", "port-n2", "icmp") as capture:
            self.assertEqual(capture.packets(), [])
            with self.assertRaisesRegex(AssertionError, "1 frames: not within 0.1 s"):
                capture.wait(1, timeout=0.1)
        self.assertEqual(capture.packets(), [])

    def test_sockets_of_this_process_live_in_the_namespace(self) -> None:
        with self.lab.socket("n2") as server, self.lab.socket("n1") as client:
            server.settimeout(2)
            server.bind(("192.0.2.2", 7))
            client.sendto(b"hello", ("192.0.2.2", 7))
            data, (source, _) = server.recvfrom(100)
        self.assertEqual((data, source), (b"hello", "192.0.2.1"))

    def test_a_transfer_compares_both_ends(self) -> None:
        self.lab.tcp_transfer("n1", "n2", ADDRESSES["n2"], 5_000_000)

    def test_underlay_links_carry_frames_of_wire_size(self) -> None:
        with self.lab.capture("sw", "port-n1", "tcp") as capture:
            self.lab.tcp_transfer("n1", "n2", ADDRESSES["n2"], 200_000)
        self.assertEqual(max(len(packet) for packet in capture.packets()), 1514)
        self.lab.offloads("n1", "eth0", on=True)
        features = self.lab.exec("n1", "ethtool", "-k", "eth0").stdout
        self.assertIn("tcp-segmentation-offload: on", features)

    def test_a_stranger_can_be_added(self) -> None:
        self.lab.add_host("x", "192.0.2.66/24")
        self.assertEqual(self.lab.ping("x", ADDRESSES["n1"]), 3)

    def test_a_daemon_that_fails_is_reported_with_what_it_said(self) -> None:
        with (
            mock.patch.dict(os.environ, UNDERPASS_BIN="/bin/ls"),
            self.assertRaisesRegex(AssertionError, "n1 does not answer(.|\n)*unrecognized option '--config'"),
        ):
            self.lab.start_daemon("n1")

    def test_failed_commands_name_themselves(self) -> None:
        with self.assertRaisesRegex(AssertionError, "ls /nowhere: status 2"):
            self.lab.exec("n1", "ls", "/nowhere")
        with self.assertRaisesRegex(AssertionError, "the moon: not within 0.05 s"):
            wait_until(lambda: False, 0.05, "the moon")


class T3(LabTestCase):
    topology = "T3"

    def test_the_router_joins_the_two_subnets(self) -> None:
        with self.lab.capture("R", "eth1", "icmp") as capture:
            self.assertEqual(self.lab.ping("n1", ADDRESSES["n3"]), 3)
        self.assertEqual({packet[IP].ttl for packet in capture.packets()}, {63, 64})
        self.assertEqual(self.lab.ping("podC", pod_address("n1"), count=1), 0)


class SmallMtu(LabTestCase):
    options = {"mtu": 1400}

    def test_the_underlay_has_the_mtu_asked_for(self) -> None:
        self.assertEqual(self.lab.ping("n1", ADDRESSES["n2"], "-M", "do", "-s", 1372, count=1), 1)
        self.assertEqual(self.lab.ping("n1", ADDRESSES["n2"], "-M", "do", "-s", 1373, count=1), 0)


class TS(LabTestCase):
    topology = "TS"

    def test_n2_receives_and_says_nothing(self) -> None:
        with self.lab.capture("n2", "eth0") as capture:
            self.assertEqual(self.lab.ping("n1", ADDRESSES["n2"], count=2), 0)
        mac = self.lab.mac("n2", "eth0")
        self.assertEqual([(packet.dst, packet[ICMP].type) for packet in capture.packets()], [(mac, 8)] * 2)


class TK(LabTestCase):
    topology = "TK"

    def test_the_kernel_encapsulates_for_n1(self) -> None:
        with self.lab.capture("sw", "port-n1", "udp port 4789") as capture:
            self.lab.ping("podB", pod_address("n1"), count=1)
        (packet,) = capture.packets()
        self.assertEqual((packet[IP].src, packet[IP].dst), ("192.0.2.2", "192.0.2.1"))
        self.assertEqual((packet[VXLAN].vni, packet[VXLAN].flags), (KERNEL_VNI, 8))
        inner = packet[VXLAN].payload
        self.assertEqual((inner.src, inner.dst), (vtep_mac("n2"), vtep_mac("n1")))
        self.assertEqual((inner[IP].src, inner[IP].dst), (pod_address("n2"), pod_address("n1")))

    def test_the_kernel_decapsulates_what_n1_sends(self) -> None:
        inner = IP(src=pod_address("n1"), dst=pod_address("n2")) / UDP(sport=9, dport=9) / Raw(b"inside")
        outer = IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=50000, dport=4789) / VXLAN(vni=KERNEL_VNI, flags=8)
        ethernet = Ether(src=vtep_mac("n1"), dst=vtep_mac("n2"))
        with self.lab.capture("podB", "eth0", "udp") as capture:
            self.lab.send("n1", "eth0", self.lab.frame("n1", "n2", outer / ethernet / inner))
            (packet,) = capture.wait(1)
        self.assertEqual(packet[Raw].load, b"inside")


class Cleanup(unittest.TestCase):
    def test_two_labs_do_not_meet_and_leave_nothing(self) -> None:
        before = namespaces()
        with NodeLab("T3") as first, NodeLab("T2") as second:
            sleeper = first.popen("podC", "sleep", "1000")
            stray = first.popen("podA", "sh", "-c", "trap '' TERM; sleep 1000 & echo $!; wait", stdout=subprocess.PIPE)
            assert stray.stdout
            stray_child = int(stray.stdout.readline())
            self.assertEqual(second.ping("n1", ADDRESSES["n2"]), 3)
            directory = first.dir
            first.close()
            self.assertEqual(second.ping("n1", ADDRESSES["n2"]), 3)
        self.assertEqual(namespaces(), before)
        self.assertEqual(sleeper.returncode, -signal.SIGTERM)
        self.assertEqual(stray.returncode, -signal.SIGKILL)
        wait_until(lambda: not pathlib.Path(f"/proc/{stray_child}/cmdline").exists(), 2, "the end of the stray")
        self.assertFalse(directory.exists())

    def test_a_lab_that_cannot_be_made_leaves_nothing(self) -> None:
        before = namespaces()
        with self.assertRaisesRegex(AssertionError, "mtu"), NodeLab("T2", mtu=1):
            self.fail("a link with an MTU of 1 was made")
        self.assertEqual(namespaces(), before)

    def test_an_ended_test_process_leaves_nothing(self) -> None:
        program = "import bootstrap, sys; from underpass_lab.nodes import NodeLab"
        program += "; l = NodeLab('T2').__enter__(); print(l.id, flush=True); sys.stdin.read()"
        for number in (signal.SIGTERM, signal.SIGINT):
            process = subprocess.Popen(
                [PYTHON, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=pathlib.Path(bootstrap.__file__).parent,
                text=True,
            )
            assert process.stdout
            lab_id = process.stdout.readline().strip()
            self.assertIn(f"{lab_id}-podA", namespaces(process.pid))
            process.send_signal(number)
            process.communicate(timeout=30)
            self.assertEqual(namespaces(process.pid), set())
            self.assertEqual(list(pathlib.Path(tempfile.gettempdir()).glob(f"{lab_id}-*")), [])


class Values(unittest.TestCase):
    def test_vtep_mac_is_calicos(self) -> None:
        # printf %s n1 | sha1sum: 40b3eab63f3f…
        self.assertEqual(vtep_mac("n1"), "66:40:b3:ea:b6:3f")

    def test_the_configuration_is_what_was_asked_for(self) -> None:
        with NodeLab("TS") as lab:
            text = lab.config("n1", vxlan="CrossSubnet", ipip="Never", port=8472, vni=7, tunnel={"mtu": 1400})
            directory = lab.dir
        self.assertEqual(
            tomllib.loads(text),
            {
                "node": {"name": "n1", "address": "192.0.2.1/24"},
                "tunnel": {"mtu": 1400},
                "vxlan": {"port": 8472, "vni": 7},
                "local": {"subnets": ["10.244.1.0/24"]},
                "control": {"socket": str(directory / "n1.sock")},
                "pool": [
                    {
                        "cidr": "10.244.0.0/16",
                        "ipip_mode": "Never",
                        "vxlan_mode": "CrossSubnet",
                        "nat_outgoing": False,
                        "verify": False,
                    }
                ],
                "peer": [
                    {"name": "n2", "address": "192.0.2.2", "subnets": ["10.244.2.0/24"]},
                    {"name": "n3", "address": "198.51.100.3", "subnets": ["10.244.3.0/24"]},
                ],
            },
        )


if __name__ == "__main__":
    unittest.main()
