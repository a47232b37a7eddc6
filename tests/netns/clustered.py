"""Daemons on the nodes of a Kubernetes cluster, pods on them, and what flows between the pods."""

import bootstrap

import os
import pathlib
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from pings import Pings
from underpass_lab.api import Api, status
from underpass_lab.command import wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.kubernetes import binaries, pods
from underpass_lab.kubernetes.client import Client
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.pods import Pod as Pod

# A node change has to reach packets within this.
CHANGE_S = 1.0
# And a daemon has to follow again so soon after the API server has come back.
BACK_S = 15.0


class Stream(Pings):
    """50 pings a second from a pod."""

    def __init__(self, pod: Pod, address: str) -> None:
        super().__init__(pod.entry(), address, f"{pod.node} to {address}")


class Clustered(unittest.TestCase):
    """Tests that share a cluster, in the order of their names; a failure shows what the daemons have said."""

    nodes: ClassVar[int] = 3
    dual_stack: ClassVar[bool] = False
    cluster: ClassVar[Cluster]
    client: ClassVar[Client]
    # By the node that each is on; the tests start them.
    pods: ClassVar[dict[str, Pod]]

    @classmethod
    def setUpClass(cls) -> None:
        binaries.build()
        with tempfile.TemporaryDirectory(prefix=f"upk{os.getpid()}-") as directory:
            state = pathlib.Path(directory)
        cls.cluster = Cluster.up(state, cls.nodes, cls.dual_stack)
        cls.addClassCleanup(cls.cluster.down)
        cls.client = Client(cls.cluster)
        cls.addClassCleanup(cls.client.close)

    def run(self, result: unittest.TestResult | None = None) -> Any:
        result = self.defaultTestResult() if result is None else result
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            for node, daemon in self.cluster.underlay.daemons.items():
                print(f"--- {self.id()}: log of {node}\n{daemon.log()}", file=sys.stderr)
        return result

    @contextmanager
    def undisturbed(self, *pairs: tuple[str, str]) -> Iterator[None]:
        """Nothing of what flows between pods may be lost meanwhile."""
        with ExitStack() as stack:
            streams = [stack.enter_context(Stream(self.pods[a], self.pods[b].address)) for a, b in pairs]
            time.sleep(0.3)
            yield
        for stream in streams:
            with self.subTest(stream.what):
                self.assertGreater(stream.sent, 10)
                self.assertEqual(stream.lost, 0, f"of {stream.sent}")

    # --- daemons ----------------------------------------------------------------------------------

    @classmethod
    def config(cls, name: str, rest: str, node: str | None = None, kubeconfig: object = None, style: str = "") -> str:
        """The file of the daemon `name` for the node of the same name, or `node`."""
        directory = cls.cluster.underlay.dir
        said = f'style = "{style}"\n' if style else ""
        return (
            f'[source.kubernetes]\nkubeconfig = "{kubeconfig or cls.cluster.kubeconfig()}"\n'
            f'node_name = "{node or name}"\nstate_file = "{directory}/{name}.state.json"\n'
            f'subnet_file = "{directory}/{name}.subnet.env"\n{said}\n'
            f'[control]\nsocket = "{directory}/{name}.sock"\n\n{rest}'
        )

    @classmethod
    def start(cls, name: str, rest: str, wait: bool = True, namespace: str | None = None, **options: Any) -> Daemon:
        """Starts a daemon."""
        underlay = cls.cluster.underlay
        file = underlay.dir / f"{name}.toml"
        file.write_text(cls.config(name, rest, **options), encoding="utf-8")
        daemon = Daemon(underlay, name, file, namespace=namespace)
        underlay.daemons[name] = daemon
        if wait:
            daemon.wait_ready(30)
        return daemon

    def daemon(self, name: str) -> Daemon:
        return self.cluster.underlay.daemons[name]

    def source(self, name: str) -> dict[str, Any]:
        """How a daemon follows the cluster; empty when it does not answer."""
        answer = status(self.daemon(name).socket)
        return dict(answer["sources"][0]) if answer and answer["sources"] else {}

    def refusals(self, name: str) -> dict[str, str]:
        """What a daemon leaves out: reasons by object."""
        return {refusal["object"]: refusal["reason"] for refusal in self.source(name).get("refusals", [])}

    def route(self, name: str, address: str) -> dict[str, Any]:
        """The route of a daemon to an address; empty where there is none."""
        api = Api(self.daemon(name).socket, 5)
        try:
            code, answer = api.ask("GET", f"/v1/routes/get?address={address}")
            return dict(answer) if code == 200 else {}
        finally:
            api.close()

    def routes(self, name: str) -> dict[str, tuple[str | None, str, str | None]]:
        """All routes of a daemon: (peer, mode, next hop) by prefix."""
        api = Api(self.daemon(name).socket, 5)
        try:
            listed = api.get("/v1/routes")
        finally:
            api.close()
        return {route["prefix"]: (route["peer"], route["mode"], route["next_hop"]) for route in listed}

    def soon(self, what: str, predicate: Callable[[], bool], timeout: float = CHANGE_S) -> float:
        """Waits; the seconds that it took."""
        begun = time.monotonic()
        wait_until(predicate, timeout, what)
        return time.monotonic() - begun

    # --- pods -------------------------------------------------------------------------------------

    @classmethod
    def start_pods(cls) -> dict[str, Pod]:
        """A pod on each node, by node."""
        return pods.start(cls.cluster, cls.client)
