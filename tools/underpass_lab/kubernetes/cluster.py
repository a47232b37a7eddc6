"""A whole cluster: made, used by tests, ended.

    with Cluster.up(directory, nodes=2) as cluster:
        cluster.use_test_cni()
        cluster.apply(manifest)
        cluster.node("n1").run("ip", "route")

Everything of it hangs on namespaces, control groups and the state directory, whose names come from its path, so
`Cluster(directory).down()` ends a cluster that any process has made or begun to make.
"""

import json
import os
import pathlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from underpass_lab.command import Failure, run, wait_until
from underpass_lab.kubernetes import binaries, cgroups, cni, control_plane, image, node
from underpass_lab.kubernetes.credentials import Credentials
from underpass_lab.kubernetes.machine import Machine
from underpass_lab.kubernetes.plan import ADDRESSES, CONTROL, Plan
from underpass_lab.kubernetes.underlay import Underlay
from underpass_lab.network import ENDING_SIGNALS

# What a Unix socket's path may be long, without the name of the socket in it and the byte that ends it.
STATE_BYTES = 90
READY_S = 120
API_SERVER = "apiserver"
CONTROL_SERVICES = ("etcd", API_SERVER, "controllers", "scheduler")
NODE_SERVICES = ("containerd", "kubelet")


