"""A host that heals: what others change beneath a running daemon is mended or shown within 2 s, and traffic that the
change does not concern goes on.

Two pools share the one TUN, so a change of the whole device (down, without addresses, without any route) costs both
of them packets until it is mended: there the gap is measured and told. Where a change concerns one pool, or no packet
at all, a stream of the other pool must lose nothing.
"""

import bootstrap

import contextlib
import functools
import json
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from shared import METRICS, SharedLab, large_buffer
from startup import refused
from underpass_lab.api import Api
from underpass_lab.command import Failure, wait_until
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address

LIMIT_S = 2.0
TRIES = 3
PORT = 7010
# The pods have an address in each pool.
KEPT, OTHER = "10.244.0.0/16", "10.245.0.0/16"
POOLS = [(KEPT, "Always", "Never"), (OTHER, "Never", "Never")]
KEPT_POD, OTHER_POD = pod_address("n2"), "10.245.2.2"


class Stream:
    """Numbered datagrams from podA to an address of podB, `rate` a second, from a thread of this process."""

    def __init__(self, lab: NodeLab, address: str, rate: float = 200) -> None:
        self._out, self._in = lab.socket("podA"), large_buffer(lab.socket("podB"))
        self._in.bind((address, PORT))
        self._in.settimeout(0.2)
        self._target, self._period = (address, PORT), 1 / rate
        self._stop = threading.Event()
        self.sent = 0
        self.arrivals: dict[int, float] = {}
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._stop.is_set():
            # Where no route leads on, the node says so by ICMP, and the socket at its next call.
            with contextlib.suppress(OSError):
                self._out.sendto(struct.pack("!I", self.sent) + bytes(60), self._target)
            self.sent += 1
            self._stop.wait(max(0.0, begin + self.sent * self._period - time.monotonic()))

    def _receive(self) -> None:
        while True:
            try:
                number = struct.unpack("!I", self._in.recv(200)[:4])[0]
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.arrivals[number] = time.monotonic()

    def flows(self) -> None:
        """Waits until packets sent from now on arrive."""
        before = self.sent
        wait_until(lambda: max(self.arrivals, default=-1) > before + 5, 5, "the stream")

    def finish(self) -> tuple[int, float]:
        """Ends it; returns how many datagrams did not arrive, and the longest time in which none did."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._out.close()
        self._in.close()
        times = sorted(self.arrivals.values())
        pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        return self.sent - len(self.arrivals), max(pauses, default=0.0)


class Heals(SharedLab):
    """Two nodes with two pools: one IP-in-IP, one direct."""

    config: dict[str, Any] = {}

    @classmethod
    def prepare(cls) -> None:
        for node, pod in (("n1", "podA"), ("n2", "podB")):
            cls.lab.ip(node, f"address add 10.245.{node[1:]}.1/24 dev pod0")
            cls.lab.ip(pod, f"address add 10.245.{node[1:]}.2/24 dev eth0")

    @classmethod
    def text_for(cls, node: str, pools: Any = POOLS) -> str:
        """The configuration of a node."""
        own, far = node[1:], "2" if node == "n1" else "1"
        subnets = [f"10.244.{far}.0/24", f"10.245.{far}.0/24"]
        return cls.lab.config(
            node,
            pools=pools,
            local=[f"10.244.{own}.0/24", f"10.245.{own}.0/24"],
            peers={f"n{far}": (ADDRESSES[f"n{far}"], subnets)},
            extra=METRICS,
        )

    @classmethod
    def start(cls, node: str, **config: Any) -> Any:
        cls.stop(node)
        return cls.lab.start_daemon(node, cls.text_for(node))

    def setUp(self) -> None:
        self.api = Api(self.lab.daemons["n1"].socket)
        self.addCleanup(self.api.close)
        for address in (KEPT_POD, OTHER_POD):
            wait_until(lambda: self.ping(address), 5, f"a ping to {address}")
        self.before = self.look()
        self.assertEqual(self.missing(), [])

    def ping(self, address: str) -> bool:
        # A pod's source is in the pool of its target.
        source = address.replace(".2.2", ".1.2")
        return self.lab.ping("podA", address, "-I", source, count=1) == 1

    # --- what is there ----------------------------------------------------------------------------

    def shown(self, *words: object) -> Any:
        """What `ip -j` says on n1."""
        return json.loads(self.lab.tool("ip", "-n", self.lab.ns("n1"), "-j", *words).stdout or "[]")

    def look(self) -> dict[str, Any]:
        """All about the TUN of n1 that others can change."""
        (link,) = self.shown("address", "show", "dev", "up0")
        routes = self.shown("route", "show", "table", "all", "dev", "up0")
        return {
            "up": "UP" in link["flags"],
            "mtu": link["mtu"],
            "queue": link["txqlen"],
            "addresses": sorted(one["local"] for one in link["addr_info"]),
            "routes": sorted(json.dumps(route, sort_keys=True) for route in routes),
            "sysctls": self.lab.exec("n1", "cat", *SYSCTL_FILES).stdout.split(),
        }

    def missing(self, key: str = "what") -> list[str]:
        """Without a process: changes are timed by it."""
        return [one[key] for one in self.api.get("/v1/status")["missing"]]

    def is_healed(self) -> bool:
        return self.look() == self.before and not self.missing()

    # --- time -------------------------------------------------------------------------------------

    def timed(self, what: str, change: Callable[[], None], done: Callable[[], bool], back: Callable[[], None]) -> None:
        """Makes a change, waits until it is `done` with, and takes it back: within 2 s in one of three tries, since
        the machine may be busy with other things for a moment."""
        times = []
        for _ in range(TRIES):
            begun = time.monotonic()
            change()
            try:
                wait_until(done, 10, what)
                times.append(time.monotonic() - begun)
            finally:
                back()
            wait_until(self.is_healed, 10, f"all well again after: {what}")
            if times[-1] < LIMIT_S:
                break
        print(f"{what}: {', '.join(f'{seconds:.2f} s' for seconds in times)}")
        self.assertLess(min(times), LIMIT_S, what)

    def healed(self, what: str, change: Callable[[], None]) -> None:
        """The daemon mends this by itself."""
        self.timed(f"{what}: healed", change, self.is_healed, lambda: None)

    def told(self, what: str, change: Callable[[], None], pattern: str, back: Callable[[], None]) -> None:
        """The daemon shows this, and shows no more once it is taken back."""

        def undo() -> None:
            back()
            begun = time.monotonic()
            wait_until(self.is_healed, 10, f"{what}: gone")
            gone.append(time.monotonic() - begun)

        gone: list[float] = []
        self.timed(f"{what}: shown", change, lambda: self.shows(pattern), undo)
        print(f"{what}: gone again after {min(gone):.2f} s")
        self.assertLess(min(gone), LIMIT_S, what)

    # --- traffic ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def unharmed(self, address: str = KEPT_POD) -> Iterator[None]:
        """Within the block a stream to `address` loses nothing."""
        stream = Stream(self.lab, address)
        try:
            stream.flows()
            yield
            stream.flows()
        finally:
            lost, gap = stream.finish()
        self.assertEqual(lost, 0, f"of {stream.sent} datagrams; the longest pause was {gap:.2f} s")

    @contextlib.contextmanager
    def interrupted(self, what: str) -> Iterator[None]:
        """Within the block a stream may be interrupted, which is told; afterwards it flows again."""
        stream = Stream(self.lab, KEPT_POD)
        try:
            stream.flows()
            yield
            stream.flows()
        finally:
            lost, gap = stream.finish()
        print(f"{what}: {lost} of {stream.sent} datagrams lost, the longest pause {gap:.2f} s")


SYSCTL_FILES = [f"/proc/sys/net/ipv4/conf/up0/{key}" for key in ("forwarding", "accept_local")]


class Device(Heals):
    """What the daemon mends, since the TUN is its own."""

    def change(self, *commands: str) -> Callable[[], None]:
        return lambda: self.lab.ip("n1", *commands)

    def test_all_routes_flushed(self) -> None:
        with self.interrupted("ip route flush proto 117"):
            self.healed("ip route flush proto 117", self.change("route flush proto 117"))

    def test_one_route_flushed(self) -> None:
        with self.unharmed():
            self.healed(f"{OTHER} flushed", self.change(f"route flush exact {OTHER} proto 117"))

    def test_link_down(self) -> None:
        """Whoever sets the device down means it; up again, everything is as before."""
        with self.interrupted("ip link set up0 down, then up"):
            down, up = self.change("link set up0 down"), self.change("link set up0 up")
            self.told("ip link set up0 down", down, "up0 is down", up)

    def test_another_name(self) -> None:
        with self.unharmed():
            self.lab.ip("n1", "link set up0 name tun9")
            try:
                self.assertEqual(self.missing(), [])
                self.lab.ip("n1", "link set tun9 mtu 1300", f"route flush exact {OTHER} proto 117")
                wait_until(lambda: self.shown("route", "show", "exact", OTHER), 10, "the route")
                wait_until(lambda: self.shown("link", "show", "dev", "tun9")[0]["mtu"] == 1480, 10, "the MTU")
                wait_until(lambda: not self.missing(), 10, "nothing missing")
            finally:
                self.lab.ip("n1", "link set tun9 name up0")
        wait_until(self.is_healed, 10, "all well again")

    def test_mtu_and_queue(self) -> None:
        with self.unharmed():
            self.healed("MTU of up0", self.change("link set up0 mtu 1300"))
            self.healed("queue of up0", self.change("link set up0 txqueuelen 10"))

    def test_sysctls_of_the_device(self) -> None:
        # `forwarding` is asked of the device that a packet comes in by, so this stream does not need that of up0.
        with self.unharmed():
            for key in ("forwarding", "accept_local"):
                self.healed(f"{key} of up0", lambda: self.lab.sysctl("n1", {f"ipv4/conf/up0/{key}": 0}))


class Addresses(Heals):
    """With the last address of a device the kernel takes its routes."""

    def test_addresses_flushed(self) -> None:
        with self.interrupted("ip address flush dev up0"):
            self.healed("ip address flush dev up0", lambda: self.lab.ip("n1", "address flush dev up0"))


class Shown(Heals):
    """What is not the daemon's to change."""

    def foreign(self, *routes: str) -> list[Any]:
        return [self.shown("route", "show", "exact", route.split()[0], "proto", "static") for route in routes]

    def test_a_foreign_route_in_place_of_ours(self) -> None:
        route = f"{OTHER} via {ADDRESSES['n2']} proto static"
        pattern = rf"packets for {re.escape(OTHER)} do not reach the tunnel, another route takes them"
        with self.unharmed():
            self.told(
                f"a foreign route to {OTHER}",
                lambda: self.lab.ip("n1", f"route replace {route}"),
                pattern,
                lambda: self.taken_away(route),
            )

    def test_a_more_precise_foreign_route(self) -> None:
        route = f"10.245.2.0/24 via {ADDRESSES['n2']} proto static"
        with self.unharmed():
            self.told(
                "a foreign route to 10.245.2.0/24",
                lambda: self.lab.ip("n1", f"route add {route}"),
                r"packets for 10\.245\.2\.0/24 do not reach the tunnel, another route takes them",
                lambda: self.taken_away(route),
            )

    def test_a_rule_that_leads_elsewhere(self) -> None:
        table = f"route add default via {ADDRESSES['n2']} table 100"
        with self.unharmed():
            for rule in (f"to {OTHER} lookup 100", f"from 10.244.1.0/24 to {OTHER} lookup 100"):
                self.told(
                    f"ip rule {rule}",
                    functools.partial(self.lab.ip, "n1", table, f"rule add priority 10 {rule}"),
                    rf"packets for {re.escape(OTHER)}.* do not reach the tunnel: a rule leads them to table 100",
                    functools.partial(self.lab.ip, "n1", f"rule del priority 10 {rule}", "route flush table 100"),
                )
            self.told(
                "ip rule unreachable",
                lambda: self.lab.ip("n1", f"rule add priority 10 to {OTHER} unreachable"),
                rf"packets for {re.escape(OTHER)}.* do not reach the tunnel: a rule refuses them",
                lambda: self.lab.ip("n1", f"rule del priority 10 to {OTHER} unreachable"),
            )

    def taken_away(self, route: str) -> None:
        """Nobody else than its owner takes a route away."""
        self.assertEqual(len(self.foreign(route)[0]), 1)
        self.lab.ip("n1", f"route del {route}")

    def test_other_routes_of_others_are_not_touched(self) -> None:
        routes = ["10.99.0.0/16 via 192.0.2.2 proto static", "10.245.7.0/24 via 192.0.2.2 proto static metric 50"]
        self.lab.ip("n1", *(f"route add {route}" for route in routes))
        self.addCleanup(self.lab.ip, "n1", *(f"route del {route}" for route in routes))
        before = self.foreign(*routes)
        self.assertEqual([len(one) for one in before], [1, 1])
        self.lab.ip("n1", "route flush proto 117")
        wait_until(lambda: self.look() == self.before, 10, "the routes")
        self.assertEqual(self.foreign(*routes), before)

    def test_strict_reverse_path_on_the_uplink(self) -> None:
        # It drops what comes in directly; IP-in-IP has the peer's own address outside.
        with self.unharmed():
            self.told(
                "rp_filter of eth0",
                lambda: self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 1}),
                "strict reverse path filtering on eth0",
                lambda: self.lab.sysctl("n1", {"ipv4/conf/eth0/rp_filter": 0}),
            )

    def test_forwarding_of_the_node(self) -> None:
        # No packet of any pod gets through a node that does not forward.
        with self.interrupted("ip_forward 0"):
            self.told(
                "ip_forward",
                lambda: self.lab.sysctl("n1", {"ipv4/ip_forward": 0}),
                r"net\.ipv4\.ip_forward is 0",
                lambda: self.lab.sysctl("n1", {"ipv4/ip_forward": 1}),
            )


