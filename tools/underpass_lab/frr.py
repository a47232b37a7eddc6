"""FRR's zebra and bgpd on a node of a lab: it announces its block, and writes what it learns to a table of its own."""

import pathlib
import subprocess
from collections.abc import Sequence

from underpass_lab import routing
from underpass_lab.bird import AS
from underpass_lab.command import Failure, wait_until
from underpass_lab.network import Lab

TABLE = 100
# The package makes this group, and the programs want their user to be in it.
GROUP = "frrvty:x:65533:root\n"


class Frr:
    """Both programs in a namespace of a lab."""

    def __init__(self, lab: Lab, name: str, address: str, blocks: Sequence[str], neighbours: Sequence[str]) -> None:
        self.lab, self.name = lab, name
        self.directory = lab.dir / f"{name}.frr"
        self.directory.mkdir()
        self.programs = routing.directory()
        groups = pathlib.Path("/etc/group").read_text(encoding="utf-8")
        (self.directory / "group").write_text(groups + GROUP, encoding="utf-8")
        (self.directory / "zebra.conf").write_text("log stdout\n", encoding="ascii")
        lines = ["log stdout", f"router bgp {AS}", f" bgp router-id {address}", " no bgp default ipv4-unicast"]
        lines += [" timers bgp 1 3"]
        for neighbour in neighbours:
            lines += [f" neighbor {neighbour} remote-as {AS}", f" neighbor {neighbour} timers connect 1"]
        lines += [" address-family ipv4 unicast", *(f"  network {block}" for block in blocks)]
        for neighbour in neighbours:
            lines += [f"  neighbor {neighbour} activate", f"  neighbor {neighbour} route-map learnt in"]
        # What is announced need not be in the main table. What is learnt must not: zebra takes other routes there for
        # better ones than those of BGP.
        lines += [" exit-address-family", " no bgp network import-check"]
        lines += ["route-map learnt permit 10", f" set table {TABLE}"]
        (self.directory / "bgpd.conf").write_text("\n".join(lines) + "\n", encoding="ascii")
        self.processes = [self._start(program) for program in ("zebra", "bgpd")]

    def _start(self, program: str) -> subprocess.Popen[str]:
        directory = self.directory
        names = ("-f", directory / f"{program}.conf", "-i", directory / f"{program}.pid", "-z", directory / "zserv")
        options = ("-u", "root", "-g", "root", *names, "--vty_socket", directory)
        words = (self.programs / "usr/lib/frr" / program, *options)
        # They leave files in /var/tmp.
        inside = 'mount --bind "$0" /etc/group && mount --bind "$1" /var/tmp && shift && exec "$@"'
        log = directory / f"{program}.log"
        with open(log, "w", encoding="utf-8") as output:
            process: subprocess.Popen[str] = self.lab.popen(
                *(self.name, "unshare", "--mount", "sh", "-c", inside, directory / "group", directory, *words),
                env=routing.environment(self.programs),
                stdout=output,
                stderr=output,
            )
        socket = directory / f"{program}.vty"
        wait_until(lambda: process.poll() is not None or socket.exists(), 10, f"{program} on {self.name}, see {log}")
        if process.poll() is not None:
            raise Failure(f"{program} on {self.name} has ended: {log.read_text(encoding='utf-8')}")
        return process

    def stop_bgp(self) -> None:
        """Ends the sessions, so that neighbours take its routes away."""
        bgpd = self.processes[-1]
        bgpd.terminate()
        bgpd.wait(10)
