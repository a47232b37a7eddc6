"""Making a lab: the daemon's program, the files, the keeper."""

import json
import os
import signal
import subprocess
import sys

from underpass_lab.command import Failure
from underpass_lab.lab import daemons, parent, state
from underpass_lab.lab.inside import MODULE
from underpass_lab.lab.topology import Topology
from underpass_lab.network import ENDING_SIGNALS
from underpass_lab.paths import REPO

NODE_TOOLS = ("ip", "tc", "bridge", "unshare", "nsenter", "mount")
LIBRARY = REPO / "scripts" / "lib.sh"


def build() -> str:
    """The daemon's program: the one that UNDERPASS_BIN names, or built now, as the other scripts do it."""
    if not os.environ.get("UNDERPASS_BIN"):
        parent.need_tools("jq")
    script = 'source "$0" && build_underpass release >&2 && printf %s "$UNDERPASS_BIN"'
    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", script, LIBRARY), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(1)
    return done.stdout


def check(topology: Topology, with_daemons: bool) -> None:
    """Failure with what to change unless this system can hold such a lab."""
    parent.need_tools(
        *NODE_TOOLS,
        *(["ethtool"] if not topology.offloads else []),
        *(["nft"] if any(machine.link.loss for machine in topology.machines()) else []),
    )
    parent.check_namespaces()
    if with_daemons:
        parent.check_tun()


def up(lab: state.RunningLab, text: str, topology: Topology, binary: str) -> None:
    """Makes a lab, with daemons where there is a program for them; one that cannot be made leaves nothing."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    # From here on an interruption has something to remove, and nothing may interrupt the removal.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    lab.claim(text)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        _make(lab, topology, binary)
    except BaseException:
        end(lab)
        raise


def _ended(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def end(lab: state.RunningLab) -> None:
    """Removes a lab; what interrupts that is not heard any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    lab.end()


def _make(lab: state.RunningLab, topology: Topology, binary: str) -> None:
    for node in topology.daemons() if binary else ():
        path = lab.file(f"{node.name}.sock")
        if len(os.fsencode(path)) > state.SOCKET_BYTES:
            raise Failure(f"{path} is too long for a Unix socket: choose a shorter --name or XDG_RUNTIME_DIR")
        lab.file(f"{node.name}.toml").write_text(daemons.text(topology, node, lab.directory), encoding="utf-8")
    if binary:
        lab.file("bin").mkdir()
        lab.file("bin").joinpath("underpass").symlink_to(binary)
    reading, writing = os.pipe()
    environment = dict(os.environ, LAB_BINARY=binary, LAB_REPORT=str(writing), PYTHONDONTWRITEBYTECODE="1")
    with open(lab.file("keeper.log"), "wb") as log:
        subprocess.Popen(
            (*parent.unshare(), *MODULE, state.KEEPER, lab.directory),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writing,),
            env=environment,
            start_new_session=True,
            cwd="/",
        )
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as report:
        answer = report.readline()
    if not answer:
        said = lab.file("keeper.log").read_text(encoding="utf-8", errors="replace").strip()
        raise Failure(f"the lab's keeper has failed:\n{said}")
    if error := json.loads(answer).get("error"):
        raise Failure(error)


def about(topology: Topology) -> str:
    kernel = len(topology.nodes) - len(topology.daemons())
    parts = [
        f"{len(topology.nodes)} nodes" + (f" ({kernel} kernel-vxlan)" if kernel else ""),
        f"{len(topology.pods())} pods",
        f"{len(topology.subnets)} subnets",
        f"{len(topology.routers)} routers",
    ]
    return ", ".join(part[:-1] if part.startswith("1 ") and part.endswith("s") else part for part in parts)