class Moved(Heals):
    def test_to_another_namespace(self) -> None:
        self.lab.ip("n1", f"link set up0 netns {self.lab.ns('n2')} name moved0")
        wait_until(lambda: self.shows("up0 is not in this network namespace any more"), 5, "what is missing")
        self.stop("n1")
        wait_until(lambda: self.lab.exec("n2", "ip", "link", "show", "moved0", check=False).returncode, 5, "its end")


class Reload(Heals):
    """The same judge at start and at reload."""

    NEW = "10.246.0.0/16"

    def test_a_pool_with_a_foreign_route_in_its_place_is_refused(self) -> None:
        route = f"{self.NEW} via {ADDRESSES['n2']} proto static"
        self.lab.ip("n1", f"route add {route}")
        self.addCleanup(self.lab.ip, "n1", f"route del {route}")
        n1 = self.lab.daemons["n1"]
        state = self.api.get("/v1/status")
        listed = self.api.get("/v1/routes?format=text")
        good, bad = self.text_for("n1"), self.text_for("n1", [*POOLS, (self.NEW, "Always", "Never")])
        file = self.lab.dir / "n1.toml"
        with self.unharmed(), self.unharmed_other():
            file.write_text(bad, encoding="utf-8")
            answer = n1.command("reload", check=False)
            file.write_text(good, encoding="utf-8")
        self.assertEqual((answer.returncode, answer.stdout), (1, ""))
        told = self.reason(answer.stderr)
        self.assertEqual(self.look(), self.before)
        now = self.api.get("/v1/status")
        for key in ("tunnel", "missing", "routes"):
            self.assertEqual(now[key], state[key], key)
        self.assertEqual(self.api.get("/v1/routes?format=text"), listed)
        # The good file is still good.
        n1.command("reload")
        self.assertEqual(self.look(), self.before)
        self.api.close()
        self.stop("n1")
        try:
            self.assertEqual(self.reason(refused(self.lab, "n1", bad)), told)
        finally:
            self.start("n1")

    def unharmed_other(self) -> contextlib.AbstractContextManager[None]:
        return self.unharmed(OTHER_POD)

    def reason(self, said: str) -> str:
        """The sentence about the route, without what only a reload has to add."""
        found = re.search(
            rf"cannot add the route {re.escape(self.NEW)} dev up0: [^\n]*?(?=; nothing has changed|$)", said, re.M
        )
        if found is None:
            raise Failure(f"it said {said!r}")
        return found[0]


if __name__ == "__main__":
    import unittest

    unittest.main()
