"""The systems that are compared: how each is brought up in a lab, and what it is called.

`up(lab)` returns the address in n2 that the load goes to. What a system starts ends with the lab.
"""

import json
import os
import shutil

import peers
from lab import NODES, UNDERLAY, Failure, other, poll, run

VXLAN_PORT = 4789
VNI = 4096
SUBNET = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"}
# tunnel.address = "auto": the first address of the node's subnet.
TUNNEL = {"n1": "10.244.1.0", "n2": "10.244.2.0"}


class System:
    """One way to get packets from n1 to n2."""

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

    def up(self, lab):
        return UNDERLAY["n2"]


class KernelVxlan(System):
    """A VXLAN device of the kernel, with its defaults."""

    def up(self, lab):
        for number, node in enumerate(NODES, start=1):
            lab.run(node, "ip", "link", "add", "vxlan0", "type", "vxlan", "id", VNI, "dstport", VXLAN_PORT,
                    "local", UNDERLAY[node], "remote", UNDERLAY[other(node)], "dev", "eth0")
            lab.run(node, "ip", "address", "add", f"10.245.0.{number}/24", "dev", "vxlan0")
            lab.run(node, "ip", "link", "set", "vxlan0", "up")
        return "10.245.0.2"


class Underpass(System):
    """Our daemon on both nodes."""

    def __init__(self, name, about, vxlan="Never", ipip="Never", must_show=None, **tunnel):
        super().__init__(name, about)
        self.must_show = must_show or {}
        self.modes = {"vxlan_mode": vxlan, "ipip_mode": ipip}
        self.tunnel = tunnel

    def version(self):
        return run(os.environ["UNDERPASS_BIN"], "--version").strip()

    def up(self, lab):
        binary = os.environ["UNDERPASS_BIN"]
        for node in NODES:
            socket = lab.directory / f"{node}.sock"
            config = lab.directory / f"{node}.toml"
            config.write_text(self._config(node, socket))
            daemon = lab.start(node, binary, "run", "--config", config)
            lab.ready(daemon, 10, lambda socket=socket: answers(binary, socket))
        return TUNNEL["n2"]

    def inspect(self, lab):
        """An uplink or backend that the daemon fell back from must not be measured under its name."""
        socket = lab.directory / "n1.sock"
        poll(5, lambda: "not tested yet" not in active(socket).get("tap", ""), "the self-test of the TAP ends")
        facts = active(socket)
        for name, state in self.must_show.items():
            if not str(facts.get(name, "")).startswith(state):
                raise Failure(f"the daemon does not use {name}: {facts.get(name, 'it does not know it')}")
        return facts

    def _config(self, node, socket):
        peer = other(node)
        sections = {
            "[node]": {"name": node, "address": f"{UNDERLAY[node]}/24"},
            "[tunnel]": self.tunnel,
            "[vxlan]": {"port": VXLAN_PORT, "vni": VNI},
            "[[pool]]": {"cidr": "10.244.0.0/16", **self.modes},
            "[local]": {"subnets": [SUBNET[node]]},
            "[[peer]]": {"name": peer, "address": UNDERLAY[peer], "subnets": [SUBNET[peer]]},
            "[control]": {"socket": str(socket)},
        }
        lines = []
        for header, values in sections.items():
            lines += [header, *(f"{key} = {toml(value)}" for key, value in values.items()), ""]
        return "\n".join(lines)


def active(socket):
    """What the daemon says that it uses."""
    status = json.loads(run(os.environ["UNDERPASS_BIN"], "status", "--socket", socket, "-o", "json"))
    return {"backend": status["backend"], "workers": status["workers"], **status.get("offloads", {})}


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


class OvsVxlan(System):
    """Open vSwitch with its userspace datapath."""

    def missing(self):
        return peers.missing("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool", package="openvswitch-switch")

    def version(self):
        return run("ovs-vswitchd", "--version").splitlines()[0]

    def up(self, lab):
        return peers.ovs_up(lab, VNI)


class WireGuard(System):
    """A userspace WireGuard; unlike all others it encrypts."""

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
              must_show={"tap": "active"}),
    Underpass("underpass-ipip", "underpass, IP in IP", ipip="Always"),
    Underpass("underpass-direct", "underpass, no encapsulation, sent through the TUN"),
    Underpass("underpass-vxlan-plain", 'underpass, VXLAN, backend = "plain"', vxlan="Always", backend="plain",
              must_show={"backend": "plain"}),
    OvsVxlan("ovs-vxlan", "Open vSwitch, userspace datapath, VXLAN"),
    WireGuard("wireguard-go", "wireguard-go as packaged; encrypts", "wireguard-go", "-f", package="wireguard-go"),
    WireGuard("boringtun", "boringtun; encrypts", "boringtun-cli", "-f", "--disable-drop-privileges"),
]
