"""D8 and the reload itself: other modes while packets flow, files that are refused, many reloads in a row."""

import bootstrap

import itertools
import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from shared import METRICS, SharedLab, large_buffer, scrape
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, NodeLab, pod_address

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
PORT = 7007
MODES = {"Always": ("Always", "Never"), "CrossSubnet": ("CrossSubnet", "Never"), "Never": ("Never", "Never")}
ALL_VXLAN = ("Never", "Always")


class Flow:
    """Numbered datagrams from podA to another pod, `rate` a second, from a thread of this process."""

    def __init__(self, lab: NodeLab, pod: str, address: str, rate: float = 1000) -> None:
        self._out, self._in = lab.socket("podA"), large_buffer(lab.socket(pod))
        self._in.bind((address, PORT))
        self._in.setblocking(False)
        self._out.connect((address, PORT))
        self._period, self._stop = 1 / rate, threading.Event()
        self.sent = 0
        self.received: list[int] = []
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        begin = time.monotonic()
        while not self._stop.is_set():
            self._out.send(struct.pack("!I", self.sent) + bytes(60))
            self.sent += 1
            time.sleep(max(0.0, begin + self.sent * self._period - time.monotonic()))

    def _read(self) -> int:
        try:
            while True:
                self.received.append(struct.unpack("!I", self._in.recv(200)[:4])[0])
        except BlockingIOError:
            return len(self.received)

    def finish(self) -> Any:
        """Ends it, and returns the numbers in the order of their arrival once as many came as were sent."""
        self._stop.set()
        self._thread.join()
        with self._out, self._in:
            try:
                wait_until(lambda: self._read() >= self.sent, 3, "the last datagrams")
            except AssertionError:
                pass  # The caller compares the numbers.
        return self.received


class Reload(SharedLab):
    topology = "T3"
    daemons = ()

    def text_for(self, node: str, pool: Any, **more: Any) -> Any:
        return self.lab.config(node, ipip=pool[0], vxlan=pool[1], **more) + METRICS

    def start_all(self, pool: Any = MODES["Always"]) -> None:
        for node in ("n1", "n2", "n3"):
            self.start(node, ipip=pool[0], vxlan=pool[1])
        for node, network in (("n1", 1), ("n2", 2), ("n3", 3)):
            self.lab.ip("R", f"route replace 10.244.{network}.0/24 via {ADDRESSES[node]}")
        self.addCleanup(self.lab.ip, "R", *(f"route del 10.244.{n}.0/24" for n in (1, 2, 3)))
        for target in (B, C):
            wait_until(lambda: self.lab.ping("podA", target, count=1) == 1, 5, f"a ping to {target}")

    def write(self, node: str, text: str) -> None:
        """The way a careful program replaces a file."""
        file = self.lab.dir / f"{node}.toml"
        new = file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        os.rename(new, file)

    def reload(self, node: str, text: str) -> Any:
        self.write(node, text)
        return self.lab.daemons[node].command("reload").stdout

    def mode_of(self, address: str, node: str = "n1") -> Any:
        return self.lab.daemons[node].json("route", "get", address)["mode"]

    def metric(self, node: str, name: str) -> Any:
        lines = scrape(self.lab, node).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


class ModesUnderTraffic(Reload):
    """D8."""

    def test_d8_nothing_is_lost_or_doubled(self) -> None:
        self.start_all()
        wire = self.tap("sw", "port-n1")
        flows = {B: Flow(self.lab, "podB", B), C: Flow(self.lab, "podC", C)}
        expected = {"Always": ("ipip", "ipip"), "CrossSubnet": ("direct", "ipip"), "Never": ("direct", "direct")}
        for name in ("CrossSubnet", "Never", "Always", "CrossSubnet", "Always"):
            for node in ("n1", "n2", "n3"):
                self.reload(node, self.text_for(node, MODES[name]))
            self.assertEqual((self.mode_of(B), self.mode_of(C)), expected[name])
            before = [flow.sent for flow in flows.values()]
            wait_until(
                lambda: all(flow.sent > then + 300 for flow, then in zip(flows.values(), before, strict=True)),
                5,
                "some traffic",
            )
        for node in ("n1", "n2", "n3"):
            self.reload(node, self.text_for(node, ALL_VXLAN))
        self.assertEqual((self.mode_of(B), self.mode_of(C)), ("vxlan", "vxlan"))
        for address, flow in flows.items():
            received = flow.finish()
            self.assertEqual(sorted(received), list(range(flow.sent)), address)
        self.assertGreater(flow.sent, 1000)
        self.judge(wire, flows)

    def judge(self, wire: Any, flows: Any) -> None:
        """Every packet left n1 once, whole, in one of the forms; all four forms were seen."""
        seen: dict[str, list[int]] = {address: [] for address in flows}
        forms = set()
        for frame in wire.incoming():
            if frame[12:14] != b"\x08\x00":
                continue
            packet = Ether(frame)
            layers = [layer for layer in packet.iterpayloads() if isinstance(layer, IP)]
            inner = layers[-1]
            if inner.dst in flows and inner.haslayer(UDP) and inner[UDP].dport == PORT:
                form = "vxlan" if packet.haslayer(VXLAN) else "ipip" if len(layers) == 2 else "direct"
                forms.add((form, inner.dst))
                seen[inner.dst].append(struct.unpack("!I", bytes(inner[UDP].payload)[:4])[0])
                self.assertEqual((inner.len, inner.ttl), (28 + 64, 63))
        for address, flow in flows.items():
            self.assertEqual(sorted(seen[address]), list(range(flow.sent)), address)
        self.assertEqual(forms, set(itertools.product(("direct", "ipip", "vxlan"), flows)))


