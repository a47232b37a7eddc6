"""scripts/lab in the hands of an ordinary user, uid 1000: all verbs, several labs, and that nothing is left."""

import bootstrap

import os
import pathlib
import re
import signal
import subprocess
import time
import unittest
import xml.etree.ElementTree as xml
from typing import Any

from underpass_lab.command import run, wait_until
from unprivileged import LabCase

MIB = 1 << 20
PORT = 5001


class ThreeNodes(LabCase):
    """The lab of `scripts/lab up`, looked at with every verb."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.user.lab("up")

    def test_all_pairs_answer(self) -> None:
        self.assertIn("6 of 6 pairs of 3 pods answered", self.lab("ping").stdout)

    def test_list_and_status_name_every_node(self) -> None:
        for verb in ("list", "status"):
            text = self.lab(verb).stdout
            for word in ("node-a", "192.0.2.1", "node-b", "192.0.2.2", "node-c", "198.51.100.3"):
                self.assertIn(word, text, verb)

    def test_status_counts_drops(self) -> None:
        self.lab("exec", "pod-a", "ping", "-c", "1", "-W", "1", "10.244.99.1", check=False)
        self.assertRegex(self.lab("status").stdout, r"(?m)^node-a .* no_route=[1-9]")

    def routes(self) -> Any:
        """What the daemon of node-a says where packets go."""
        return self.lab("exec", "node-a", "underpass", "route", "list").stdout

    def test_commands_on_a_node_reach_its_daemon(self) -> None:
        text = self.lab("exec", "node-c", "underpass", "status", "-o", "json").stdout
        self.assertIn('"node": "node-c"', text)
        # CrossSubnet: direct to the neighbour, encapsulated through the router.
        routes = self.routes()
        self.assertRegex(routes, r"10\.244\.2\.0/24 +node-b +direct")
        self.assertRegex(routes, r"10\.244\.3\.0/24 +node-c +vxlan")

    def test_exec_keeps_status_arguments_and_directory(self) -> None:
        done = self.lab("exec", "pod-b", "sh", "-c", 'echo "$1|$PWD"; exit 7', "sh", "a  b", check=False)
        self.assertEqual((done.returncode, done.stdout), (7, "a  b|/\n"))
        done = self.lab("exec", "pod-z", "true", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no 'pod-z'; it has: switch-left, switch-right, router, node-a", done.stderr)

    def test_a_shell_is_in_the_namespace(self) -> None:
        typed = "grep -o '10.244.[0-9]*.2' /proc/net/fib_trie | head -1; exit 3\n"
        done = self.lab("shell", "pod-c", input=typed, check=False)
        self.assertEqual((done.returncode, done.stdout), (3, "10.244.3.2\n"))

    def test_a_capture_shows_the_tunnel_and_ends_whole(self) -> None:
        file = self.user.home / "wire.pcap"
        capture = subprocess.Popen(
            self.user.command("capture", "switch-right", "node-c", "-w", file), stderr=subprocess.PIPE, text=True
        )
        said = ""
        assert capture.stderr
        while "listening" not in said:
            line = capture.stderr.readline()
            self.assertTrue(line, said)
            said += line
        self.lab("exec", "pod-a", "ping", "-c", "5", "-i", "0.05", "10.244.3.2")
        capture.send_signal(signal.SIGINT)
        self.assertEqual(capture.wait(10), 0, capture.stderr.read())
        capture.stderr.close()
        frames = run("tcpdump", "-n", "-r", file, "udp dst port 4789 and udp[28:2] = 0x0800 and udp[39] = 1").stdout
        self.assertEqual(len(re.findall(r"192\.0\.2\.1\.\d+ > 198\.51\.100\.3\.4789: VXLAN", frames)), 5, frames)

    def test_the_graph_is_xml_with_every_name(self) -> None:
        file = self.user.home / "picture.svg"
        self.lab("graph", "-o", file)
        root = xml.parse(file).getroot()
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        self.assertLessEqual(
            {
                "node-a",
                "node-b",
                "node-c",
                "pod-a",
                "pod-b",
                "pod-c",
                "router",
                "switch-left",
                "switch-right",
                "192.0.2.1",
                "10.244.3.2",
            },
            texts,
        )

    def test_another_mode_by_configuration_with_restart_and_reload(self) -> None:
        file = self.lab("config", "node-a", "Always", "Never").stdout.strip()
        self.assertIn('ipip_mode = "Always"', pathlib.Path(file).read_text(encoding="utf-8"))
        self.lab("restart", "node-a")
        self.assertRegex(self.routes(), r"10\.244\.2\.0/24 +node-b +ipip")
        self.assertIn("6 of 6 pairs", self.lab("ping").stdout)
        self.lab("config", "node-a")
        self.lab("exec", "node-a", "underpass", "reload")
        self.assertRegex(self.routes(), r"10\.244\.2\.0/24 +node-b +direct")
        self.assertEqual(self.lab("config", "node-a", "Always", check=False).returncode, 1)
        self.assertIn("pod-a has no daemon; these have: node-a", self.lab("restart", "pod-a", check=False).stderr)

    def test_offloads_of_the_links(self) -> None:
        for word in ("off", "on"):
            self.lab("offloads", word)
            features = self.lab("exec", "node-b", "/usr/sbin/ethtool", "-k", "eth0").stdout
            self.assertIn(f"tcp-segmentation-offload: {word}", features)

    def test_a_name_is_taken_once(self) -> None:
        done = self.lab("up", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is a lab three-nodes already", done.stderr)
        self.assertIn("6 of 6 pairs", self.lab("ping").stdout)


class Topologies(LabCase):
    """Other shipped files."""

    def transfer(self, source: str, target: str, address: str, size: int = 4 * MIB) -> None:
        """A TCP transfer between two pods with the SHA-256 of both ends."""
        script = self.user.home / "tree" / "tools" / "underpass_lab" / "traffic.py"
        receiver = subprocess.Popen(
            self.user.command("exec", target, "/usr/bin/python3", script, "tcp-receive", PORT),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            wait_until(lambda: self.lab("exec", target, "ss", "-Hnlt", f"sport = :{PORT}").stdout, 10, "the receiver")
            sent = self.lab("exec", source, "/usr/bin/python3", script, "tcp-send", address, PORT, size).stdout
            received, _ = receiver.communicate(timeout=60)
        finally:
            receiver.kill()
            receiver.communicate()
        self.assertEqual(sent, received)
        self.assertTrue(sent.startswith(f"{size} "), sent)

    def test_interop_with_the_kernel(self) -> None:
        self.lab("up", "--topology", "interop")
        try:
            self.assertIn("6 of 6 pairs of 3 pods answered", self.lab("ping").stdout)
            self.transfer("pod-1", "pod-3", "10.244.3.2")
            self.transfer("pod-3", "pod-1", "10.244.1.2")
            link = self.lab("exec", "node-3", "ip", "-d", "-s", "link", "show", "vxlan0").stdout
            self.assertIn("vxlan id 42 local 192.0.2.3", link)
            self.assertRegex(self.lab("status").stdout, r"(?m)^node-3 +192\.0\.2\.3 +kernel-vxlan$")
        finally:
            self.lab("down")

    def test_ten_nodes(self) -> None:
        self.lab("up", "--topology", "ten-nodes")
        try:
            self.assertIn("380 of 380 pairs of 20 pods answered", self.lab("ping").stdout)
        finally:
            self.lab("down")

    def test_fifty_nodes(self) -> None:
        self.lab("up", "--topology", "fifty-nodes")
        try:
            self.assertIn("2450 of 2450 pairs of 50 pods answered", self.lab("ping").stdout)
        finally:
            self.lab("down")

    def test_routers_in_a_row_and_a_kernel_behind_them(self) -> None:
        subnets = "".join(
            f'[[subnet]]\nname = "{name}"\ncidr = "192.0.2.{first}/26"\nnodes = {count}\n'
            for name, first, count in (("a", 0, 2), ("b", 64, 1), ("c", 128, 2))
        )
        routers = (
            '[[router]]\nsubnets = ["a", "b"]\nknows_pods = true\n[[router]]\nsubnets = ["c", "b"]\nknows_pods = true\n'
        )
        node = '[[node]]\nname = "node-4"\npods = 3\n[[node]]\nname = "node-5"\ndataplane = "kernel-vxlan"\n'
        for mode in ("CrossSubnet", "Never"):
            text = f'[lab]\nmtu = 9000\n[pool]\nvxlan_mode = "{mode}"\n{subnets}{routers}{node}'
            self.lab("up", "--topology", self.topology(text, "row"))
            try:
                self.assertIn("42 of 42 pairs of 7 pods answered", self.lab("ping").stdout, mode)
                path = self.lab("exec", "node-1", "ping", "-c", "1", "-M", "do", "-s", "8972", "192.0.2.133").stdout
                self.assertIn("ttl=62", path)
            finally:
                self.lab("down")

    def test_loss_and_rate_are_on_the_links(self) -> None:
        file = self.topology("""
            [lab]
            offloads = false
            [pool]
            ipip_mode = "Always"
            [[subnet]]
            cidr = "192.0.2.0/24"
            nodes = ["a1..3"]
            [[node]]
            name = "a3"
            loss = 50
            rate = "20mbit"
        """)
        self.lab("up", "--topology", file, "--name", "bad-links")
        try:
            self.assertIn("rate 20Mbit", self.lab("exec", "a3", "/usr/sbin/tc", "qdisc").stdout)
            self.assertNotIn("tbf", self.lab("exec", "a1", "/usr/sbin/tc", "qdisc").stdout)
            # The search for neighbours shall not be lost.
            for node, far in (("a1", 3), ("a3", 1)):
                entry = (f"192.0.2.{far}", "lladdr", f"02:55:50:00:00:0{far}", "dev", "eth0", "nud", "permanent")
                self.lab("exec", node, "ip", "neighbour", "replace", *entry)
            # Half of the questions and half of the answers: 100 of 400 come back, give or take six deviations.
            pings = ("exec", "a1", "ping", "-q", "-c", "400", "-i", "0.005", "-W", "1")
            text = self.lab(*pings, "192.0.2.3", check=False).stdout
            self.assertTrue(48 <= int(re.findall(r"(\d+) received", text)[0]) <= 152, text)
            self.assertIn("400 received", self.lab(*pings, "192.0.2.2").stdout)
        finally:
            self.lab("down")

    def test_every_shipped_file_is_whole(self) -> None:
        for file in sorted((self.user.home / "tree" / "config" / "lab").glob("*.toml")):
            self.lab("graph", "--topology", file.stem, "-o", self.user.home / "x.svg")
            xml.parse(self.user.home / "x.svg")


class AsRoot(LabCase):
    """The same with root's rights, where no user namespace is needed."""

    def test_as_root(self) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "XDG_RUNTIME_DIR": str(self.user.home),
            "UNDERPASS_BIN": str(self.user.home / "tree" / "bin" / "underpass"),
        }
        tool = self.user.home / "tree" / "scripts" / "lab"
        run(tool, "up", env=environment)
        self.addCleanup(run, tool, "down", "--all", env=environment)
        self.assertEqual(os.readlink(f"/proc/{self.keeper('three-nodes')}/ns/user"), os.readlink("/proc/self/ns/user"))
        self.assertIn("6 of 6 pairs of 3 pods answered", run(tool, "ping", env=environment).stdout)
        run(tool, "down", env=environment)
        self.assertNothingLeft()


