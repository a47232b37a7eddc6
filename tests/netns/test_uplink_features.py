"""Which way super-packets take follows what the interface of the route to each peer segments itself."""

import bootstrap

import json
from typing import Any

from fast import MIB, MODES, Stream, await_tap, bulk, metric_samples, tap_packets
from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES

TUNNEL_FEATURES = {"vxlan": "tx-udp_tnl-csum-segmentation", "ipip": "tx-ipxip4-segmentation"}
WORDS = {"vxlan": "UDP tunnels", "ipip": "IP-in-IP"}
# A look once a second, another for the test of the TAP, and a busy machine.
FOLLOWED_S = 10
# Routes are looked up every five seconds.
ROUTED_S = 20
# Probes of the TAP: two packets each, once in five seconds.
QUIET = 20
LOAD = 16 * MIB


class Uplinks(SharedLab):
    """Virtual links, so that all offloads are there to be switched off. n1 has a second one, eth1."""

    topology = "T3"
    options = {"virtual": True}
    daemons = ("n1", "n2")

    @classmethod
    def prepare(cls) -> None:
        cls.lab.link("n1", "eth1", "sw", "port-n1b")
        cls.lab.ip("sw", "link set port-n1b master br0")

    @classmethod
    def restart(cls, **config: Any) -> None:
        # Which way super-packets take that the pump sends.
        super().restart(**config | {"tunnel": {"kernel_path": "off"} | config.get("tunnel", {})})

    def feature(self, interface: str, name: str, state: Any) -> None:
        self.lab.exec("n1", "ethtool", "-K", interface, name, state)
        self.addCleanup(self.lab.exec, "n1", "ethtool", "-K", interface, name, "on")

    def tap_state(self) -> Any:
        return self.lab.status("n1")["offloads"]["tap"]

    def await_state(self, wanted: Any, timeout: float = FOLLOWED_S) -> None:
        wait_until(lambda: self.tap_state() == wanted, timeout, f"the TAP to be {wanted!r}")

    def off(self, mode: str, interface: str = "eth0") -> str:
        return f"off: {self.reason(mode, interface)}"

    @staticmethod
    def reason(mode: str, interface: str = "eth0") -> str:
        return f"{interface} does not segment {WORDS[mode]} ({TUNNEL_FEATURES[mode]} off)"

    def way(self, mode: str, peer: str = "n2") -> tuple[Any, Any]:
        """Interface, way and reason towards a peer, as the API has them."""
        (found,) = (one for one in self.lab.status("n1")["peers"] if one["name"] == peer)
        return found["uplink"]["interface"], *(found["uplink"][mode][key] for key in ("way", "reason"))

    def assertCarriedBy(self, way: str) -> None:
        before = tap_packets(self.lab, "n1")
        bulk(self.lab, LOAD, [("podA", "podB")])
        written = tap_packets(self.lab, "n1") - before
        if way == "tap":
            self.assertGreaterEqual(written, LOAD // 65536)
        else:
            self.assertLess(written, QUIET)

    def assertStreamTakes(self, stream: Stream, way: str) -> None:
        """From now on the super-packets of a running stream take this way."""
        before, received = tap_packets(self.lab, "n1"), stream.received
        wait_until(lambda: stream.received > received + 8 * MIB, 30, "progress of the transfer")
        written = tap_packets(self.lab, "n1") - before
        if way == "tap":
            self.assertGreaterEqual(written, 8 * MIB // 65536)
        else:
            self.assertLess(written, QUIET)


class Choice(Uplinks):
    def test_features_that_are_off_at_the_start(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.feature("eth0", TUNNEL_FEATURES[mode], "off")
                self.restart(**MODES[mode])
                self.await_state(self.off(mode))
                self.assertEqual(self.way(mode), ("eth0", "socket", self.reason(mode)))
                self.assertEqual(metric_samples(self.lab, "n1", "offload_active")["tap"], 0)
                self.assertCarriedBy("socket")
                said = self.lab.daemons["n1"].command("status").stdout
                self.assertIn(f"tap {self.off(mode)}", said)
                self.assertRegex(said, rf"n2 +eth0 +{mode} +socket +eth0 does not segment {WORDS[mode]}")
                self.assertIn(f"uplink tap: {self.off(mode)}", self.lab.daemons["n1"].log())
                self.doCleanups()

    def test_both_ways_while_traffic_runs(self) -> None:
        for mode in ("vxlan", "ipip"):
            with self.subTest(mode):
                self.restart(**MODES[mode])
                await_tap(self.lab, "n1")
                self.assertEqual(self.way(mode), ("eth0", "tap", f"eth0 segments {WORDS[mode]} itself"))
                stream = Stream(self.lab)
                self.assertStreamTakes(stream, "tap")
                for feature in (TUNNEL_FEATURES[mode], "tx-tcp-segmentation"):
                    self.feature("eth0", feature, "off")
                    off = f"off: eth0 does not segment {WORDS[mode]} ({feature} off)"
                    self.await_state(off)
                    self.assertStreamTakes(stream, "socket")
                    self.feature("eth0", feature, "on")
                    self.await_state("active")
                    self.assertStreamTakes(stream, "tap")
                received, sent = stream.finish()
                self.assertEqual(received, sent)
                self.assertEqual({name: n for name, n in self.lab.drops("n1").items() if n}, {})

    def test_the_features_of_the_other_mode_do_not_matter(self) -> None:
        for mode, other in (("vxlan", "ipip"), ("ipip", "vxlan")):
            with self.subTest(mode):
                self.feature("eth0", TUNNEL_FEATURES[other], "off")
                self.restart(**MODES[mode])
                await_tap(self.lab, "n1")
                self.assertCarriedBy("tap")
                self.doCleanups()

    def test_the_configuration_goes_before_the_features(self) -> None:
        self.feature("eth0", TUNNEL_FEATURES["vxlan"], "off")
        self.restart(**MODES["vxlan"], tunnel={"uplink": "tap"})
        await_tap(self.lab, "n1")
        self.assertEqual(self.way("vxlan"), ("eth0", "tap", "configured"))
        self.assertCarriedBy("tap")
        self.restart(**MODES["vxlan"], tunnel={"uplink": "socket"})
        self.assertEqual(self.tap_state(), "off: configured")
        self.assertNotIn("uplink", self.lab.status("n1")["peers"][0])


class Routes(Uplinks):
    def test_a_route_that_moves_to_another_interface(self) -> None:
        self.feature("eth0", TUNNEL_FEATURES["vxlan"], "off")
        self.restart(**MODES["vxlan"])
        self.await_state(self.off("vxlan"))
        stream = Stream(self.lab)
        self.assertStreamTakes(stream, "socket")
        there = f"route replace {ADDRESSES['n2']}/32 dev eth1 src {ADDRESSES['n1']}"
        self.lab.ip("n1", there, f"route replace {ADDRESSES['n3']}/32 via 192.0.2.254 dev eth1 onlink")
        self.addCleanup(self.lab.exec, "n1", "ip", "route", "flush", "dev", "eth1")
        self.await_state("active", ROUTED_S)
        self.assertEqual(self.way("vxlan")[:2], ("eth1", "tap"))
        self.assertStreamTakes(stream, "tap")
        self.lab.exec("n1", "ip", "route", "flush", "dev", "eth1")
        self.await_state(self.off("vxlan"), ROUTED_S)
        self.assertStreamTakes(stream, "socket")
        received, sent = stream.finish()
        self.assertEqual(received, sent)

    def test_each_peer_by_its_own_interface(self) -> None:
        """n2 behind an interface that segments nothing, n3 behind one that does."""
        self.feature("eth0", TUNNEL_FEATURES["vxlan"], "off")
        self.lab.ip("n1", "route replace 198.51.100.0/24 via 192.0.2.254 dev eth1 onlink")
        self.addCleanup(self.lab.ip, "n1", "route replace 198.51.100.0/24 via 192.0.2.254")
        self.restart(**MODES["vxlan"])
        self.await_state(f"active; sockets towards {ADDRESSES['n2']}: {self.reason('vxlan')}", ROUTED_S)
        self.assertEqual(self.way("vxlan", "n3")[:2], ("eth1", "tap"))
        self.assertEqual(self.way("vxlan", "n2")[:2], ("eth0", "socket"))
        self.assertCarriedBy("socket")
        self.assertEqual(metric_samples(self.lab, "n1", "offload_active")["tap"], 1)
        peers = json.loads(self.lab.daemons["n1"].command("peer", "list", "-o", "json").stdout)
        self.assertEqual([peer["uplink"]["vxlan"]["way"] for peer in peers], ["socket", "tap"])
