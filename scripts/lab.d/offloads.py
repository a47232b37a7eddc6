"""Switches the offloads of the links between machines and switches: `offloads.py TOPOLOGY on|off`, inside a lab."""

import pathlib
import sys

import namespaces
import topology as topologies

path = pathlib.Path(sys.argv[1])
namespaces.set_offloads(topologies.load(path, path.read_text(encoding="utf-8")), sys.argv[2])
