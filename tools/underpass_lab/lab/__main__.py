"""The verbs of scripts/lab: one function for each verb. docs/lab.md is its manual."""

import argparse
import os
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from underpass_lab import api
from underpass_lab.command import Failure
from underpass_lab.lab import daemons, inside, making, parent, picture, state, tables
from underpass_lab.lab import topology as topologies
from underpass_lab.lab.topology import Node, Topology

DEFAULT = "three-nodes"
Verb = Callable[[argparse.Namespace], int | None]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/lab",
        allow_abbrev=False,
        description="A network of nodes, pods and routers to try things in."
        " Needs no root where user namespaces are allowed and everybody may open /dev/net/tun.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function: Verb, about: str, name: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(function.__name__.partition("_")[0], help=about, description=about, allow_abbrev=False)
        added.set_defaults(function=function)
        if name:
            added.add_argument(
                "--name", metavar="ID", help="which lab; needed where there are several (or UNDERPASS_LAB)"
            )
        return added

    new = verb(up, "make a lab and start the daemons", name=False)
    new.add_argument(
        "--topology", metavar="FILE|NAME", default=DEFAULT, help=f"one of config/lab, or a file; default: {DEFAULT}"
    )
    new.add_argument("--name", metavar="ID", help="what to call it; default: the name of the topology")
    new.add_argument("--no-daemons", action="store_true", help="only the network")
    verb(down, "end all that runs in a lab and remove it").add_argument("--all", action="store_true", help="all labs")
    verb(list_labs, "the labs there are", name=False)
    one = verb(exec_command, "run a command on a node, in a pod, router or switch")
    one.add_argument("node", metavar="NODE")
    one.add_argument("command", metavar="CMD…", nargs=argparse.REMAINDER)
    verb(shell, "a shell there").add_argument("node", metavar="NODE")
    verb(inside_command, "run a command where 'ip netns exec' knows the names of the lab, for scripts").add_argument(
        "command", metavar="CMD…", nargs=argparse.REMAINDER
    )
    one = verb(capture, "show what passes an interface, until Ctrl-C")
    one.add_argument("node", metavar="NODE")
    one.add_argument("interface", metavar="IFACE", nargs="?", help="default: eth0")
    one.add_argument("-w", dest="file", metavar="FILE", help="write a pcap file")
    one.add_argument("-c", dest="count", metavar="N", type=int, default=0, help="end after N frames")
    one.add_argument("-f", dest="filter", metavar="EXPR", default="", help="only these, in tcpdump's words")
    verb(status, "one line for each node")
    one = verb(ping, "every pod pings every other")
    one.add_argument(
        "--tries", metavar="N", type=int, default=3, help="how often a pair without an answer is asked; default: 3"
    )
    one = verb(graph, "an SVG picture")
    one.add_argument("-o", dest="file", metavar="FILE", help="where to; default: NAME.svg")
    one.add_argument("--topology", metavar="FILE|NAME", help="of a topology, without a lab")
    one = verb(config, "write the configuration of a node's daemon again, with other modes; print its path")
    one.add_argument("node", metavar="NODE")
    one.add_argument("modes", metavar="MODE", nargs="*", help="IPIP_MODE VXLAN_MODE; default: those of the topology")
    verb(restart, "end the daemon of a node and start it again").add_argument("node", metavar="NODE")
    verb(offloads, "offloads of the links between nodes").add_argument("word", choices=("on", "off"))
    return parser


# --- up and down ----------------------------------------------------------------------------------


def up(options: argparse.Namespace) -> None:
    path = topologies.find(options.topology)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        shipped = ", ".join(sorted(file.stem for file in topologies.SHIPPED.glob("*.toml")))
        raise Failure(f"topology {options.topology}: {error.strerror}; shipped ones: {shipped}") from None
    topology = topologies.load(path, text)
    with_daemons = bool(topology.daemons()) and not options.no_daemons
    making.check(topology, with_daemons)
    binary = making.build() if with_daemons else ""
    lab = state.RunningLab(options.name or path.stem)
    making.up(lab, text, topology, binary)
    print(f"lab {lab.name}: {making.about(topology)}; state in {lab.directory}")
    print(f"try: scripts/lab ping; scripts/lab exec {topology.nodes[0].name} ip route; scripts/lab down")


