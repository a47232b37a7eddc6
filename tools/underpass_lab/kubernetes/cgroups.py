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


def _share_processors(parent: pathlib.Path, group: pathlib.Path) -> None:
    """A new group of cpuset, version 1, has no processors and takes no process before it gets some."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / "tasks").exists() and (group / name).exists():
            (group / name).write_text((parent / name).read_text(encoding="ascii"), encoding="ascii")


def _enable_controllers(group: pathlib.Path) -> None:
    """Version 2: passes on each controller that may be."""
    with contextlib.suppress(FileNotFoundError):
        for name in (group / "cgroup.controllers").read_text(encoding="ascii").split():
            # Refused in a container whose root group has processes: then limits do not work, all else does.
            with contextlib.suppress(OSError):
                (group / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")


def enter_leaf() -> None:
    """In the machine, version 2: makes room for groups beside its first process."""
    if is_version_2():
        leaf = ROOT / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text("0", encoding="ascii")
        _enable_controllers(ROOT)


def remove(cluster: str) -> None:
    """Removes all groups of a cluster whose processes have ended."""
    wait_until(lambda: not _remaining(cluster), END_S, f"the end of the control groups {cluster}")


def _remaining(cluster: str) -> list[pathlib.Path]:
    groups = [mounted / cluster for mounted in hierarchies() if (mounted / cluster).is_dir()]
    for group in groups:
        for path, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(path)
    return [group for group in groups if group.exists()]
