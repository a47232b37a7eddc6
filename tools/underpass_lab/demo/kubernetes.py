"""The demo in a Kubernetes cluster: three nodes in two subnets, one manifest, and pods that reach each other."""

import functools
import ipaddress
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from underpass_lab import netns
from underpass_lab.command import Failure, wait_until
from underpass_lab.demo import forms
from underpass_lab.demo.forms import FAR
from underpass_lab.demo.inside import Recording
from underpass_lab.demo.story import Story, say
from underpass_lab.kubernetes import binaries, cgroups, install, pods
from underpass_lab.kubernetes.client import Client
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.plan import ADDRESSES, CONTROL, CONTROL_ADDRESS, PODS
from underpass_lab.kubernetes.pods import Pod

NODES = 3
TRANSFER_BYTES = 4 << 20
READY_S = 90
SED = "sed s/Always/CrossSubnet/ config/kubernetes/underpass.yaml | kubectl apply -f -"
# What a daemon in a container goes without, as /proc/sys is read-only there; docs/kubernetes.md says what it costs.
READ_ONLY = "sysctl -w net/ipv4/conf/up0/accept_local=1"


class Demo:
    """All cases in one cluster."""

    def __init__(self, cluster: Cluster, client: Client, story: Story) -> None:
        self.cluster, self.client, self.story = cluster, client, story
        self.pods: dict[str, Pod] = {}

    def run(self) -> None:
        """Every case; without pods there is nothing more to show."""
        self.install()
        with self.story.case("a pod on each node"):
            there = self.story.check("pods of a DaemonSet have addresses of their nodes' subnets", self.start_pods)
        if there:
            self.traffic()
            self.nodes()
            self.outside()
            self.remove_pods()

    # --- the installation -------------------------------------------------------------------------

    def install(self) -> None:
        """From a cluster without a network to one with it."""
        with self.story.case(SED):
            self.story.check("before: no node is Ready, no node has a CNI configuration", self.without_network)
            self.story.check("the image on each node, as config/kubernetes/Containerfile has it", self.load_image)
            self.story.check("applied", lambda: install.apply(self.cluster, install.manifest()))
            self.story.check("three nodes Ready", self.nodes_ready)
            for name in self.cluster.nodes:
                self.story.check(f"daemon on {name}", functools.partial(self.daemon, name))

    def without_network(self) -> None:
        """Failure where a node is Ready already."""
        ready = [name for name, (is_ready, _) in self.conditions().items() if is_ready]
        found = [name for name, machine in self.cluster.nodes.items() if machine.path(install.CONFLIST).exists()]
        if ready or found:
            raise Failure(f"Ready: {ready}, configured: {found}")

    def conditions(self) -> dict[str, tuple[bool, str]]:
        """(whether it is Ready, why) of each node."""
        found = {}
        for item in self.client.get("/api/v1/nodes")["items"]:
            kinds = {one["type"]: one for one in item["status"].get("conditions", [])}
            ready = kinds.get("Ready", {})
            found[item["metadata"]["name"]] = (ready.get("status") == "True", ready.get("message", ""))
        return found

    def load_image(self) -> str:
        """The image; its size."""
        return f"{install.load_image(self.cluster) / (1 << 20):.1f} MiB unpacked"

    def nodes_ready(self) -> str:
        """Waits for the nodes."""
        begun = time.monotonic()
        try:
            self.cluster.wait_nodes_ready(READY_S)
        except Failure as failure:
            raise Failure(f"{failure}\n{self.conditions()}\n{install.described(self.cluster)}") from None
        return f"{time.monotonic() - begun:.1f} s after the manifest"

    def daemon(self, name: str) -> str:
        """Follows the API server with the rights that it has, and says what it goes without."""
        answer = install.daemon_status(self.cluster, name)
        (source,) = answer["sources"]
        if source["state"] != "following" or source["problems"] or source["refusals"] or source["nodes"] != NODES:
            raise Failure(f"{source}")
        missing = [one["what"] for one in answer["missing"] if one["command"] != READ_ONLY]
        if missing:
            raise Failure("\n".join(missing))
        mtu = answer["tunnel"]["mtu"]
        return f"style {source['style']}, {source['nodes']} nodes, {answer['routes']} routes, MTU {mtu}"

    def start_pods(self) -> str:
        """A pod on each node, with an address of the node's podCIDR."""
        self.pods = pods.start(self.cluster, self.client)
        for name, pod in self.pods.items():
            (subnet,) = self.cluster.pod_subnets(name)
            if ipaddress.ip_address(pod.address) not in ipaddress.ip_network(subnet):
                raise Failure(f"{pod.address} on {name}, whose subnet is {subnet}")
        return ", ".join(f"{name} {pod.address}" for name, pod in self.pods.items())

    # --- pod to pod -------------------------------------------------------------------------------

    def traffic(self) -> None:
        """All ordered pairs, and how their packets travelled."""
        with self.story.case("pods reach each other: direct inside the subnet, IP-in-IP through the router"):
            wires: dict[str, Recording] = {}
            self.story.check("captures on the three links", functools.partial(self.begin_captures, wires))
            pairs = list(itertools.permutations(self.pods.values(), 2))
            self.story.check("ping between all pods", functools.partial(self.ping_all, pairs))
            for source, target in pairs:
                way = f"{source.node} to {target.node}"
                self.story.check(f"TCP 4 MiB {way}", functools.partial(self.transfer, source, target))
            self.story.check("captures are complete", lambda: forms.end_all(wires.items()))
            for source, target in pairs:
                form = forms.expected(source.node, target.node)
                seen = functools.partial(self.seen, wires, source, target, form)
                self.story.check(f"wire {source.node} to {target.node}: {form}", seen)

    def begin_captures(self, wires: dict[str, Recording]) -> None:
        """All traffic of a node passes its link."""
        for name, (namespace, interface) in forms.WIRES.items():
            wires[name] = Recording(self.cluster.underlay, namespace, interface)

    def ping_all(self, pairs: list[tuple[Pod, Pod]]) -> str:
        """All pairs at once; every single question must be answered."""
        with ThreadPoolExecutor(len(pairs)) as threads:
            answered = list(threads.map(lambda pair: pair[0].ping(pair[1].address), pairs))
        wrong = [
            f"{a.node} to {b.node}: {count} of 3" for (a, b), count in zip(pairs, answered, strict=True) if count < 3
        ]
        if wrong:
            raise Failure("\n".join(wrong))
        return f"{len(pairs)} pairs, 3 of 3 answered each"

    def transfer(self, source: Pod, target: Pod) -> str:
        """A TCP transfer of random bytes."""
        return f"sha256 {source.transfer(target, target.address, TRANSFER_BYTES)[:12]}… at both ends"

    def seen(self, wires: dict[str, Recording], source: Pod, target: Pod, form: str) -> str:
        """Frames in this form at both ends, as many here as there, and none in the other form."""
        ends = (wires[source.node], wires[target.node])
        nodes = (ADDRESSES[source.node], ADDRESSES[target.node])
        return forms.seen(form, ends, nodes, (source.address, target.address))

    # --- nodes and the world outside --------------------------------------------------------------

    def nodes(self) -> None:
        """Nodes' own addresses, as a probe of a kubelet or a host-network pod uses them."""
        with self.story.case("pods and nodes reach each other"):
            for pod in self.pods.values():
                pings = functools.partial(ping_each, pod.ping, list(ADDRESSES.values()))
                self.story.check(f"pod on {pod.node} to the address of every node", pings)
            for name in self.cluster.nodes:
                node = functools.partial(self.cluster.underlay.ping, name)
                addresses = [pod.address for pod in self.pods.values()]
                self.story.check(f"{name} to every pod", functools.partial(ping_each, node, addresses))

    def outside(self) -> None:
        """nat_outgoing."""
        with self.story.case("what leaves the cluster has the address of its node"):
            wires: dict[str, Recording] = {}

            def begin() -> None:
                wires[CONTROL] = Recording(self.cluster.underlay, CONTROL, "eth0")

            if self.story.check(f"capture on {CONTROL}, which is no node: {CONTROL_ADDRESS}", begin):
                for pod in self.pods.values():
                    pings = functools.partial(ping_each, pod.ping, [CONTROL_ADDRESS])
                    self.story.check(f"pod on {pod.node} to {CONTROL_ADDRESS}", pings)
                self.story.check("capture is complete", lambda: forms.end_all(wires.items()))
                for name, address in ADDRESSES.items():
                    expression = f"icmp[0] = 8 and src host {address} and dst host {CONTROL_ADDRESS}"
                    count = functools.partial(exactly, wires[CONTROL], expression, 3)
                    self.story.check(f"from {name} as {address}", count)
                none = functools.partial(exactly, wires[CONTROL], f"ip and net {PODS}", 0)
                self.story.check("no packet with the address of a pod", none)

    def remove_pods(self) -> None:
        """What pods leave on a node: nothing."""
        with self.story.case("pods go and leave nothing"):
            self.story.check("deleted", self.delete_pods)
            for name in self.cluster.nodes:
                self.story.check(f"no interface and no record on {name}", functools.partial(self.nothing_left, name))

    def delete_pods(self) -> None:
        """Waits for the end of the pods."""
        self.cluster.kubectl("delete", "daemonset", "pods", "--timeout=60s", timeout=70)

        def gone() -> bool:
            time.sleep(0.3)
            return not self.client.get(f"{pods.LIST}pods")["items"]

        wait_until(gone, READY_S, "the end of the pods")

    def nothing_left(self, name: str) -> None:
        """Failure with what is there."""
        if found := pods.left(self.cluster.node(name)):
            raise Failure("\n".join(found))


