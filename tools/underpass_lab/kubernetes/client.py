"""The API server, spoken over one connection: a request costs no process, so that times can be taken.

client = Client(cluster)
client.create_node("x1", "10.244.9.0/24", ["192.0.2.9"])
client.patch("/api/v1/nodes/x1", {"spec": {"unschedulable": True}})
"""

import http.client
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from underpass_lab import netns
from underpass_lab.command import Failure
from underpass_lab.kubernetes.cluster import Cluster
from underpass_lab.kubernetes.plan import API_PORT, CONTROL, CONTROL_ADDRESS

MERGE = "application/merge-patch+json"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
ANSWER_S = 30


class Client(http.client.HTTPSConnection):
    """A kept-alive connection as one user, out of the network namespace of the control plane."""

    def __init__(self, cluster: Cluster, user: str = "admin") -> None:
        context = ssl.create_default_context(cafile=str(cluster.credentials.file("ca.crt")))
        super().__init__(CONTROL_ADDRESS, API_PORT, timeout=ANSWER_S, context=context)
        self._context_of_server = context
        self._namespace = netns.NAMES / f"{cluster.plan.id}-{CONTROL}"
        config = json.loads(cluster.kubeconfig(user).read_text(encoding="ascii"))
        self._token = config["users"][0]["user"]["token"]

    def connect(self) -> None:
        """What http.client calls before the first request."""
        address = (CONTROL_ADDRESS, API_PORT)
        plain = netns.inside(self._namespace, lambda: socket.create_connection(address, ANSWER_S))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._context_of_server.wrap_socket(plain, server_hostname=CONTROL_ADDRESS)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, str]:
        """(status, text) of a request, which is sent again where the server had closed the connection."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        text = None if body is None else json.dumps(body)
        for last in (False, True):
            try:
                self.request(method, path, text, headers)
                response = self.getresponse()
                return response.status, response.read().decode()
            except (http.client.HTTPException, OSError):
                self.close()
                if last:
                    raise
        raise AssertionError("unreachable")

    def _done(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        status, text = self.ask(method, path, body, kind)
        if status not in (200, 201, 202):
            raise Failure(f"{method} {path}: {status} {text}")
        return json.loads(text)

    def get(self, path: str) -> Any:
        """An object, or a list of some."""
        return self._done("GET", path)

    def create(self, path: str, body: Any) -> Any:
        """A new object."""
        return self._done("POST", path, body)

    def patch(self, path: str, body: Any) -> Any:
        """Changes an object by a merge patch."""
        return self._done("PATCH", path, body, MERGE)

    def replace(self, path: str, body: Any) -> Any:
        """An object in place of the one that is there: a merge patch drops every null out of lists."""
        return self._done("PUT", path, body)

    def delete(self, path: str) -> None:
        """Removes an object. Harmless where there is none."""
        status, text = self.ask("DELETE", path)
        if status not in (200, 202, 404):
            raise Failure(f"DELETE {path}: {status} {text}")

    # --- nodes ------------------------------------------------------------------------------------

    def create_node(
        self, name: str, subnets: str | Sequence[str], addresses: Sequence[str], annotations: Mapping[str, str] = {}
    ) -> Any:
        """A Node that no kubelet stands for."""
        return self.create(NODES, node(name, subnets, addresses, annotations))

    def set_addresses(self, name: str, addresses: Sequence[str]) -> Any:
        """Other InternalIPs of a Node, as its kubelet would say."""
        return self.patch(f"{NODES}/{name}/status", {"status": {"addresses": _internal(addresses)}})

    def annotate(self, name: str, annotations: Mapping[str, str | None]) -> Any:
        """Annotations of a Node; None removes one."""
        return self.patch(f"{NODES}/{name}", {"metadata": {"annotations": dict(annotations)}})

    def delete_node(self, name: str) -> None:
        """Removes a Node."""
        self.delete(f"{NODES}/{name}")


def node(
    name: str, subnets: str | Sequence[str], addresses: Sequence[str], annotations: Mapping[str, str] = {}
) -> dict[str, Any]:
    """A Node as it is made: addresses are taken from its status at that moment only."""
    cidrs = [subnets] if isinstance(subnets, str) else list(subnets)
    spec: dict[str, Any] = {"podCIDR": cidrs[0], "podCIDRs": cidrs} if cidrs else {}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "annotations": dict(annotations)},
        "spec": spec,
        "status": {"addresses": _internal(addresses)},
    }


def _internal(addresses: Sequence[str]) -> list[dict[str, str]]:
    return [{"type": "InternalIP", "address": address} for address in addresses]
