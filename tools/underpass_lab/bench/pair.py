"""Two network namespaces joined by one veth pair: the smallest network with two nodes.

     n1                          n2
     eth0 192.0.2.1/24 ------- eth0 192.0.2.2/24        MTU 1500, default offloads

With loss the link goes through a third namespace, which drops packets at random, and both nodes cut
super-packets in software before it: what gets lost is then one packet of a wire, in every system.

     n1 eth0 ------- wire: left, bridge, right ------- eth0 n2

The load runs in the same namespaces as the tunnel under test, to the tunnel address of the other
node, so that a packet makes the same hops in every system. Everything is named after this process
and gone when the `with` block ends.

Where policies are measured each node has a pod, between which the load runs, because they are about pods.

     p1 eth0 10.244.1.2 --- pod0 n1 ------- n2 pod0 --- eth0 10.244.2.2 p2
"""

import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence

from underpass_lab.command import Failure, wait_until
from underpass_lab.network import Lab

UNDERLAY = {"n1": "192.0.2.1", "n2": "192.0.2.2"}
NODES = ("n1", "n2")
WIRE = "wire"
SUBNET = {"n1": "10.244.1.0/24", "n2": "10.244.2.0/24"}
# The pod of each node, its gateway and its address.
PODS = {"n1": "p1", "n2": "p2"}
GATEWAY = {"n1": "10.244.1.1", "n2": "10.244.2.1"}
POD = {"n1": "10.244.1.2", "n2": "10.244.2.2"}
# Another address of the pod on n2, which no rule allows.
FORBIDDEN = "10.244.2.3"
# An address behind n2 that is allowed, and where what is sent to it ends without an answer.
SILENT = "10.244.2.77"
# What `Conditions.rules` is without policies.
OFF_RULES = "off"
# IPv4, UDP, VXLAN and inner Ethernet headers.
VXLAN_OVERHEAD = 50
# At the ports' ingress, where no other hook looks at the packets first.
SHARES = 100_000
LOSE = """
table netdev loss {{
    chain left {{ type filter hook ingress device left priority 0; numgen random mod {shares} < {share} drop; }}
    chain right {{ type filter hook ingress device right priority 0; numgen random mod {shares} < {share} drop; }}
}}
"""


