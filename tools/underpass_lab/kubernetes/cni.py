"""A CNI configuration for tests of the cluster itself: pods of one node reach each other and their node, no more."""

import json
import os

from underpass_lab.kubernetes.machine import Machine

FILE = "/etc/cni/net.d/10-test.conflist"


def write(machine: Machine, subnets: list[str]) -> None:
    """Gives a node `ptp` and `host-local` over its pod subnets."""
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    routes = [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in subnets]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    config = {"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "ptp", "ipam": ipam}]}
    path = machine.path(FILE)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(config, indent=1), encoding="ascii")
    os.replace(unfinished, path)
