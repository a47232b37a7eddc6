"""Network namespace labs for the black-box tests: nodes, pods, links, daemons, captures, forged packets.

    podA              podB                              podC
    10.244.1.2        10.244.2.2                        10.244.3.2
      | eth0            | eth0                            | eth0
      | pod0            | pod0                            | pod0
    n1                n2                R               n3
      | eth0            | eth0            | eth0  eth1 |  | eth0
      | 192.0.2.1       | 192.0.2.2       | .254       |  | 198.51.100.3
      | port-n1         | port-n2         | port-r     |  |
    ===================================== sw (br0)     +--+ 198.51.100.0/24, R is .254

    T2  podA n1 sw n2 podB                        T3  all of it
    TS  T2 with an n2 that has no address and no pod: silent, whatever it sends is made by the test
    TK  T2 with the kernel's VXLAN device (VNI 42) on n2 instead of a daemon

Needs root. The namespaces are named up<PID>x<N>-NAME, and all links are made inside them, so labs
of several processes do not meet. A lab cleans up when its context ends, and when the process does.
Underlay links have their offloads off unless the lab is `virtual`, so a capture shows frames as they
are on a real wire; links to pods keep theirs. Nodes route only to each other: what reaches another pod
went through a daemon.
"""

import atexit
import contextlib
import ctypes
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from capture import Capture  # noqa: E402
from command import run, wait_until  # noqa: E402
from daemon import REPO, Daemon  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402

PYTHON = "/usr/bin/python3"
TRAFFIC = str(REPO / "scripts" / "traffic.py")
ADDRESSES = {"n1": "192.0.2.1", "n2": "192.0.2.2", "n3": "198.51.100.3"}
PODS = {"n1": "podA", "n2": "podB", "n3": "podC"}
TOPOLOGIES = {"T2": ("n1", "n2"), "T3": ("n1", "n2", "n3"), "TS": ("n1", "n2"), "TK": ("n1", "n2")}
KERNEL_VNI = 42
TCP_PORT = 5001

# Some labs are other users': they must get to its directory and read what is written there, whatever a login
# has set TMPDIR and the umask to.
tempfile.tempdir = "/tmp"
os.umask(0o022)

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count(1)
_LIVE = []


def subnet(node):
    """The pod subnet of a node, `10.244.N.0/24`."""
    return f"10.244.{node[1:]}.0/24"


def pod_address(node):
    """The address of the pod on a node, `10.244.N.2`."""
    return f"10.244.{node[1:]}.2"


def vtep_mac(name):
    """Calico's VTEP MAC of a node name: 66, then the first five bytes of its SHA-1."""
    return ":".join(f"{byte:02x}" for byte in b"\x66" + hashlib.sha1(name.encode()).digest()[:5])


