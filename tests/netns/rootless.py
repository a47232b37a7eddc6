"""A daemon as an ordinary user: without any right, or with those that a user namespace has of itself."""

import bootstrap

import os
from typing import Any

from public import publish
from underpass_lab.command import run
from underpass_lab.daemon import binary
from underpass_lab.nodes import NodeLab
from underpass_lab.paths import TRAFFIC

USER = 1000
# A mount namespace whose /dev/net has only what this makes there, so that the machine's own stays as it is.
OWN_TUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o mode=0755 none /dev/net && eval "$0" && exec "$@"')
# Everybody may open the TUN driver, as on most distributions.
OPEN_TUN = (*OWN_TUN, "mknod -m 0666 /dev/net/tun c 10 200")
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")
NO_RIGHTS = (*OPEN_TUN, *AS_USER, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def hand_over(lab: NodeLab) -> str:
    """Makes the directory of a lab the user's, with all that he needs in it: he may not be able to look
    into that of the project. Returns the daemon's program."""
    publish(TRAFFIC, lab.dir)
    program = publish(binary(), lab.dir)
    os.chown(lab.dir, USER, USER)
    return str(program)


def prepare_tun(lab: NodeLab, node: str, *flags: Any, mtu: int = 1450, routes: Any = ("10.244.0.0/16",)) -> None:
    """All that an administrator does for VXLAN without rights, by the commands of docs/rootless.md."""
    number = node[1:]
    lab.ip(
        node,
        f"tuntap add dev up0 mode tun user {USER} {' '.join(flags)}",
        f"link set dev up0 mtu {mtu} txqueuelen 10000 up",
        f"address add 10.244.{number}.0/32 dev up0",
        *(f"route add {route} dev up0" for route in routes),
    )
    lab.sysctl(node, {"ipv4/conf/up0/accept_local": 1})


def rights(pid: int) -> Any:
    """The capability sets of a process, and its user: {"CapEff": 0, …, "Uid": 1000}."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    sets = {name: int(value, 16) for name, value in lines.items() if name.startswith("Cap")}
    return sets | {"Uid": int(lines["Uid"].split()[1]), "NoNewPrivs": int(lines["NoNewPrivs"])}


def shell(lab: NodeLab, node: str, command: Any) -> Any:
    """Runs a line of shell as root in a namespace: what an administrator would type."""
    return run("ip", "netns", "exec", lab.ns(node), "sh", "-c", command)
