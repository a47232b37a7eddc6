"""Where things are."""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent
TOOLS = PACKAGE.parent
REPO = TOOLS.parent
# Debian's own Python: the one that python3-scapy is installed for, whatever else comes first in PATH.
PYTHON = "/usr/bin/python3"
# Both ends of real traffic: one file that needs nothing beside it.
TRAFFIC = str(PACKAGE / "traffic.py")
