"""Two network namespaces joined by one veth pair: the smallest network with two nodes.

     n1                          n2
     eth0 192.0.2.1/24 ------- eth0 192.0.2.2/24        MTU 1500, default offloads

With loss the link goes through a third namespace, which drops packets at random, and both nodes cut
super-packets in software before it: what gets lost is then one packet of a wire, in every system.

     n1 eth0 ------- wire: left, bridge, right ------- eth0 n2

The load runs in the same namespaces as the tunnel under test, to the tunnel address of the other
node, so that a packet makes the same hops in every system. Everything is named after this process
and gone when the `with` block ends.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

UNDERLAY = {"n1": "192.0.2.1", "n2": "192.0.2.2"}
NODES = ("n1", "n2")
WIRE = "wire"
# IPv4, UDP, VXLAN and inner Ethernet headers.
VXLAN_OVERHEAD = 50
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Before any interface exists: interfaces take their settings from `default` when they are made.
SYSCTLS = """
cd /proc/sys/net
for scope in all default; do
    echo 0 >ipv4/conf/$scope/rp_filter
    [ ! -e ipv6/conf/$scope ] || echo 1 >ipv6/conf/$scope/disable_ipv6
done
echo 1 >ipv4/ip_forward
"""
# At the ports' ingress, where nobody else looks at the packets first.
SHARES = 100_000
LOSE = """
table netdev loss {{
    chain left {{ type filter hook ingress device left priority 0; numgen random mod {shares} < {share} drop; }}
    chain right {{ type filter hook ingress device right priority 0; numgen random mod {shares} < {share} drop; }}
}}
"""


# What is off in each row of the sweep over uplinks: features of ethtool, or all that cut packets. Virtio, USB, Wi-Fi
# and many cloud cards are like "no tunnel" or "none".
TUNNELS = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-ipxip4-segmentation", "tx-ipxip6-segmentation",
           "tx-gre-segmentation", "tx-gre-csum-segmentation")
OFF = {"all": (), "no tunnel": TUNNELS, "no UDP": ("tx-udp-segmentation",), "none": None}
WITH_GRO = ", GRO"
UPLINKS = tuple(name + gro for name in OFF for gro in ("", WITH_GRO))


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a sweep changes: the link, and settings of the tunnel."""

    mtu: int = 1500
    # Percent of the packets on the link, each way; None: no wire in between that could lose any.
    loss: float | None = None
    # One of UPLINKS: which offloads both ends of the link have; the defaults of a veth pair when None.
    uplink: str | None = None
    # Worker threads of underpass; its own choice when None.
    workers: int | None = None
    # Routes in the forwarding table of underpass; only those it needs when None.
    routes: int | None = None


class Failure(Exception):
    """A system or a test that did not work, with the reason in one line."""


def other(node):
    return NODES[1 - NODES.index(node)]


