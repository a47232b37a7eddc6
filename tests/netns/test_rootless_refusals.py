"""What scripts/lab refuses, with what to change: topology files, and systems that forbid what it needs."""

import bootstrap

import unittest
from typing import Any

from underpass_lab.command import run
from underpass_lab.userns import Facts, advice
from unprivileged import NO_TUN, LabCase, as_user


class Refusals(LabCase):
    """What cannot be done is said with what to change, and nothing is made."""

    def refused(self, *words: Any, **options: Any) -> Any:
        done = self.lab(*words, check=False, **options)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertFalse(self.root.exists())
        return done.stderr

    def test_every_mistake_of_a_file_is_named_with_its_key(self) -> None:
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

    def test_mistakes_between_sections(self) -> None:
        subnet = '[[subnet]]\nname = "{0}"\ncidr = "{1}"\nnodes = ["{2}"]\n'
        a, b = subnet.format("a", "192.0.2.0/24", "n1"), subnet.format("b", "198.51.100.0/24", "n2")
        for text, words in (
            (a + b, "router: no router joins subnet b with a"),
            (a + subnet.format("b", "192.0.2.128/25", "n2"), "subnet[2].cidr: 192.0.2.128/25 overlaps"),
            (a + subnet.format("a", "198.51.100.0/24", "n1") + "[[router]]\n", "subnet[2].nodes: 'n1' is the name of"),
            (a + '[[node]]\nname = "n7"\n', "node[1].name: no subnet has a node 'n7'"),
            (a + "[[router]]\n", "router[1].subnets: a router needs two subnets"),
            (a + '[pool]\nipip_mode = "Always"\nvxlan_mode = "Always"\n', "pool.vxlan_mode: ipip_mode and vxlan_mode"),
            (
                a + '[pool]\nipip_mode = "Always"\n[[node]]\nname = "n1"\ndataplane = "kernel-vxlan"\n',
                "node[1].dataplane: n1 cannot be kernel-vxlan",
            ),
            ("nodes = 2\n[[subnet]\n", "(at line 2, column "),
            ("", "there are no nodes"),
        ):
            with self.subTest(words):
                self.assertIn(words, self.refused("up", "--topology", self.topology(text)))

    def test_no_such_topology(self) -> None:
        self.assertIn(
            "topology forty-nodes: No such file or directory; shipped ones: fifty-nodes, interop",
            self.refused("up", "--topology", "forty-nodes"),
        )

    def test_no_tun_device(self) -> None:
        self.assertIn("there is no /dev/net/tun: as root, 'modprobe tun'", self.refused("up", tun=NO_TUN))
        self.assertIn(
            "/dev/net/tun cannot be opened (Permission denied): as root, 'chmod 0666 /dev/net/tun'",
            self.refused("up", tun="0600"),
        )

    def test_no_user_namespaces(self) -> None:
        # The limit of a user namespace holds for those inside it, so the machine's own stays as it is.
        limit = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
        command = as_user(
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            limit,
            "sh",
            self.user.home / "tree" / "scripts" / "lab",
            "up",
            "--no-daemons",
            home=self.user.home,
        )
        done = run(*command, check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("No space left on device", done.stderr)
        self.assertIn("to change: as root, 'sysctl -w user.max_user_namespaces=10000'", done.stderr)


class Advice(unittest.TestCase):
    """What to change, by the switches that systems have."""

    def advice(
        self,
        said: str = "Operation not permitted",
        clone: Any = None,
        apparmor: Any = None,
        seccomp: bool = False,
        **limits: Any,
    ) -> Any:
        limits = {"user": 1000, "net": 1000, "mnt": 1000, "pid": 1000} | limits
        facts = Facts()
        facts.clone, facts.apparmor, facts.seccomp, facts.limits = clone, apparmor, seccomp, limits
        return advice(said, facts)

    def test_each_switch_has_its_advice(self) -> None:
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

    def test_two_causes_are_both_named(self) -> None:
        self.assertEqual(self.advice(clone=0, user=0).count("sysctl -w"), 2)


if __name__ == "__main__":
    unittest.main()
