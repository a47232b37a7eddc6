"""scripts/lab in the hands of an ordinary user, uid 1000: all verbs, several labs, and that nothing is left."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types
import unittest
import xml.etree.ElementTree as xml

from command import run, wait_until
from daemon import REPO
from rootless import NO_TUN, UserLabs, as_user

# Behind everything else: the engine has a module of the same name as one here.
sys.path.append(str(REPO / "scripts" / "lab.d"))

import parent  # noqa: E402 (the path comes first)

MIB = 1 << 20
PORT = 5001


class LabCase(unittest.TestCase):
    """Each class has a home directory and is left without a lab."""

    @classmethod
    def setUpClass(cls):
        cls.user = cls.enterClassContext(UserLabs())
        cls.root = cls.user.home / "underpass-lab"

    def lab(self, *words, **options):
        return self.user.lab(*words, **options)

    def topology(self, text, name="mine"):
        file = self.user.home / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        return file

    def keeper(self, name):
        """The pid of process 1 of a lab."""
        command = b"keeper.py\0" + os.fsencode(self.root / name) + b"\0"
        for process in pathlib.Path("/proc").iterdir():
            try:
                line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
            except OSError:
                continue
            if line.endswith(command) and b"python" in line.split(b"\0")[0]:
                return int(process.name)
        return None

    def processes(self):
        """What runs in a lab of this home, or serves one; namespaces without a name end with their processes."""
        home, found = os.fsencode(self.user.home), []
        for process in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and home in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes())
        return found

    def assertNothingLeft(self):
        wait_until(lambda: not self.processes(), 10, "the end of all processes")
        self.assertFalse(self.root.exists(), "the state directory")
        self.assertNotIn(str(self.user.home), pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8"))

    def transfer(self, source, target, address, size=4 * MIB):
        """A TCP transfer between two pods with the SHA-256 of both ends."""
        script = self.user.home / "tree" / "scripts" / "traffic.py"
        receiver = subprocess.Popen(
            self.user.command("exec", target, "/usr/bin/python3", script, "tcp-receive", PORT),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: self.lab("exec", target, "ss", "-Hnlt", f"sport = :{PORT}").stdout, 10, "the receiver")
            sent = self.lab("exec", source, "/usr/bin/python3", script, "tcp-send", address, PORT, size).stdout
            received, _ = receiver.communicate(timeout=60)
        finally:
            receiver.kill()
            receiver.communicate()
        self.assertEqual(sent, received)
        self.assertTrue(sent.startswith(f"{size} "), sent)


class ThreeNodes(LabCase):
    """The lab of `scripts/lab up`, looked at with every verb."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.user.lab("up")

    def test_all_pairs_answer(self):
        self.assertIn("6 of 6 pairs of 3 pods answered", self.lab("ping").stdout)

    def test_list_and_status_name_every_node(self):
        for verb in ("list", "status"):
            text = self.lab(verb).stdout
            for word in ("node-a", "192.0.2.1", "node-b", "192.0.2.2", "node-c", "198.51.100.3"):
                self.assertIn(word, text, verb)

    def test_status_counts_drops(self):
        self.lab("exec", "pod-a", "ping", "-c", "1", "-W", "1", "10.244.99.1", check=False)
        self.assertRegex(self.lab("status").stdout, r"(?m)^node-a .* no_route=[1-9]")

    def test_commands_on_a_node_reach_its_daemon(self):
        text = self.lab("exec", "node-c", "underpass", "status", "-o", "json").stdout
        self.assertIn('"node": "node-c"', text)
        # CrossSubnet: direct to the neighbour, encapsulated through the router.
        routes = self.lab("exec", "node-a", "underpass", "route", "list").stdout
        self.assertRegex(routes, r"10\.244\.2\.0/24 +node-b +direct")
        self.assertRegex(routes, r"10\.244\.3\.0/24 +node-c +vxlan")

    def test_exec_keeps_status_arguments_and_directory(self):
        done = self.lab("exec", "pod-b", "sh", "-c", 'echo "$1|$PWD"; exit 7', "sh", "a  b", check=False)
        self.assertEqual((done.returncode, done.stdout), (7, "a  b|/\n"))
        done = self.lab("exec", "pod-z", "true", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no 'pod-z'; it has: switch-left, switch-right, router, node-a", done.stderr)

    def test_a_shell_is_in_the_namespace(self):
        done = self.lab("shell", "pod-c", input="cat /proc/net/fib_trie | grep -o '10.244.[0-9]*.2' | head -1; exit 3\n", check=False)
        self.assertEqual((done.returncode, done.stdout), (3, "10.244.3.2\n"))

    def test_a_capture_shows_the_tunnel_and_ends_whole(self):
        file = self.user.home / "wire.pcap"
        capture = subprocess.Popen(self.user.command("capture", "switch-right", "node-c", "-w", file),
                                   stderr=subprocess.PIPE, text=True)
        said = ""
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

    def test_the_graph_is_xml_with_every_name(self):
        file = self.user.home / "picture.svg"
        self.lab("graph", "-o", file)
        root = xml.parse(file).getroot()
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        self.assertLessEqual({"node-a", "node-b", "node-c", "pod-a", "pod-b", "pod-c", "router", "switch-left",
                              "switch-right", "192.0.2.1", "10.244.3.2"}, texts)

    def test_another_mode_by_configuration_and_restart(self):
        file = self.lab("config", "node-a", "Always", "Never").stdout.strip()
        self.assertIn('ipip_mode = "Always"', pathlib.Path(file).read_text(encoding="utf-8"))
        self.lab("restart", "node-a")
        self.assertRegex(self.lab("exec", "node-a", "underpass", "route", "list").stdout, r"10\.244\.2\.0/24 +node-b +ipip")
        self.assertIn("6 of 6 pairs", self.lab("ping").stdout)
        self.lab("config", "node-a")
        self.lab("restart", "node-a")
        self.assertRegex(self.lab("exec", "node-a", "underpass", "route", "list").stdout, r"10\.244\.2\.0/24 +node-b +direct")
        self.assertEqual(self.lab("config", "node-a", "Always", check=False).returncode, 1)
        self.assertIn("pod-a has no daemon; these have: node-a", self.lab("restart", "pod-a", check=False).stderr)

    def test_offloads_of_the_links(self):
        for word in ("off", "on"):
            self.lab("offloads", word)
            features = self.lab("exec", "node-b", "/usr/sbin/ethtool", "-k", "eth0").stdout
            self.assertIn(f"tcp-segmentation-offload: {word}", features)

    def test_a_name_is_taken_once(self):
        done = self.lab("up", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("there is a lab three-nodes already", done.stderr)
        self.assertIn("6 of 6 pairs", self.lab("ping").stdout)


class Topologies(LabCase):
    """Other shipped files."""

    def test_interop_with_the_kernel(self):
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

    def test_ten_nodes(self):
        self.lab("up", "--topology", "ten-nodes")
        try:
            self.assertIn("380 of 380 pairs of 20 pods answered", self.lab("ping").stdout)
        finally:
            self.lab("down")

    def test_fifty_nodes(self):
        self.lab("up", "--topology", "fifty-nodes")
        try:
            self.assertIn("2450 of 2450 pairs of 50 pods answered", self.lab("ping").stdout)
        finally:
            self.lab("down")

    def test_loss_and_rate_are_on_the_links(self):
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
                self.lab("exec", node, "ip", "neighbour", "replace", f"192.0.2.{far}", "lladdr", f"02:55:50:00:00:0{far}",
                         "dev", "eth0", "nud", "permanent")
            # Half of the questions and half of the answers: 100 of 400 come back, give or take six deviations.
            text = self.lab("exec", "a1", "ping", "-q", "-c", "400", "-i", "0.005", "-W", "1", "192.0.2.3",
                            check=False).stdout
            self.assertTrue(48 <= int(re.search(r"(\d+) received", text)[1]) <= 152, text)
            self.assertIn("400 received", self.lab("exec", "a1", "ping", "-q", "-c", "400", "-i", "0.005", "192.0.2.2").stdout)
        finally:
            self.lab("down")

    def test_every_shipped_file_is_whole(self):
        for file in sorted((self.user.home / "tree" / "config" / "lab").glob("*.toml")):
            self.lab("graph", "--topology", file.stem, "-o", self.user.home / "x.svg")
            xml.parse(self.user.home / "x.svg")


class AsRoot(LabCase):
    """The same with root's rights, where no user namespace is needed."""

    def test_as_root(self):
        environment = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(self.user.home),
                       "UNDERPASS_BIN": str(self.user.home / "tree" / "bin" / "underpass")}
        tool = self.user.home / "tree" / "scripts" / "lab"
        run(tool, "up", env=environment)
        self.addCleanup(run, tool, "down", "--all", env=environment)
        self.assertEqual(os.readlink(f"/proc/{self.keeper('three-nodes')}/ns/user"), os.readlink("/proc/self/ns/user"))
        self.assertIn("6 of 6 pairs of 3 pods answered", run(tool, "ping", env=environment).stdout)
        run(tool, "down", env=environment)
        self.assertNothingLeft()


class Ends(LabCase):
    """Whatever happens to a lab, `down` leaves nothing, and does not touch another one."""

    def test_two_labs_at_once(self):
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

    def test_down_after_the_keeper_was_killed(self):
        self.lab("up")
        os.kill(self.keeper("three-nodes"), signal.SIGKILL)
        wait_until(lambda: self.keeper("three-nodes") is None, 5, "the keeper's end")
        self.assertIn("three-nodes: ended; 'scripts/lab down --name three-nodes' removes", self.lab("list").stdout)
        self.assertIn("the keeper of lab three-nodes has ended", self.lab("ping", check=False).stderr)
        self.lab("down")
        self.assertNothingLeft()

    def test_down_after_up_was_killed_half_way(self):
        for after_s in (0.1, 0.3, 0.6):
            making = subprocess.Popen(self.user.command("up", "--topology", "ten-nodes"), stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
            time.sleep(after_s)
            making.kill()
            making.communicate()
            self.lab("down", "--all")
            self.assertNothingLeft()

    def test_an_interrupted_up_leaves_nothing(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            making = subprocess.Popen(self.user.command("up", "--topology", "ten-nodes"), stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT)
            wait_until(lambda: self.root.exists() or making.poll() is not None, 10, "a state directory")
            making.send_signal(number)
            making.communicate(timeout=30)
            if making.returncode == 0:
                self.lab("down")
            self.assertNothingLeft()

    def test_a_lab_that_cannot_be_made_leaves_nothing(self):
        file = self.topology('[tunnel]\ncolour = "red"\n[[subnet]]\ncidr = "192.0.2.0/24"\nnodes = 1\n')
        done = self.lab("up", "--topology", file, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("the daemon of node-1 ended with status 1; it said:", done.stderr)
        self.assertIn("colour", done.stderr)
        self.assertNothingLeft()

    def test_down_without_a_lab(self):
        self.assertIn("there is no lab", self.lab("down", check=False).stderr)
        self.assertEqual(self.lab("down", "--all").stdout, "")


class Refusals(LabCase):
    """What cannot be done is said with what to change, and nothing is made."""

    def refused(self, *words, **options):
        done = self.lab(*words, check=False, **options)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertFalse(self.root.exists())
        return done.stderr

    def test_every_mistake_of_a_file_is_named_with_its_key(self):
        file = self.topology("""
            [lab]
            mtu = 1
            rate = "fast"
            colour = "red"
            [pool]
            ipip_mode = "always"
            [[subnet]]
            cidr = "192.0.2.0"
            nodes = 2
            [[subnet]]
            name = "b"
            cidr = "10.244.1.0/24"
            nodes = ["node-a", "x y"]
            loss = 0.05
            [[router]]
            subnets = ["nowhere"]
            [[node]]
            name = "node-9"
            dataplane = "ipsec"
            [extra]
        """)
        lines = self.refused("up", "--topology", file).splitlines()
        for key, words in (
            ("lab.mtu", "a number from 576 to 65535, not 1"),
            ("lab.rate", "a rate such as"),
            ("lab.colour", "no such key"),
            ("pool.ipip_mode", "one of Never, CrossSubnet, Always, not 'always'"),
            ("subnet[1].cidr", "not '192.0.2.0'"),
            ("subnet[2].cidr", "overlaps with 10.244.0.0/16"),
            ("subnet[2].nodes", "'x y' is no name"),
            ("subnet[2].loss", "a multiple of 0.1"),
            ("router[1].subnets", "no subnet 'nowhere'; there are: lan1, b"),
            ("node[1].dataplane", "one of underpass, kernel-vxlan"),
            ("extra", "no such section"),
        ):
            found = [line for line in lines if line.startswith(f"error: {file}: {key}: ")]
            self.assertEqual(len(found), 1, (key, lines))
            self.assertIn(words, found[0])

    def test_mistakes_between_sections(self):
        subnet = '[[subnet]]\nname = "{0}"\ncidr = "{1}"\nnodes = ["{2}"]\n'
        a, b = subnet.format("a", "192.0.2.0/24", "n1"), subnet.format("b", "198.51.100.0/24", "n2")
        for text, words in (
            (a + b, "router: no router joins subnet b with a"),
            (a + subnet.format("b", "192.0.2.128/25", "n2") + "[[router]]\n", "subnet[2].cidr: 192.0.2.128/25 overlaps"),
            (a + subnet.format("a", "198.51.100.0/24", "n1") + "[[router]]\n", "subnet[2].nodes: 'n1' is the name of"),
            (a + '[[node]]\nname = "n7"\n', "node[1].name: no subnet has a node 'n7'"),
            (a + '[[router]]\n', "router[1].subnets: a router needs two subnets"),
            (a + '[pool]\nipip_mode = "Always"\nvxlan_mode = "Always"\n', "pool.vxlan_mode: ipip_mode and vxlan_mode cannot"),
            (a + '[pool]\nipip_mode = "Always"\n[[node]]\nname = "n1"\ndataplane = "kernel-vxlan"\n',
             "node[1].dataplane: n1 cannot be kernel-vxlan"),
            ("nodes = 2\n[[subnet]\n", "(at line 2, column "),
            ("", "there are no nodes"),
        ):
            with self.subTest(words):
                self.assertIn(words, self.refused("up", "--topology", self.topology(text)))

    def test_no_such_topology(self):
        self.assertIn("topology forty-nodes: No such file or directory; shipped ones: fifty-nodes, interop",
                      self.refused("up", "--topology", "forty-nodes"))

    def test_no_tun_device(self):
        self.assertIn("there is no /dev/net/tun: as root, 'modprobe tun'", self.refused("up", tun=NO_TUN))
        self.assertIn("/dev/net/tun cannot be opened (Permission denied): as root, 'chmod 0666 /dev/net/tun'",
                      self.refused("up", tun="0600"))

    def test_no_user_namespaces(self):
        # The limit of a user namespace holds for those inside it, so the machine's own stays as it is.
        limit = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
        command = as_user("unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh",
                          self.user.home / "tree" / "scripts" / "lab", "up", "--no-daemons", home=self.user.home)
        done = run(*command, check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("No space left on device", done.stderr)
        self.assertIn("to change: as root, 'sysctl -w user.max_user_namespaces=10000'", done.stderr)


class Advice(unittest.TestCase):
    """What to change, by the switches that systems have."""

    def advice(self, said="unshare failed: Operation not permitted", clone=None, apparmor=None, seccomp=False, **limits):
        limits = {"user": 1000, "net": 1000, "mnt": 1000, "pid": 1000} | limits
        facts = types.SimpleNamespace(clone=clone, apparmor=apparmor, seccomp=seccomp, limits=limits)
        return parent.advice(said, facts)

    def test_each_switch_has_its_advice(self):
        for facts, words in (
            ({"clone": 0}, "sysctl -w kernel.unprivileged_userns_clone=1"),
            ({"apparmor": 1}, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
            ({"user": 0}, "sysctl -w user.max_user_namespaces=10000"),
            ({"net": 0}, "sysctl -w user.max_net_namespaces=10000"),
            ({"said": "unshare failed: No space left on device"}, "take labs down"),
            ({"said": "unshare: mount /proc failed: Operation not permitted"}, "systempaths=unconfined"),
            ({"seccomp": True}, "a seccomp filter forbids it: in Docker or Podman"),
            ({}, "CONFIG_USER_NS"),
        ):
            with self.subTest(facts):
                text = self.advice(**facts)
                self.assertIn(words, text)
                self.assertNotIn("\n", text)

    def test_two_causes_are_both_named(self):
        self.assertEqual(self.advice(clone=0, user=0).count("sysctl -w"), 2)


if __name__ == "__main__":
    unittest.main()