class Ends(LabCase):
    """Whatever happens to a lab, `down` leaves nothing, and does not touch another one."""

    def test_two_labs_at_once(self) -> None:
        self.lab("up", "--name", "one")
        self.lab("up", "--name", "two")
        done = self.lab("status", check=False)
        self.assertIn("there are several labs (one, two): say which with --name", done.stderr)
        for name in ("one", "two"):
            self.assertIn("6 of 6 pairs", self.lab("ping", "--name", name).stdout)
        self.assertGreater(len(self.processes()), 6)
        sleeper = subprocess.Popen(self.user.command("exec", "--name", "one", "pod-a", "sleep", "1000"))
        wait_until(lambda: b"sleep\0001000\0" in self.processes(), 5, "sleep in pod-a")
        self.lab("down", "--name", "one")
        self.assertNotEqual(sleeper.wait(5), 0)
        self.assertIn("6 of 6 pairs", self.lab("ping").stdout)
        self.lab("down")
        self.assertNothingLeft()

    def test_down_after_the_keeper_was_killed(self) -> None:
        self.lab("up")
        os.kill(self.keeper("three-nodes"), signal.SIGKILL)
        wait_until(lambda: self.keeper("three-nodes") is None, 5, "the keeper's end")
        self.assertIn("three-nodes: ended; 'scripts/lab down --name three-nodes' removes", self.lab("list").stdout)
        self.assertIn("the keeper of lab three-nodes has ended", self.lab("ping", check=False).stderr)
        self.lab("down")
        self.assertNothingLeft()

    def test_down_after_up_was_killed_half_way(self) -> None:
        for after_s in (0.1, 0.3, 0.6):
            making = subprocess.Popen(
                self.user.command("up", "--topology", "ten-nodes"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            time.sleep(after_s)
            making.kill()
            making.communicate()
            self.lab("down", "--all")
            self.assertNothingLeft()

    def test_an_interrupted_up_leaves_nothing(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            making = subprocess.Popen(
                self.user.command("up", "--topology", "ten-nodes"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            wait_until(lambda: self.root.exists() or making.poll() is not None, 10, "a state directory")
            making.send_signal(number)
            making.communicate(timeout=30)
            if making.returncode == 0:
                self.lab("down")
            self.assertNothingLeft()

    def test_a_lab_that_cannot_be_made_leaves_nothing(self) -> None:
        file = self.topology('[tunnel]\ncolour = "red"\n[[subnet]]\ncidr = "192.0.2.0/24"\nnodes = 1\n')
        done = self.lab("up", "--topology", file, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the daemon of node-1 ended with status 1; it said:", done.stderr)
        self.assertIn("colour", done.stderr)
        self.assertNothingLeft()

    def test_down_without_a_lab(self) -> None:
        self.assertIn("there is no lab", self.lab("down", check=False).stderr)
        self.assertEqual(self.lab("down", "--all").stdout, "")


if __name__ == "__main__":
    unittest.main()
