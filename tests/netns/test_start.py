"""Starting, refusing to start, and ending: what cannot work is said before anything is changed."""

import bootstrap

import os
import subprocess
import time
from typing import Any

from fast import MODES
from shared import SharedLab, own_routes
from startup import device_exists, refused
from tunnel import VXLAN_PORT
from underpass_lab.command import run, wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

B = pod_address("n2")
VXLAN, DIRECT = MODES["vxlan"], MODES["direct"]


class Refusals(SharedLab):
    """Each obstacle is named with the reason and the next step; without it the daemon starts."""

    daemons = ()

    def text(self, **config: Any) -> str:
        return self.lab.config("n1", **config)

    def starts(self, **config: Any) -> None:
        """The counterpart: the same without the obstacle starts."""
        self.start("n1", **config)
        self.stop("n1")

    def test_no_tun_device_node(self) -> None:
        hidden = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
        said = refused(self.lab, "n1", self.text(), wrapper=hidden)
        self.assertRegex(said, r"/dev/net/tun is missing.*mknod /dev/net/tun c 10 200")

    def test_no_access_to_the_tun_device_node(self) -> None:
        closed = (
            *("unshare", "--mount", "sh", "-c"),
            'mount -t tmpfs none /dev/net && mknod -m 0600 /dev/net/tun c 10 200 && exec "$@"',
            *("sh", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
            *("--inh-caps=+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw"),
        )
        self.lab.dir.chmod(0o777)
        self.addCleanup(self.lab.dir.chmod, 0o700)
        said = refused(self.lab, "n1", self.text(), wrapper=closed)
        self.assertRegex(said, r"/dev/net/tun may not be opened by this user: it has mode 0600, owner 0:0")

    def test_no_net_admin(self) -> None:
        said = refused(self.lab, "n1", self.text(), wrapper=("setpriv", "--bounding-set=-net_admin"))
        self.assertRegex(said, r"CAP_NET_ADMIN is missing.*up0")

    def test_no_net_raw_with_an_ipip_or_direct_pool(self) -> None:
        wrapper = ("setpriv", "--bounding-set=-net_raw")
        near_and_far = {node: (ADDRESSES[node], [subnet(node)]) for node in ("n2", "n3")}
        both = {"ipip": "CrossSubnet", "peers": near_and_far}
        for config, modes in (({}, "ipip"), (DIRECT, "direct"), (both, "ipip and direct")):
            with self.subTest(modes):
                said = refused(self.lab, "n1", self.text(**config), wrapper=wrapper)
                self.assertRegex(said, f"CAP_NET_RAW is missing.*raw sockets of {modes};")

    def test_without_net_raw_vxlan_alone_works(self) -> None:
        file = self.lab.dir / "n1.toml"
        file.write_text(self.text(**VXLAN), encoding="utf-8")
        self.start("n2", **VXLAN)
        self.addCleanup(self.stop, "n2")
        process = self.start_wrapped(file, "setpriv", "--bounding-set=-net_raw")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        process.terminate()
        self.assertEqual(process.wait(2), 0)

    def start_wrapped(self, file: Any, *wrapper: Any) -> Any:
        log = open(self.lab.dir / "wrapped.log", "w", encoding="utf-8")
        self.addCleanup(log.close)
        process = self.lab.popen("n1", *wrapper, binary(), "run", "--config", file, stderr=log, stdout=log)
        wait_until((self.lab.dir / "n1.sock").exists, 5, "the socket")
        wait_until(lambda: own_routes(self.lab, "n1"), 5, "the routes")
        return process

    def test_port_taken_by_the_kernels_vxlan_device(self) -> None:
        self.lab.ip("n1", "link add vx9 type vxlan id 9 dstport 4789 local 192.0.2.1", "link set vx9 up")
        self.addCleanup(self.lab.ip, "n1", "link del vx9")
        said = refused(self.lab, "n1", self.text(**VXLAN))
        self.assertRegex(said, r"UDP port 4789 is in use by the kernel's VXLAN device vx9; .*ip link del vx9")
        self.starts(**VXLAN, port=8472)

    def test_port_taken_by_a_process(self) -> None:
        with self.lab.socket("n1") as other:
            other.bind((ADDRESSES["n1"], VXLAN_PORT))
            said = refused(self.lab, "n1", self.text(**VXLAN))
        self.assertRegex(said, r"UDP port 4789 is in use; see who has it with `ss -ulpn")
        self.starts(**VXLAN)

    def test_tunl0_up(self) -> None:
        self.lab.ip("n1", "link add name tunl0 type veth peer name tunl0-peer", "link set tunl0 up")
        self.addCleanup(self.lab.ip, "n1", "link del tunl0")
        self.assertRegex(refused(self.lab, "n1", self.text()), r"tunl0 is up.*ip link set tunl0 down")
        # It is in the way of IP-in-IP alone.
        self.starts(**VXLAN)
        self.lab.ip("n1", "link set tunl0 down")
        self.starts()

    def test_strict_reverse_path_with_direct(self) -> None:
        self.addCleanup(self.lab.sysctl, "n1", {"ipv4/conf/eth0/rp_filter": 0})
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1})
        for config in (DIRECT, {"ipip": "CrossSubnet"}):
            with self.subTest(config):
                said = refused(self.lab, "n1", self.text(**config))
                self.assertRegex(said, r"strict reverse path filtering on eth0 .*conf/eth0/rp_filter=2")
        self.starts(**VXLAN)
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 2})
        self.starts(**DIRECT)

    def test_the_node_address_is_on_no_interface(self) -> None:
        said = refused(self.lab, "n1", self.text(address="192.0.2.77/24"))
        self.assertRegex(said, r"no interface has the node address 192\.0\.2\.77; candidates: .*192\.0\.2\.1")

    def test_a_route_of_somebody_else_is_never_replaced(self) -> None:
        self.lab.ip("n1", "route add 10.244.0.0/16 via 192.0.2.2 proto static")
        self.addCleanup(self.lab.ip, "n1", "route del 10.244.0.0/16 via 192.0.2.2 proto static")
        said = refused(self.lab, "n1", self.text())
        self.assertRegex(said, r"cannot add the route 10\.244\.0\.0/16 dev up0: .*proto static")

    def test_several_obstacles_are_named_at_once(self) -> None:
        self.addCleanup(self.lab.sysctl, "n1", {"ipv4/conf/eth0/rp_filter": 0})
        self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1})
        said = refused(self.lab, "n1", self.text(**DIRECT), wrapper=("setpriv", "--bounding-set=-net_raw,-net_admin"))
        for word in ("CAP_NET_RAW", "CAP_NET_ADMIN", "rp_filter"):
            self.assertIn(word, said)


