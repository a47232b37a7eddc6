"""The network between the machines of a cluster, and its end."""

from underpass_lab import netns
from underpass_lab.kubernetes.plan import ADDRESSES, ADDRESSES6, CONTROL, CONTROL_ADDRESS, Plan
from underpass_lab.network import Lab


class Underlay(Lab):
    """The namespaces of a cluster as a lab: captures, pings and transfers as in any other. It outlives the process."""

    def __init__(self, plan: Plan, mtu: int = 1500) -> None:
        super().__init__(plan.id, mtu, plan.dual_stack, plan.state / "underlay")
        self.plan = plan

    def build(self) -> None:
        self.dir.mkdir()
        self.add_namespace("sw")
        self.ip("sw", "link add br0 type bridge mcast_snooping 0", "link set br0 up")
        self._add_machine(CONTROL, CONTROL_ADDRESS)
        if "n3" in self.plan.names:
            self._add_router()
        for name in self.plan.names:
            self._add_machine(name, ADDRESSES[name])

    def add_namespace(self, name: str, forward: bool = False) -> None:
        super().add_namespace(name, forward)
        if self.ipv6 and forward:
            self.sysctl(name, {"ipv6/conf/all/forwarding": 1})

    def _add_router(self) -> None:
        self.add_namespace("R", forward=True)
        self._plug("R", "port-r")
        self.ip("R", "address add 192.0.2.254/24 dev eth0")
        if self.ipv6:
            self.ip("R", "address add 2001:db8:1::fe/64 dev eth0 nodad")

    def _add_machine(self, name: str, address: str) -> None:
        self.add_namespace(name, forward=name != CONTROL)
        six, far = ADDRESSES6[name], name == "n3"
        if far:
            self.link(name, "eth0", "R", "eth1", self.mtu, offloads=False)
            self.ip("R", "address add 198.51.100.254/24 dev eth1")
        else:
            self._plug(name, f"port-{name}")
        self.ip(name, f"address add {address}/24 dev eth0")
        if "n3" in self.plan.names:
            subnet, router = ("192.0.2", "198.51.100") if far else ("198.51.100", "192.0.2")
            self.ip(name, f"route add {subnet}.0/24 via {router}.254")
        if self.ipv6:
            self.ip(name, f"address add {six}/64 dev eth0 nodad")
            if far:
                self.ip("R", "address add 2001:db8:2::fe/64 dev eth1 nodad")
            if "n3" in self.plan.names:
                near, beyond = (2, 1) if far else (1, 2)
                self.ip(name, f"route add 2001:db8:{beyond}::/64 via 2001:db8:{near}::fe")

    def _plug(self, name: str, port: str) -> None:
        self.link(name, "eth0", "sw", port, self.mtu, offloads=False)
        self.ip("sw", f"link set {port} master br0")

    def found(self) -> list[str]:
        """The namespaces that there are, whoever made them."""
        prefix = f"{self.id}-"
        return sorted(path.name.removeprefix(prefix) for path in netns.NAMES.glob(f"{prefix}*"))

    def close(self) -> None:
        self._namespaces = self.found()
        super().close()
