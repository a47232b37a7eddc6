"""Switches the offloads of the links between machines and switches: `offloads TOPOLOGY on|off`, inside a lab."""

import pathlib
import sys

from underpass_lab.lab import namespaces
from underpass_lab.lab import topology as topologies

if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    namespaces.set_offloads(topologies.load(path, path.read_text(encoding="utf-8")), on=sys.argv[2] == "on")
