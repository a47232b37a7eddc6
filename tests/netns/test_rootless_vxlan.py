"""VXLAN without any capability, on a TUN that an administrator made for the user."""

import bootstrap

import json
from typing import Any

from scapy.layers.inet import IP, UDP

from fast import MODES
from rootless import AS_USER, NO_RIGHTS, OPEN_TUN, USER, hand_over, prepare_tun, rights, shell
from shared import METRICS, SharedLab, own_routes
from startup import refused
from underlay6 import A6, B6, SixLab
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B = pod_address("n1"), pod_address("n2")
VXLAN = MODES["vxlan"]
SIZE = 20 << 20
NOTHING = {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0, "CapAmb": 0, "Uid": USER, "NoNewPrivs": 1}
MULTI_QUEUE = ("multi_queue", "vnet_hdr")


class WithoutRights(SharedLab):
    """n1 runs as the user; on n2 is what the topology has there."""

    daemons = ()
    program: str

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        cls.program = hand_over(cls.lab)

    def setUp(self) -> None:
        self.addCleanup(self.remove)

    def remove(self) -> None:
        for node in ("n1", "n2"):
            self.stop(node)
        run("ip", "-n", self.lab.ns("n1"), "link", "del", "up0", check=False)

    def start_user(self, wrapper: Any = NO_RIGHTS, **config: Any) -> Any:
        return self.start("n1", command=[*wrapper, self.program], **VXLAN | config)

    def wait_missing(self, *commands: Any) -> None:
        """Waits until these commands are what is left to an administrator."""

        def left() -> list[str]:
            return self.missing("command")

        wait_until(lambda: left() == list(commands), 15, f"{commands}, not {left()}")


class Carries(WithoutRights):
    """20 MiB both ways with equal SHA-256 through either backend, to another daemon with all rights."""

    def far_side(self) -> None:
        self.start("n2", **VXLAN)

    def far_side_is_well(self) -> None:
        self.assertEqual(sum(self.lab.drops("n2").values()), 0)

    def carries(self, backend: str, tun_flags: Any, wanted: Any) -> None:
        self.far_side()
        prepare_tun(self.lab, "n1", *tun_flags)
        before = self.prepared()
        daemon = self.start_user(tunnel={"backend": wanted})
        self.assertEqual(rights(daemon.pid), NOTHING)
        self.assertEqual(self.lab.status("n1")["backend"], backend)
        self.assertEqual(self.lab.ping("podA", B, "-s", 1400, count=3), 3)
        self.lab.tcp_transfer("podA", "podB", B, SIZE)
        self.lab.tcp_transfer("podB", "podA", A, SIZE)
        self.assertEqual(sum(self.lab.drops("n1").values()), 0)
        self.far_side_is_well()
        self.accounts("n1")
        # An administrator who has done it all hears nothing of it.
        self.assertEqual(self.missing(), [])
        self.assertNotIn("administrator", daemon.log())
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(self.prepared(), before)

    def prepared(self) -> tuple[Any, Any, Any, list[Any], Any]:
        """What the administrator gave to n1, as `ip` shows it, but for the queues."""
        show = [("address", "show", "dev", "up0"), ("route", "show", "dev", "up0")]
        shown = [json.loads(run("ip", "-n", self.lab.ns("n1"), "-j", *what).stdout) for what in show]
        (link,) = shown[0]
        flags = sorted(set(link["flags"]) - {"LOWER_UP", "NO-CARRIER"})
        routes = [(route["dst"], route.get("protocol")) for route in shown[1]]
        return link["mtu"], link["txqlen"], flags, [own["local"] for own in link["addr_info"]], routes

    def test_offload_by_itself(self) -> None:
        self.carries("offload", MULTI_QUEUE, "auto")

    def test_offload_as_configured(self) -> None:
        self.carries("offload", ("multi_queue",), "offload")

    def test_plain_by_itself(self) -> None:
        self.carries("plain", (), "auto")

    def test_plain_as_configured(self) -> None:
        self.carries("plain", (), "plain")


