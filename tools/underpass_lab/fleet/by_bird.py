"""A fleet whose blocks come by BGP: BIRD on n2 announces them as a route reflector does, BIRD on n1 writes them to the
kernel's table 100."""

from collections.abc import Iterable

from underpass_lab.bird import AS, Bird, configuration
from underpass_lab.command import wait_until
from underpass_lab.fleet import crowd
from underpass_lab.fleet.feed import OWN_BLOCK, Feed
from underpass_lab.nodes import ADDRESSES

PODS_OF_LABS = "10.244.0.0/16+"


class ByBird(Feed):
    name = "BIRD"

    def prepare(self) -> None:
        # What a next hop of its routes is for BIRD: an address on its link.
        self.lab.ip("n2", f"address replace {crowd.NODES[-2]}/{crowd.NODES.prefixlen} dev eth0")
        text = configuration(ADDRESSES["n1"], "192.0.2.0/24", [OWN_BLOCK], {ADDRESSES["n2"]: "node"})
        self.n1 = Bird(self.lab, "n1", text.replace(PODS_OF_LABS, f"{crowd.POOL}+"))
        steady = (number for number in range(self.nodes) if number not in self.changing)
        protocols = [self._protocol("fleet", steady)]
        protocols += [self._protocol(f"one{number}", [number]) for number in self.changing]
        text = (
            f"log stderr all;\nrouter id {ADDRESSES['n2']};\nprotocol device {{ }}\n"
            + "".join(protocols)
            + f"protocol bgp n1 {{ local {ADDRESSES['n2']} as {AS}; neighbor {ADDRESSES['n1']} as {AS}; multihop;\n"
            "  ipv4 { import none; export where source = RTS_STATIC; }; }\n"
        )
        self.n2 = Bird(self.lab, "n2", text)
        wait_until(lambda: self.n1.established() == 1, 60, "the session of both")

    @staticmethod
    def _protocol(name: str, numbers: Iterable[int]) -> str:
        routes = "".join(f"  route {crowd.block(number)} via {crowd.address(number)};\n" for number in numbers)
        return f"protocol static {name} {{ ipv4; disabled;\n{routes}}}\n"

    def tell(self) -> None:
        for name in ("fleet", *(f"one{number}" for number in self.changing)):
            self.n2.ask("enable", name)

    def take_back(self, number: int) -> None:
        self.n2.ask("disable", f"one{number}")

    def give(self, number: int) -> None:
        self.n2.ask("enable", f"one{number}")

    def end(self) -> None:
        for bird in (self.n2, self.n1):
            bird.process.terminate()
            bird.process.wait(30)
        self.lab.exec("n1", "ip", "route", "flush", "table", "100", check=False)

    def source(self) -> str:
        return (
            f'[local]\nsubnets = ["{OWN_BLOCK}"]\n'
            f'[[pool]]\ncidr = "{crowd.POOL}"\nvxlan_mode = "CrossSubnet"\n'
            f'[source.kernel]\ntables = [100]\nimplicit_peers = ["{crowd.NODES}"]\n'
        )
