"""The CNI plugin and the network configuration that the daemon writes: real daemons, Debian's stock plugins, and every
verb as a container runtime calls it."""

import bootstrap

import contextlib
import json
import os
import pathlib
import re
import socket
import stat
import threading
import time
import unittest
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cni import Refused, Runtime
from stopped import stopped, worker_of
from underpass_lab.command import wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.nodes import ADDRESSES, NodeLab, subnet

MTU = 1450
MANY = 200
AT_ONCE = 16
SIZE = 4 << 20


def subnet6(node: str) -> str:
    """The IPv6 pod subnet of a node."""
    return f"fd00:10:244:{node[1:]}::/64"


class CniLab(NodeLab):
    """Two nodes with daemons and without pods: those come by CNI. Each node has a directory for its files."""

    def __init__(self) -> None:
        super().__init__("T2", ipv6=True)

    def _add_pod(self, node: str) -> None:
        (self.dir / node).mkdir(exist_ok=True)

    def conflist(self, node: str) -> pathlib.Path:
        """Where the daemon of a node writes its network configuration."""
        return self.dir / node / "net.d" / "10-underpass.conflist"

    def start(self, node: str, wait: bool = True, **tunnel: Any) -> Daemon:
        """Starts the daemon of a node and waits for its network configuration."""
        other = "n2" if node == "n1" else "n1"
        path = self.dir / node / "underpass.sock"
        text = self.config(
            node,
            pools=[(cidr, "Never", "Always") for cidr in ("10.244.0.0/16", "fd00:10:244::/48")],
            peers={other: (ADDRESSES[other], [subnet(other), subnet6(other)])},
            local=[subnet(node), subnet6(node)],
            tunnel=tunnel,
        ).replace(f"{self.dir}/{node}.sock", str(path))
        file = self.dir / f"{node}.toml"
        file.write_text(f'{text}\n[cni]\nconflist = "{self.conflist(node)}"\n', encoding="utf-8")
        daemon = Daemon(self, node, file)
        daemon.socket = str(path)
        self.daemons[node] = daemon
        daemon.wait_ready()
        if wait:
            wait_until(self.conflist(node).exists, 5, "the conflist")
        return daemon


