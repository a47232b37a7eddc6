"""Inside the keeper's namespaces: making what is planned."""

import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

from underpass_lab import netns
from underpass_lab.command import run
from underpass_lab.lab import plan as plans
from underpass_lab.lab.topology import Topology

AT_ONCE = 4
_MS_BIND = 4096


def hide_run(directory: pathlib.Path) -> None:
    """An empty /run of our own, so that the names of namespaces stay in here. A lab's directory that was under
    it is brought back."""
    kept = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    netns.mount("tmpfs", "/run", "tmpfs", data="mode=0755")
    if not directory.is_dir():
        directory.mkdir(parents=True)
        netns.mount(f"/proc/self/fd/{kept}", directory, "", _MS_BIND)
    os.close(kept)


def build(topology: Topology) -> None:
    """Makes all namespaces and links of a topology."""
    plan = plans.Plan(topology)
    names = topology.namespaces()
    run("ip", "-batch", "-", input="".join(f"netns add {name}\n" for name in names))
    netns.each_inside(
        [netns.NAMES / name for name in names],
        lambda path: netns.write_sysctls(netns.sysctls(path.name in plan.forwards, ipv6=False)),
    )
    run("ip", "-batch", "-", input="\n".join(plan.links))

    def finish(name: str) -> None:
        for tool, lines in (("ip", plan.ip), ("bridge", plan.bridge), ("tc", plan.tc)):
            if lines[name]:
                run(tool, "-n", name, "-batch", "-", input="\n".join(lines[name]))
        if name in plan.nft:
            run("ip", "netns", "exec", name, "nft", "-f", "-", input=plan.loss_rules(name))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(finish, names))
    if not topology.offloads:
        set_offloads(topology, on=False)


def set_offloads(topology: Topology, on: bool) -> None:
    """Offloads of all links between machines and switches; those of pods keep theirs."""

    def switch(end: tuple[str, str]) -> None:
        run("ip", "netns", "exec", end[0], "ethtool", "-K", end[1], *netns.offload_words(on))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(switch, plans.Plan(topology).ends))
