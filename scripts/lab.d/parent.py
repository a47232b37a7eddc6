"""What the surroundings of a lab must allow, and what to change where they do not."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import subprocess

from state import Failure

TUN = pathlib.Path("/dev/net/tun")
PACKAGES = {
    "ip": "iproute2", "tc": "iproute2", "bridge": "iproute2", "unshare": "util-linux", "nsenter": "util-linux",
    "ethtool": "ethtool", "nft": "nftables", "tcpdump": "tcpdump", "jq": "jq",
}
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
CONTAINER = ("in Docker or Podman, start the container with --security-opt seccomp=unconfined"
             " --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
             " (Podman: --security-opt unmask=ALL) --device /dev/net/tun")


def need_tools(*names):
    """Failure with the Debian packages of the tools that are missing."""
    missing = sorted({PACKAGES[name] for name in names if not shutil.which(name)})
    if missing:
        raise Failure(f"these Debian packages are needed: sudo apt-get install {' '.join(missing)}")


def unshare():
    """The command before the one that shall run in new namespaces: with root's rights no user namespace."""
    user = () if _is_mighty() else ("--user", "--map-root-user")
    return ("unshare", *user, "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def _is_mighty():
    match = re.search(r"^CapEff:\s*(\w+)$", pathlib.Path("/proc/self/status").read_text(encoding="ascii"), re.M)
    capabilities = int(match[1], 16)
    return os.geteuid() == 0 and all(capabilities >> bit & 1 for bit in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))


def check_namespaces():
    """Failure with what to change unless namespaces can be made and used."""
    trial = "mount -t tmpfs tmpfs /run && ip link set lo up"
    done = subprocess.run((*unshare(), "sh", "-c", trial), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise Failure(f"namespaces cannot be made here: {said}\n{advice(said, Facts())}")


def check_tun():
    """Failure with what to change unless the daemons can open the TUN device."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise Failure(f"there is no {TUN}: as root, 'modprobe tun'; in a container, start it with --device {TUN}"
                      ) from None
    except OSError as error:
        if error.errno == errno.EACCES:
            change = f"as root, 'chmod 0666 {TUN}'"
        elif error.errno in (errno.ENODEV, errno.ENXIO):
            change = "as root, 'modprobe tun'; the kernel needs CONFIG_TUN"
        else:
            change = f"in a container, start it with --device {TUN}"
        raise Failure(f"{TUN} cannot be opened ({error.strerror}): {change}") from None


class Facts:
    """The switches of this system that forbid user namespaces; None where it does not have one."""

    def __init__(self):
        self.clone = _number("/proc/sys/kernel/unprivileged_userns_clone")
        self.apparmor = _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        self.limits = {kind: _number(f"/proc/sys/user/max_{kind}_namespaces") for kind in ("user", "net", "mnt", "pid")}
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        self.seccomp = bool(re.search(r"^Seccomp:\s*2$", status, re.M))


def _number(path):
    with contextlib.suppress(OSError, ValueError):
        return int(pathlib.Path(path).read_text(encoding="ascii"))
    return None


def advice(said, facts):
    """What to change, by what unshare said and the facts."""
    found = []
    if facts.clone == 0:
        found.append("as root, 'sysctl -w kernel.unprivileged_userns_clone=1'")
    for kind, limit in facts.limits.items():
        if limit == 0:
            found.append(f"as root, 'sysctl -w user.max_{kind}_namespaces=10000'")
    if facts.apparmor == 1:
        found.append("as root, 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', or an AppArmor profile for"
                     " /usr/bin/unshare with the rule 'userns,'")
    if "No space left" in said and not found:
        found.append("more namespaces exist than user.max_user_namespaces and its likes in /proc/sys/user allow, here"
                     " or in a surrounding user namespace: raise them there, or take labs down")
    if not found and "mount /proc failed" in said:
        found.append(f"parts of /proc are hidden, so no other may be mounted: {CONTAINER}")
    if not found and facts.seccomp:
        found.append(f"a seccomp filter forbids it: {CONTAINER}")
    if not found:
        found.append(f"a policy of this system forbids it, or its kernel lacks CONFIG_USER_NS; {CONTAINER}")
    return "to change: " + "\n       or: ".join(found)