class ManyReloads(Reload):
    """R3 in small: reload after reload under traffic costs no packet and no memory."""

    REPEAT = int(os.environ.get("UNDERPASS_RELOADS", "100"))

    def test_r3_a_hundred_reloads(self) -> None:
        self.start_all()
        n1 = self.lab.daemons["n1"]
        files = [self.text_for("n1", MODES["Always"]), self.text_for("n1", MODES["CrossSubnet"])]
        for text in files * 5:
            self.reload("n1", text)
        before = self.usage(n1.pid)
        flow = Flow(self.lab, "podB", B, rate=5000)
        for number in range(self.REPEAT):
            self.reload("n1", files[number % 2])
        received = flow.finish()
        self.assertEqual(sorted(received), list(range(flow.sent)))
        # A client that was just answered may still be connected.
        wait_until(lambda: self.usage(n1.pid)[0] <= before[0], 3, f"{before[0]} descriptors")
        self.assertLess(self.usage(n1.pid)[1], before[1] + 2048)

    @staticmethod
    def usage(pid: int) -> tuple[int, Any]:
        """Open descriptors, and KiB of resident memory."""
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return len(os.listdir(f"/proc/{pid}/fd")), resident


class Refused(Reload):
    """R1 by reload: what is wrong is named and nothing changes."""

    def test_r1_the_running_configuration_stays(self) -> None:
        self.start_all()
        good = self.text_for("n1", MODES["Always"])
        n1 = self.lab.daemons["n1"]
        flow = Flow(self.lab, "podB", B)
        cases = {
            "broken TOML": (good.replace('name = "n1"', 'name = "n1'), ":3:"),
            "an unknown key": (good.replace("[local]\nsubnets", "[local]\nsubnet"), 'unknown key "subnet"'),
            "/33": (good.replace("10.244.0.0/16", "10.244.0.0/33"), "10.244.0.0/33"),
            "a subnet twice": (good.replace('["10.244.2.0/24"]', '["10.244.1.0/24"]'), "10.244.1.0/24"),
            "another device": (good.replace("[tunnel]", '[tunnel]\ndevice = "up7"'), "`device` under [tunnel]"),
        }
        for what, (text, message) in cases.items():
            with self.subTest(what):
                self.write("n1", text)
                refused = n1.command("reload", check=False)
                self.assertEqual((refused.returncode, refused.stdout), (1, ""))
                self.assertIn(message, refused.stderr)
                self.assertEqual(self.metric("n1", "underpass_config_last_reload_successful"), 0)
                before = len(n1.log())
                n1.process.send_signal(signal.SIGHUP)
                wait_until(lambda: message in n1.log()[before:], 3, "the same in the log")
                self.assertEqual(self.mode_of(B), "ipip")
        self.write("n1", self.text_for("n1", ALL_VXLAN))
        n1.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.mode_of(B) == "vxlan", 3, "the good file")
        wait_until(lambda: self.metric("n1", "underpass_config_last_reload_successful") == 1, 3, "the metric")
        received = flow.finish()
        self.assertEqual(sorted(received), list(range(flow.sent)))


class Pools(Reload):
    """A reload that moves the pools has the kernel's routes follow, and the TUN's MTU."""

    def test_kernel_routes_and_mtu_follow(self) -> None:
        self.start_all()

        def routes() -> list[Any]:
            lines = self.lab.exec("n1", "ip", "-4", "route", "show", "dev", "up0", "proto", "117").stdout.splitlines()
            return sorted(line.split()[0] for line in lines)

        def mtu() -> int:
            return int(self.lab.exec("n1", "cat", "/sys/class/net/up0/mtu").stdout)

        self.assertEqual((routes(), mtu()), (["10.244.0.0/16"], 1480))
        for pools, expected, size in (
            ([("10.244.2.0/24", "Never", "Always")], ["10.244.2.0/24", "10.244.3.0/24"], 1450),
            ([("10.244.2.0/23", *MODES["Never"])], ["10.244.2.0/23"], 1500),
            ([("10.244.0.0/16", *MODES["Always"])], ["10.244.0.0/16"], 1480),
        ):
            with self.subTest(pools):
                for node in ("n1", "n2", "n3"):
                    self.reload(node, self.lab.config(node, pools=pools) + METRICS)
                self.assertEqual(routes(), expected)
                wait_until(lambda: mtu() == size, 3, f"MTU {size}")
                for target in (B, C):
                    self.assertEqual(self.lab.ping("podA", target), 3)