def ping_each(ping: Callable[[str], int], addresses: list[str]) -> str:
    """Every address must answer every ping."""
    wrong = [f"{address}: {count} of 3" for address in addresses if (count := ping(address)) < 3]
    if wrong:
        raise Failure("\n".join(wrong))
    return ", ".join(addresses)


def exactly(recording: Recording, expression: str, count: int) -> None:
    """Failure unless so many frames match."""
    if (found := recording.count(expression)) != count:
        raise Failure(f"{found} frames match, not {count}: {expression}\n{recording.read('-c', '20', 'ip')}")


def nothing_left(cluster: Cluster) -> None:
    """Failure with what there is of a cluster that was ended."""
    found: list[object] = [*netns.NAMES.glob(f"{cluster.plan.id}*"), *[cluster.state] * cluster.state.exists()]
    found += [pid for machine in (cluster.control, *cluster.nodes.values()) for pid in machine.keepers()[True]]
    found += [mounted / cluster.plan.id for mounted in cgroups.hierarchies() if (mounted / cluster.plan.id).exists()]
    if found:
        raise Failure("\n".join(map(str, found)))


def main() -> int:
    """The exit status of the cases."""
    say("\n== programs of Kubernetes")
    if not binaries.directory().is_dir():
        say("built from Debian's source, once: 4 minutes on two quiet cores, and some hundred megabytes to fetch")
    say(f"in {binaries.build(say)}")
    with tempfile.TemporaryDirectory(prefix=f"demo{os.getpid()}-") as directory:
        state = pathlib.Path(directory)
    begun = time.monotonic()
    say("\n== cluster")
    story = Story()
    with Cluster.up(state, NODES) as cluster:
        took = time.monotonic() - begun
        say(f"{NODES} nodes registered, two in one subnet and {FAR} behind a router; {took:.0f} s")
        client = Client(cluster)
        try:
            Demo(cluster, client, story).run()
        finally:
            client.close()
    with story.case("the end"):
        story.check("no namespace, process, control group or file is left", functools.partial(nothing_left, cluster))
    return story.summary()
