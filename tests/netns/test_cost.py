"""Cost only for what is used: peers without traffic, and a kernel table that concerns nobody, cost no processor time
that grows with their number, and no entry of the kernel's neighbour table."""

import bootstrap

import ipaddress
import json
import time
from collections.abc import Sequence

from fast import MODES, cpu_seconds
from rootless import NO_RIGHTS, hand_over, prepare_tun
from shared import METRICS, SharedLab
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, subnet

PEERS = 5_000
KERNEL_ROUTES = 1 << 18
SECONDS = 5
# Of what a daemon uses that has one peer and nothing to do, measured at the same time: a busy machine is slow for both.
RATIO = 2.0
# Of a processor: below this nothing is compared.
LEAST = 0.005
# Where nobody answers, and all of it on the link.
NOBODY = "198.18.0.0/16"


def idle_shares(pids: Sequence[int], seconds: float = SECONDS) -> list[float]:
    """The part of one processor that each process uses."""
    before, begun = [cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    return [(cpu_seconds(pid) - used) / passed for pid, used in zip(pids, before, strict=True)]


def is_small(pid: int, other: int, seconds: float = SECONDS) -> bool:
    """Whether a process uses about as little as another one that has nothing to do; on a busy machine not each time."""
    share, idle = idle_shares([pid, other], seconds)
    print(f"{share:.2%} of a processor, {idle:.2%} without")
    return share < max(idle * RATIO, LEAST)


class Peers(SharedLab):
    daemons = ()

    @classmethod
    def prepare(cls) -> None:
        cls.lab.ip("n1", f"route add {NOBODY} dev eth0")

    def text(self, mode: str) -> str:
        addresses = ipaddress.ip_network(NOBODY).hosts()
        subnets = ipaddress.ip_network("10.0.0.0/9").subnets(new_prefix=24)
        peers = {f"p{n}": (str(next(addresses)), [str(next(subnets))]) for n in range(PEERS)}
        peers["n2"] = (ADDRESSES["n2"], [subnet("n2")])
        keys = MODES[mode]
        return self.lab.config("n1", pools=[("10.0.0.0/8", keys["ipip"], keys["vxlan"])], peers=peers) + METRICS

    def neighbours(self) -> int:
        return len(json.loads(self.lab.tool("ip", "-n", self.lab.ns("n1"), "-j", "neigh").stdout or "[]"))

    def test_idle_peers(self) -> None:
        for mode in ("ipip", "vxlan", "direct"):
            with self.subTest(mode):
                self.stop("n1")
                daemon = self.lab.start_daemon("n1", self.text(mode))
                # All ways are looked up once, slowly; on a busy machine with pauses.
                other = self.start("n2").pid
                wait_until(lambda: is_small(daemon.pid, other), 120, f"the end of the start, and rest by {mode}")
                print(f"{PEERS} idle peers by {mode}, {self.neighbours()} neighbours")
                self.assertLess(self.neighbours(), 64)


class Unprivileged(SharedLab):
    daemons = ()

    def test_a_large_table_and_an_open_requirement(self) -> None:
        program = hand_over(self.lab)
        prepare_tun(self.lab, "n1", "multi_queue", "vnet_hdr", routes=())
        self.lab.ip("n1", "link add other0 type bridge", "link set other0 up")
        base = int(ipaddress.ip_address("20.0.0.0"))
        routes = self.lab.dir / "routes"
        lines = (f"route add {ipaddress.ip_address(base + (n << 8))}/24 dev other0\n" for n in range(KERNEL_ROUTES))
        routes.write_text("".join(lines), encoding="ascii")
        self.lab.exec("n1", "ip", "-batch", str(routes), timeout=60)
        daemon = self.start("n1", command=[*NO_RIGHTS, program], **MODES["vxlan"])
        self.assertEqual(self.missing("command"), ["ip route add 10.244.0.0/16 dev up0"])
        other = self.start("n2").pid
        # The table is read now and then.
        quiet = "the end of the start, and rest beside many routes"
        wait_until(lambda: is_small(daemon.pid, other, 2 * SECONDS), 120, quiet)
        # And yet what matters is seen soon: reading the table takes a tenth of the time at most.
        self.lab.ip("n1", "route add 10.244.0.0/16 dev up0")
        wait_until(lambda: self.missing() == [], 120, "the end of the requirement")
