"""Labs of two or three nodes with pods, for tests and measurements that speak to each machine by name.

    podA              podB                              podC
    10.244.1.2        10.244.2.2                        10.244.3.2
      | eth0            | eth0                            | eth0
      | pod0            | pod0                            | pod0
    n1                n2                R               n3
      | eth0            | eth0            | eth0  eth1 |  | eth0
      | 192.0.2.1       | 192.0.2.2       | .254       |  | 198.51.100.3
      | port-n1         | port-n2         | port-r     |  |
    ===================================== sw (br0)     +--+ 198.51.100.0/24, R is .254

    T2  podA n1 sw n2 podB                        T3  all of it
    TS  T2 with an n2 that has no address and no pod: silent, whatever it sends is made by the test
    TK  T2 with the kernel's VXLAN device (VNI 42) on n2 instead of a daemon

Needs root. Links between nodes have their offloads off unless the lab is `virtual`, so a capture shows frames as they
are on a real wire; links to pods keep theirs. Nodes route only to each other: what reaches another pod went through a
daemon.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scapy.layers.l2 import Ether

from underpass_lab import configuration
from underpass_lab.capture import Capture
from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.network import Lab
from underpass_lab.vtep import vtep_mac

ADDRESSES = {"n1": "192.0.2.1", "n2": "192.0.2.2", "n3": "198.51.100.3"}
PODS = {"n1": "podA", "n2": "podB", "n3": "podC"}
TOPOLOGIES = {"T2": ("n1", "n2"), "T3": ("n1", "n2", "n3"), "TS": ("n1", "n2"), "TK": ("n1", "n2")}
KERNEL_VNI = 42
# Keys of [tunnel] that configurations have unless they say otherwise; `off` has the pump carry everything.
KERNEL_PATH = {"kernel_path": os.environ["UNDERPASS_KERNEL_PATH"]} if "UNDERPASS_KERNEL_PATH" in os.environ else {}

_NUMBERS = itertools.count(1)


def subnet(node: str) -> str:
    """The pod subnet of a node, `10.244.N.0/24`."""
    return f"10.244.{node[1:]}.0/24"


def pod_address(node: str) -> str:
    """The address of the pod on a node, `10.244.N.2`."""
    return f"10.244.{node[1:]}.2"


class NodeLab(Lab):
    """One lab. Namespaces are named as in the picture: `n1`, `podA`, `sw`, `R`."""

    def __init__(self, topology: str = "T2", mtu: int = 1500, ipv6: bool = False, virtual: bool = False) -> None:
        """With `virtual` links between nodes keep their offloads, as between containers of one host: super-packets
        cross them uncut."""
        super().__init__(f"up{os.getpid()}x{next(_NUMBERS)}", mtu, ipv6)
        self.topology, self.virtual = topology, virtual
        self.nodes = TOPOLOGIES[topology]
        # Whether kernels may announce the multicast groups of TUNs through them, which daemons drop as unsupported.
        self.multicast_reports = False

    # --- construction -----------------------------------------------------------------------------

    def build(self) -> None:
        """The nodes of the topology with their pods, the switch and the router."""
        self.add_namespace("sw")
        self.ip("sw", "link add br0 type bridge mcast_snooping 0", "link set br0 up")
        if self.topology == "T3":
            self.add_namespace("R", forward=True)
            self.plug("R", "port-r")
            self.ip("R", "address add 192.0.2.254/24 dev eth0")
        for node in self.nodes:
            self._add_node(node)
        if self.topology == "TS":
            self._silence("n2")
        else:
            self._add_pod("n2")
        if self.topology == "TK":
            self.add_kernel_vxlan("n2", peer="n1")

    def _add_node(self, node: str) -> None:
        self.add_namespace(node, forward=True)
        if node == "n3":
            self.link(node, "eth0", "R", "eth1", self.mtu, offloads=self.virtual)
            self.ip("R", "address add 198.51.100.254/24 dev eth1")
        else:
            self.plug(node, f"port-{node}")
        self.ip(node, f"address add {ADDRESSES[node]}/24 dev eth0")
        if self.topology == "T3":
            far, router = ("192.0.2", "198.51.100") if node == "n3" else ("198.51.100", "192.0.2")
            self.ip(node, f"route add {far}.0/24 via {router}.254")
        if node != "n2":
            self._add_pod(node)

    def _add_pod(self, node: str) -> None:
        pod, gateway = PODS[node], f"10.244.{node[1:]}.1"
        self.add_namespace(pod)
        self.link(node, "pod0", pod, "eth0")
        self.ip(node, f"address add {gateway}/24 dev pod0")
        self.ip(pod, f"address add {pod_address(node)}/24 dev eth0", f"route add default via {gateway}")

    def _silence(self, node: str) -> None:
        """A node whose kernel answers nothing, not even ARP: the others know its MAC beforehand."""
        self.ip(node, "address flush dev eth0")
        for other in self.nodes:
            if other != node:
                mac = self.mac(node, "eth0")
                self.ip(other, f"neighbour replace {ADDRESSES[node]} lladdr {mac} dev eth0 nud permanent")

    def add_kernel_vxlan(self, node: str, peer: str, *options: str) -> None:
        """The way flannel and Calico set the kernel's device up: no learning, all entries static."""
        far = subnet(peer)
        gateway = far.removesuffix("/24")
        self.ip(
            node,
            f"link add vx0 address {vtep_mac(node)} type vxlan id {KERNEL_VNI} dstport 4789"
            f" local {ADDRESSES[node]} nolearning {' '.join(options)}",
            f"link set vx0 mtu {self.mtu - 50} up",
            f"address add {subnet(node).removesuffix('/24')}/32 dev vx0",
            f"neighbour add {gateway} lladdr {vtep_mac(peer)} dev vx0 nud permanent",
            f"route add {far} via {gateway} dev vx0 onlink",
        )
        self.tool("bridge", "-n", self.ns(node), "fdb", "append", vtep_mac(peer), "dev", "vx0", "dst", ADDRESSES[peer])

    def plug(self, name: str, port: str) -> None:
        """Links the `eth0` of a namespace to the bridge, by a new port."""
        self.link(name, "eth0", "sw", port, self.mtu, offloads=self.virtual)
        self.ip("sw", f"link set {port} master br0")

    def add_host(self, name: str, address: str) -> None:
        """One more host on the bridge, such as a stranger: `add_host("x", "192.0.2.66/24")`."""
        self.add_namespace(name)
        self.plug(name, f"port-{name}")
        self.ip(name, f"address add {address} dev eth0")

    # --- traffic ----------------------------------------------------------------------------------

    def frame(
        self, name: str, target: str, payload: Any, interface: str = "eth0", target_interface: str = "eth0"
    ) -> Any:
        """`payload` behind the Ethernet header that brings it from one namespace to its neighbour."""
        return Ether(src=self.mac(name, interface), dst=self.mac(target, target_interface)) / payload

    def capture(self, name: str, interface: str, expression: str = "") -> Capture:
        """A Capture of what passes an interface, for a `with` block."""
        return Capture(self, name, interface, expression)

    # --- daemons ----------------------------------------------------------------------------------

    def config(
        self,
        node: str,
        ipip: str = "Always",
        vxlan: str = "Never",
        pools: Sequence[tuple[Any, ...]] | None = None,
        peers: Mapping[str, Sequence[Any]] | None = None,
        port: int = 4789,
        vni: int | None = None,
        tunnel: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """A configuration file for the daemon of a node, as text.

        `pools` is a list of (cidr, ipip_mode, vxlan_mode[, nat_outgoing, verify]), by default 10.244.0.0/16 with the
        modes given. `peers` is {name: (address, [subnet…])}, by default the other nodes; a third element has more
        keys. `tunnel` and `vxlan_keys` have keys of [tunnel] and [vxlan]. In `more`, `local` replaces the
        local subnets, `address` the node's address with its prefix length, `own` all its addresses,
        `node_keys` and `local_keys` have more keys of [node] and [local], and `extra` is appended.
        """
        others = [other for other in ADDRESSES if other != node and (other in self.nodes or self.topology == "TS")]
        peers = {other: (ADDRESSES[other], [subnet(other)]) for other in others} if peers is None else peers
        own = more.get("own") or {"address": more.get("address", f"{ADDRESSES[node]}/24")}
        wire = {"port": port, "vni": vni or (KERNEL_VNI if self.topology == "TK" else 4096)}
        text = configuration.text(
            node={"name": node} | own | more.get("node_keys", {}),
            socket=self.dir / f"{node}.sock",
            local=more.get("local", [subnet(node)]),
            pools=[configuration.Pool(*pool) for pool in pools or [("10.244.0.0/16", ipip, vxlan)]],
            peers=[configuration.Peer(name, *about) for name, about in peers.items()],
            tunnel=KERNEL_PATH | dict(tunnel or {}),
            vxlan=wire | more.get("vxlan_keys", {}),
            local_keys=more.get("local_keys"),
        )
        return text + str(more.get("extra", ""))

    def start_daemon(
        self,
        node: str,
        config_text: str | None = None,
        environment: Mapping[str, str] | None = None,
        command: list[str] | None = None,
        stderr: Any = None,
        **config: Any,
    ) -> Daemon:
        """Starts the daemon of a node and waits until it answers; `config` goes to `NodeLab.config`."""
        return self.run_daemon(node, config_text or self.config(node, **config), environment, command, stderr)

    def status(self, node: str) -> Any:
        """What `underpass status -o json` says on a node."""
        return self.daemons[node].json("status")

    def drops(self, node: str) -> dict[str, int]:
        """The drop counters of a node: {reason: count}."""
        counters: dict[str, int] = self.daemons[node].json("drops")
        return counters

    @contextlib.contextmanager
    def expect_drops(self, node: str, timeout: float = 2.0, **expected: int) -> Iterator[None]:
        """Within the block exactly these counters move: `with lab.expect_drops("n1", bad_vni=3): …`."""
        before = self.drops(node)

        def moved() -> dict[str, int]:
            now = self.drops(node)
            found = {reason: now[reason] - before[reason] for reason in now if now[reason] != before[reason]}
            if self.multicast_reports:
                found.pop("unsupported", None)
            return found

        yield
        try:
            wait_until(lambda: moved() == expected, timeout)
        except Failure:
            raise Failure(f"drops on {node} moved by {moved()}, expected {expected}") from None
