"""TS: a lab in which n2 sends whatever the test makes, and the daemon on n1 must judge it exactly."""

import bootstrap

import itertools
from collections.abc import Callable
from typing import Any

from scapy.layers.l2 import Ether

from shared import SharedLab, is_resolution
from tunnel import inner, outer
from underpass_lab.command import wait_until

_FENCES = itertools.count(1)


class SilentPeer(SharedLab):
    """Frames of a batch reach the daemon in order, a valid one behind them is the end of the batch."""

    topology = "TS"
    # One worker: then what was sent before the fence has been judged when the fence arrives.
    config = {"tunnel": {"workers": 1}}
    # How a test wraps, what is inside the fence, and what outer packets are.
    outer: Callable[..., Any] = staticmethod(outer)
    fence: Callable[..., Any] = staticmethod(inner)
    ethertype = 0x0800

    def setUp(self) -> None:
        self.inside = self.tap("podA", "eth0")
        self.wire = self.tap("sw", "port-n1")
        self.sink("podA")
        self._head = Ether(src=self.lab.mac("n2", "eth0"), dst=self.lab.mac("n1", "eth0"), type=self.ethertype)

    def inject(self, packets: Any) -> None:
        """Sends outer packets, or bytes that claim to be such, from n2 to n1."""
        self.lab.send("n2", "eth0", [bytes(self._head) + bytes(packet) for packet in packets])

    def batch(self, form: str, packets: Any, silent: bool = True) -> Any:
        """Injects a batch and a fence; returns the inner packets that reached the pod before it, and None.

        `silent`: nothing may leave n1 meanwhile.
        """
        self.inside.drain(), self.wire.drain()
        fence = b"fence %d" % next(_FENCES)
        self.inject([*packets, self.outer(form, self.fence(sport=65000, payload=fence))])
        arrived = wait_until(lambda: self._until(fence), 5, "the fence behind the batch")
        sent_back = [Ether(frame) for frame in self.wire.incoming() if not is_resolution(frame)]
        if silent:
            self.assertEqual(sent_back, [], "n1 sent something")
        return arrived

    def _until(self, fence: bytes) -> Any:
        frames = [frame for frame in self.inside.incoming() if not is_resolution(frame)]
        ends = [index for index, frame in enumerate(frames) if frame.endswith(fence)]
        return ends and [frame[14:] for frame in frames[: ends[0]]] + [None]

    def refused(self, form: str, packets: Any, reach: Any = None, silent: bool = True, **drops: Any) -> None:
        """Nothing of the batch reaches the pod or leaves n1; `reach` of it reach the daemon, by default all."""
        reach = len(packets) if reach is None else reach
        with self.moves("n1", underlay_rx=reach + 1, device_tx=1, **drops):
            self.assertEqual(self.batch(form, packets, silent), [None])

    def accepted(self, form: str, packets: Any) -> Any:
        """All of the batch reaches the pod; returns the inner packets."""
        with self.moves("n1", underlay_rx=len(packets) + 1, device_tx=len(packets) + 1):
            arrived = self.batch(form, packets)
        self.assertEqual(len(arrived), len(packets) + 1)
        return arrived[:-1]