class CarriesToTheKernel(Carries):
    """The same, to the kernel's own VXLAN device."""

    topology = "TK"

    def far_side(self) -> None:
        pass

    def far_side_is_well(self) -> None:
        (link,) = json.loads(run("ip", "-n", self.lab.ns("n2"), "-s", "-j", "link", "show", "vx0").stdout)
        errors = [link["stats64"][way][kind] for way in ("rx", "tx") for kind in ("errors", "dropped")]
        self.assertEqual(errors, [0] * 4)


class LeftToAnAdministrator(WithoutRights):
    """What is missing is named with the command that does it; done, it works and is named no more."""

    def test_a_route(self) -> None:
        self.start("n2", **VXLAN)
        prepare_tun(self.lab, "n1", routes=())
        daemon = self.start_user()
        command = "ip route add 10.244.0.0/16 dev up0"
        self.wait_missing(command)
        said = f"packets for 10.244.0.0/16 do not reach the tunnel; an administrator can run `{command}`"
        wait_until(lambda: said in daemon.log(), 5, "the warning")
        self.assertIn(f"run `{command}`", daemon.command("status").stdout)
        self.assertEqual(self.lab.ping("podA", B, "-W", "0.2", count=1), 0)
        shell(self.lab, "n1", self.missing("command")[0])
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        self.wait_missing()
        self.assertIn(f"no longer needed: `{command}`", daemon.log())
        self.assertEqual(daemon.log().split(" INFO node n1 at ")[-1].count(said), 1, "told once")
        # Somebody takes it back.
        shell(self.lab, "n1", "ip route del 10.244.0.0/16 dev up0")
        self.wait_missing(command)

    def test_a_wider_route_and_one_of_another_protocol_do(self) -> None:
        for route in ("10.0.0.0/8 dev up0", "10.244.0.0/16 dev up0 proto 117", "10.244.0.0/16 dev up0 metric 50"):
            with self.subTest(route):
                self.start("n2", **VXLAN)
                prepare_tun(self.lab, "n1", routes=())
                self.lab.ip("n1", f"route add {route}")
                daemon = self.start_user()
                self.assertEqual(self.lab.ping("podA", B, count=3), 3)
                self.assertEqual(self.missing(), [])
                self.assertEqual(daemon.stop(), 0)
                self.assertIn(route.split()[0], run("ip", "-n", self.lab.ns("n1"), "route").stdout)
                self.remove()

    def test_everything(self) -> None:
        self.start("n2", **VXLAN)
        self.lab.ip("n1", f"tuntap add dev up0 mode tun user {USER}")
        daemon = self.start_user()
        todo = (
            "ip link set dev up0 up",
            "ip link set dev up0 mtu 1450",
            "ip link set dev up0 txqueuelen 10000",
            "ip address add 10.244.1.0/32 dev up0",
            "sysctl -w net/ipv4/conf/up0/accept_local=1",
            "ip route add 10.244.0.0/16 dev up0",
        )
        self.wait_missing(*todo)
        # Before: what is larger than fits is known to be, and answered.
        self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], 1500)
        mtu = todo[1]
        for command in todo:
            if command != mtu:
                shell(self.lab, "n1", command)
        self.wait_missing(mtu)
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        self.lab.tcp_transfer("podA", "podB", B, 1 << 20)
        self.lab.tcp_transfer("podB", "podA", A, 1 << 20)
        self.assertEqual(self.lab.ping("n1", B, count=1), 1)
        shell(self.lab, "n1", mtu)
        self.wait_missing()
        self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], 1450)
        self.assertEqual(self.lab.ping("podA", B, "-s", 1422, "-M", "do", count=3), 3)
        self.accounts("n1")
        self.assertEqual(daemon.stop(), 0)

    def test_the_uplinks_mtu_changes(self) -> None:
        prepare_tun(self.lab, "n1")
        self.start_user()
        self.wait_missing()
        self.addCleanup(self.lab.ip, "n1", "link set eth0 mtu 1500")
        self.lab.ip("n1", "link set eth0 mtu 1400")
        self.wait_missing("ip link set dev up0 mtu 1350")
        shell(self.lab, "n1", self.missing("command")[0])
        self.wait_missing()
        self.assertEqual(self.lab.status("n1")["tunnel"]["mtu"], 1350)

    def test_a_reload_that_needs_another_route(self) -> None:
        prepare_tun(self.lab, "n1")
        daemon = self.start_user()
        pools = [(f"10.{net}.0.0/16", "Never", "Always") for net in (244, 50)]
        peers = {"n2": (ADDRESSES["n2"], [subnet("n2"), "10.50.2.0/24"], {"port": 4790})}
        text = self.lab.config("n1", pools=pools, peers=peers)
        (self.lab.dir / "n1.toml").write_text(text + METRICS, encoding="utf-8")
        daemon.command("reload")
        self.wait_missing("ip route add 10.50.0.0/16 dev up0")
        self.assertEqual(daemon.json("peer", "list")[0]["port"], 4790)
        shell(self.lab, "n1", self.missing("command")[0])
        self.wait_missing()
        wire = self.tap("sw", "port-n1")
        self.send_from_pod([IP(src=A, dst="10.50.2.7") / UDP(sport=1, dport=9) / b"where to"])
        (frame,) = wire.wait(1, lambda frame: frame.haslayer(UDP) and frame[UDP].dport == 4790)
        self.assertEqual((frame[IP].dst, bytes(frame)[-8:]), (ADDRESSES["n2"], b"where to"))

    def test_a_route_of_somebody_else_is_in_the_way(self) -> None:
        prepare_tun(self.lab, "n1", routes=())
        self.lab.ip("n1", "route add 10.244.0.0/16 via 192.0.2.2 proto static")
        self.addCleanup(self.lab.ip, "n1", "route del 10.244.0.0/16 via 192.0.2.2 proto static")
        said = refused(self.lab, "n1", self.lab.config("n1", **VXLAN), NO_RIGHTS, program=self.program)
        self.assertRegex(said, r"cannot add the route 10\.244\.0\.0/16 dev up0: .*proto static")


