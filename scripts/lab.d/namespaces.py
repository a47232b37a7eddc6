"""Inside the keeper's namespaces: running tools, entering a network namespace, making what is planned."""

import contextlib
import ctypes
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import plan as plans
from state import Failure

AT_ONCE = 4
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET, _MS_BIND = 0x40000000, 4096


def run(*command, given=None):
    """Runs a tool to its end; Failure with what it said."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = " / ".join(line for line in (done.stderr + done.stdout).splitlines() if line.strip())
        raise Failure(f"{' '.join(command)}: {said or f'status {done.returncode}'}")
    return done.stdout


def mount(source, target, kind, flags=0, data=""):
    words = [word.encode() for word in (str(source), str(target), kind)]
    if _LIBC.mount(*words, ctypes.c_ulong(flags), data.encode()) != 0:
        raise Failure(f"cannot mount {kind or source} on {target}: {os.strerror(ctypes.get_errno())}")


def hide_run(directory):
    """An empty /run of our own, so that the names of namespaces stay in here. A lab's directory that was under
    it is brought back."""
    kept = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    mount("tmpfs", "/run", "tmpfs", data="mode=0755")
    if not directory.is_dir():
        directory.mkdir(parents=True)
        mount(f"/proc/self/fd/{kept}", directory, "", _MS_BIND)
    os.close(kept)


def enter(name):
    """Moves the calling thread into a network namespace."""
    with open(f"/run/netns/{name}", encoding="ascii") as handle:
        if _LIBC.setns(handle.fileno(), _CLONE_NEWNET) != 0:
            raise Failure(f"cannot enter {name}: {os.strerror(ctypes.get_errno())}")


def each_inside(names, function):
    """Calls `function(name)` in each network namespace, from a thread that ends afterwards."""

    def visit():
        for name in names:
            enter(name)
            function(name)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(visit).result()


def build(topology):
    """Makes all namespaces and links of a topology."""
    plan = plans.Plan(topology)
    names = topology.namespaces()
    run("ip", "-batch", "-", given="".join(f"netns add {name}\n" for name in names))
    each_inside(names, lambda name: _write(plans.sysctls(name in plan.forwards)))
    run("ip", "-batch", "-", given="\n".join(plan.links))

    def finish(name):
        for tool, lines in (("ip", plan.ip), ("bridge", plan.bridge), ("tc", plan.tc)):
            if lines[name]:
                run(tool, "-n", name, "-batch", "-", given="\n".join(lines[name]))
        if name in plan.nft:
            run("ip", "netns", "exec", name, "nft", "-f", "-", given=plan.loss_rules(name))

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(finish, names))
    if not topology.offloads:
        set_offloads(topology, "off")


def _write(values):
    for key, value in values.items():
        # Some kernels have no IPv6 or no bridge filter.
        with contextlib.suppress(FileNotFoundError):
            pathlib.Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")


def set_offloads(topology, word):
    """Offloads of all links between machines and switches; those of pods keep theirs."""

    def switch(end):
        features = [item for feature in ("rx", "tx", "sg", "tso", "gso", "gro") for item in (feature, word)]
        run("ip", "netns", "exec", end[0], "ethtool", "-K", end[1], *features)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(switch, plans.Plan(topology).ends))
