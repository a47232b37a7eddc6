"""What tells a daemon of the nodes of a fleet."""

import abc
import pathlib

from underpass_lab.nodes import ADDRESSES, NodeLab

OWN_BLOCK = "10.64.0.0/26"
# Blocks that come and go by themselves, one after the other.
CHANGES = 20


class Feed(abc.ABC):
    """One way by which nodes are told of. n1 runs the daemon."""

    name: str

    def __init__(self, lab: NodeLab, nodes: int) -> None:
        self.lab, self.nodes = lab, nodes
        self.changing = range(0, nodes, max(nodes // CHANGES, 1))[:CHANGES]

    @abc.abstractmethod
    def prepare(self) -> None:
        """Has everything ready, so that `tell` only has to tell."""

    @abc.abstractmethod
    def tell(self) -> None:
        """Tells of all nodes, but the daemon may hear of it only afterwards."""

    @abc.abstractmethod
    def take_back(self, number: int) -> None:
        """Withdraws the block of one node."""

    @abc.abstractmethod
    def give(self, number: int) -> None:
        """Tells of the block again."""

    @abc.abstractmethod
    def end(self) -> None:
        """Ends what was started."""

    @abc.abstractmethod
    def source(self) -> str:
        """The section of the daemon's file, and what else it needs there."""

    def file(self) -> pathlib.Path:
        """The daemon's file."""
        directory = self.lab.dir
        file = directory / "n1.toml"
        file.write_text(
            f'[node]\nname = "n1"\naddress = "{ADDRESSES["n1"]}/24"\n[control]\nsocket = "{directory}/n1.sock"\n'
            + self.source(),
            encoding="ascii",
        )
        return file