class Cluster:
    """A cluster by its state directory, whoever made it."""

    def __init__(self, state: pathlib.Path, plan: Plan | None = None) -> None:
        self.state = state.absolute()
        self.plan = plan or self._saved()
        self.underlay = Underlay(self.plan)
        self.credentials = Credentials(self.plan)
        self.control = Machine(self.plan, CONTROL)
        self.nodes = {name: Machine(self.plan, name) for name in self.plan.names}

    def _saved(self) -> Plan:
        try:
            saved = json.loads((self.state / "plan.json").read_text(encoding="ascii"))
            return Plan(self.state, saved["nodes"], saved["dual_stack"])
        except FileNotFoundError:
            # One that is not there, or was never finished: all that it can have.
            return Plan(self.state, len(ADDRESSES))

    def exists(self) -> bool:
        return (self.state / "plan.json").exists()

    # --- the beginning ----------------------------------------------------------------------------

    @classmethod
    def up(cls, state: pathlib.Path, nodes: int = 2, dual_stack: bool = False) -> Self:
        """Makes a cluster whose nodes have registered; one that cannot be made leaves nothing. A context manager."""
        cluster = cls(state, Plan(state.absolute(), nodes, dual_stack))
        programs = binaries.needed()
        # From here on an interruption has something to remove, and nothing may interrupt the removal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        cluster._claim()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            cluster._make(programs)
        except BaseException:
            cluster.down()
            raise
        return cluster

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _claim(self) -> None:
        if len(os.fsencode(self.state)) > STATE_BYTES:
            raise Failure(f"{self.state} is too long a path for the sockets in it: at most {STATE_BYTES} bytes")
        try:
            self.state.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise Failure(f"{self.state} exists: 'scripts/kubernetes down --state {self.state}' removes it") from None
        saved = {"nodes": self.plan.nodes, "dual_stack": self.plan.dual_stack}
        (self.state / "plan.json").write_text(json.dumps(saved), encoding="ascii")

    def _make(self, programs: pathlib.Path) -> None:
        # What a process that was killed has left.
        self._end_machines()
        self.underlay.build()
        self.credentials.make()
        images = self.state / "busybox.tar"
        image.busybox(images, programs)
        self.control.start(programs)
        self.control.start_service("etcd", *control_plane.etcd(self.plan))
        self.start_api_server(wait=False)
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(lambda machine: self._begin_node(machine, programs, images), self.nodes.values()))
        self.wait_api_server()
        self.control.start_service("controllers", *control_plane.controller_manager(self.plan, self.credentials))
        self.control.start_service("scheduler", *control_plane.scheduler(self.plan, self.credentials))
        for name in self.nodes:
            self.start_kubelet(name)
        _wait_slowly(self._registered, READY_S, f"the registration of the nodes, see {self.state}/*.kubelet.log")

    def _begin_node(self, machine: Machine, programs: pathlib.Path, images: pathlib.Path) -> None:
        node.prepare(machine, self.credentials, programs)
        machine.start(programs)
        self._start_runtime(machine)
        node.load_image(machine, images)

    def _start_runtime(self, machine: Machine) -> None:
        machine.start_service("containerd", *node.CONTAINERD)
        wait_until(machine.path(node.SOCKET).is_socket, READY_S, f"containerd, see {machine.log('containerd')}")

    def _registered(self) -> bool:
        self._check_services()
        found = {item["metadata"]["name"]: item["spec"] for item in self.get("nodes")}
        # The subnets come from the controllers, a little later.
        return all("podCIDR" in found.get(name, {}) for name in self.nodes)

    def _check_services(self) -> None:
        """Failure with what a service said that has ended by itself."""
        for machine in (self.control, *self.nodes.values()):
            for name in CONTROL_SERVICES if machine is self.control else NODE_SERVICES:
                log = machine.log(name)
                if log.exists() and name not in machine.services():
                    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
                    raise Failure("\n".join([f"{name} on {machine.name} has ended; it said at last:", *said[-15:]]))

    # --- the API server ---------------------------------------------------------------------------

    def start_api_server(self, wait: bool = True) -> None:
        """Starts the API server, which does not run, and waits until it answers."""
        self.control.start_service(API_SERVER, *control_plane.api_server(self.plan, self.credentials))
        if wait:
            self.wait_api_server()

    def kill_api_server(self) -> None:
        """Kills the API server; etcd goes on."""
        self.control.end_service(API_SERVER)

    def wait_api_server(self) -> None:
        """Waits until the API server says that it is ready."""

        def ready() -> bool:
            self._check_services()
            return self.kubectl("get", "--raw", "/readyz", "--request-timeout=5s", check=False) == "ok"

        _wait_slowly(ready, READY_S, f"the API server, see {self.control.log(API_SERVER)}")

    def kubectl_command(self) -> tuple[str, ...]:
        """The words before the arguments of kubectl, as the administrator, for a process of this host."""
        entry = ("nsenter", f"--net=/run/netns/{self.plan.id}-{CONTROL}")
        config = self.credentials.kubeconfig("admin")
        # No cache below the home directory of who runs it.
        cache = f"--cache-dir={self.state}/kubectl"
        return (*entry, str(binaries.needed() / "bin/kubectl"), f"--kubeconfig={config}", cache)

    def kubectl(self, *words: object, timeout: float = 60, **options: Any) -> str:
        """Runs kubectl as the administrator; what it prints."""
        return run(*self.kubectl_command(), *words, timeout=timeout, **options).stdout

    def get(self, *words: object) -> list[dict[str, Any]]:
        """Objects of a kind: `get("pods", "--namespace=default")`."""
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", *words, "--output=json"))["items"]
        return items

    def apply(self, manifest: str) -> None:
        """Applies a manifest, YAML or JSON."""
        self.kubectl("apply", "--filename=-", input=manifest)

    # --- nodes ------------------------------------------------------------------------------------

    def node(self, name: str) -> Machine:
        """A node, to run commands in its namespaces."""
        if name not in self.nodes:
            raise Failure(f"there is no node {name}: {', '.join(self.nodes)}")
        return self.nodes[name]

    def kill_node(self, name: str) -> None:
        """Ends all that runs on a node, as a loss of power does; its network stays plugged in."""
        self.node(name).end()

    def start_node(self, name: str) -> None:
        """Starts a node that was killed: its disk is as it was, its /run is empty."""
        machine = self.node(name)
        shutil.rmtree(machine.path("/run"))
        machine.path("/run").mkdir()
        machine.start(binaries.needed())
        self._start_runtime(machine)
        self.start_kubelet(name)

    def start_kubelet(self, name: str) -> None:
        """Starts the kubelet of a node, after `node(name).end_service("kubelet")`."""
        self.node(name).start_service("kubelet", *node.kubelet(self.node(name)))

    def kubeconfig(self, user: str = "admin") -> pathlib.Path:
        """The kubeconfig of `admin` or of a node, which is found on the host and in the control plane, not in a node:
        there the own one is /etc/kubernetes/kubelet.conf."""
        return self.credentials.kubeconfig(user)

    def pod_subnets(self, name: str) -> list[str]:
        """The pod subnets of a node."""
        return list(json.loads(self.kubectl("get", "node", name, "--output=json"))["spec"]["podCIDRs"])

    def use_test_cni(self, mtu: int | None = None) -> None:
        """Gives every node a simple CNI configuration, for tests without underpass."""
        for name, machine in self.nodes.items():
            cni.write(machine, self.pod_subnets(name), mtu)

    def load_image(
        self, name: str, files: dict[str, pathlib.Path], command: Sequence[str], links: dict[str, str] | None = None
    ) -> int:
        """Makes an image such as `docker.io/local/NAME:TAG` out of files and gives it to every node; see image.make.
        Its size in bytes."""
        with tempfile.TemporaryDirectory(prefix="image-", dir=self.state) as directory:
            archive = pathlib.Path(directory, "image.tar")
            image.make(archive, (name,), files, links, command)
            with ThreadPoolExecutor(len(self.nodes)) as threads:
                list(threads.map(lambda machine: node.load_image(machine, archive), self.nodes.values()))
            return archive.stat().st_size

    def wait_nodes_ready(self, timeout: float = READY_S) -> None:
        """Waits until every node is Ready."""

        def ready() -> bool:
            conditions = {item["metadata"]["name"]: item["status"].get("conditions", []) for item in self.get("nodes")}
            return all(
                {"type": "Ready", "status": "True"}.items() <= condition.items()
                for name in self.nodes
                for condition in conditions.get(name, [{}])
                if condition.get("type", "Ready") == "Ready"
            )

        _wait_slowly(ready, timeout, "nodes that are Ready")

    # --- the end ----------------------------------------------------------------------------------

    def down(self) -> None:
        """Ends all that runs in the cluster and removes it. Harmless where there is nothing (any more)."""
        # A Ctrl-C must not leave half of it behind; it is heard afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        try:
            self._end_machines()
            shutil.rmtree(self.state, ignore_errors=True)
            if self.state.exists():
                raise Failure(f"cannot remove {self.state}: see what is mounted or runs there, then run down again")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _end_machines(self) -> None:
        for name in (*ADDRESSES, CONTROL):
            machine = self.control if name == CONTROL else self.nodes.get(name)
            (machine or Machine(self.plan, name)).end()
        self.underlay.close()
        cgroups.remove(self.plan.id)


def _wait_slowly(predicate: Callable[[], bool], timeout: float, what: str) -> None:
    """As wait_until, for what costs a process to look at."""

    def look() -> bool:
        if found := predicate():
            return found
        time.sleep(0.2)
        return False

    wait_until(look, timeout, what)
