"""What every test file imports first: it finds the package underpass_lab and what is in tests/policy, without any
installation."""

import logging
import os
import pathlib
import signal
import sys
import tempfile
import threading
from typing import Never

_REPO = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(_REPO / "tools"), str(_REPO / "tests" / "policy")]

# On being imported scapy tells which routes it misses.
logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

# Some labs are other users': they must get to its directory and read what is written there, whatever a login
# has set TMPDIR and the umask to.
tempfile.tempdir = "/tmp"
os.umask(0o022)


def _terminated(_signal: int, _frame: object) -> Never:
    raise KeyboardInterrupt


if threading.current_thread() is threading.main_thread():
    # unittest swallows SystemExit, so a request to end takes the way of Ctrl-C, which ends the labs.
    signal.signal(signal.SIGTERM, _terminated)