class OverIpv6(WithoutRights, SixLab):
    """The same over an IPv6 underlay, with pods of both families."""

    def test_everything_by_the_commands_that_are_named(self) -> None:
        self.start("n2")
        self.lab.ip("n1", f"tuntap add dev up0 mode tun user {USER} multi_queue")
        daemon = self.start("n1", command=[*NO_RIGHTS, self.program])
        todo = (
            "ip link set dev up0 up",
            "ip link set dev up0 mtu 1430",
            "ip link set dev up0 txqueuelen 10000",
            "ip address add 10.244.1.0/32 dev up0",
            "ip address add fd00:244:1::/128 dev up0 nodad",
            "sysctl -w net/ipv4/conf/up0/accept_local=1",
            "ip route add 10.244.0.0/16 dev up0",
            "ip route add fd00:244::/32 dev up0",
        )
        self.wait_missing(*todo)
        for command in todo:
            shell(self.lab, "n1", command)
        self.wait_missing()
        self.assertEqual(rights(daemon.pid), NOTHING)
        for there, back in ((B, A), (B6, A6)):
            self.assertEqual(self.lab.ping("podA", there, "-s", 1300, count=3), 3)
            self.lab.tcp_transfer("podA", "podB", there, SIZE)
            self.lab.tcp_transfer("podB", "podA", back, SIZE)
            self.assertEqual(self.lab.ping("n1", there, count=1), 1)
        drops = self.lab.drops("n1")
        # What IPv6 says by itself on a TUN that nobody has silenced.
        drops.pop("unsupported")
        self.assertEqual(sum(drops.values()), 0)
        self.accounts("n1")


