"""Making a lab: the daemon's program, the files, the keeper."""

import json
import os
import subprocess

from underpass_lab.command import Failure
from underpass_lab.lab import daemons, parent, state
from underpass_lab.lab.inside import MODULE
from underpass_lab.lab.topology import Topology
from underpass_lab.paths import REPO

LIBRARY = REPO / "scripts" / "lib.sh"


def build() -> str:
    """The daemon's program: the one that UNDERPASS_BIN names, or built now, as the other scripts do it."""
    if not os.environ.get("UNDERPASS_BIN"):
        parent.need_tools("jq")
    script = 'source "$0" && build_underpass >&2 && printf %s "$UNDERPASS_BIN"'
    done = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", script, LIBRARY), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(1)
    return done.stdout


def make(lab: state.RunningLab, topology: Topology, binary: str) -> None:
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