class CniTest(unittest.TestCase):
    """A lab with two daemons for each class, and a runtime on each node."""

    lab: CniLab
    runtimes: dict[str, Runtime]

    @classmethod
    def setUpClass(cls) -> None:
        cls.lab = cls.enterClassContext(CniLab())
        for node in ("n1", "n2"):
            cls.lab.start(node)
        cls.runtimes = {node: Runtime(cls.lab, node, cls.lab.conflist(node)) for node in ("n1", "n2")}

    def stop(self, node: str) -> None:
        daemon = self.lab.daemons.pop(node)
        self.assertEqual(daemon.stop(), 0, daemon.log())

    @contextlib.contextmanager
    def away(self, node: str) -> Iterator[None]:
        """Within the block the daemon of a node is away."""
        self.stop(node)
        try:
            yield
        finally:
            self.lab.start(node)

    def setUp(self) -> None:
        self.addCleanup(self.assert_nothing_is_left)

    def pod(self, node: str, name: str, **more: Any) -> Any:
        """A new pod; deleted with the test. Returns the result of ADD."""
        self.namespace(name)
        self.addCleanup(self.runtimes[node].delete, name)
        return self.runtimes[node].add(name, **more)

    def namespace(self, name: str) -> None:
        """A namespace of a pod, for as long as the test."""
        self.lab.tool("ip", "netns", "add", self.lab.ns(name))
        self.addCleanup(self.lab.tool, "ip", "netns", "delete", self.lab.ns(name), check=False)

    def endpoints(self, node: str) -> dict[str, Any]:
        """What the daemon of a node knows of its pods, by container."""
        return {one["container_id"]: one for one in self.lab.daemons[node].json("endpoint", "list")}

    def missing(self, node: str) -> list[str]:
        """What the daemon of a node leaves to an administrator."""
        return [one["what"] for one in self.lab.status(node)["missing"]]

    def state(self, node: str) -> pathlib.Path:
        """Where the plugin of a node keeps its files."""
        return self.lab.dir / node / "cni"

    def records(self, node: str) -> list[str]:
        """Names of the files that are kept of pods."""
        return sorted(path.name for path in self.state(node).glob("*") if path.name != "ipam")

    def reservations(self, node: str) -> list[str]:
        """Addresses that host-local keeps for somebody."""
        names = [path.name for path in (self.state(node) / "ipam/underpass").glob("*")]
        return sorted(name for name in names if name != "lock" and not name.startswith("last_reserved_ip"))

    def veths(self, node: str) -> list[str]:
        """Interfaces that lead to pods."""
        links = json.loads(self.lab.tool("ip", "-n", self.lab.ns(node), "-j", "link", "show", "type", "veth").stdout)
        return sorted(link["ifname"] for link in links if link["ifname"].startswith("veth"))

    def pod_routes(self, node: str) -> list[str]:
        """Routes to pods, of both families; the gateway of a pod has one as well, at each of its interfaces."""
        lines = []
        for family in ("-4", "-6"):
            lines += self.lab.tool("ip", "-n", self.lab.ns(node), family, "route", "show").stdout.splitlines()
        return [line for line in lines if "dev veth" in line and not re.match("fe80|[0-9a-f:]+::1 ", line)]

    def left(self, node: str) -> tuple[list[str], ...]:
        """Everything that there is of pods on a node."""
        return self.veths(node), self.pod_routes(node), self.records(node), self.reservations(node)

    def assert_nothing_is_left(self) -> None:
        for node in ("n1", "n2"):
            # The last end of a veth goes a moment after its namespace.
            wait_until(lambda node=node: not self.veths(node), 5, "no veth")  # type: ignore[misc]
            self.assertEqual(self.left(node), ([], [], [], []))
            # Of which nobody told the daemon, that it finds out by itself.
            wait_until(lambda node=node: self.endpoints(node) == {}, 15, "no endpoint")  # type: ignore[misc]

    def refused(self, code: int, part: str, *words: Any, **more: Any) -> None:
        """A call on n1 is refused with this code and these words."""
        with self.assertRaises(Refused) as caught:
            self.runtimes["n1"].call(*words, **more)
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertIn(part, caught.exception.text)


def addresses(result: Any) -> list[str]:
    """The addresses of a result of ADD, without lengths."""
    return [ip["address"].partition("/")[0] for ip in result["ips"]]


