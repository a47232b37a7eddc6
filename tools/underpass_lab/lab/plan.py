"""From a topology to the commands that make it: a batch for each tool and namespace, so that fifty nodes
cost fifty processes and not thousands.

    pod-a  eth0 --- pod0  node-a  eth0 --- node-a  switch-left  router --- eth0  router  eth1 --- …
           (one pod: pod0 is its link; more: pod0 is a bridge with pod0-1, pod0-2 …)   (br0)
"""

import ipaddress

from underpass_lab.lab import topology as topologies
from underpass_lab.lab.topology import Link, Node, Router, Subnet, Topology
from underpass_lab.vtep import vtep_mac

# The kernel allows 1024 neighbours that it found by ARP on the whole machine, over all namespaces. Above
# this many nodes a lab writes down beforehand who is where.
ARP_UP_TO = 20
# What a rate limit lets pass at once: 4 ms of its rate, but no less than a large frame and its neighbour.
BURST_S, LEAST_BURST = 0.004, 20_000
QUEUE = "50ms"


class Plan:
    """`links` for one batch of `ip`, then batches for each namespace: `ip`, `bridge`, `tc`, and `nft`."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        names = topology.namespaces()
        self.forwards = {machine.name for machine in topology.machines()}
        self.links: list[str] = []
        self.ends: list[tuple[str, str]] = []
        self.ip: dict[str, list[str]] = {name: [] for name in names}
        self.bridge: dict[str, list[str]] = {name: [] for name in names}
        self.tc: dict[str, list[str]] = {name: [] for name in names}
        self.nft: dict[str, list[str]] = {}
        for name in names:
            self.ip[name].append("link set lo up")
        for subnet in topology.subnets:
            self.ip[subnet.switch] += ["link add br0 type bridge mcast_snooping 0", "link set br0 up"]
        for router in topology.routers:
            self._router(router)
        for node in topology.nodes:
            self._node(node)
            self._pods(node)
        for node in topology.nodes:
            if node.dataplane == topologies.KERNEL:
                self._kernel(node)
        if len(topology.nodes) > ARP_UP_TO:
            self._write_down_neighbours()

    def _link(self, near: str, interface: str, far: str, far_interface: str, mtu: int, mac: str | None = None) -> None:
        address = f" address {mac}" if mac else ""
        self.links.append(
            f"link add name {interface}{address} mtu {mtu} netns {near} type veth"
            f" peer name {far_interface} mtu {mtu} netns {far}"
        )
        self.ip[near].append(f"link set {interface} up")
        self.ip[far].append(f"link set {far_interface} up")

    def _plug(
        self, machine: str, interface: str, subnet: Subnet, link: Link, mac: str, port: str | None = None
    ) -> None:
        """A link to the switch of a subnet, with its rate and loss."""
        port = port or machine
        switch = subnet.switch
        self._link(machine, interface, switch, port, subnet.mtu, mac)
        self.ip[switch].append(f"link set {port} master br0")
        self.ends += [(machine, interface), (switch, port)]
        if link.rate:
            self._limit(machine, interface, link.rate)
            self._limit(switch, port, link.rate)
        if link.loss:
            # In the switch, where the frames of packet sockets pass as all others do.
            below = round(link.loss * 10)
            self.nft.setdefault(switch, []).extend(
                f'{way} "{port}" numgen random mod 1000 < {below} drop' for way in ("iifname", "oifname")
            )

    def _limit(self, name: str, interface: str, rate: str) -> None:
        burst = max(round(topologies.bits_per_second(rate) / 8 * BURST_S), LEAST_BURST)
        self.tc[name].append(f"qdisc add dev {interface} root tbf rate {rate} burst {burst} latency {QUEUE}")

    def _router(self, router: Router) -> None:
        ip = self.ip[router.name]
        for index, (subnet, address) in enumerate(router.ports):
            self._plug(router.name, f"eth{index}", subnet, router.link, router.mac(index))
            ip.append(f"address add {address}/{subnet.network.prefixlen} dev eth{index}")
        attached = {subnet for subnet, _ in router.ports}
        gateways: dict[Subnet, ipaddress.IPv4Address] = {}
        for subnet, own in router.ports:
            for other, gateway in self.topology.next_hops(subnet).items():
                if other not in attached and gateway != own:
                    gateways.setdefault(other, gateway)
        ip += [f"route add {other.network} via {gateway}" for other, gateway in gateways.items()]
        if router.knows_pods:
            for node in self.topology.nodes:
                if node.subnet in attached or node.subnet in gateways:
                    via = node.address if node.subnet in attached else gateways[node.subnet]
                    ip.append(f"route add {node.pod_network} via {via}")

    def _node(self, node: Node) -> None:
        self._plug(node.name, "eth0", node.subnet, node.link, node.mac)
        ip = self.ip[node.name]
        ip.append(f"address add {node.address}/{node.subnet.network.prefixlen} dev eth0")
        ip += [
            f"route add {other.network} via {gateway}"
            for other, gateway in self.topology.next_hops(node.subnet).items()
        ]

    def _pods(self, node: Node) -> None:
        ip, mtu = self.ip[node.name], node.subnet.mtu
        if node.pods != 1:
            ip += [f"link add pod0 mtu {mtu} type bridge mcast_snooping 0", "link set pod0 up"]
        for index, (pod, address) in enumerate(node.pod_addresses().items(), 1):
            port = "pod0" if node.pods == 1 else f"pod0-{index}"
            self._link(node.name, port, pod, "eth0", mtu)
            if node.pods != 1:
                ip.append(f"link set {port} master pod0")
            self.ip[pod] += [f"address add {address}/24 dev eth0", f"route add default via {node.gateway}"]
        ip.append(f"address add {node.gateway}/24 dev pod0")

    def _kernel(self, node: Node) -> None:
        """The kernel's VXLAN device as flannel and Calico set it up: no learning, all entries static."""
        wire, ip, mac = self.topology.vxlan, self.ip[node.name], vtep_mac(node.name)
        ip += [
            f"link add vxlan0 address {mac} type vxlan id {wire['vni']} dstport {wire['port']}"
            f" local {node.address} nolearning",
            f"link set vxlan0 mtu {node.subnet.mtu - 50} up",
            f"address add {node.pod_network.network_address}/32 dev vxlan0",
        ]
        for other in self.topology.nodes:
            if other is node:
                continue
            if not self._encapsulates(node, other):
                ip.append(f"route add {other.pod_network} via {self._towards(node, other)}")
                continue
            vtep, vtep_address = vtep_mac(other.name), other.pod_network.network_address
            ip += [
                f"neighbour add {vtep_address} lladdr {vtep} dev vxlan0 nud permanent",
                f"route add {other.pod_network} via {vtep_address} dev vxlan0 onlink",
            ]
            self.bridge[node.name].append(f"fdb append {vtep} dev vxlan0 dst {other.address}")

    def _encapsulates(self, node: Node, other: Node) -> bool:
        mode = self.topology.vxlan_mode
        return mode == "Always" or mode == "CrossSubnet" and node.subnet is not other.subnet

    def _towards(self, node: Node, other: Node) -> ipaddress.IPv4Address:
        return other.address if node.subnet is other.subnet else self.topology.next_hops(node.subnet)[other.subnet]

    def _write_down_neighbours(self) -> None:
        for subnet in self.topology.subnets:
            machines = [
                (node.name, "eth0", node.address, node.mac) for node in self.topology.nodes if node.subnet is subnet
            ]
            machines += [
                (router.name, f"eth{index}", address, router.mac(index))
                for router in self.topology.routers
                for index, (port, address) in enumerate(router.ports)
                if port is subnet
            ]
            for name, interface, own, _ in machines:
                self.ip[name] += [
                    f"neighbour add {address} lladdr {mac} dev {interface} nud permanent"
                    for _, _, address, mac in machines
                    if address != own
                ]

    def loss_rules(self, switch: str) -> str:
        """What nft reads for a switch."""
        rules = "\n".join(f"        {rule}" for rule in self.nft[switch])
        return (
            f"table bridge lab {{\n    chain links {{\n"
            f"        type filter hook forward priority 0; policy accept;\n{rules}\n    }}\n}}\n"
        )
