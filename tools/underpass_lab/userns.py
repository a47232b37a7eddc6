"""Why user namespaces cannot be made on a system, and what to change there. For the lab and the bench."""

import contextlib
import pathlib
import re

CONTAINER = (
    "in Docker or Podman, start the container with --security-opt seccomp=unconfined"
    " --security-opt apparmor=unconfined --security-opt systempaths=unconfined"
    " (Podman: --security-opt unmask=ALL) --device /dev/net/tun"
)


class Facts:
    """The switches of this system that forbid user namespaces; None where it does not have one."""

    def __init__(self) -> None:
        self.clone = _number("/proc/sys/kernel/unprivileged_userns_clone")
        self.apparmor = _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        self.limits = {kind: _number(f"/proc/sys/user/max_{kind}_namespaces") for kind in ("user", "net", "mnt", "pid")}
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        self.seccomp = bool(re.search(r"^Seccomp:\s*2$", status, re.M))


def _number(path: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(pathlib.Path(path).read_text(encoding="ascii"))
    return None


def advice(said: str, facts: Facts) -> str:
    """What to change, by what unshare said and the facts."""
    found = []
    if facts.clone == 0:
        found.append("as root, 'sysctl -w kernel.unprivileged_userns_clone=1'")
    for kind, limit in facts.limits.items():
        if limit == 0:
            found.append(f"as root, 'sysctl -w user.max_{kind}_namespaces=10000'")
    if facts.apparmor == 1:
        found.append(
            "as root, 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0', or an AppArmor profile for"
            " /usr/bin/unshare with the rule 'userns,'"
        )
    if "No space left" in said and not found:
        found.append(
            "more namespaces exist than user.max_user_namespaces and its likes in /proc/sys/user allow, here"
            " or in a surrounding user namespace: raise them there, or take labs down"
        )
    if not found and "mount /proc failed" in said:
        found.append(f"parts of /proc are hidden, so no other may be mounted: {CONTAINER}")
    if not found and facts.seccomp:
        found.append(f"a seccomp filter forbids it: {CONTAINER}")
    if not found:
        found.append(f"a policy of this system forbids it, or its kernel lacks CONFIG_USER_NS; {CONTAINER}")
    return "to change: " + "\n       or: ".join(found)
