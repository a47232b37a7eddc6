"""Control groups of a cluster: one for each machine, in every hierarchy of version 1 and in version 2.

A machine sees its own as the root, so whatever its kubelet and its containers make lies below, and goes with it.
"""

import contextlib
import os
import pathlib

from underpass_lab.command import Failure, wait_until

ROOT = pathlib.Path("/sys/fs/cgroup")
# Version 2 has no processes beside groups: those of the machine itself are in here.
LEAF = "machine"
# And in a container, whose root group is not the host's, those of the container are in here while there are clusters.
MOVED = "upk-moved"
END_S = 10


def hierarchies() -> list[pathlib.Path]:
    """Where hierarchies are mounted below /sys/fs/cgroup."""
    lines = pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found: list[pathlib.Path] = []
    for line in lines:
        place, _, rest = line.partition(" - ")
        path = pathlib.Path(place.split()[4])
        if rest.split()[0] in ("cgroup", "cgroup2") and path.is_relative_to(ROOT) and path not in found:
            found.append(path)
    if not found:
        raise Failure(f"no control groups are mounted below {ROOT}: in a container, start it with --privileged")
    return found


def is_version_2() -> bool:
    """Whether one unified hierarchy is all there is."""
    return (ROOT / "cgroup.controllers").exists()


def make(cluster: str, machine: str) -> list[pathlib.Path]:
    """Makes the groups of a machine; what its first process is to be written to."""
    files: list[pathlib.Path] = []
    if is_version_2():
        _make_room()
    for mounted in hierarchies():
        group = mounted
        _enable_controllers(group)
        for name in (cluster, machine):
            parent, group = group, group / name
            group.mkdir(exist_ok=True)
            _share_processors(parent, group)
            if name == cluster:
                _enable_controllers(group)
        files.append(group / "cgroup.procs")
    return files


def _make_room() -> None:
    """Version 2 in a container: its root group passes controllers on only when it has no processes."""
    if (ROOT / "cgroup.type").exists():
        (ROOT / MOVED).mkdir(exist_ok=True)
        _move_processes(ROOT, ROOT / MOVED)


def _move_processes(source: pathlib.Path, target: pathlib.Path) -> None:
    while pids := (source / "cgroup.procs").read_text(encoding="ascii").split():
        for pid in pids:
            # It may have ended.
            with contextlib.suppress(ProcessLookupError):
                (target / "cgroup.procs").write_text(pid, encoding="ascii")


def _share_processors(parent: pathlib.Path, group: pathlib.Path) -> None:
    """A new group of cpuset, version 1, has no processors and takes no process before it gets some."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / "tasks").exists() and (group / name).exists():
            (group / name).write_text((parent / name).read_text(encoding="ascii"), encoding="ascii")


def _enable_controllers(group: pathlib.Path) -> None:
    """Version 2: passes on each controller that may be."""
    with contextlib.suppress(FileNotFoundError):
        for name in (group / "cgroup.controllers").read_text(encoding="ascii").split():
            # Some cannot be: what needs them says so.
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")


def settle(cluster: str, machine: str) -> None:
    """Version 2: makes room for groups beside the first processes of a machine."""
    if is_version_2():
        group = ROOT / cluster / machine
        (group / LEAF).mkdir(exist_ok=True)
        _move_processes(group, group / LEAF)
        _enable_controllers(group)


def remove(cluster: str) -> None:
    """Removes all groups of a cluster whose processes have ended."""
    wait_until(lambda: not _remaining(cluster), END_S, f"the end of the control groups {cluster}")
    if (ROOT / MOVED).is_dir() and [path.name for path in ROOT.glob("upk-*")] == [MOVED]:
        _move_back()


def _move_back() -> None:
    """After the last cluster: the root group of the container as it was."""
    for name in (ROOT / "cgroup.subtree_control").read_text(encoding="ascii").split():
        with contextlib.suppress(OSError):
            (ROOT / "cgroup.subtree_control").write_text(f"-{name}", encoding="ascii")
    _move_processes(ROOT / MOVED, ROOT)
    (ROOT / MOVED).rmdir()


def _remaining(cluster: str) -> list[pathlib.Path]:
    groups = [mounted / cluster for mounted in hierarchies() if (mounted / cluster).is_dir()]
    for group in groups:
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return [group for group in groups if group.exists()]