class Lab:
    """One lab; a context manager. Namespaces are named as in the picture: `n1`, `podA`, `sw`, `R`."""

    # Where the names of namespaces are, and the words before a command that shall find them there.
    names, entry = pathlib.Path("/run/netns"), ()

    def __init__(self, topology="T2", mtu=1500, ipv6=False, virtual=False):
        """`mtu` is that of the underlay links. Without `ipv6` no interface has any IPv6, which keeps
        captures and counters free of what the kernel says by itself. With `virtual` underlay links
        keep their offloads, as between containers of one host: super-packets cross them uncut."""
        self.topology, self.mtu, self.ipv6, self.virtual = topology, mtu, ipv6, virtual
        self.nodes = TOPOLOGIES[topology]
        self.id = f"up{os.getpid()}x{next(_NUMBERS)}"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.id}-"))
        self.daemons = {}
        self.logs = {}
        self._namespaces = []
        self._processes = []

    def __enter__(self):
        _LIVE.append(self)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    # --- construction -----------------------------------------------------------------------------

    def _build(self):
        self._add_namespace("sw")
        self.ip("sw", "link add br0 type bridge mcast_snooping 0", "link set br0 up")
        if self.topology == "T3":
            self._add_namespace("R", forward=True)
            self.plug("R", "port-r")
            self.ip("R", "address add 192.0.2.254/24 dev eth0")
        for node in self.nodes:
            self._add_node(node)
        if self.topology == "TS":
            self._silence("n2")
        else:
            self._add_pod("n2")
        if self.topology == "TK":
            self.add_kernel_vxlan("n2", peer="n1")

    def _add_node(self, node):
        self._add_namespace(node, forward=True)
        if node == "n3":
            self.link(node, "eth0", "R", "eth1", self.mtu, offloads=self.virtual)
            self.ip("R", "address add 198.51.100.254/24 dev eth1")
        else:
            self.plug(node, f"port-{node}")
        self.ip(node, f"address add {ADDRESSES[node]}/24 dev eth0")
        if self.topology == "T3":
            far, router = ("192.0.2", "198.51.100") if node == "n3" else ("198.51.100", "192.0.2")
            self.ip(node, f"route add {far}.0/24 via {router}.254")
        if node != "n2":
            self._add_pod(node)

    def _add_pod(self, node):
        pod, gateway = PODS[node], f"10.244.{node[1:]}.1"
        self._add_namespace(pod)
        self.link(node, "pod0", pod, "eth0")
        self.ip(node, f"address add {gateway}/24 dev pod0")
        self.ip(pod, f"address add {pod_address(node)}/24 dev eth0", f"route add default via {gateway}")

    def _silence(self, node):
        """A node whose kernel answers nothing, not even ARP: the others know its MAC beforehand."""
        self.ip(node, "address flush dev eth0")
        for other in self.nodes:
            if other != node:
                mac = self.mac(node, "eth0")
                self.ip(other, f"neighbour replace {ADDRESSES[node]} lladdr {mac} dev eth0 nud permanent")

    def add_kernel_vxlan(self, node, peer, *options):
        """The way flannel and Calico set the kernel's device up: no learning, all entries static."""
        far = subnet(peer)
        gateway = far.removesuffix("/24")
        self.ip(
            node,
            f"link add vx0 address {vtep_mac(node)} type vxlan id {KERNEL_VNI} dstport 4789"
            f" local {ADDRESSES[node]} nolearning {' '.join(options)}",
            f"link set vx0 mtu {self.mtu - 50} up",
            f"address add {subnet(node).removesuffix('/24')}/32 dev vx0",
            f"neighbour add {gateway} lladdr {vtep_mac(peer)} dev vx0 nud permanent",
            f"route add {far} via {gateway} dev vx0 onlink",
        )
        self.tool("bridge", "-n", self.ns(node), "fdb", "append", vtep_mac(peer), "dev", "vx0", "dst", ADDRESSES[peer])

    def _add_namespace(self, name, forward=False):
        self._namespaces.append(name)
        self.tool("ip", "netns", "add", self.ns(name))
        settings = {"rp_filter": 0, "send_redirects": 0, "accept_redirects": 0}
        values = {f"ipv4/conf/{scope}/{key}": value for scope in ("all", "default") for key, value in settings.items()}
        values["ipv4/ip_forward"] = int(forward)
        values["bridge/bridge-nf-call-iptables"] = 0
        for scope in ("all", "default"):
            values[f"ipv6/conf/{scope}/disable_ipv6"] = int(not self.ipv6)
        self.sysctl(name, values)
        self.ip(name, "link set lo up")

    def link(self, near, near_interface, far, far_interface, mtu=1500, offloads=True):
        """A veth pair between two namespaces, both ends up."""
        self.tool(
            *("ip", "link", "add", "name", near_interface, "mtu", mtu, "netns", self.ns(near), "type", "veth"),
            *("peer", "name", far_interface, "mtu", mtu, "netns", self.ns(far)),
        )
        self.ip(near, f"link set {near_interface} up")
        self.ip(far, f"link set {far_interface} up")
        if not offloads:
            self.offloads(near, near_interface, on=False)
            self.offloads(far, far_interface, on=False)

    def plug(self, name, port):
        """Links the `eth0` of a namespace to the bridge, by a new port."""
        self.link(name, "eth0", "sw", port, self.mtu, offloads=self.virtual)
        self.ip("sw", f"link set {port} master br0")

    def add_host(self, name, address):
        """One more host on the bridge, such as a stranger: `add_host("x", "192.0.2.66/24")`."""
        self._add_namespace(name)
        self.plug(name, f"port-{name}")
        self.ip(name, f"address add {address} dev eth0")

    # --- inside a namespace -----------------------------------------------------------------------

    def ns(self, name):
        """The name under which the kernel knows a namespace of this lab."""
        return f"{self.id}-{name}"

    def tool(self, *command, **options):
        """Runs a command to its end where the namespaces of this lab have their names."""
        return run(*self.entry, *command, **options)

    def ip(self, name, *commands):
        """Runs `ip` commands in a namespace, all of them in one process."""
        self.tool("ip", "-n", self.ns(name), "-batch", "-", input="\n".join(commands) + "\n")

    def exec(self, name, *command, check=True, timeout=30, **options):
        """Runs a command to its end in a namespace; a CompletedProcess with text in `stdout`, `stderr`."""
        return self.tool("ip", "netns", "exec", self.ns(name), *command, check=check, timeout=timeout, **options)

    def popen(self, name, *command, **options):
        """Starts a command in a namespace; it is ended with the lab at the latest."""
        command = [*self.entry, "ip", "netns", "exec", self.ns(name), *map(str, command)]
        process = subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, "text": True} | options)
        self._processes.append(process)
        return process

    def inside(self, name, function):
        """Calls `function` in a thread that is in the namespace. A socket it returns stays in there."""

        def enter():
            with open(self.names / self.ns(name), encoding="ascii") as handle:
                if _LIBC.setns(handle.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter {self.ns(name)}")
            return function()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def socket(self, name, family=socket.AF_INET, kind=socket.SOCK_DGRAM, protocol=0):
        """A socket of this process in a namespace."""
        return self.inside(name, lambda: socket.socket(family, kind, protocol))

    def sysctl(self, name, values):
        """Writes to `/proc/sys/net` of a namespace; keys that this kernel does not have are left out."""

        def write():
            for key, value in values.items():
                with contextlib.suppress(FileNotFoundError):
                    pathlib.Path("/proc/sys/net", key).write_text(str(value), encoding="ascii")

        self.inside(name, write)

    def mac(self, name, interface):
        """The MAC of an interface."""
        links = json.loads(self.tool("ip", "-n", self.ns(name), "-j", "link", "show", interface).stdout)
        return links[0]["address"]

    def offloads(self, name, interface, on):
        """Switches checksum, segmentation and receive offloads of an interface."""
        state = "on" if on else "off"
        features = [word for feature in ("rx", "tx", "sg", "tso", "gso", "gro") for word in (feature, state)]
        self.exec(name, "ethtool", "-K", interface, *features)

    # --- traffic ----------------------------------------------------------------------------------

    def ping(self, name, address, *options, count=3):
        """How many of `count` pings from a namespace were answered."""
        output = self.exec(name, "ping", "-n", "-c", count, "-i", "0.02", "-W", "5", *options, address, check=False)
        return int(re.search(r"(\d+) received", output.stdout).group(1))

    def send(self, name, interface, packets):
        """Sends scapy packets, or bytes, as they are: from the Ethernet header on."""
        with self.socket(name, socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((interface, 0))
            for packet in packets if isinstance(packets, (list, tuple)) else [packets]:
                out.send(bytes(packet))

    def frame(self, name, target, payload, interface="eth0", target_interface="eth0"):
        """`payload` behind the Ethernet header that brings it from one namespace to its neighbour."""
        return Ether(src=self.mac(name, interface), dst=self.mac(target, target_interface)) / payload

    def capture(self, name, interface, expression=""):
        """A Capture of what passes an interface, for a `with` block."""
        return Capture(self, name, interface, expression)

    def tcp_transfer(self, source, target, address, size):
        """Sends `size` random bytes; AssertionError unless all arrive and both SHA-256 are equal."""
        receiver = self.popen(target, PYTHON, TRAFFIC, "tcp-receive", TCP_PORT, stdout=subprocess.PIPE)
        wait_until(lambda: self.exec(target, "ss", "-Hnlt", f"sport = :{TCP_PORT}").stdout, 5, "the receiver")
        sent = self.exec(source, PYTHON, TRAFFIC, "tcp-send", address, TCP_PORT, size, timeout=300).stdout
        received, _ = receiver.communicate(timeout=30)
        if sent != received or not sent.startswith(f"{size} "):
            raise AssertionError(f"sent {sent!r}, received {received!r}")

    # --- daemons ----------------------------------------------------------------------------------

    def config(
        self, node, ipip="Always", vxlan="Never", pools=None, peers=None, port=4789, vni=None, tunnel=(), **more
    ):
        """A configuration file for the daemon of a node, as text.

        `pools` is a list of (cidr, ipip_mode, vxlan_mode), by default 10.244.0.0/16 with the two modes
        given. `peers` is {name: (address, [subnet…])}, by default the other nodes; a third element has more
        keys. `tunnel` and `vxlan_keys` have lines for [tunnel] and [vxlan]. In `more`, `local` replaces the
        local subnets, `address` the node's address with its prefix length, `own` all its addresses,
        `node_keys` has more lines for [node], and `extra` is appended.
        """
        others = [other for other in ADDRESSES if other != node and (other in self.nodes or self.topology == "TS")]
        peers = {other: (ADDRESSES[other], [subnet(other)]) for other in others} if peers is None else peers
        own = more.get("own") or {"address": more.get("address", f"{ADDRESSES[node]}/24")}
        wire = {"port": port, "vni": vni or (KERNEL_VNI if self.topology == "TK" else 4096)}
        sections = [
            ("[node]", {"name": node} | own | more.get("node_keys", {})),
            ("[tunnel]", dict(tunnel)),
            ("[vxlan]", wire | more.get("vxlan_keys", {})),
            ("[local]", {"subnets": more.get("local", [subnet(node)])}),
            ("[control]", {"socket": str(self.dir / f"{node}.sock")}),
        ]
        for cidr, ipip_mode, vxlan_mode in pools or [("10.244.0.0/16", ipip, vxlan)]:
            sections.append(("[[pool]]", {"cidr": cidr, "ipip_mode": ipip_mode, "vxlan_mode": vxlan_mode}))
        for name, (address, subnets, *keys) in peers.items():
            sections.append(("[[peer]]", {"name": name, "address": address, "subnets": subnets} | dict(*keys)))
        # JSON's strings, numbers and lists of them are TOML's too.
        lines = []
        for head, keys in sections:
            lines += ["", head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        return "\n".join(lines) + "\n" + more.get("extra", "")

    def start_daemon(self, node, config_text=None, environment=None, command=None, stderr=None, **config):
        """Starts the daemon of a node and waits until it answers; `config` goes to `Lab.config`."""
        file = self.dir / f"{node}.toml"
        file.write_text(config_text or self.config(node, **config), encoding="utf-8")
        daemon = Daemon(self, node, file, environment, command, stderr=stderr)
        self.daemons[node] = daemon
        daemon.wait_ready()
        return daemon

    def start_daemons(self, **config):
        """Starts a daemon on each node that shall have one."""
        for node in self.nodes if self.topology in ("T2", "T3") else ("n1",):
            self.start_daemon(node, **config)

    def status(self, node):
        """What `underpass status -o json` says on a node."""
        return self.daemons[node].json("status")

    def drops(self, node):
        """The drop counters of a node: {reason: count}."""
        return self.daemons[node].json("drops")

    @contextlib.contextmanager
    def expect_drops(self, node, timeout=2.0, **expected):
        """Within the block exactly these counters move: `with lab.expect_drops("n1", bad_vni=3): …`."""
        before = self.drops(node)

        def moved():
            now = self.drops(node)
            return {reason: now[reason] - before[reason] for reason in now if now[reason] != before[reason]}

        yield
        try:
            wait_until(lambda: moved() == expected, timeout)
        except AssertionError:
            raise AssertionError(f"drops on {node} moved by {moved()}, expected {expected}") from None

    # --- the end ----------------------------------------------------------------------------------

    def close(self):
        """Ends all processes in the lab and removes it. The daemons' logs stay in `logs`."""
        if self in _LIVE:
            _LIVE.remove(self)
        self.logs |= {node: daemon.log() for node, daemon in self.daemons.items()}
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for name in self._namespaces:
            self._remove_namespace(name)
        self._namespaces.clear()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _remove_namespace(self, name):
        if not (self.names / self.ns(name)).exists():
            return
        for pid in self.tool("ip", "netns", "pids", self.ns(name)).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        self.tool("ip", "netns", "delete", self.ns(name))


class LabTestCase(unittest.TestCase):
    """A test with a lab of its own in `self.lab`; a failure shows what the daemons have said."""

    topology = "T2"
    options = {}

    def setUp(self):
        self.lab = Lab(self.topology, **self.options)
        self.enterContext(self.lab)

    def run(self, result=None):
        result = self.defaultTestResult() if result is None else result
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and hasattr(self, "lab"):
            for node, log in self.lab.logs.items():
                print(f"--- {self.id()}: log of {node}\n{log}", file=sys.stderr)
        return result


@atexit.register
def _close_all():
    for lab in list(_LIVE):
        lab.close()


def _terminated(_signal, _frame):
    raise KeyboardInterrupt


if threading.current_thread() is threading.main_thread():
    # unittest swallows SystemExit, so a request to end takes the way of Ctrl-C, through `_close_all`.
    signal.signal(signal.SIGTERM, _terminated)
