"""The systems that are compared: how each is brought up in a lab, and what it is called.

`up(lab)` returns the address in n2 that the load goes to. What a system starts ends with the lab.
"""

import functools
import json
import os
import re
import shutil

import peers
from lab import NODES, UNDERLAY, VXLAN_OVERHEAD, Failure, other, poll, run

VXLAN_PORT = 4789
VNI = 4096
# Large enough for a million routes; one kernel route leads all of it into the TUN.
POOL = "10.0.0.0/8"
SUBNET = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"}
# tunnel.address = "auto": the first address of the node's subnet.
TUNNEL = {"n1": "10.244.1.0", "n2": "10.244.2.0"}


class System:
    """One way to get packets from n1 to n2."""

    # Whether it has worker threads and a table of routes that a sweep can set.
    has_settings = False
    # Whether it needs /dev/net/tun.
    needs_tun = True
    # Whether it is somebody else's program, which owes us nothing in a user namespace.
    foreign = False

    def __init__(self, name, about):
        self.name, self.about = name, about

    def missing(self):
        """Why this system cannot be measured here, or None."""
        return None

    def version(self):
        return f"Linux {os.uname().release}"

    def up(self, lab):
        raise NotImplementedError

    def inspect(self, lab):
        """After some traffic: fails unless what runs is what the name says; returns facts about it."""
        return {}


class Veth(System):
    """No tunnel: what the link itself can do."""

    needs_tun = False

    def up(self, lab):
        return UNDERLAY["n2"]


class KernelVxlan(System):
    """A VXLAN device of the kernel, with its defaults."""

    needs_tun = False

    def up(self, lab):
        for number, node in enumerate(NODES, start=1):
            lab.run(node, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", VNI, "dstport", VXLAN_PORT,
                    "local", UNDERLAY[node], "remote", UNDERLAY[other(node)], "dev", "eth0")
            lab.run(node, "ip", "address", "add", f"10.245.0.{number}/24", "dev", "vxlan0")
            lab.run(node, "ip", "link", "set", "vxlan0", "up")
        return "10.245.0.2"


class Underpass(System):
    """Our daemon on both nodes."""

    has_settings = True

    def __init__(self, name, about, vxlan="Never", ipip="Never", must_show=None, linux=(0, 0), **tunnel):
        super().__init__(name, about)
        self.must_show, self.linux = must_show or {}, linux
        self.modes = {"vxlan_mode": vxlan, "ipip_mode": ipip}
        self.tunnel = tunnel

    def missing(self):
        wanted = ".".join(map(str, self.linux))
        return f"needs Linux {wanted} or newer" if kernel() < self.linux else None

    def version(self):
        return run(os.environ["UNDERPASS_BIN"], "--version").strip()

    def up(self, lab):
        binary = os.environ["UNDERPASS_BIN"]
        for node in NODES:
            socket = lab.directory / f"{node}.sock"
            config = lab.directory / f"{node}.toml"
            config.write_text(self._config(node, socket, lab.conditions))
            daemon = lab.start(node, binary, "run", "--config", config)
            lab.ready(daemon, 10, lambda socket=socket: answers(binary, socket))
        if lab.conditions.routes is not None:
            load_routes(lab, binary, lab.conditions.routes)
        return TUNNEL["n2"]

    def inspect(self, lab):
        """An uplink or backend that the daemon fell back from must not be measured under its name."""
        socket = lab.directory / "n1.sock"
        poll(5, lambda: self._is_settled(active(socket).get("tap", "")), "the self-test of the TAP ends")
        facts = active(socket)
        for name, state in self.must_show.items():
            if not str(facts.get(name, "")).startswith(state):
                raise Failure(f"the daemon does not use {name}: {facts.get(name, 'it does not know it')}")
        return facts

    def _is_settled(self, tap):
        # Without eBPF nothing makes the daemon test a TAP that only IP-in-IP could use.
        return "not tested yet" not in tap or ("never for ipip" in tap and self.modes["vxlan_mode"] == "Never")

    def _config(self, node, socket, conditions):
        peer = other(node)
        tunnel = self.tunnel if conditions.workers is None else {**self.tunnel, "workers": conditions.workers}
        sections = {
            "[node]": {"name": node, "address": f"{UNDERLAY[node]}/24"},
            "[tunnel]": tunnel,
            "[vxlan]": {"port": VXLAN_PORT, "vni": VNI},
            "[[pool]]": {"cidr": POOL, **self.modes},
            "[local]": {"subnets": [SUBNET[node]]},
            "[[peer]]": {"name": peer, "address": UNDERLAY[peer], "subnets": [SUBNET[peer]]},
            "[control]": {"socket": str(socket)},
        }
        lines = []
        for header, values in sections.items():
            lines += [header, *(f"{key} = {toml(value)}" for key, value in values.items()), ""]
        return "\n".join(lines)


