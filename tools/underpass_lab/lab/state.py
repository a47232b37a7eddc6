"""The directory of a lab, and the keeper that holds it up.

    ROOT/NAME/topology.toml   the file it was made from
             /node-a.toml .log .sock     of each daemon
             /keeper.log      what the keeper said
             /bin/underpass   the daemon's program

ROOT is $XDG_RUNTIME_DIR/underpass-lab, or /run/underpass-lab for root, or /tmp/underpass-lab-UID. Making the
directory is what claims a name. The keeper is found by its command line, which ends in that directory:
there is no record of it that could be stale.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal

from underpass_lab.command import Failure, wait_until
from underpass_lab.lab import topology as topologies
from underpass_lab.lab.topology import Topology

KEEPER = "underpass_lab.lab.keeper"
# What a path of a Unix socket may be long, without the byte that ends it.
SOCKET_BYTES = 107
END_S = 20


def root() -> pathlib.Path:
    named = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        return pathlib.Path(named).absolute() / "underpass-lab"
    if os.geteuid() == 0:
        return pathlib.Path("/run/underpass-lab")
    return pathlib.Path(f"/tmp/underpass-lab-{os.geteuid()}")


def every() -> "list[RunningLab]":
    """All labs of this user, by name."""
    with contextlib.suppress(FileNotFoundError):
        return [RunningLab(path.name) for path in sorted(root().iterdir()) if path.is_dir()]
    return []


def choose(name: str | None) -> "RunningLab":
    """The lab of that name; without a name, the only one."""
    name = name or os.environ.get("UNDERPASS_LAB")
    if name:
        lab = RunningLab(name)
        if not lab.directory.is_dir():
            raise Failure(f"there is no lab {name}: see 'scripts/lab list'")
        return lab
    labs = every()
    if not labs:
        raise Failure("there is no lab: make one with 'scripts/lab up'")
    if len(labs) > 1:
        raise Failure(f"there are several labs ({', '.join(lab.name for lab in labs)}): say which with --name")
    return labs[0]


class RunningLab:
    """A lab that was made by some process and is found by its name."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,31}", name):
            raise Failure(f"{name!r} is no name for a lab: 1 to 32 letters, digits and dashes")
        self.name = name
        self.directory = root() / name

    def file(self, name: str) -> pathlib.Path:
        return self.directory / name

    def claim(self, text: str) -> None:
        """Makes the directory; only one caller can."""
        base = root()
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
            if base.stat().st_uid != os.geteuid():
                raise Failure(f"{base} belongs to another user; set XDG_RUNTIME_DIR to a directory of yours")
            self.directory.mkdir(mode=0o700)
        except FileExistsError:
            raise Failure(
                f"there is a lab {self.name} already: take it down, or give this one another --name"
            ) from None
        except OSError as error:
            raise Failure(
                f"cannot make {self.directory}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours"
            ) from None
        self.file("topology.toml").write_text(text, encoding="utf-8")

    def topology(self) -> Topology:
        path = self.file("topology.toml")
        try:
            return topologies.load(path, path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Failure(f"lab {self.name} was never finished: 'scripts/lab down --name {self.name}'") from None

    def processes(self) -> dict[bool, list[int]]:
        """The keeper, and what made its namespaces and waits for it: pids by whether they are the keeper itself."""
        found: dict[bool, list[int]] = {True: [], False: []}
        wanted = os.fsencode(self.directory)
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = pathlib.Path(entry.path, "cmdline").read_bytes().split(b"\0")[:-1]
                if words[-2:] == [KEEPER.encode(), wanted]:
                    found[b"python" in os.path.basename(words[0])].append(int(entry.name))
        return found

    def keeper(self) -> int | None:
        """The pid of the keeper, or None."""
        return next(iter(self.processes()[True]), None)

    def needed_keeper(self) -> int:
        pid = self.keeper()
        if pid is None:
            raise Failure(
                f"the keeper of lab {self.name} has ended, and all that ran in the lab with it:"
                f" 'scripts/lab down --name {self.name}'"
            )
        return pid

    def end(self) -> None:
        """Ends all that runs in the lab and removes its files. Harmless where there is nothing (any more)."""
        pids = [pid for group in self.processes().values() for pid in group]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The kernel lets the keeper go last, when nothing is left in its pid namespace.
        what = f"the end of these processes of lab {self.name}: {' '.join(map(str, pids))}"
        wait_until(lambda: all(map(ended, pids)), END_S, what)
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            root().rmdir()


def ended(pid: int) -> bool:
    """Whether a process is gone, or is only waiting for its parent to notice."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