class Traffic(CniTest):
    """Pods on two nodes."""

    def test_pods_of_both_families_reach_each_other(self) -> None:
        a, b = addresses(self.pod("n1", "a")), addresses(self.pod("n2", "b"))
        self.assertEqual((len(a), len(b)), (2, 2))
        for target in b:
            wait_until(lambda target=target: self.lab.ping("a", target, count=1), 10, target)  # type: ignore[misc]
            self.assertEqual(self.lab.ping("a", target), 3)
        self.lab.tcp_transfer("a", "b", b[0], SIZE)
        self.lab.tcp_transfer("b", "a", a[0], SIZE)
        link = json.loads(self.lab.tool("ip", "-n", self.lab.ns("a"), "-j", "link", "show", "eth0").stdout)[0]
        self.assertEqual((link["mtu"], self.lab.status("n1")["tunnel"]["mtu"]), (MTU, MTU))
        known = self.endpoints("n1")["a"]
        self.assertEqual((known["namespace"], known["pod"], known["uid"]), ("default", "pod-a", "uid-a"))
        self.assertEqual((known["id"], known["addresses"]), ("a:eth0", a))
        self.assertEqual(known["netns"], f"{self.lab.names}/{self.lab.ns('a')}")
        self.assertIn("pod-a", self.lab.daemons["n1"].command("endpoint", "list").stdout)
        # A pod reaches the other node itself, and is reached from there.
        self.assertEqual(self.lab.ping("n2", a[0]), 3)

    def test_a_smaller_mtu_reaches_new_pods_and_spares_those_that_are_there(self) -> None:
        b = addresses(self.pod("n2", "b"))
        self.pod("n1", "a")
        wait_until(lambda: self.lab.ping("a", b[0], count=1), 10, "an answer")
        self.lab.ip("n1", "link set eth0 mtu 1400")
        self.addCleanup(self.lab.ip, "n1", "link set eth0 mtu 1500")
        wait_until(lambda: self.runtimes["n1"].configuration()["mtu"] == 1350, 10, "another MTU in the conflist")
        self.pod("n1", "late")
        link = json.loads(self.lab.tool("ip", "-n", self.lab.ns("late"), "-j", "link", "show", "eth0").stdout)[0]
        self.assertEqual(link["mtu"], 1350)
        # One with the old MTU is told by an ICMP error; what it sends from then on arrives.
        self.lab.ping("a", b[0], "-s", 1400, "-M", "do", count=1)
        self.lab.tcp_transfer("a", "b", b[0], SIZE)
        self.lab.tcp_transfer("b", "a", addresses({"ips": self.endpoints_as_ips("n1", "a")})[0], SIZE)
        self.assertEqual(self.lab.ping("a", b[0], "-s", 1200, "-M", "do"), 3)
        self.lab.ip("n1", "link set eth0 mtu 1500")
        wait_until(lambda: self.runtimes["n1"].configuration()["mtu"] == MTU, 10, "the MTU from before")

    def endpoints_as_ips(self, node: str, container: str) -> list[dict[str, str]]:
        return [{"address": address} for address in self.endpoints(node)[container]["addresses"]]

    def test_an_old_runtime_gets_the_old_layout(self) -> None:
        for version, old in (("0.3.1", True), ("0.4.0", True), ("1.0.0", False), ("1.1.0", False)):
            with self.subTest(version):
                self.namespace("old")
                result = self.runtimes["n1"].add("old", cniVersion=version)
                self.assertEqual(result["cniVersion"], version)
                self.assertEqual([ip.get("version") for ip in result["ips"]], ["4", "6"] if old else [None, None])
                self.assertEqual(result["interfaces"][1]["name"], "eth0")
                if version != "0.3.1":
                    stdin = self.runtimes["n1"].configuration() | {"cniVersion": version, "prevResult": result}
                    self.assertIsNone(self.runtimes["n1"].call("CHECK", "old", json.dumps(stdin)))
                self.runtimes["n1"].delete("old", cniVersion=version, prevResult=result)
                self.lab.tool("ip", "netns", "delete", self.lab.ns("old"))

    def test_many_at_once_and_nothing_leaks(self) -> None:
        names = [f"m{n}" for n in range(MANY)]
        for name in names:
            self.namespace(name)
        runtime = self.runtimes["n1"]
        self.addCleanup(self.delete_all, names)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            results = list(threads.map(runtime.add, names))
            given = [address for result in results for address in addresses(result)]
            self.assertEqual(len(set(given)), 2 * MANY)
            self.assertEqual(set(self.endpoints("n1")), set(names))
            self.assertEqual([len(part) for part in self.left("n1")], [MANY, 2 * MANY, MANY, 2 * MANY])
            list(threads.map(runtime.delete, names))
        # And all of it again while others come: adds and deletes meet.
        with ThreadPoolExecutor(AT_ONCE) as threads:
            half = names[: MANY // 4]
            list(threads.map(runtime.add, half))
            more = names[MANY // 4 : MANY // 2]
            pairs = zip(half, more, strict=True)
            calls = [call for old, new in pairs for call in ((runtime.delete, old), (runtime.add, new))]
            list(threads.map(lambda call: call[0](call[1]), calls))
            self.assertEqual(set(self.endpoints("n1")), set(more))
            list(threads.map(runtime.delete, more))

    def delete_all(self, names: list[str]) -> None:
        """Nothing is left to do here unless the test has failed."""
        for name in names:
            if f"{name}:eth0.json" in self.records("n1"):
                self.runtimes["n1"].delete(name)


class Verbs(CniTest):
    """What is asked in a wrong way, at a wrong time, or twice."""

    def test_version(self) -> None:
        answer = self.runtimes["n1"].call("VERSION", stdin='{"cniVersion": "1.0.0"}')
        self.assertEqual(answer["cniVersion"], "1.1.0")
        self.assertLessEqual({"0.3.1", "0.4.0", "1.0.0", "1.1.0"}, set(answer["supportedVersions"]))

    def test_what_cannot_be_understood_is_refused(self) -> None:
        good = self.runtimes["n1"].configuration()
        for verb in ("ADD", "DEL", "CHECK"):
            self.refused(4, "CNI_CONTAINERID", verb, "x", CNI_CONTAINERID="")
            self.refused(4, "CNI_IFNAME", verb, "x", CNI_IFNAME="")
            self.refused(6, "", verb, "x", "{")
            self.refused(6, "", verb, "x", "")
            self.refused(1, "9.9.9", verb, "x", json.dumps(good | {"cniVersion": "9.9.9"}))
            self.refused(7, "subnets", verb, "x", json.dumps(good | {"subnets": 7}))
            self.refused(5, "longer than", verb, "x", json.dumps(good | {"long": "x" * (1 << 20)}))
        self.refused(4, "", "FLY", "x")
        self.refused(4, "CNI_NETNS", "ADD", "x", CNI_NETNS="")
        self.refused(4, "", "ADD", "../x")
        self.refused(7, "prevResult", "CHECK", "x")

    def test_an_add_that_fails_leaves_nothing(self) -> None:
        runtime = self.runtimes["n1"]
        # No such namespace: ptp fails after host-local gave addresses.
        with self.assertRaises(Refused):
            runtime.add("nowhere")
        self.assert_nothing_is_left()
        # No stock plugin.
        self.namespace("x")
        gone = json.dumps(runtime.configuration() | {"plugin": "ptp9"})
        self.refused(101, "containernetworking-plugins", "ADD", "x", gone)
        self.assert_nothing_is_left()
        # A range that is full.
        small = runtime.configuration() | {"socket": "/nonexistent", "subnets": ["10.244.1.0/30"]}
        self.assertIsNotNone(runtime.call("ADD", "x", json.dumps(small)))
        self.namespace("y")
        with self.assertRaises(Refused):
            runtime.call("ADD", "y", json.dumps(small))
        self.assertEqual(self.records("n1"), ["x:eth0.json"])
        # Once more is refused and changes nothing.
        before = self.left("n1")
        self.refused(102, "DEL comes first", "ADD", "x")
        self.assertEqual(self.left("n1"), before)
        runtime.delete("x")

    def test_check_compares(self) -> None:
        runtime = self.runtimes["n1"]
        result = self.pod("n1", "c")
        stdin = runtime.configuration() | {"prevResult": result}
        self.assertIsNone(runtime.call("CHECK", "c", json.dumps(stdin)))
        other = json.loads(json.dumps(result))
        other["ips"][0]["address"] = "10.244.1.77/24"
        self.refused(103, "prevResult has not", "CHECK", "c", json.dumps(stdin | {"prevResult": other}))
        with self.away("n1"):
            self.assertIsNone(runtime.call("CHECK", "c", json.dumps(stdin)))
        self.lab.ip("c", "address flush dev eth0")
        with self.assertRaises(Refused):
            runtime.call("CHECK", "c", json.dumps(stdin))
        record = self.state("n1") / "c:eth0.json"
        record.rename(record.with_suffix(".away"))
        self.refused(103, "no record", "CHECK", "c", json.dumps(stdin))
        record.with_suffix(".away").rename(record)

    def test_delete_succeeds_whatever_is_gone(self) -> None:
        runtime = self.runtimes["n1"]
        runtime.delete("never-was")
        self.pod("n1", "d")
        for _ in range(2):
            runtime.delete("d")
        # The namespace is gone, and its path is given or not.
        for netns in ({}, {"CNI_NETNS": ""}):
            self.pod("n1", "e")
            self.lab.tool("ip", "netns", "delete", self.lab.ns("e"))
            self.assertIsNone(runtime.call("DEL", "e", **netns))
            self.assertEqual(self.reservations("n1"), [])
        # So is everything that anybody kept of it, and the stock plugin.
        self.pod("n1", "f")
        (self.state("n1") / "f:eth0.json").unlink()
        for path in (self.state("n1") / "ipam/underpass").glob("*"):
            path.unlink()
        runtime.delete("f")
        with self.assertRaises(Refused):
            runtime.delete("f", plugin="ptp9")
        self.lab.tool("ip", "netns", "delete", self.lab.ns("f"))
        runtime.delete("f", plugin="ptp9")

    def test_status_says_whether_pods_can_start(self) -> None:
        runtime = self.runtimes["n1"]
        stdin = json.dumps(runtime.configuration() | {"cniVersion": "1.1.0"})
        bare = {"CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": ""}
        self.assertIsNone(runtime.call("STATUS", "", stdin, **bare))
        self.refused(1, "", "STATUS", "", json.dumps(runtime.configuration()), **bare)
        gone = json.dumps(json.loads(stdin) | {"plugin": "ptp9"})
        self.refused(50, "ptp9", "STATUS", "", gone, **bare)
        with self.away("n1"):
            self.refused(50, "no daemon at", "STATUS", "", stdin, **bare)
        self.assertIsNone(runtime.call("STATUS", "", stdin, **bare))
        # There is a network, and not all packets come through it.
        tracer = stopped(self, worker_of(self.lab.daemons["n1"].pid))
        wait_until(lambda: self.lab.status("n1")["stuck_workers"] == [0], 8, "a word about the worker")
        self.refused(51, "no progress", "STATUS", "", stdin, **bare)
        tracer.kill()
        wait_until(lambda: self.lab.status("n1")["stuck_workers"] == [], 8, "progress")
        self.assertIsNone(runtime.call("STATUS", "", stdin, **bare))

    def test_garbage_is_collected(self) -> None:
        runtime = self.runtimes["n1"]
        for name in ("stays", "stale", "lost"):
            self.pod("n1", name)
        # Somebody whose record is lost has only a reservation.
        (self.state("n1") / "lost:eth0.json").unlink()
        self.lab.tool("ip", "netns", "delete", self.lab.ns("lost"))
        self.assertEqual(len(self.reservations("n1")), 6)
        new = runtime.configuration() | {"cniVersion": "1.1.0"}
        bare = {"CNI_CONTAINERID": "", "CNI_IFNAME": "", "CNI_NETNS": ""}
        self.refused(7, "valid-attachments", "GC", "", json.dumps(new), **bare)
        self.assertEqual(len(self.reservations("n1")), 6)
        new["cni.dev/valid-attachments"] = [{"containerID": "stays", "ifname": "eth0"}]
        for _ in range(2):
            self.assertIsNone(runtime.call("GC", "", json.dumps(new), **bare))
            self.assertEqual(self.records("n1"), ["stays:eth0.json"])
            self.assertEqual((len(self.reservations("n1")), len(self.veths("n1"))), (2, 1))
        self.assertNotIn("stale", self.endpoints("n1"))


class Away(CniTest):
    """The daemon is away, starts again, or does not answer."""

    def test_pods_come_and_go_without_the_daemon(self) -> None:
        self.pod("n1", "before")
        with self.away("n1"):
            # Its network configuration stays, and says what was known.
            self.assertTrue(self.lab.conflist("n1").exists())
            self.pod("n1", "during")
            self.runtimes["n1"].delete("before")
            nothing = {"subnets": [], "mtu": 0}
            self.namespace("x")
            stdin = json.dumps(self.runtimes["n1"].configuration() | nothing)
            self.refused(11, "start the daemon", "ADD", "x", stdin)
        self.assertEqual(set(self.endpoints("n1")), {"during"})
        with self.away("n1"):
            pass
        self.assertEqual(set(self.endpoints("n1")), {"during"})

    def test_a_daemon_that_is_stuck_holds_up_nobody(self) -> None:
        path = self.lab.dir / "stuck.sock"
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.bind(str(path))
            stuck.listen()
            self.namespace("s")
            begun = time.monotonic()
            more = {"socket": str(path), "state_dir": str(self.state("n1"))}
            self.runtimes["n1"].add("s", **more)
            self.runtimes["n1"].delete("s", **more)
            self.assertLess(time.monotonic() - begun, 10)

    def test_records_are_followed_without_being_told(self) -> None:
        record = self.state("n1") / "ghost:eth0.json"
        self.state("n1").mkdir(exist_ok=True)
        ghost = {"id": "ghost:eth0", "container_id": "ghost", "ifname": "eth0", "addresses": ["10.244.1.99"]}
        record.write_text(json.dumps(ghost), encoding="utf-8")
        (self.state("n1") / "junk:eth0.json").write_text("{", encoding="utf-8")
        wait_until(lambda: set(self.endpoints("n1")) == {"ghost"}, 40, "the record")
        record.unlink()
        (self.state("n1") / "junk:eth0.json").unlink()
        wait_until(lambda: not self.endpoints("n1"), 40, "the record that went")


class Conflist(CniTest):
    """The file that the daemon writes."""

    def test_it_is_written_last_as_a_whole_and_mended(self) -> None:
        path = self.lab.conflist("n1")
        whole = json.loads(path.read_text(encoding="utf-8"))
        self.assertEqual((whole["cniVersion"], whole["name"]), ("1.0.0", "underpass"))
        first, second = whole["plugins"]
        self.assertEqual((first["type"], first["mtu"]), ("underpass-cni", MTU))
        self.assertEqual(first["subnets"], [subnet("n1"), subnet6("n1")])
        self.assertEqual((second["type"], second["snat"]), ("portmap", True))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o644)
        self.assertEqual([entry.name for entry in path.parent.iterdir()], [path.name])
        # Whoever reads while it is written again and again sees a whole file.
        wrong: list[str] = []
        end = threading.Event()

        def read() -> None:
            while not end.is_set():
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except ValueError as error:
                    wrong.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for mtu in (1400, 1350, 1500):
                self.lab.ip("n1", f"link set eth0 mtu {mtu}")
                wait_until(lambda mtu=mtu: self.mtu("n1") == mtu - 50, 10, str(mtu))  # type: ignore[misc]
        finally:
            end.set()
            reader.join()
        self.assertEqual(wrong, [])
        # Last: with the daemon's socket there first.
        self.stop("n1")
        path.unlink()
        daemon = self.lab.start("n1", wait=False)
        wait_until(path.exists, 5, "the conflist")

        def lines() -> tuple[int, int]:
            """Where the log, a moment behind the file, says that it is written, and where it tells of the start."""
            log = daemon.log()
            return log.rindex(f"{path} written"), log.rindex("mtu 1450: uplink")

        wait_until(lambda: lines()[0] > lines()[1], 5, "the line in the log behind those of the start")
        # What somebody else does is mended and shown, and is not shown for ever.
        path.write_text("{}", encoding="utf-8")
        wait_until(lambda: self.mtu("n1") == MTU, 40, "the file as it should be")
        wait_until(lambda: any("somebody else changed" in what for what in self.missing("n1")), 5, "a line in status")
        wait_until(lambda: not any("somebody else" in what for what in self.missing("n1")), 40, "it is over")

    def mtu(self, node: str) -> Any:
        configuration = json.loads(self.lab.conflist(node).read_text(encoding="utf-8"))
        return configuration["plugins"][0]["mtu"] if "plugins" in configuration else None

    def test_what_cannot_be_written_is_in_status_and_the_daemon_runs(self) -> None:
        directory = self.lab.conflist("n2").parent
        self.stop("n2")
        self.lab.conflist("n2").unlink()
        directory.rmdir()
        directory.write_text("", encoding="utf-8")
        self.lab.start("n2", wait=False)
        wait_until(lambda: any("cannot be written" in what for what in self.missing("n2")), 5, "a line in status")
        directory.unlink()
        self.lab.daemons["n2"].command("status")
        wait_until(self.lab.conflist("n2").exists, 40, "the conflist")
        wait_until(lambda: not any("cannot be written" in what for what in self.missing("n2")), 5, "it is over")