# What is off in each row of the sweep over uplinks: features of ethtool, or all that cut packets. Virtio, USB, Wi-Fi
# and many cloud cards are like "no tunnel" or "none".
TUNNELS = (
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
)
OFF: dict[str, tuple[str, ...] | None] = {
    "all": (),
    "no tunnel": TUNNELS,
    "no UDP": ("tx-udp-segmentation",),
    "none": None,
}
WITH_GRO = ", GRO"
UPLINKS = tuple(name + gro for name in OFF for gro in ("", WITH_GRO))


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a sweep changes: the link, and settings of the tunnel."""

    mtu: int = 1500
    # Percent of the packets on the link, each way; None: no wire in between that could lose any.
    loss: float | None = None
    # One of UPLINKS: which offloads both ends of the link have; the defaults of a veth pair when None.
    uplink: str | None = None
    # Worker threads of underpass; its own choice when None.
    workers: int | None = None
    # Routes in the forwarding table of underpass; only those it needs when None.
    routes: int | None = None
    # Policies between pods: rules that match nothing, in front of the one that allows; OFF_RULES: none at all; None:
    # there are no pods either.
    rules: int | str | None = None
    # Connections between pods that the daemons are to know.
    tracked: int | None = None

    @property
    def has_pods(self) -> bool:
        """Whether the load runs in pods."""
        return self.rules is not None or self.tracked is not None

    @property
    def is_judged(self) -> bool:
        """Whether there are policies."""
        return self.has_pods and self.rules != OFF_RULES

    @property
    def denied(self) -> int:
        """Rules that match nothing."""
        return self.rules if isinstance(self.rules, int) else 0


@dataclasses.dataclass
class Started:
    """A process in a node, and the file that its output goes to."""

    name: str
    process: subprocess.Popen[str]
    log: pathlib.Path

    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.process.poll() is not None

    def says_ready(self) -> bool:
        """Whether it has printed `ready`, as the programs of tools/ do."""
        return b"ready" in self.log.read_bytes()


def other(node: str) -> str:
    """The node at the far end."""
    return NODES[1 - NODES.index(node)]


class Pair(Lab):
    """The namespaces, a directory for files, and every process started in them."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        self.conditions = conditions or Conditions()
        super().__init__(f"upbench{os.getpid()}", self.conditions.mtu)
        self._started = 0
        # Where the load comes from, and where it goes.
        self.near, self.far = (PODS["n1"], PODS["n2"]) if self.conditions.has_pods else NODES

    def build(self) -> None:
        """The nodes and their link, as the conditions say."""
        nodes = [*NODES, WIRE] if self.conditions.loss is not None else list(NODES)
        for node in nodes:
            self.add_namespace(node, forward=True)
        if self.conditions.loss is not None:
            self._wire(self.conditions.loss)
        else:
            self.link("n1", "eth0", "n2", "eth0", self.mtu)
        if self.conditions.uplink is not None:
            for node in NODES:
                offload_as(self, node, self.conditions.uplink)
        for node in NODES:
            self.ip(node, f"address add {UNDERLAY[node]}/24 dev eth0")
            if self.conditions.has_pods:
                self._add_pod(node)
        wait_until(lambda: self.answers("n1", UNDERLAY["n2"]), 5, "the veth pair carries packets")

    def _add_pod(self, node: str) -> None:
        pod = PODS[node]
        self.add_namespace(pod)
        self.link(node, "pod0", pod, "eth0", self.mtu - VXLAN_OVERHEAD)
        self.ip(node, f"address add {GATEWAY[node]}/24 dev pod0")
        self.ip(pod, f"address add {POD[node]}/24 dev eth0", f"route add default via {GATEWAY[node]}")
        if node == "n2":
            self.ip(pod, f"address add {FORBIDDEN}/24 dev eth0")
            self.ip(node, f"route add blackhole {SILENT}")

    def _wire(self, loss: float) -> None:
        self.ip(WIRE, "link add bridge type bridge", f"link set bridge mtu {self.mtu} up")
        for node, port in (("n1", "left"), ("n2", "right")):
            self.link(node, "eth0", WIRE, port, self.mtu)
            self.ip(WIRE, f"link set {port} master bridge")
            cut_in_software(self, node)
        if loss:
            self.run(WIRE, "nft", LOSE.format(share=round(loss * SHARES / 100), shares=SHARES))

    def run(self, node: str, *command: object, timeout: float = 10) -> str:
        """Runs a command in a node to its end and returns its standard output."""
        try:
            return self.exec(node, *command, timeout=timeout).stdout
        except subprocess.TimeoutExpired:
            raise Failure(f"{command[0]}: not ready after {timeout} s") from None

    def start(self, node: str, *command: object, env: Mapping[str, str] | None = None) -> Started:
        """Starts a process in a node; it ends with the lab. Its output goes to a file."""
        name = pathlib.Path(str(command[0])).name
        self._started += 1
        log = self.dir / f"{node}-{name}-{self._started}.log"
        with open(log, "wb") as output:
            process = self.popen(
                node, *command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        return Started(name, process, log)

    def ready(self, started: Started, seconds: float, condition: Callable[[], bool]) -> None:
        """Waits until `condition()`; fails at once, with its last words, when the process ends."""

        def ended_or_ready() -> bool:
            if started.ended():
                said = started.log.read_text(errors="replace")
                raise Failure(f"{started.name} ended with status {started.process.returncode}:\n{said}")
            return condition()

        wait_until(ended_or_ready, seconds, f"{started.name} is ready")

    def answers(self, node: str, address: str) -> bool:
        """Whether `address` answers a ping from `node`."""
        ping = ("ping", "-n", "-q", "-c", "1", "-W", "1", address)
        return self.exec(node, *ping, check=False).returncode == 0


def offload_as(lab: Pair, node: str, uplink: str) -> None:
    """Gives eth0 the offloads of one of UPLINKS, and fails where it does not get them."""
    name, gro = uplink.removesuffix(WITH_GRO), uplink.endswith(WITH_GRO)
    chosen = OFF[name]
    if chosen is None:
        off: Sequence[str] = cut_in_software(lab, node)
    else:
        off = chosen
        switch(lab, node, off, "off")
    switch(lab, node, ("generic-receive-offload",), "on" if gro else "off")
    has = features(lab, node)
    wanted = {"generic-receive-offload": gro, **dict.fromkeys(off, False)}
    kept = {name for name in (*TUNNELS[:3], "tx-tcp-segmentation", "tx-udp-segmentation") if name not in off}
    wanted |= dict.fromkeys(kept, True)
    wrong = [
        f"{feature} {'on' if has.get(feature) else 'off'}" for feature, on in wanted.items() if has.get(feature) != on
    ]
    if wrong:
        raise Failure(f"the link cannot be made like uplink={uplink}: {', '.join(wrong)}")


def cut_in_software(lab: Pair, node: str) -> list[str]:
    """Turns off all segmentation offloads of eth0, those of tunnels included; returns which."""
    cuts = [
        name
        for name, on in features(lab, node).items()
        if on and name.startswith("tx-") and name.endswith("-segmentation")
    ]
    switch(lab, node, cuts, "off")
    return cuts


def features(lab: Pair, node: str) -> dict[str, bool]:
    """The features of eth0 by name, and whether each is on."""
    lines = lab.run(node, "ethtool", "-k", "eth0").splitlines()[1:]
    pairs = (line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: state.split()[0] == "on" for name, state in pairs}


def switch(lab: Pair, node: str, names: Sequence[str], state: str) -> None:
    """Switches features of eth0 on or off."""
    if names:
        lab.run(node, "ethtool", "-K", "eth0", *(word for name in names for word in (name, state)))
