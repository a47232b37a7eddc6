"""Order inside flows with several workers, and what a daemon costs that has nothing to do."""

import bootstrap

import contextlib
import threading
import time
from typing import Any

from fast import (
    ADDRESS,
    BOTH_WAYS,
    FORCED,
    MIB,
    MODES,
    Datagrams,
    await_tap,
    bulk,
    cpu_seconds,
    keep_order,
    overtaken,
    paced,
    resident_bytes,
    wakes,
)
from shared import SharedLab


class Order(SharedLab):
    """Eight flows each way at once beside bulk TCP: nothing lost, nothing overtaken."""

    WORKERS, FLOWS, ROUNDS_PER_S, SECONDS = 4, 8, 250, 3
    SIZES = (40, 300, 1200, 1372)

    @classmethod
    def prepare(cls) -> None:
        # IPIP is spread over the workers by inner addresses, so more than one pair is needed.
        for pod, address in ADDRESS.items():
            cls.lab.ip(pod, *(f"address add {address[:-1]}{n}/24 dev eth0" for n in range(3, 2 + cls.FLOWS)))
        keep_order(cls.lab)

    def test_order(self) -> None:
        for mode, config in MODES.items():
            with self.subTest(mode):
                self.restart(**config, tunnel={"workers": self.WORKERS} | FORCED)
                if mode == "direct":
                    self.meet()
                else:
                    await_tap(self.lab, "n1")
                    await_tap(self.lab, "n2")
                before = overtaken(self.lab)
                self.exchange()
                self.assertEqual(overtaken(self.lab), before, "TCP saw reordering")
                self.assertEqual([n for node in ("n1", "n2") for n in self.lab.drops(node).values() if n], [])
                busy = self.counters("n1").by_worker("device", "rx")
                self.assertEqual(len(busy), self.WORKERS)
                self.assertGreaterEqual(sum(count > 0 for count in busy), min(self.WORKERS, 2), busy)

    def meet(self) -> None:
        """Has the nodes know each other's link address: with it bare packets leave by another socket than before, and
        at that moment they may overtake each other."""
        self.assertEqual(self.lab.ping("podA", ADDRESS["podB"]), 3)
        time.sleep(1)

    def exchange(self) -> None:
        end = threading.Event()
        with contextlib.ExitStack() as stack:
            both = [stack.enter_context(Datagrams(self.lab, *way)) for way in BOTH_WAYS]
            for datagrams, (source, _) in zip(both, BOTH_WAYS, strict=True):
                for n in range(2, 2 + self.FLOWS):
                    datagrams.flow(f"{ADDRESS[source][:-1]}{n}")
            beside = threading.Thread(target=self.transfers, args=(end,))
            beside.start()
            try:
                counter = iter(range(1 << 30))
                paced(lambda: self.round(both, next(counter)), self.ROUNDS_PER_S, self.SECONDS)
            finally:
                end.set()
                beside.join()
            for datagrams in both:
                datagrams.receive()

    def round(self, both: Any, number: int) -> None:
        """One datagram of each flow each way."""
        for flow in range(self.FLOWS):
            for datagrams in both:
                datagrams.send(flow, self.SIZES[(number + flow) % len(self.SIZES)])

    def transfers(self, end: Any) -> None:
        while not end.is_set():
            bulk(self.lab, 4 * MIB)
            end.wait(0.05)


class Cost(SharedLab):
    """An idle daemon sleeps, and its memory does not grow with what it has carried."""

    SECONDS = 5
    # A worker has nothing to look at; the control side compares what is with what shall be once a second. How often
    # they wake is the same on a slow machine; of the time, what spins would take all.
    WORKER_WAKES_PER_S, WAKES_PER_S, SHARE = 5, 100, 0.05
    PER_WORKER = 64 * MIB

    def test_idle(self) -> None:
        cases = [(mode, config, 0) for mode, config in MODES.items()]
        for mode, config, busy_poll in (*cases, ("vxlan", MODES["vxlan"], 1000)):
            self.restart(**config, tunnel=FORCED | {"busy_poll": busy_poll})
            if mode != "direct":
                await_tap(self.lab, "n1")
                await_tap(self.lab, "n2")
            bulk(self.lab, 64 * MIB)
            # The last acknowledgments are through; what follows is rest.
            self.accounts("n1")
            pids = {node: self.lab.daemons[node].pid for node in ("n1", "n2")}
            before = {node: (cpu_seconds(pid), wakes(pid)) for node, pid in pids.items()}
            begun = time.monotonic()
            time.sleep(self.SECONDS)
            for node, pid in pids.items():
                with self.subTest(mode=mode, node=node, busy_poll=busy_poll):
                    used, woken = cpu_seconds(pid), wakes(pid)
                    seconds = time.monotonic() - begun
                    self.assertLessEqual(used - before[node][0], seconds * self.SHARE)
                    woken.subtract(before[node][1])
                    of_workers = [count for name, count in woken.items() if name.startswith("worker-")]
                    self.assertEqual(len(of_workers), self.lab.status(node)["workers"])
                    self.assertLessEqual(max(of_workers), seconds * self.WORKER_WAKES_PER_S, woken)
                    self.assertLessEqual(woken.total(), seconds * self.WAKES_PER_S, woken)
                    resident, workers = resident_bytes(pid), self.lab.status(node)["workers"]
                    self.assertLess(resident, workers * self.PER_WORKER)
