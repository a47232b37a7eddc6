"""P5: junk of strangers at the tunnel's ports takes nothing from the peers, and is counted."""

import bootstrap

import contextlib
import multiprocessing
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

from fast import MODES
from shared import SharedLab, large_buffer, scrape
from tunnel import inner, outer
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

STRANGER = "192.0.2.99"
PORT = 7020
# Datagrams of a peer, a second and in all.
RATE, MANY, FEW = 2000, 4000, 100
SENDERS = 2


def flood(sender: Any, frame: bytes, stop: Any, sent: Any) -> None:
    """Sends a frame as often as this process can."""
    count = 0
    while not stop.is_set():
        for _ in range(200):
            with contextlib.suppress(OSError):
                count += bool(sender.send(frame))
    sent.value = count


class Strangers(SharedLab):
    daemons = ("n1", "n2")

    @contextlib.contextmanager
    def flooded(self, form: str) -> Iterator[Callable[[], int]]:
        """Junk within the block; gives how many packets it was, behind the block."""
        frame = bytes(self.lab.frame("n2", "n1", outer(form, inner(), source=STRANGER)))
        stop = multiprocessing.Event()
        counts = [multiprocessing.Value("Q", 0) for _ in range(SENDERS)]
        workers = []
        for count in counts:
            sender = self.lab.socket("n2", socket.AF_PACKET, socket.SOCK_RAW)
            sender.bind(("eth0", 0))
            workers.append(multiprocessing.Process(target=flood, args=(sender, frame, stop, count)))
            workers[-1].start()
            sender.close()
        try:
            yield lambda: sum(count.value for count in counts)
        finally:
            stop.set()
            for worker in workers:
                worker.join()

    def arrived(self, count: int, rate: float) -> int:
        """How many of so many datagrams to podA arrive, sent at this rate."""
        sender, receiver = self.lab.socket("podB"), large_buffer(self.lab.socket("podA"))
        receiver.bind((pod_address("n1"), PORT))
        receiver.settimeout(1)
        begin = time.monotonic()
        for number in range(count):
            sender.sendto(struct.pack("!I", number) + bytes(60), (pod_address("n1"), PORT))
            time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        arrived: set[bytes] = set()
        with contextlib.suppress(TimeoutError):
            while len(arrived) < count:
                arrived.add(receiver.recv(100)[:4])
        sender.close()
        receiver.close()
        return len(arrived)

    def refused(self) -> bool:
        """Whether the kernel refuses strangers at n1."""
        return bool(self.lab.status("n1")["strangers_refused"])

    def test_junk_costs_a_peer_nothing(self) -> None:
        for form in ("vxlan", "ipip"):
            with self.subTest(form):
                self.restart(**MODES[form], tunnel={"workers": 2, "uplink": "socket"})
                before = self.lab.status("n1")["socket_drops"]
                with self.flooded(form) as sent:
                    wait_until(self.refused, 10, "the filter")
                    self.assertEqual(self.arrived(MANY, RATE), MANY)
                status = self.lab.status("n1")
                unknown = status["drops"]["unknown_peer"]
                self.assertGreaterEqual(unknown, 1000, "until there were many they are counted one by one")
                if form == "vxlan":
                    # The kernel counts what it refuses at a UDP socket.
                    self.assertEqual(status["socket_drops"] - before + unknown, sent())
                    self.assertIn(f"underpass_socket_drops_total {status['socket_drops']}\n", scrape(self.lab, "n1"))

    def test_a_new_peer_comes_through_at_once_and_one_that_goes_does_not(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"workers": 2, "uplink": "socket"})
        daemon = self.lab.daemons["n1"]
        with self.flooded("vxlan"):
            wait_until(self.refused, 10, "the filter")
            daemon.command("peer", "del", "n2")
            self.assertEqual(self.arrived(FEW, RATE), 0)
            daemon.command("peer", "add", "n2", ADDRESSES["n2"], "--subnet", subnet("n2"))
            self.assertEqual(self.arrived(FEW, RATE), FEW)
            self.assertTrue(self.refused())