class Ends(SharedLab):
    """F2 and F1: what was made goes with the daemon, what was not stays."""

    FOREIGN = ("10.99.0.0/16 via 192.0.2.2 proto static", "10.98.0.0/16 via 192.0.2.2 proto 117")

    def routes(self) -> list[Any]:
        return sorted(run("ip", "-n", self.lab.ns("n1"), "route", "show", "table", "all").stdout.splitlines())

    def test_f2_sigterm(self) -> None:
        self.stop("n1")
        self.lab.ip("n1", *(f"route add {route}" for route in self.FOREIGN))
        self.addCleanup(self.lab.ip, "n1", *(f"route del {route}" for route in self.FOREIGN))
        before = self.routes()
        daemon = self.start("n1")
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        begun = time.monotonic()
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - begun, 2)
        self.assertEqual(self.routes(), before)
        self.assertFalse(device_exists(self.lab, "n1"))
        self.assertFalse(os.path.lexists(daemon.socket))
        self.start("n1")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)

    def test_f2_under_load(self) -> None:
        daemon = self.lab.daemons["n1"]
        flood = self.lab.popen("podA", "ping", "-q", "-f", "-c", 100000, B, stdout=subprocess.DEVNULL)
        before = self.counters("n1").status()["device_rx"]
        wait_until(lambda: self.counters("n1").status()["device_rx"] > before + 100, 5, "traffic")
        self.assertEqual(daemon.stop(), 0)
        flood.kill()
        self.assertFalse(device_exists(self.lab, "n1"))
        self.start("n1")

    def test_f2_sigterm_during_the_start(self) -> None:
        # As soon as there is anything to clean up, it is cleaned up.
        self.stop("n1")
        self.addCleanup(self.start, "n1")
        file, socket_path = self.lab.dir / "n1.toml", self.lab.dir / "n1.sock"
        for made in (socket_path.exists, lambda: device_exists(self.lab, "n1"), lambda: own_routes(self.lab, "n1")):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = self.lab.popen("n1", binary(), "run", "--config", file, **quiet)
            wait_until(made, 5, "the first trace of the daemon")
            process.terminate()
            self.assertEqual(process.wait(2), 0)
            self.assertFalse(os.path.lexists(socket_path))

    def test_f3_the_device_is_deleted(self) -> None:
        daemon = self.lab.daemons.pop("n1")
        lines = daemon.log().count("\n")
        self.lab.ip("n1", "link del up0")
        self.assertEqual(daemon.process.wait(2), 1)
        said = daemon.log().splitlines()[lines:]
        self.assertLessEqual(len(said), 3, said)
        self.assertRegex(said[-1], r"^underpass: worker \d+ stopped: [^:]*; is the TUN device gone\?$")
        self.assertFalse(os.path.lexists(daemon.socket))
        self.start("n1")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)

    def test_f1_kill_and_restart(self) -> None:
        for _ in range(2):
            daemon = self.lab.daemons.pop("n1")
            daemon.process.kill()
            daemon.process.wait()
            self.start("n1")
            self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
            self.assertEqual(self.lab.ping("podA", B, count=3), 3)
            self.assertEqual(self.counters("n1").status()["device_rx"], 3)
