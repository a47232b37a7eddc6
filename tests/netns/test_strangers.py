"""P5: junk of strangers at the tunnel's ports takes nothing from the peers, and is counted."""

import bootstrap

import contextlib
import multiprocessing
import socket
import struct
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from fast import MODES
from shared import SharedLab, large_buffer
from underpass_lab.command import wait_until
from underpass_lab.nodes import pod_address

STRANGER = "192.0.2.99"
PORT = 7020
GOOD_RATE = 2000
GOOD_S = 2.0
SENDERS = 2


def junk(lab: Any, form: str) -> bytes:
    """A frame from a stranger to the tunnel of n1, by n2's link."""
    inner = bytes(IP(src="10.244.2.2", dst=pod_address("n1")) / UDP(dport=9) / bytes(20))
    outer = IP(src=STRANGER, dst="192.0.2.1")
    vxlan = struct.pack("!II", 0x0800_0000, 4096 << 8) + bytes(12) + b"\x08\x00" + inner
    packet = outer / UDP(sport=50000, dport=4789, chksum=0) / vxlan if form == "vxlan" else outer / inner
    if form == "ipip":
        packet.proto = 4
    return bytes(Ether(src=lab.mac("n2", "eth0"), dst=lab.mac("n1", "eth0"), type=0x0800) / packet)


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
        frame = junk(self.lab, form)
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

    def good_flow(self) -> int:
        """How many datagrams of a flow of 2000 a second to podA do not arrive."""
        sender, receiver = self.lab.socket("podB"), large_buffer(self.lab.socket("podA"))
        receiver.bind((pod_address("n1"), PORT))
        receiver.settimeout(1)
        count = int(GOOD_RATE * GOOD_S)
        begin = time.monotonic()
        for number in range(count):
            sender.sendto(struct.pack("!I", number) + bytes(60), (pod_address("n1"), PORT))
            time.sleep(max(0.0, begin + number / GOOD_RATE - time.monotonic()))
        arrived: set[bytes] = set()
        with contextlib.suppress(TimeoutError):
            while len(arrived) < count:
                arrived.add(receiver.recv(100)[:4])
        sender.close()
        receiver.close()
        return count - len(arrived)

    def refused(self) -> bool:
        """Whether the kernel refuses strangers at n1."""
        return bool(self.lab.status("n1")["strangers_refused"])

    def metrics(self) -> str:
        """What n1's metrics endpoint shows."""

        def fetch() -> str:
            with urllib.request.urlopen("http://127.0.0.1:9091/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        return self.lab.inside("n1", fetch)

    def test_junk_costs_a_peer_nothing(self) -> None:
        for form in ("vxlan", "ipip"):
            with self.subTest(form):
                self.restart(**MODES[form], tunnel={"workers": 2, "uplink": "socket"})
                before = self.lab.status("n1")["socket_drops"]
                with self.flooded(form) as sent:
                    wait_until(self.refused, 10, "the filter")
                    self.assertEqual(self.good_flow(), 0)
                status = self.lab.status("n1")
                unknown = status["drops"]["unknown_peer"]
                self.assertGreaterEqual(unknown, 1000, "until there were many they are counted one by one")
                if form == "vxlan":
                    # The kernel counts what it refuses at a UDP socket.
                    self.assertEqual(status["socket_drops"] - before + unknown, sent())
                    self.assertIn(f"underpass_socket_drops_total {status['socket_drops']}\n", self.metrics())

    def test_a_new_peer_comes_through_at_once_and_one_that_goes_does_not(self) -> None:
        self.restart(**MODES["vxlan"], tunnel={"workers": 2, "uplink": "socket"})
        daemon = self.lab.daemons["n1"]
        with self.flooded("vxlan"):
            wait_until(self.refused, 10, "the filter")
            daemon.command("peer", "del", "n2")
            self.assertEqual(self.good_flow_once(), 0)
            daemon.command("peer", "add", "n2", "192.0.2.2", "--subnet", "10.244.2.0/24")
            self.assertEqual(self.good_flow_once(), 100)
            self.assertTrue(self.refused())

    def good_flow_once(self) -> int:
        """How many of a hundred datagrams to podA arrive."""
        sender, receiver = self.lab.socket("podB"), large_buffer(self.lab.socket("podA"))
        receiver.bind((pod_address("n1"), PORT))
        receiver.settimeout(0.5)
        for number in range(100):
            sender.sendto(struct.pack("!I", number), (pod_address("n1"), PORT))
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while arrived < 100:
                receiver.recv(100)
                arrived += 1
        sender.close()
        receiver.close()
        return arrived