def down(options: argparse.Namespace) -> None:
    labs = state.every() if options.all else [state.choose(options.name)]
    for lab in labs:
        lab.end()
        print(f"removed lab {lab.name}")


# --- looking at labs ------------------------------------------------------------------------------


def list_labs(_options: argparse.Namespace) -> None:
    for lab in state.every():
        try:
            topology = lab.topology()
            print(
                f"{lab.name}: {making.about(topology)}"
                if lab.keeper()
                else f"{lab.name}: ended; 'scripts/lab down --name {lab.name}' removes what is left"
            )
        except (Failure, tables.Mistakes) as failure:
            print(f"{lab.name}: {failure}")
            continue
        for subnet in topology.subnets:
            print(f"  {subnet.switch:<17}{subnet.network}, MTU {subnet.mtu}")
        for router in topology.routers:
            print(f"  {router.name:<17}" + ", ".join(str(address) for _, address in router.ports))
        for node in topology.nodes:
            pods = list(node.pod_addresses().items())
            shown = f"{pods[0][0]} {pods[0][1]}" if pods else "no pods"
            more = f" … {pods[-1][0]} {pods[-1][1]}" if len(pods) > 1 else ""
            print(f"  {node.name:<17}{str(node.address):<16} {shown}{more}")


def status(options: argparse.Namespace) -> int:
    lab = state.choose(options.name)
    topology = lab.topology()
    lab.needed_keeper()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda node: api.status(lab.file(f"{node.name}.sock")), topology.nodes))
    print(
        f"{'node':<16}{'address':<17}{'dataplane':<14}{'mtu':>6}{'from pods':>11}{'to pods':>11}{'dropped':>9}  drops"
    )
    silent = 0
    for node, answer in zip(topology.nodes, answers, strict=True):
        line = f"{node.name:<16}{str(node.address):<17}{node.dataplane:<14}"
        if answer:
            device, drops = answer["counters"]["device"], answer["drops"]
            named = " ".join(f"{reason}={count}" for reason, count in drops.items() if count)
            line += f"{answer['tunnel']['mtu']:>6}{device['rx_packets']:>11}{device['tx_packets']:>11}"
            line += f"{sum(drops.values()):>9}  {named}"
        elif node.dataplane == topologies.UNDERPASS:
            silent += 1
            line += f"  does not answer; see {lab.file(f'{node.name}.log')}"
        print(line.rstrip())
    return 1 if silent else 0


def ping(options: argparse.Namespace) -> int:
    if options.tries < 1:
        raise Failure("--tries is 1 or more")
    lab = state.choose(options.name)
    pods = "".join(f"{name} {address}\n" for name, address in lab.topology().pods().items())
    return subprocess.run(inside.module(lab, "lab.ping", options.tries), input=pods, text=True, check=False).returncode


def graph(options: argparse.Namespace) -> None:
    if options.topology:
        path = topologies.find(options.topology)
        topology, title = topologies.load(path, path.read_text(encoding="utf-8")), path.stem
    else:
        lab = state.choose(options.name)
        topology, title = lab.topology(), lab.name
    file = pathlib.Path(options.file or f"{title}.svg")
    file.write_text(picture.draw(topology, title), encoding="utf-8")
    print(f"wrote {file}")


# --- inside a lab ---------------------------------------------------------------------------------


def exec_command(options: argparse.Namespace) -> None:
    if not options.command:
        raise Failure("usage: scripts/lab exec NODE CMD…")
    enter(options, options.command)


def inside_command(options: argparse.Namespace) -> None:
    if not options.command:
        raise Failure("usage: scripts/lab inside CMD…")
    lab = state.choose(options.name)
    command = inside.command(lab, *options.command)
    sys.stdout.flush()
    os.execvpe(command[0], command, inside.environment(lab))