class Edits(WithoutRights):
    """Routes and peers that the daemon could not bring to life are refused, with the way out."""

    # CAP_NET_RAW and nothing else: bare packets can be sent, routes not be made.
    RAW = (*OPEN_TUN, *AS_USER, "--inh-caps=-all,+net_raw", "--ambient-caps=+net_raw", "--bounding-set=-all,+net_raw")

    def refusal(self, *command: Any) -> Any:
        result = self.lab.daemons["n1"].command(*command, check=False)
        self.assertEqual(result.returncode, 1, result.stdout)
        return result.stderr

    def test_routes_outside_the_pools_need_somebody_to_make_them(self) -> None:
        prepare_tun(self.lab, "n1")
        daemon = self.start_user(self.RAW)
        add = ("route", "add", "10.9.0.0/24", "--via", "n2")
        said = self.refusal(*add)
        command = "ip route add 10.9.0.0/24 dev up0"
        self.assertRegex(said, f"no kernel route leads 10.9.0.0/24 into up0, .*`{command}`")
        self.assertEqual(self.lab.status("n1")["routes"], 2)
        shell(self.lab, "n1", command)
        daemon.command(*add)
        self.assertEqual(daemon.json("route", "get", "10.9.0.1")["mode"], "direct")
        # What a wider route of the administrator covers is fine, and so is what is in a pool.
        daemon.command("route", "add", "10.9.0.128/25", "--via", "n2")
        daemon.command("route", "add", "10.244.9.0/24", "--via", "n2")
        said = self.refusal("peer", "add", "n9", "192.0.2.9", "--subnet", "10.10.0.0/24")
        self.assertIn("`ip route add 10.10.0.0/24 dev up0`", said)
        daemon.command("peer", "add", "n9", "192.0.2.9", "--subnet", "10.244.10.0/24")
        # What goes, goes; the administrator's routes stay.
        daemon.command("route", "del", "10.9.0.0/24")
        daemon.command("route", "del", "10.9.0.128/25")
        self.assertEqual(self.missing(), [])
        self.assertEqual(own_routes(self.lab, "n1"), [])
        self.assertIn("10.9.0.0/24", run("ip", "-n", self.lab.ns("n1"), "route").stdout)

    def test_without_raw_sockets_they_cannot_be_sent_at_all(self) -> None:
        prepare_tun(self.lab, "n1", routes=("10.0.0.0/8",))
        daemon = self.start_user()
        said = self.refusal("route", "add", "10.9.0.0/24", "--via", "n2")
        self.assertRegex(said, "packets for 10.9.0.0/24 would travel by direct, which needs CAP_NET_RAW")
        daemon.command("route", "add", "10.244.9.0/24", "--via", "n2")


class Refusals(WithoutRights):
    """IP-in-IP and bare packets are sent by raw sockets, which nobody can prepare for the user."""

    def test_ipip_and_direct(self) -> None:
        prepare_tun(self.lab, "n1")
        for ipip, mode in (("Always", "ipip"), ("Never", "direct")):
            with self.subTest(mode):
                text = self.lab.config("n1", ipip=ipip)
                said = refused(self.lab, "n1", text, NO_RIGHTS, program=self.program)
                self.assertRegex(said, f"CAP_NET_RAW is missing, it is needed for the raw sockets of {mode};")
                self.assertIn('vxlan_mode = "Always"', said)
                # Offline it is as good as any.
                checked = run(self.program, "check", self.lab.dir / "n1-refused.toml")
                self.assertEqual(checked.returncode, 0)

    def test_the_tap(self) -> None:
        prepare_tun(self.lab, "n1")
        text = self.lab.config("n1", tunnel={"uplink": "tap"}, **VXLAN)
        said = refused(self.lab, "n1", text, NO_RIGHTS, program=self.program)
        self.assertRegex(said, r'uplink is "tap": cannot open the TAP up0-x: Operation not permitted')

    def test_a_tun_of_somebody_else(self) -> None:
        self.lab.ip("n1", "tuntap add dev up0 mode tun user 1234")
        said = refused(self.lab, "n1", self.lab.config("n1", **VXLAN), NO_RIGHTS, program=self.program)
        self.assertRegex(said, f"belongs to another user.*`ip tuntap add dev up0 mode tun user {USER}`")
