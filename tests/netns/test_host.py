"""What a host may be like before the daemon starts and become while it runs: set right on the devices that are the
daemon's own, and shown where it is an administrator's."""

import bootstrap

from collections.abc import Mapping
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP
from scapy.packet import Raw

from fast import MODES
from shared import METRICS, SharedLab
from startup import refused
from underlay6 import B6, SixLab
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address

B = pod_address("n2")
READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount -o bind,ro /proc/sys /proc/sys && exec "$0" "$@"')


class Host(SharedLab):
    daemons = ()

    def sysctl(self, values: Mapping[str, Any]) -> None:
        """Sets sysctls of n1 for the time of a test."""
        before = {key: self.lab.exec("n1", "cat", f"/proc/sys/net/{key}").stdout.strip() for key in values}
        self.lab.sysctl("n1", values)
        self.addCleanup(self.lab.sysctl, "n1", before)

    def restart_both(self, mode: str, **config: Any) -> None:
        for node in ("n1", "n2"):
            self.start(node, **MODES[mode], **config)

    def pings(self, *options: Any) -> bool:
        return self.lab.ping("podA", B, *options, count=1) == 1

    def await_ping(self) -> None:
        wait_until(self.pings, 5, "a ping")

    def tearDown(self) -> None:
        super().tearDown()
        for node in ("n1", "n2"):
            self.stop(node)


class Forwarding(Host):
    def test_devices_that_do_not_forward_by_default(self) -> None:
        self.sysctl({"ipv4/conf/default/forwarding": 0})
        self.restart_both("vxlan")
        self.await_ping()
        self.assertEqual(self.lab.exec("n1", "cat", "/proc/sys/net/ipv4/conf/up0/forwarding").stdout.strip(), "1")
        self.assertEqual(self.missing(), [])

    def test_an_uplink_that_does_not_forward(self) -> None:
        """Packets of tunnels come in by the TUN, those of direct traffic by the uplink."""
        for mode, shown in (("vxlan", False), ("direct", True)):
            with self.subTest(mode):
                self.restart_both(mode)
                self.await_ping()
                self.lab.sysctl("n1", {"ipv4/conf/eth0/forwarding": 0})
                try:
                    if shown:
                        wait_until(lambda: self.shows("eth0 does not forward: direct traffic"), 5, "a word about it")
                    self.assertEqual(self.pings(), not shown)
                    self.assertEqual(len(self.missing()), int(shown))
                finally:
                    self.lab.sysctl("n1", {"ipv4/conf/eth0/forwarding": 1})
                wait_until(lambda: self.missing() == [], 5, "the end of it")

    def test_strict_reverse_path_by_default(self) -> None:
        """What another node sends in its own name comes out of the TUN and is routed elsewhere."""
        self.sysctl({"ipv4/conf/default/rp_filter": 1})
        self.restart_both("vxlan")
        self.await_ping()
        wait_until(lambda: self.reverse_path() == "2", 5, "a loose reverse path on the TUN")
        self.lab.sysctl("n1", {"ipv4/conf/up0/rp_filter": 1})
        wait_until(lambda: self.reverse_path() == "2", 5, "a loose reverse path on the TUN again")
        self.assertEqual(self.missing(), [])

    def reverse_path(self) -> str:
        return self.lab.exec("n1", "cat", "/proc/sys/net/ipv4/conf/up0/rp_filter").stdout.strip()

    def test_a_firewall_that_forwards_nothing(self) -> None:
        self.restart_both("ipip")
        self.await_ping()
        for family in ("ip", "inet"):
            with self.subTest(family):
                table = f"{family} upt"
                chain = "{ type filter hook forward priority 0; policy drop; }"
                self.lab.exec("n1", "nft", f"add table {table}; add chain {table} filt {chain}")
                try:
                    wait_until(lambda: self.shows(rf"drops every forwarded packet: nftables chain {table} filt"), 5)
                    self.assertFalse(self.pings())
                    (command,) = self.missing("command")
                    self.lab.exec("n1", "sh", "-c", command)
                    wait_until(lambda: self.missing() == [], 5, "the end of it")
                    self.await_ping()
                finally:
                    self.lab.exec("n1", "nft", f"delete table {table}")

    def test_a_firewall_with_rules_is_not_judged(self) -> None:
        chain = "{ type filter hook forward priority 0; policy drop; }"
        rules = "add table ip upt; add chain ip upt filt " + chain + "; add rule ip upt filt accept"
        self.lab.exec("n1", "nft", rules)
        self.addCleanup(self.lab.exec, "n1", "nft", "delete table ip upt")
        self.restart_both("ipip")
        self.await_ping()
        self.assertEqual(self.missing(), [])