def load_routes(lab, binary, count):
    """Makes the tables of both nodes hold `count` routes, loaded as a user would load them."""
    for node in NODES:
        socket = lab.directory / f"{node}.sock"
        more = count - status(binary, socket)["routes"]
        if more > 0:
            path = lab.directory / f"{node}.routes"
            path.write_text(route_lines(more, other(node)), encoding="ascii")
            run(binary, "route", "add", "--file", path, "--socket", socket, timeout=60)
        held = status(binary, socket)["routes"]
        if held < count:
            raise Failure(f"{held} routes in the table of {node} in place of {count}")


@functools.cache
def route_lines(count, peer):
    """`count` routes via `peer` as `route add --file` reads them: single addresses, and every eighth one a
    prefix of /29 to /32, as tables of pods and of blocks are mixed."""
    def prefix(number):
        high, low = 16 + (number >> 16), f"{number >> 8 & 255}.{number & 255}"
        return f"10.{high}.{low}/{32 if number % 8 else 29 + number // 8 % 4}"

    return "".join(f"{prefix(number)} via {peer}\n" for number in range(count))


def kernel():
    """Major and minor version of the running kernel."""
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def status(binary, socket):
    return json.loads(run(binary, "status", "--socket", socket, "-o", "json"))


def active(socket):
    """What the daemon says that it uses."""
    known = status(os.environ["UNDERPASS_BIN"], socket)
    return {"backend": known["backend"], "workers": known["workers"], **known.get("offloads", {})}


def toml(value):
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def answers(binary, socket):
    if not socket.exists():
        return False
    try:
        run(binary, "status", "--socket", socket, timeout=2)
    except Failure:
        return False
    return True


class CopyLoop(System):
    """The simplest userspace tunnel there can be: copyloop of tools/."""

    def missing(self):
        # `--list` is asked before anything is built.
        given = os.environ.get("BENCH_COPYLOOP")
        return None if given is None or os.access(given, os.X_OK) else f"{given} is not built (copyloop of tools/)"

    def version(self):
        return "copyloop of this commit, crate tun-tap"

    def up(self, lab):
        for number, node in enumerate(NODES, start=1):
            loop = lab.start(node, os.environ["BENCH_COPYLOOP"], "--device", "copy0", "--local", UNDERLAY[node],
                             "--peer", UNDERLAY[other(node)], "--port", VXLAN_PORT, "--vni", VNI)
            lab.ready(loop, 5, lambda loop=loop: b"ready" in loop.log.read_bytes())
            lab.run(node, "ip", "address", "add", f"10.245.0.{number}/24", "dev", "copy0")
            lab.run(node, "ip", "link", "set", "copy0", "mtu", lab.conditions.mtu - VXLAN_OVERHEAD, "up")
        return "10.245.0.2"


class OvsVxlan(System):
    """Open vSwitch with its userspace datapath."""

    foreign = True

    def missing(self):
        return peers.missing("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool", package="openvswitch-switch")

    def version(self):
        return run("ovs-vswitchd", "--version").splitlines()[0]

    def up(self, lab):
        return peers.ovs_up(lab, VNI)


class WireGuard(System):
    """A userspace WireGuard; unlike all others it encrypts."""

    foreign = True

    def __init__(self, name, about, binary, *flags, package=None):
        super().__init__(name, about)
        self.binary, self.flags, self.package = binary, flags, package

    def missing(self):
        return peers.missing(self.binary, package=self.package) or peers.missing("wg", package="wireguard-tools")

    def version(self):
        if self.package:
            return f"{self.package} {peers.package_version(self.package)}"
        return run(self.binary, "--version").strip()

    def up(self, lab):
        return peers.wireguard_up(lab, shutil.which(self.binary), self.flags)


SYSTEMS = [
    Veth("veth", "the link itself, no tunnel"),
    KernelVxlan("kernel-vxlan", "VXLAN device of the Linux kernel"),
    Underpass("underpass-vxlan", "underpass, VXLAN, defaults", vxlan="Always"),
    Underpass("underpass-vxlan-socket", 'underpass, VXLAN, uplink = "socket"', vxlan="Always", uplink="socket"),
    Underpass("underpass-vxlan-tap", 'underpass, VXLAN, uplink = "tap"', vxlan="Always", uplink="tap",
              must_show={"tap": "active"}, linux=(6, 17)),
    Underpass("underpass-ipip", "underpass, IP in IP", ipip="Always"),
    Underpass("underpass-direct", "underpass, no encapsulation, sent through the TUN"),
    Underpass("underpass-vxlan-plain", 'underpass, VXLAN, backend = "plain"', vxlan="Always", backend="plain",
              must_show={"backend": "plain"}),
    CopyLoop("tun-copy-loop", "the floor: one packet a system call between a plain TUN and a UDP socket, VXLAN"),
    OvsVxlan("ovs-vxlan", "Open vSwitch, userspace datapath, VXLAN"),
    WireGuard("wireguard-go", "wireguard-go as packaged; encrypts", "wireguard-go", "-f", package="wireguard-go"),
    WireGuard("boringtun", "boringtun; encrypts", "boringtun-cli", "-f", "--disable-drop-privileges"),
]
