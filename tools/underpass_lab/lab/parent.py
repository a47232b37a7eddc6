"""What the surroundings of a lab must allow, and what to change where they do not."""

import errno
import os
import pathlib
import re
import shutil
import subprocess

from underpass_lab.command import Failure
from underpass_lab.userns import Facts, advice

TUN = pathlib.Path("/dev/net/tun")
PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "bridge": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ethtool": "ethtool",
    "nft": "nftables",
    "tcpdump": "tcpdump",
    "jq": "jq",
}
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21


def need_tools(*names: str) -> None:
    """Failure with the Debian packages of the tools that are missing."""
    missing = sorted({PACKAGES[name] for name in names if not shutil.which(name)})
    if missing:
        raise Failure(f"these Debian packages are needed: sudo apt-get install {' '.join(missing)}")


def unshare() -> tuple[str, ...]:
    """The command before the one that shall run in new namespaces: with root's rights no user namespace."""
    user = () if _is_mighty() else ("--user", "--map-root-user")
    return ("unshare", *user, "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def _is_mighty() -> bool:
    match = re.search(r"^CapEff:\s*(\w+)$", pathlib.Path("/proc/self/status").read_text(encoding="ascii"), re.M)
    capabilities = int(match[1], 16) if match else 0
    return os.geteuid() == 0 and all(capabilities >> bit & 1 for bit in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN))


def check_namespaces() -> None:
    """Failure with what to change unless namespaces can be made and used."""
    trial = "mount -t tmpfs tmpfs /run && ip link set lo up"
    done = subprocess.run((*unshare(), "sh", "-c", trial), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip() or f"status {done.returncode}"
        raise Failure(f"namespaces cannot be made here: {said}\n{advice(said, Facts())}")


def check_tun() -> None:
    """Failure with what to change unless the daemons can open the TUN device."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise Failure(
            f"there is no {TUN}: as root, 'modprobe tun'; in a container, start it with --device {TUN}"
        ) from None
    except OSError as error:
        if error.errno == errno.EACCES:
            change = f"as root, 'chmod 0666 {TUN}'"
        elif error.errno in (errno.ENODEV, errno.ENXIO):
            change = "as root, 'modprobe tun'; the kernel needs CONFIG_TUN"
        else:
            change = f"in a container, start it with --device {TUN}"
        raise Failure(f"{TUN} cannot be opened ({error.strerror}): {change}") from None