class Judge(Host):
    def test_a_reload_is_judged_as_a_start(self) -> None:
        self.sysctl({"ipv4/conf/eth0/rp_filter": 1})
        # A tunnel's outer source is the peer itself.
        daemon = self.start("n1", **MODES["vxlan"])
        text = self.lab.config("n1", ipip="CrossSubnet") + METRICS
        (self.lab.dir / "n1.toml").write_text(text, encoding="utf-8")
        answer = daemon.command("reload", check=False)
        said = "strict reverse path filtering on eth0 would drop direct traffic"
        self.assertEqual(answer.returncode, 1)
        self.assertIn(said, answer.stderr)
        self.stop("n1")
        self.assertIn(said, refused(self.lab, "n1", text))

    def test_tunl0_for_another_purpose(self) -> None:
        # This kernel need not have the module: a device of this name stands for it.
        self.lab.ip("n1", "link add name tunl0 type veth peer name tunl1", "link set tunl0 up")
        self.addCleanup(self.lab.ip, "n1", "link del tunl0")
        self.restart_both("vxlan")
        self.await_ping()
        self.assertEqual(self.missing(), [])


class ReadOnly(Host):
    """A container with CAP_NET_ADMIN whose /proc/sys cannot be written."""

    def test_errors_reach_the_pod_all_the_same(self) -> None:
        self.lab.ip("n1", f"route add {ADDRESSES['n2']}/32 dev eth0 mtu lock 1400")
        self.addCleanup(self.lab.ip, "n1", f"route del {ADDRESSES['n2']}/32 dev eth0")
        # Packets that the TUN takes and the way does not.
        for node, wrapper in (("n1", READ_ONLY), ("n2", ())):
            self.start(node, command=[*wrapper, binary()], **MODES["vxlan"], tunnel={"mtu": 1450})
        self.await_ping()
        self.assertTrue(self.shows("up0 does not accept local addresses"), self.missing())
        tap = self.tap("podA", "eth0")
        self.send_from_pod([IP(src=pod_address("n1"), dst=B, flags="DF") / UDP(sport=7, dport=9) / Raw(bytes(1400))])
        (found,) = tap.wait(1, lambda packet: ICMP in packet and packet[ICMP].type == 3 and packet[ICMP].code == 4)
        self.assertEqual((found[IP].src, found[ICMP].nexthopmtu), (B, 1350))
        self.assertEqual(self.lab.status("n1")["icmp_errors"]["sent"], 1)
        # Once the administrator has done what is asked for, it is the node that speaks.
        self.lab.sysctl("n1", {"ipv4/conf/up0/accept_local": 1})
        wait_until(lambda: not self.shows("local addresses"), 5, "the end of the requirement")
        self.lab.ip("podA", "route flush cache")
        tap.drain()
        self.send_from_pod([IP(src=pod_address("n1"), dst=B, flags="DF") / UDP(sport=7, dport=9) / Raw(bytes(1400))])
        (found,) = tap.wait(1, lambda packet: ICMP in packet and packet[ICMP].type == 3 and packet[ICMP].code == 4)
        self.assertEqual(found[IP].src, "10.244.1.0")


class LinkAddresses(Host):
    def test_those_of_both_ends_are_followed(self) -> None:
        """Frames have the link address of the uplink as their source, and that of the peer as their target."""
        self.restart_both("ipip", tunnel={"uplink": "socket"})
        self.await_ping()
        for node, number in (("n1", 1), ("n2", 2)):
            with self.subTest(node):
                mac = f"02:00:5e:00:53:{number:02x}"
                self.lab.ip(node, f"link set eth0 address {mac}")
                if node == "n2":
                    # What a gratuitous ARP of a gateway does, once it has arrived.
                    self.lab.ip("n1", f"neigh replace {ADDRESSES['n2']} lladdr {mac} dev eth0 nud reachable")
                tap = self.tap("n2", "eth0")

                def seen(tap: Any = tap, number: int = number, mac: str = mac) -> bool:
                    # The answer may be lost on its way: the other end learns the address later.
                    self.pings("-W", "0.1")
                    frames = [frame for frame in tap.incoming() if frame[12:14] == b"\x08\x00"]
                    tap.drain()
                    place = slice(6, 12) if number == 1 else slice(0, 6)
                    return any(frame[place] == bytes.fromhex(mac.replace(":", "")) for frame in frames)

                wait_until(seen, 2, "frames with the other address")


class Ipv6Disabled(SixLab):
    underlay = "both"
    config = {"tunnel": {"workers": 1}}

    def test_on_devices_by_default_and_on_the_tun_later(self) -> None:
        self.lab.sysctl("n1", {"ipv6/conf/default/disable_ipv6": 1})
        self.addCleanup(self.lab.sysctl, "n1", {"ipv6/conf/default/disable_ipv6": 0})
        self.restart()
        for _ in range(2):
            wait_until(lambda: self.lab.ping("podA", B6, "-W", "0.2", count=1) == 1, 5, "a ping")
            wait_until(lambda: not self.lab.status("n1")["missing"], 5, "nothing missing")
            self.lab.sysctl("n1", {"ipv6/conf/up0/disable_ipv6": 1})


if __name__ == "__main__":
    import unittest

    unittest.main()