def poll(seconds, condition, what):
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def last_line(text):
    """The last line that says anything: where tools put the reason of a failure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


class Lab:
    """The namespaces, a directory for files, and every process started in them."""

    def __init__(self, conditions=Conditions()):
        self.conditions = conditions
        self.prefix = f"upbench{os.getpid()}"
        self.nodes = [*NODES, WIRE] if conditions.loss is not None else list(NODES)
        self.processes = []

    def __enter__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="underpass-bench-"))
        try:
            self._create()
        except BaseException:
            self._destroy()
            raise
        return self

    def __exit__(self, *_):
        self._destroy()

    def namespace(self, node):
        return f"{self.prefix}-{node}"

    def run(self, node, *command, timeout=10, env=None):
        """Runs a command in a node to its end and returns its standard output."""
        return run("ip", "netns", "exec", self.namespace(node), *command, timeout=timeout, env=env)

    def start(self, node, *command, env=None):
        """Starts a process in a node; it ends with the lab. Its output goes to a file."""
        log = self.directory / f"{node}-{pathlib.Path(command[0]).name}-{len(self.processes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                ("ip", "netns", "exec", self.namespace(node), *map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
            )
        process.log = log
        self.processes.append(process)
        return process

    def ready(self, process, seconds, condition):
        """Waits until `condition()`; fails at once, with its last words, when `process` ends."""
        name = process.log.name.split("-", 1)[1].rsplit("-", 1)[0]

        def ended_or_ready():
            if process.poll() is not None:
                words = last_line(process.log.read_text(errors="replace"))
                raise Failure(f"{name} ended with status {process.returncode}: {words}")
            return condition()

        poll(seconds, ended_or_ready, f"{name} is ready")

    def answers(self, node, address):
        """Whether `address` answers a ping from `node`."""
        with contextlib.suppress(Failure):
            self.run(node, "ping", "-n", "-q", "-c", "1", "-W", "1", address)
            return True
        return False

    def _create(self):
        for node in self.nodes:
            run("ip", "netns", "add", self.namespace(node))
            self.run(node, "ip", "link", "set", "lo", "up")
            self.run(node, "sh", "-c", SYSCTLS)
        if WIRE in self.nodes:
            self._wire(self.conditions.loss)
        else:
            self._link("n1", "eth0", "n2", "eth0")
        if self.conditions.uplink is not None:
            for node in NODES:
                offload_as(self, node, self.conditions.uplink)
        for node in NODES:
            self.run(node, "ip", "address", "add", f"{UNDERLAY[node]}/24", "dev", "eth0")
        poll(5, lambda: self.answers("n1", UNDERLAY["n2"]), "the veth pair carries packets")

    def _link(self, first, first_name, second, second_name):
        run("ip", "link", "add", first_name, "netns", self.namespace(first), "type", "veth",
            "peer", "name", second_name, "netns", self.namespace(second))
        for node, name in ((first, first_name), (second, second_name)):
            self.run(node, "ip", "link", "set", name, "mtu", self.conditions.mtu, "up")

    def _wire(self, loss):
        self.run(WIRE, "ip", "link", "add", "bridge", "type", "bridge")
        self.run(WIRE, "ip", "link", "set", "bridge", "mtu", self.conditions.mtu, "up")
        for node, port in (("n1", "left"), ("n2", "right")):
            self._link(node, "eth0", WIRE, port)
            self.run(WIRE, "ip", "link", "set", port, "master", "bridge")
            cut_in_software(self, node)
        if loss:
            self.run(WIRE, "nft", LOSE.format(share=round(loss * SHARES / 100), shares=SHARES))

    def _destroy(self):
        # A Ctrl-C must not leave half of the namespaces behind; it is heard afterwards.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        self._remove()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _remove(self):
        for process in reversed(self.processes):
            end(process)
        for node in self.nodes:
            subprocess.run(("ip", "netns", "delete", self.namespace(node)), stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def offload_as(lab, node, uplink):
    """Gives eth0 the offloads of one of UPLINKS, and fails where it does not get them."""
    name, gro = uplink.removesuffix(WITH_GRO), uplink.endswith(WITH_GRO)
    off = OFF[name]
    if off is None:
        off = cut_in_software(lab, node)
    else:
        switch(lab, node, off, "off")
    switch(lab, node, ("generic-receive-offload",), "on" if gro else "off")
    has = features(lab, node)
    wanted = {"generic-receive-offload": gro, **dict.fromkeys(off, False)}
    kept = {name for name in (*TUNNELS[:3], "tx-tcp-segmentation", "tx-udp-segmentation") if name not in off}
    wanted |= dict.fromkeys(kept, True)
    wrong = [f"{feature} {'on' if has.get(feature) else 'off'}" for feature, on in wanted.items() if has.get(feature) != on]
    if wrong:
        raise Failure(f"the link cannot be made like uplink={uplink}: {', '.join(wrong)}")


def cut_in_software(lab, node):
    """Turns off all segmentation offloads of eth0, those of tunnels included; returns which."""
    cuts = [name for name, on in features(lab, node).items()
            if on and name.startswith("tx-") and name.endswith("-segmentation")]
    switch(lab, node, cuts, "off")
    return cuts


def features(lab, node):
    """The features of eth0 by name, and whether each is on."""
    lines = lab.run(node, "ethtool", "-k", "eth0").splitlines()[1:]
    pairs = (line.strip().split(": ", 1) for line in lines if ": " in line)
    return {name: state.split()[0] == "on" for name, state in pairs}


def switch(lab, node, names, state):
    if names:
        lab.run(node, "ethtool", "-K", "eth0", *(word for name in names for word in (name, state)))


def end(process):
    """SIGTERM, and SIGKILL when that does not help."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(*command, timeout=10, env=None):
    """Runs a command to its end; its standard output, or a Failure with its last words."""
    command = [str(word) for word in command]
    tool = command[4] if command[:3] == ["ip", "netns", "exec"] else command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{tool}: not ready after {timeout} s") from None
    except OSError as error:
        raise Failure(f"{tool}: {error.strerror}") from None
    if done.returncode != 0:
        raise Failure(f"{tool} failed: {last_line(done.stdout + chr(10) + done.stderr)}")
    return done.stdout
