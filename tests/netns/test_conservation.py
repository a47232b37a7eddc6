"""Nothing is lost silently: at full rate both ways every packet is delivered, sent or counted in one drop.

Between the nodes the kernel counts: what full sockets did not take (`drops` of /proc/net/udp and /proc/net/raw, the
number that SO_RXQ_OVFL reports), and what the queue of a link did not take.
"""

import bootstrap

import json
import os
import socket
import threading
import time

from fast import ADDRESS, BOTH_WAYS, FORCED, MIB, MODES, await_tap, bulk, pod_socket
from shared import SharedLab
from tunnel import VXLAN_PORT
from underpass_lab.command import run, wait_until

SECONDS = float(os.environ.get("UNDERPASS_SOAK_S", "9"))
_PORT = 5300
# The way of a packet to each node: the links at whose ends it may be left.
_LINKS = {"n1": (("sw", "port-n2"), ("n1", "eth0")), "n2": (("sw", "port-n1"), ("n2", "eth0"))}


class Conservation(SharedLab):
    """TCP both ways as fast as it goes and UDP both ways; UNDERPASS_SOAK_S says for how many seconds in all."""

    def test_books_balance(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel=FORCED)
                if mode != "direct":
                    for node in ("n1", "n2"):
                        await_tap(self.lab, node)
                before = {node: self.left_on_links(node) for node in _LINKS}
                self.load(SECONDS / len(MODES))
                if mode != "direct":
                    for node, other in (("n1", "n2"), ("n2", "n1")):
                        self.conserved(node, other, before[other])
                books = {node: self.accounts(node) for node in ("n1", "n2")}
                print(f"\n{mode}: {books}", flush=True)
                for node, other in (("n1", "n2"), ("n2", "n1")):
                    self.assertGreater(books[node]["device_rx"], 1000)
                    if mode != "direct":
                        self.assertGreater(books[other]["underlay_rx"], books[node]["underlay_tx"] * 0.5)

    def conserved(self, node: str, other: str, before: int) -> None:
        """What one daemon has sent the other has received, but for what the kernels counted as lost between them."""
        seen: tuple[int, ...] = ()

        def equal() -> bool:
            nonlocal seen
            sent = self.counters(node).status()["underlay_tx"]
            received = self.counters(other).status()["underlay_rx"]
            seen = (sent, received, self.left_by_sockets(other), self.left_on_links(other) - before)
            return seen[0] == sum(seen[1:])

        try:
            wait_until(equal, 5)
        except AssertionError:
            self.fail(f"{node} to {other}: sent, received, left by sockets and on links: {seen}")

    def left_by_sockets(self, node: str) -> int:
        """Packets that the receiving sockets of a daemon had no room for."""

        def read() -> int:
            total = 0
            for name, number in (("udp", VXLAN_PORT), ("raw", 4), ("raw", 41)):
                with open(f"/proc/thread-self/net/{name}", encoding="ascii") as lines:
                    sockets = [line.split() for line in list(lines)[1:]]
                total += sum(int(words[-1]) for words in sockets if words[1].endswith(f":{number:04X}"))
            return total

        return int(self.lab.inside(node, read))

    def left_on_links(self, node: str) -> int:
        """Packets on their way to a node that a processor's queue had no room for."""

        def dropped(name: str, interface: str) -> int:
            text = run("ip", "-n", self.lab.ns(name), "-s", "-j", "link", "show", interface).stdout
            return int(json.loads(text)[0]["stats64"]["rx"]["dropped"])

        return sum(dropped(*link) for link in _LINKS[node])

    def load(self, seconds: float) -> None:
        """All cores busy until the time is over; TCP is checked by hash, UDP may be lost at the ends."""
        end = time.monotonic() + seconds
        errors = []

        def transfers() -> None:
            try:
                while time.monotonic() < end:
                    bulk(self.lab, 64 * MIB)
            except BaseException as error:  # told by the main thread
                errors.append(error)

        def flood(source: str, target: str) -> None:
            with pod_socket(self.lab, source, ADDRESS[source], socket.SOCK_DGRAM) as client:
                while time.monotonic() < end:
                    for _ in range(50):
                        client.sendto(bytes(1200), (ADDRESS[target], _PORT))
                    # TCP shares the queues: an endless flood would starve it for minutes.
                    time.sleep(0.005)

        threads = [threading.Thread(target=transfers)]
        threads += [threading.Thread(target=flood, args=way) for way in BOTH_WAYS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
