"""A CNI configuration for tests of the cluster itself: pods of one node reach each other and their node, no more."""

import json
import os

from underpass_lab.kubernetes.machine import Machine

FILE = "/etc/cni/net.d/10-test.conflist"


def write(machine: Machine, subnets: list[str], mtu: int | None = None) -> None:
    """Gives a node `ptp` and `host-local` over its pod subnets; `mtu` is that of the pods."""
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    plugin: dict[str, object] = {"type": "ptp", "ipam": ipam} | ({"mtu": mtu} if mtu else {})
    config = {"cniVersion": "0.4.0", "name": "test", "plugins": [plugin]}
    path = machine.path(FILE)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(config, indent=1), encoding="ascii")
    os.replace(unfinished, path)
