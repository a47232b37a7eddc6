"""The other userspace tunnels: Open vSwitch and two implementations of WireGuard.

Each runs as instances of its own, with private directories or names, beside whatever the machine
itself may be running.
"""

import functools
import os
import pathlib
import shutil
import subprocess

from underpass_lab.bench.pair import NODES, UNDERLAY, VXLAN_OVERHEAD, Pair, other
from underpass_lab.command import run, wait_until


def missing(*tools: str, package: str | None) -> str | None:
    """Why these tools cannot be used, or None."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if not absent:
        return None
    source = f"Debian package {package}" if package else "cargo install boringtun-cli"
    return f"{', '.join(absent)} not installed ({source}; --install-peers does it)"


def package_version(package: str) -> str:
    return subprocess.run(
        ("dpkg-query", "-W", "-f=${Version}", package), capture_output=True, text=True, check=False
    ).stdout


# --- Open vSwitch ---------------------------------------------------------------------------------
# The underlay address moves to a bridge of the userspace datapath, because that is where it looks for
# the way to the other end of a tunnel (Open vSwitch, "userspace native tunneling").

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
# Its bridges are TAPs, which keep room for an Ethernet header.
LARGEST_MTU = 65535 - 14


def ovs_up(lab: Pair, vni: int) -> str:
    for node in NODES:
        directory = lab.dir / f"ovs-{node}"
        directory.mkdir()
        env = {f"OVS_{name}": str(directory) for name in ("RUNDIR", "DBDIR", "LOGDIR", "SYSCONFDIR")}
        database, socket = directory / "conf.db", directory / "db.sock"
        run("ovsdb-tool", "create", database, SCHEMA)
        server = lab.start(
            node, "ovsdb-server", database, f"--remote=punix:{socket}", f"--unixctl={directory}/server.ctl", env=env
        )
        lab.ready(server, 10, socket.exists)
        control = directory / "vswitchd.ctl"
        switch = lab.start(node, "ovs-vswitchd", f"unix:{socket}", f"--unixctl={control}", env=env)
        lab.ready(switch, 10, control.exists)
        ovs_bridges(lab, node, socket, vni)
    # Ours must be known to the other end before the first packet is encapsulated.
    wait_until(lambda: lab.answers("n1", UNDERLAY["n2"]), 10, "the underlay bridges carry packets")
    return "10.245.0.2"


def ovs_bridges(lab: Pair, node: str, socket: pathlib.Path, vni: int) -> None:
    mac = lab.run(node, "cat", "/sys/class/net/eth0/address").strip()
    lab.run(
        *(node, "ovs-vsctl", f"--db=unix:{socket}", "--timeout=10"),
        *("add-br", "br-under", "--", "set", "bridge", "br-under", "datapath_type=netdev"),
        *(f'other_config:hwaddr="{mac}"', "--", "add-port", "br-under", "eth0"),
        *("--", "add-br", "br-tunnel", "--", "set", "bridge", "br-tunnel", "datapath_type=netdev"),
        *("--", "add-port", "br-tunnel", "vxlan0", "--", "set", "interface", "vxlan0", "type=vxlan"),
        *(f"options:remote_ip={UNDERLAY[other(node)]}", f"options:key={vni}"),
    )
    lab.ip(node, "address flush dev eth0")
    underlay = min(lab.conditions.mtu, LARGEST_MTU)
    for bridge, address, mtu in (
        ("br-under", f"{UNDERLAY[node]}/24", underlay),
        ("br-tunnel", f"10.245.0.{node[1:]}/24", underlay - VXLAN_OVERHEAD),
    ):
        lab.ip(node, f"address add {address} dev {bridge}", f"link set {bridge} mtu {mtu} up")


# --- WireGuard ------------------------------------------------------------------------------------

PORT = 51820
# What wg-quick leaves for the outer headers, IPv6 included.
WIREGUARD_OVERHEAD = 80
# Debian's wireguard-go asks for this where the kernel has a WireGuard of its own.
INSIST = {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}


def wireguard_up(lab: Pair, binary: str, flags: tuple[str, ...]) -> str:
    # The control sockets of all namespaces share one directory, so the names must differ.
    device = {node: f"ub{os.getpid()}{node}" for node in NODES}
    public: dict[str, str] = {}
    for node in NODES:
        secret = run("wg", "genkey").stdout
        (lab.dir / f"{node}.key").write_text(secret)
        public[node] = run("wg", "pubkey", input=secret).stdout.strip()
        daemon = lab.start(node, binary, *flags, device[node], env=INSIST)
        lab.ready(daemon, 10, functools.partial(interface_exists, lab, node, device[node]))
    for node in NODES:
        wireguard_configure(lab, node, device[node], public[other(node)])
    return "10.245.0.2"


def interface_exists(lab: Pair, node: str, device: str) -> bool:
    in_namespace = lab.run(node, "ip", "-o", "link").find(f" {device}:") != -1
    return in_namespace and os.path.exists(f"/run/wireguard/{device}.sock")


def wireguard_configure(lab: Pair, node: str, device: str, peer_key: str) -> None:
    peer = other(node)
    key, endpoint = lab.dir / f"{node}.key", f"{UNDERLAY[peer]}:{PORT}"
    there = ("peer", peer_key, "endpoint", endpoint, "allowed-ips", f"10.245.0.{peer[1:]}/32")
    lab.run(node, "wg", "set", device, "listen-port", PORT, "private-key", key, *there)
    mtu = lab.conditions.mtu - WIREGUARD_OVERHEAD
    lab.ip(node, f"address add 10.245.0.{node[1:]}/24 dev {device}", f"link set {device} mtu {mtu} up")
