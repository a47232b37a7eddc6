"""The systems that are compared: how each is brought up in a lab, and what it is called.

`up(lab)` returns the address in n2 that the load goes to. What a system starts ends with the lab.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

from underpass_lab import configuration
from underpass_lab.bench import kernel_path, peers, rootless, rules
from underpass_lab.bench.pair import NODES, POD, SUBNET, UNDERLAY, VXLAN_OVERHEAD, Conditions, Pair, other
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.daemon import Daemon, binary

VXLAN_PORT = 4789
VNI = 4096
# Large enough for a million routes; one kernel route leads all of it into the TUN.
POOL = "10.0.0.0/8"
# tunnel.address = "auto": the first address of the node's subnet.
TUNNEL = {"n1": "10.244.1.0", "n2": "10.244.2.0"}
# What is called after a test; see `System.watch`.
Judge = Callable[[bool], dict[str, Any]]


class System:
    """One way to get packets from n1 to n2."""

    # Whether it has worker threads and a table of routes that a sweep can set.
    has_settings = False
    # Whether it can be given the rules of policies.
    has_rules = False
    # Whether it needs /dev/net/tun.
    needs_tun = True
    # Whether it is a foreign program, which need not work in a user namespace.
    foreign = False

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about

    def missing(self) -> str | None:
        """Why this system cannot be measured here, or None."""
        return None

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def up(self, lab: Pair) -> str:
        raise NotImplementedError

    def inspect(self, lab: Pair) -> dict[str, Any]:
        """After some traffic: fails unless what runs is what the name says; returns facts about it."""
        return {}

    def watch(self, lab: Pair) -> Judge:
        """Before each test. What is returned is called after it, with whether nearly all packets of the test are of
        established flows: it fails unless they went the way that the name says, and returns more figures of the
        test."""
        return lambda _established: {}


class Veth(System):
    """No tunnel: what the link itself can do."""

    needs_tun = False

    def up(self, lab: Pair) -> str:
        return UNDERLAY["n2"]


class KernelVxlan(System):
    """A VXLAN device of the kernel, with its defaults; policies by nftables."""

    has_rules = True
    needs_tun = False

    def up(self, lab: Pair) -> str:
        for number, node in enumerate(NODES, start=1):
            lab.ip(
                node,
                f"link add vxlan0 type vxlan id {VNI} dstport {VXLAN_PORT}"
                f" local {UNDERLAY[node]} remote {UNDERLAY[other(node)]} dev eth0",
                f"address add 10.245.0.{number}/24 dev vxlan0",
                "link set vxlan0 up",
            )
            if lab.conditions.has_pods:
                lab.ip(node, f"route add {SUBNET[other(node)]} via 10.245.0.{3 - number}")
            if lab.conditions.is_judged:
                path = lab.dir / f"{node}.nft"
                path.write_text(rules.nftables(lab.conditions.denied), encoding="ascii")
                lab.run(node, "nft", "-f", path, timeout=60)
        return POD["n2"] if lab.conditions.has_pods else "10.245.0.2"

    def inspect(self, lab: Pair) -> dict[str, Any]:
        """The rules have to be in force."""
        if lab.conditions.has_pods:
            rules.inspect(lab)
        return {}


class Underpass(System):
    """Our daemon on both nodes."""

    has_settings = has_rules = True
    # The ways that the daemon is on, seen from a node: without encapsulation the kernel delivers what comes in.
    ways: tuple[str, ...] = ("tx", "rx")

    def __init__(
        self,
        name: str,
        about: str,
        vxlan: str = "Never",
        ipip: str = "Never",
        must_show: dict[str, str] | None = None,
        linux: tuple[int, ...] = (0, 0),
        **tunnel: Any,
    ) -> None:
        super().__init__(name, about)
        self.must_show, self.linux = must_show or {}, linux
        self.modes = {"vxlan_mode": vxlan, "ipip_mode": ipip}
        self.tunnel = tunnel
        if vxlan == ipip == "Never":
            self.ways = ("tx",)

    def missing(self) -> str | None:
        wanted = ".".join(map(str, self.linux))
        return f"needs Linux {wanted} or newer" if kernel() < self.linux else None

    def version(self) -> str:
        return run(binary(), "--version").stdout.strip()

    def up(self, lab: Pair) -> str:
        for node in NODES:
            text = self._config(node, lab.dir / f"{node}.sock", lab.conditions)
            if lab.conditions.is_judged:
                text += self._policy(lab.dir / f"{node}-policies", lab.conditions)
            lab.run_daemon(node, text)
        if lab.conditions.routes is not None:
            load_routes(lab, lab.conditions.routes)
        return POD["n2"] if lab.conditions.has_pods else TUNNEL["n2"]

    def _policy(self, directory: pathlib.Path, conditions: Conditions) -> str:
        rules.write_manifests(directory, conditions.denied)
        return rules.configuration(directory, conditions.tracked)

    def inspect(self, lab: Pair) -> dict[str, Any]:
        """An uplink or backend that the daemon fell back from must not be measured under its name; rules have to be
        in force."""
        if lab.conditions.has_pods:
            rules.inspect(lab)
        daemon = lab.daemons["n1"]
        wait_until(lambda: self._is_settled(active(daemon).get("tap", "")), 5, "the self-test of the TAP ends")
        facts = active(daemon)
        for name, state in self.must_show.items():
            if not str(facts.get(name, "")).startswith(state):
                raise Failure(f"the daemon does not use {name}: {facts.get(name, 'it does not know it')}")
        return facts

    def watch(self, lab: Pair) -> Judge:
        """Packets that the daemon's programs carried are not the pump's, and the other way round."""
        return kernel_path.Watch(lab, self._tunnel(lab.conditions).get("kernel_path"), self.ways).judge

    def _is_settled(self, tap: str) -> bool:
        # Without eBPF nothing makes the daemon test a TAP that only IP-in-IP could use.
        return "not tested yet" not in tap or ("never for ipip" in tap and self.modes["vxlan_mode"] == "Never")

    def _config(self, node: str, socket: pathlib.Path, conditions: Conditions) -> str:
        peer = other(node)
        return configuration.text(
            node={"name": node, "address": f"{UNDERLAY[node]}/24"},
            socket=socket,
            local=[SUBNET[node]],
            pools=[configuration.Pool(POOL, self.modes["ipip_mode"], self.modes["vxlan_mode"])],
            peers=[configuration.Peer(peer, UNDERLAY[peer], [SUBNET[peer]])],
            tunnel=self._tunnel(conditions),
            vxlan={"port": VXLAN_PORT, "vni": VNI},
        )

    def _tunnel(self, conditions: Conditions) -> dict[str, Any]:
        """The keys of [tunnel]."""
        keys: dict[str, Any] = {}
        # Workers and the table are the pump's: packets that it handed over meet neither.
        if conditions.workers is not None or conditions.routes is not None:
            keys["kernel_path"] = kernel_path.OFF
        # Connections are then counted in one table.
        wanted = 1 if conditions.tracked is not None else conditions.workers
        if wanted is not None:
            keys["workers"] = wanted
        return {**keys, **self.tunnel}


class UnderpassKernel(Underpass):
    """Our daemon on both nodes, which has the kernel send packets without encapsulation."""

    # No packet meets a worker or the table.
    has_settings = has_rules = False

    def inspect(self, lab: Pair) -> dict[str, Any]:
        """The kernel has to send by routes of the daemon, and nothing may have come to the TUN."""
        for node in NODES:
            status = lab.daemons[node].json("status")
            carried = sum(edge["rx_packets"] for edge in status["counters"].values())
            if status["direct"]["kernel_routes"] != 1 or status["missing"] or carried:
                raise Failure(f"{node} does not leave it to the kernel: {status['direct']}, {carried} packets")
        return super().inspect(lab)

    def _config(self, node: str, socket: pathlib.Path, conditions: Conditions) -> str:
        return super()._config(node, socket, conditions) + '[direct]\nvia = "kernel"\n'


class UnderpassPath(Underpass):
    """Our daemon on both nodes, which hands established flows over to programs in the kernel."""

    # Only the first packets of a flow meet a worker or the table.
    has_settings = False

    def __init__(self, name: str, about: str, vxlan: str = "Never", ipip: str = "Never") -> None:
        must_show = {"kernel_path": "active"}
        # TCX.
        super().__init__(name, about, vxlan, ipip, must_show, linux=(6, 6), kernel_path=kernel_path.ON)

    def missing(self) -> str | None:
        privileged = rootless.may_make_namespaces() and not rootless.is_rootless()
        return super().missing() if privileged else "needs root: eBPF is not for user namespaces"


def load_routes(lab: Pair, count: int) -> None:
    """Makes the tables of both nodes hold `count` routes, loaded as a user would load them."""
    for node in NODES:
        daemon = lab.daemons[node]
        more = count - daemon.json("status")["routes"]
        if more > 0:
            path = lab.dir / f"{node}.routes"
            path.write_text(route_lines(more, other(node)), encoding="ascii")
            daemon.command("route", "add", "--file", path, timeout=60)
        held = daemon.json("status")["routes"]
        if held < count:
            raise Failure(f"{held} routes in the table of {node} in place of {count}")


@functools.cache
def route_lines(count: int, peer: str) -> str:
    """`count` routes via `peer` as `route add --file` reads them: single addresses, and every eighth one a
    prefix of /29 to /32, as tables of pods and of blocks are mixed."""

    def prefix(number: int) -> str:
        high, low = 16 + (number >> 16), f"{number >> 8 & 255}.{number & 255}"
        return f"10.{high}.{low}/{32 if number % 8 else 29 + number // 8 % 4}"

    return "".join(f"{prefix(number)} via {peer}\n" for number in range(count))


def kernel() -> tuple[int, ...]:
    """Major and minor version of the running kernel."""
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def active(daemon: Daemon) -> dict[str, Any]:
    """What the daemon says that it uses."""
    known = daemon.json("status")
    path = {"kernel_path": known["kernel_path"]["state"]} if "kernel_path" in known else {}
    return {"backend": known["backend"], "workers": known["workers"], **known.get("offloads", {}), **path}


class CopyLoop(System):
    """The simplest userspace tunnel there can be: copyloop of tools/."""

    def missing(self) -> str | None:
        # `--list` is asked before anything is built.
        given = os.environ.get("BENCH_COPYLOOP")
        return None if given is None or os.access(given, os.X_OK) else f"{given} is not built (copyloop of tools/)"

    def version(self) -> str:
        return "copyloop of this commit, crate tun-tap"

    def up(self, lab: Pair) -> str:
        for number, node in enumerate(NODES, start=1):
            ends = ("--local", UNDERLAY[node], "--peer", UNDERLAY[other(node)])
            wire = ("--port", VXLAN_PORT, "--vni", VNI)
            loop = lab.start(node, os.environ["BENCH_COPYLOOP"], "--device", "copy0", *ends, *wire)
            lab.ready(loop, 5, loop.says_ready)
            mtu = lab.conditions.mtu - VXLAN_OVERHEAD
            lab.ip(node, f"address add 10.245.0.{number}/24 dev copy0", f"link set copy0 mtu {mtu} up")
        return "10.245.0.2"


class OvsVxlan(System):
    """Open vSwitch with its userspace datapath."""

    foreign = True

    def missing(self) -> str | None:
        return peers.missing("ovs-vswitchd", "ovsdb-server", "ovs-vsctl", "ovsdb-tool", package="openvswitch-switch")

    def version(self) -> str:
        return run("ovs-vswitchd", "--version").stdout.splitlines()[0]

    def up(self, lab: Pair) -> str:
        return peers.ovs_up(lab, VNI)


class WireGuard(System):
    """A userspace WireGuard; unlike all others it encrypts."""

    foreign = True

    def __init__(self, name: str, about: str, binary: str, *flags: str, package: str | None = None) -> None:
        super().__init__(name, about)
        self.binary, self.flags, self.package = binary, flags, package

    def missing(self) -> str | None:
        return peers.missing(self.binary, package=self.package) or peers.missing("wg", package="wireguard-tools")

    def version(self) -> str:
        if self.package:
            return f"{self.package} {peers.package_version(self.package)}"
        return run(self.binary, "--version").stdout.strip()

    def up(self, lab: Pair) -> str:
        return peers.wireguard_up(lab, self.binary, self.flags)


SYSTEMS = [
    Veth("veth", "the link itself, no tunnel"),
    KernelVxlan("kernel-vxlan", "VXLAN device of the Linux kernel"),
    Underpass("underpass-vxlan", "underpass, VXLAN, defaults", vxlan="Always"),
    Underpass(
        "underpass-vxlan-pump", 'underpass, VXLAN, kernel_path = "off"', vxlan="Always", kernel_path=kernel_path.OFF
    ),
    Underpass(
        "underpass-vxlan-busy-poll",
        'underpass, VXLAN, busy_poll = 30, kernel_path = "off"',
        vxlan="Always",
        busy_poll=30,
        kernel_path=kernel_path.OFF,
    ),
    Underpass(
        "underpass-vxlan-socket",
        'underpass, VXLAN, uplink = "socket", kernel_path = "off"',
        vxlan="Always",
        uplink="socket",
        kernel_path=kernel_path.OFF,
    ),
    Underpass(
        "underpass-vxlan-tap",
        'underpass, VXLAN, uplink = "tap", kernel_path = "off"',
        vxlan="Always",
        uplink="tap",
        kernel_path=kernel_path.OFF,
        must_show={"tap": "active"},
        linux=(6, 17),
    ),
    UnderpassPath("underpass-vxlan-kernel", 'underpass, VXLAN, kernel_path = "on"', vxlan="Always"),
    Underpass("underpass-ipip", "underpass, IP in IP", ipip="Always"),
    UnderpassPath("underpass-ipip-kernel", 'underpass, IP in IP, kernel_path = "on"', ipip="Always"),
    Underpass("underpass-direct", "underpass, no encapsulation, sent through the TUN"),
    UnderpassPath("underpass-direct-kernel-path", 'underpass, no encapsulation, kernel_path = "on"'),
    UnderpassKernel("underpass-direct-kernel", "underpass, no encapsulation, sent by the kernel"),
    Underpass(
        "underpass-vxlan-plain",
        'underpass, VXLAN, backend = "plain", kernel_path = "off"',
        vxlan="Always",
        backend="plain",
        kernel_path=kernel_path.OFF,
        must_show={"backend": "plain"},
    ),
    CopyLoop("tun-copy-loop", "the floor: one packet a system call between a plain TUN and a UDP socket, VXLAN"),
    OvsVxlan("ovs-vxlan", "Open vSwitch, userspace datapath, VXLAN"),
    WireGuard("wireguard-go", "wireguard-go as packaged; encrypts", "wireguard-go", "-f", package="wireguard-go"),
    WireGuard("boringtun", "boringtun; encrypts", "boringtun-cli", "-f", "--disable-drop-privileges"),
]
