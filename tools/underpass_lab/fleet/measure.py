"""One daemon and one fleet: everything that is measured of them."""

import statistics
import time
from typing import Any

from underpass_lab.api import next_hop, status
from underpass_lab.bench_routes.changes import cpu_seconds
from underpass_lab.bench_routes.load import Memory
from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.fleet import crowd
from underpass_lab.fleet.feed import Feed

CONVERGE_S = 300
CHANGE_S = 30


class Measurement:
    """A daemon that is told of a fleet."""

    def __init__(self, feed: Feed, seconds: int) -> None:
        self.feed, self.seconds = feed, seconds
        self.daemon = Daemon(feed.lab, "n1", feed.file())
        feed.lab.daemons["n1"] = self.daemon
        wait_until(self.status, CONVERGE_S, "the daemon")
        self.memory = Memory(self.daemon.pid)

    def run(self) -> dict[str, Any]:
        result: dict[str, Any] = {"feed": self.feed.name, "nodes": self.feed.nodes}
        result["empty_mib"] = self.memory.settled()
        used, begun = cpu_seconds(self.daemon.pid), time.monotonic()
        self.feed.tell()
        result["told_s"] = time.monotonic() - begun
        wait_until(self.knows_all, CONVERGE_S, "all routes")
        result["converged_s"] = time.monotonic() - begun
        result["converged_cpu_s"] = cpu_seconds(self.daemon.pid) - used
        self.check()
        result["peak_mib"], result["full_mib"] = self.memory.peak(), self.memory.settled()
        result["idle_cpus"] = self.idle()
        result |= self.changes()
        self.daemon.stop(60)
        self.again(result)
        return result

    def status(self) -> dict[str, Any] | None:
        """What the daemon says of itself; nothing while it does not answer."""
        if self.daemon.process.poll() is not None:
            raise Failure(f"the daemon has ended:\n{self.daemon.log()}")
        return status(self.daemon.socket, 10)

    def next_hop(self, number: int) -> str | None:
        """Where packets to a pod of a node go."""
        return next_hop(self.daemon.socket, crowd.pod(number))

    def knows_all(self) -> bool:
        """Whether there is a route for each node; the first look is at the last, which is cheap."""
        if self.next_hop(self.feed.nodes - 1) is None:
            return False
        said = self.status()
        # The own block is a route, too.
        return bool(said and said["routes"] == self.feed.nodes + 1)

    def check(self) -> None:
        """Every route leads to its node."""
        for number in range(0, self.feed.nodes, max(self.feed.nodes // 100, 1)):
            found = self.next_hop(number)
            if found != crowd.address(number):
                raise Failure(f"{crowd.pod(number)} is routed to {found}, not {crowd.address(number)}")

    def idle(self) -> float:
        """The share of a processor that it takes while nothing happens."""
        used, begun = cpu_seconds(self.daemon.pid), time.monotonic()
        time.sleep(self.seconds)
        return (cpu_seconds(self.daemon.pid) - used) / (time.monotonic() - begun)

    def changes(self) -> dict[str, Any]:
        """Seconds from when the feed was told until the daemon follows, and its processor time for each."""
        used, times = cpu_seconds(self.daemon.pid), []
        for number in self.feed.changing:
            for change, wanted in ((self.feed.take_back, None), (self.feed.give, crowd.address(number))):
                begun = time.monotonic()
                change(number)
                self.follows(number, wanted)
                times.append(time.monotonic() - begun)
        spent = (cpu_seconds(self.daemon.pid) - used) / len(times)
        return {"change_s": {"median": statistics.median(times), "max": max(times)}, "change_cpu_s": spent}

    def follows(self, number: int, wanted: str | None) -> None:
        wait_until(lambda: self.next_hop(number) == wanted, CHANGE_S, f"{crowd.block(number)} by {wanted}")

    def again(self, result: dict[str, Any]) -> None:
        """A daemon that starts when everything is there already."""
        begun = time.monotonic()
        self.daemon = Daemon(self.feed.lab, "n1", self.feed.file())
        self.feed.lab.daemons["n1"] = self.daemon
        wait_until(self.knows_all, CONVERGE_S, "all routes")
        result["started_s"] = time.monotonic() - begun
        self.daemon.stop(60)
