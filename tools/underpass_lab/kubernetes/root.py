"""The root directory of a node: the host's programs, and /etc, /var, /run and /opt of its own.

So every program has its files where it has them on a real node, and no path on the host is a mount point.
"""

import os
import pathlib
import shutil

from underpass_lab import netns
from underpass_lab.command import run
from underpass_lab.kubernetes import cgroups

# Not the host's; all else below / is.
OWN = ("etc", "var", "run", "opt", "proc", "sys", "dev", "lost+found")
MADE = ("etc/cni/net.d", "etc/kubernetes", "opt/cni/bin", "opt/kubernetes", "proc", "sys", "dev", "run", "var/lib")
# Where the host's root directory is for a moment.
OLD = ".host-root"
# Configuration of the host that programs look at, without secrets.
ETC = (
    *("alternatives", "group", "host.conf", "ld.so.cache", "localtime", "nsswitch.conf", "passwd"),
    *("protocols", "services", "ssl"),
)
# What kubelet insists on and would write to the host's kernel: it finds it done.
SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC = 1, 32, 4096, 16384


def make(root: pathlib.Path) -> None:
    """Makes the directories and files that belong to the node alone."""
    for name in MADE:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "var/run").symlink_to("../run")
    for name in ETC:
        source = pathlib.Path("/etc", name)
        if source.is_dir():
            shutil.copytree(source, root / "etc" / name, symlinks=True)
        elif source.exists():
            shutil.copy(source, root / "etc" / name)
    (root / "etc/resolv.conf").write_text("", encoding="ascii")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="ascii")


def enter(root: pathlib.Path, programs: pathlib.Path, group: pathlib.PurePath) -> None:
    """Makes `root` the root directory of this mount namespace, whose processes are in the control groups `group`."""
    _bind(root, root)
    # /run and /tmp may be mounted so that nothing in them can be executed; a node has programs in here.
    netns.mount("", root, "", _MS_BIND | _MS_REMOUNT)
    for entry in os.scandir("/"):
        target = root / entry.name
        if entry.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(os.readlink(entry.path))
        elif entry.is_dir() and entry.name not in OWN:
            target.mkdir(exist_ok=True)
            _bind(entry.path, target)
    # Nothing in a node writes to the host's programs.
    netns.mount("", root / "usr", "", _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    _bind(programs, root / "opt/kubernetes")
    _bind("/dev", root / "dev", _MS_REC)
    netns.mount("proc", root / "proc", "proc")
    _hide_sysctls(root)
    # A new one: it shows the interfaces of the network namespace that it is mounted in.
    netns.mount("sysfs", root / "sys", "sysfs")
    _mount_cgroups(root, group)
    old = root / OLD
    old.mkdir(exist_ok=True)
    run("pivot_root", root, old)
    os.chdir("/")
    run("umount", "--lazy", f"/{OLD}")
    os.rmdir(f"/{OLD}")


def _bind(source: object, target: object, flags: int = 0) -> None:
    netns.mount(source, target, "", _MS_BIND | flags)


def _hide_sysctls(root: pathlib.Path) -> None:
    for name, value in SYSCTLS.items():
        target = root / "proc/sys" / name
        if target.exists():
            file = root / "var/lib/sysctl" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n", encoding="ascii")
            _bind(file, target)


def _mount_cgroups(root: pathlib.Path, group: pathlib.PurePath) -> None:
    """Each hierarchy, from the group of this machine on."""
    if not cgroups.is_version_2():
        netns.mount("tmpfs", inside(root, cgroups.ROOT), "tmpfs", data="mode=0755")
        for entry in os.scandir(cgroups.ROOT):
            if entry.is_symlink():
                inside(root, entry.path).symlink_to(os.readlink(entry.path))
    for mounted in cgroups.hierarchies():
        target = inside(root, mounted)
        if mounted != cgroups.ROOT:
            target.mkdir(exist_ok=True)
        _bind(mounted / group, target)


def inside(root: pathlib.Path, path: object) -> pathlib.Path:
    """Where a path of the node is on the host."""
    return root / str(path).lstrip("/")
