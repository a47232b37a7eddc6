"""The demo with BIRD: three nodes in two subnets whose blocks find each other by BGP."""

import functools
import time

from underpass_lab import routing
from underpass_lab.bird import BirdLab, block
from underpass_lab.command import Failure, wait_until
from underpass_lab.demo import forms
from underpass_lab.demo.forms import FAR
from underpass_lab.demo.story import Story, say
from underpass_lab.nodes import ADDRESSES, PODS, pod_address

POD_ADDRESSES = {node: pod_address(node) for node in ADDRESSES}
# A change of BGP has to reach packets within this.
CHANGE_S = 1.0


class Demo:
    """All cases in one lab."""

    def __init__(self, lab: BirdLab, story: Story) -> None:
        self.lab, self.story = lab, story

    def run(self) -> None:
        """Every case; without routes there is nothing more to show."""
        with self.story.case("three nodes and BIRD find each other"):
            there = self.story.check("BIRD and underpass on each node", self.begin)
            for node in ADDRESSES if there else ():
                self.story.check(f"{node}", functools.partial(self.learnt, node))
        if there:
            self.tables()
            self.traffic()
            self.changes()

    def begin(self) -> str:
        """The time until all know all."""
        begun = time.monotonic()
        self.lab.begin()
        return f"all blocks known after {time.monotonic() - begun:.1f} s"

    def learnt(self, node: str) -> str:
        """What a node has learnt."""
        sessions, known = self.lab.birds[node].established(), self.lab.known(node)
        if sessions != len(ADDRESSES) - 1:
            raise Failure(f"{sessions} sessions established\n{self.lab.birds[node].ask('show', 'protocols')}")
        return f"{sessions} sessions; " + ", ".join(f"{prefix} at {peer}" for prefix, peer in known.items())

    def tables(self) -> None:
        """The article's picture."""
        with self.story.case("ip route on n1: the same subnet by BIRD's own route, the rest into the tunnel"):
            self.story.check("main table", self.main_table)
            self.story.check(f"to {pod_address('n2')}", lambda: self.way("n2", f"via {ADDRESSES['n2']} dev eth0"))
            self.story.check(f"to {pod_address(FAR)}", lambda: self.way(FAR, "dev up0"))

    def main_table(self) -> str:
        """The block of the node in the same subnet, and the blackhole for the own one."""
        lines = self.lab.main_table("n1")
        bare = f"{block('n2')} via {ADDRESSES['n2']} dev eth0 proto bird"
        if lines != [bare, f"blackhole {block('n1')} proto bird"]:
            raise Failure("\n".join(lines))
        return bare

    def way(self, node: str, expected: str) -> str:
        """What the kernel does with packets to the pod on a node."""
        said = self.lab.exec("n1", "ip", "route", "get", pod_address(node)).stdout.split(" src ")[0].strip()
        if expected not in said:
            raise Failure(said)
        return said

    def traffic(self) -> None:
        """All ordered pairs, and how their packets travelled."""
        with self.story.case("pods reach each other: direct inside the subnet, IP-in-IP through the router"):
            forms.traffic(self.lab, self.story, POD_ADDRESSES)

    def changes(self) -> None:
        """What BIRD finds out later is followed."""
        with self.story.case("a block is withdrawn, announced again, and survives a crash of BIRD"):
            self.story.check("n3 withdraws its block", lambda: self.change("disable", False))
            self.story.check("and announces it again", lambda: self.change("enable", True))
            self.story.check("BIRD on n3 is killed: the block stays, pods answer", self.crash)

    def change(self, verb: str, there: bool) -> str:
        """Tells BIRD, and waits for n1."""
        self.lab.birds[FAR].ask(verb, "blocks")
        begun = time.monotonic()
        wait_until(lambda: (block(FAR) in self.lab.known("n1")) == there, CHANGE_S, f"{block(FAR)} on n1")
        answered = self.lab.ping(PODS["n1"], pod_address(FAR), *(() if there else ("-W", "0.3")))
        if answered != (3 if there else 0):
            raise Failure(f"{answered} of 3 answered")
        return f"followed in {time.monotonic() - begun:.2f} s"

    def crash(self) -> None:
        """With graceful restart nobody withdraws anything."""
        self.lab.birds[FAR].kill()
        time.sleep(2)
        forms.send(self.lab, POD_ADDRESSES, "n1", FAR)
        if not self.lab.knows_all("n1"):
            raise Failure(f"{self.lab.known('n1')}")


def main() -> int:
    """The exit status of the cases."""
    say(f"\n== BIRD, unpacked from Debian's package\nin {routing.directory()}")
    story = Story()
    with BirdLab() as lab:
        Demo(lab, story).run()
    return story.summary()
