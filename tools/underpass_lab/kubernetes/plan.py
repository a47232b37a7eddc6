"""What is in a cluster and where: the machines, their addresses, their names on the host.

    control          n1               n2               R                n3
    192.0.2.10       192.0.2.1        192.0.2.2        .254  .254       198.51.100.3
    2001:db8:1::a    2001:db8:1::1    2001:db8:1::2    ::fe  ::fe       2001:db8:2::3
      | eth0           | eth0           | eth0           | eth0  | eth1   | eth0
    ======================= sw (br0) =====================       +--------+

All names on the host come from the path of the state directory, so clusters with different ones do not meet, and what
a cluster left is found without any record of it.
"""

import hashlib
import pathlib
from dataclasses import dataclass

CONTROL = "control"
CONTROL_ADDRESS = "192.0.2.10"
API_PORT = 6443
ADDRESSES = {"n1": "192.0.2.1", "n2": "192.0.2.2", "n3": "198.51.100.3"}
ADDRESSES6 = {"n1": "2001:db8:1::1", "n2": "2001:db8:1::2", "n3": "2001:db8:2::3", CONTROL: "2001:db8:1::a"}
PODS = "10.244.0.0/16"
PODS6 = "fd00:10:244::/56"
SERVICES = "10.96.0.0/16"
SERVICES6 = "fd00:10:96::/112"
# The first address of SERVICES: the Service `kubernetes`.
API_SERVICE = "10.96.0.1"
GATE = "IPv6DualStack=true"
DEFAULT_STATE = pathlib.Path("/var/lib/underpass-kubernetes")


@dataclass(frozen=True)
class Plan:
    """A cluster that is to be made, or was."""

    state: pathlib.Path
    nodes: int = 2
    dual_stack: bool = False

    @property
    def id(self) -> str:
        """What the names of network namespaces and control groups begin with."""
        return f"upk-{hashlib.sha256(bytes(self.state)).hexdigest()[:8]}"

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes."""
        return tuple(ADDRESSES)[: self.nodes]

    def both(self, four: str, six: str) -> str:
        """Values for a flag that takes one for each address family."""
        return f"{four},{six}" if self.dual_stack else four