def shell(options: argparse.Namespace) -> None:
    prompt = f"[{options.node}] \\w \\$ "
    enter(options, ("env", f"PS1={prompt}", "bash", "--norc", "--noprofile", "-i"))


def enter(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Becomes a command inside."""
    lab = chosen_with(options)
    command = inside.command(lab, *words, name=options.node)
    sys.stdout.flush()
    os.execvpe(command[0], command, inside.environment(lab, options.node))


def chosen_with(options: argparse.Namespace) -> state.RunningLab:
    """The lab, which has the node that was named."""
    lab = state.choose(options.name)
    names = lab.topology().namespaces()
    if options.node not in names:
        raise Failure(f"lab {lab.name} has no {options.node!r}; it has: {', '.join(names)}")
    return lab


def capture(options: argparse.Namespace) -> int:
    parent.need_tools("tcpdump")
    lab = chosen_with(options)
    if options.interface is None and options.node in lab.topology().switches():
        raise Failure(f"{options.node} has no eth0 but a link for each machine: name one of 'scripts/lab list'")
    interface = options.interface or "eth0"
    words = [
        "tcpdump",
        "-n",
        "-r",
        "-",
        *(["-Z", "root"] if os.geteuid() == 0 else []),
        *(["-U", "-w", options.file] if options.file else ["-l"]),
        *shlex.split(options.filter),
    ]
    # Neither is hit by Ctrl-C: closing the one's input ends it, and then the other, with all that was seen.
    source = subprocess.Popen(
        inside.module(lab, "lab.ring", interface, 0 if options.filter else options.count, name=options.node),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    if options.filter and options.count:
        words[1:1] = ["-c", str(options.count)]
    reader = subprocess.Popen(words, stdin=source.stdout, start_new_session=True)
    assert source.stdin and source.stdout
    source.stdout.close()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        reader.wait()
    except KeyboardInterrupt:
        source.stdin.close()
        reader.wait()
    source.stdin.close()
    return source.wait() or reader.returncode


def config(options: argparse.Namespace) -> None:
    """Only writes: `restart` makes it count."""
    if len(options.modes) not in (0, 2) or not set(options.modes) <= set(topologies.MODES):
        raise Failure(f"usage: scripts/lab config NODE [IPIP_MODE VXLAN_MODE]; modes are {', '.join(topologies.MODES)}")
    lab = chosen_with(options)
    topology = lab.topology()
    node = with_daemon(topology, options.node)
    file = lab.file(f"{node.name}.toml")
    file.write_text(daemons.text(topology, node, lab.directory, *options.modes), encoding="utf-8")
    print(file)


def with_daemon(topology: Topology, name: str) -> Node:
    """The node of that name, which runs underpass."""
    names = [node.name for node in topology.daemons()]
    if name not in names:
        raise Failure(f"{name} has no daemon; these have: {', '.join(names)}")
    return next(node for node in topology.nodes if node.name == name)


def restart(options: argparse.Namespace) -> int:
    lab = chosen_with(options)
    node = with_daemon(lab.topology(), options.node)
    if not lab.file("bin").exists():
        raise Failure(f"lab {lab.name} was made with --no-daemons")
    return subprocess.run(inside.module(lab, "lab.running", lab.directory, node.name), check=False).returncode


def offloads(options: argparse.Namespace) -> int:
    parent.need_tools("ethtool")
    lab = state.choose(options.name)
    return subprocess.run(
        inside.module(lab, "lab.offloads", lab.file("topology.toml"), options.word), check=False
    ).returncode


def main() -> int | None:
    parser = arguments()
    options = parser.parse_args()
    function: Verb = options.function
    return function(options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except tables.Mistakes as mistakes:
        sys.exit("\n".join(f"error: {line}" for line in str(mistakes).splitlines()))
    except Failure as failure:
        sys.exit(f"error: {failure}")
