"""Nothing is lost silently: at full rate both ways every packet is delivered, sent or counted in one drop."""

import bootstrap

import os
import socket
import threading
import time

from fast import ADDRESS, BOTH_WAYS, FORCED, MIB, MODES, await_tap, bulk, pod_socket
from shared import SharedLab

SECONDS = float(os.environ.get("UNDERPASS_SOAK_S", "9"))
_PORT = 5300


class Conservation(SharedLab):
    """TCP both ways as fast as it goes and UDP both ways; UNDERPASS_SOAK_S says for how many seconds in all."""

    def test_books_balance(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel=FORCED)
                if mode != "direct":
                    for node in ("n1", "n2"):
                        await_tap(self.lab, node)
                self.load(SECONDS / len(MODES))
                books = {node: self.accounts(node) for node in ("n1", "n2")}
                print(f"\n{mode}: {books}", flush=True)
                for node, other in (("n1", "n2"), ("n2", "n1")):
                    sent, received = books[node]["underlay_tx"], books[other]["underlay_rx"]
                    if mode != "direct":
                        # What a full socket of the receiving kernel could not take never reached the daemon.
                        self.assertGreaterEqual(sent, received)
                        self.assertGreater(received, sent * 0.5)
                    self.assertGreater(books[node]["device_rx"], 1000)

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
