"""scripts/bench itself, in runs as short as it has them: files written, an interruption, no root.

What is measured says nothing here; that it is measured, kept and written does.
"""

import bootstrap

import json
import os
import pathlib
import signal
import stat
import subprocess
import tempfile
import unittest
import unittest.mock
from typing import Any

from public import publish
from underpass_lab.bench.measure import Load
from underpass_lab.bench.options import QUICK
from underpass_lab.bench.pair import Pair
from underpass_lab.bench.systems import SYSTEMS
from underpass_lab.command import Failure, wait_until
from underpass_lab.daemon import binary
from underpass_lab.paths import PACKAGE, REPO

SCHEMA = json.loads((PACKAGE / "bench" / "results.schema.json").read_text(encoding="utf-8"))
TUN = "/dev/net/tun"
USER = 1000
SHORT = ("--quick", "--seconds", "1", "--runs", "1")
TIMEOUT_S = 120


def setUpModule() -> None:
    for name in ("netload", "copyloop"):
        if not tool(name).exists():
            raise unittest.SkipTest(f"{name} is not built beside the daemon: cargo build --package underpass-tools")


def tool(name: str) -> Any:
    return pathlib.Path(binary()).parent / name


def environment(directory: Any = None) -> dict[str, Any]:
    """The programs that the bench uses: those of this build, or their copies in a directory."""
    files = {
        "UNDERPASS_BIN": pathlib.Path(binary()),
        "BENCH_NETLOAD": tool("netload"),
        "BENCH_COPYLOOP": tool("copyloop"),
    }
    if directory:
        files = {name: publish(path, directory) for name, path in files.items()}
    return {**os.environ, **{name: str(path) for name, path in files.items()}}


class Runs(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.out = pathlib.Path(directory.name) / "out"

    def start(self, *arguments: Any) -> Any:
        return subprocess.Popen(
            (REPO / "scripts/bench", *arguments, "--out", self.out),
            env=environment(),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def bench(self, *arguments: Any) -> Any:
        """Runs it to its end; returns what it said."""
        process = self.start(*arguments)
        self.addCleanup(process.stderr.close)
        _, said = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, 0, said)
        return said

    def document(self) -> Any:
        document = json.loads((self.out / "results.json").read_text(encoding="utf-8"))
        try:
            import jsonschema
        except ImportError:
            return document
        jsonschema.validate(document, SCHEMA)
        return document

    def test_side_by_side(self) -> None:
        keys = {"tcp1": "retransmits_per_gb", "rtt-udp": "back_to_back", "rtt-load": "load_gbps"}
        said = self.bench(*SHORT, "--systems", "underpass-vxlan,tun-copy-loop", "--tests", ",".join(keys))
        document = self.document()
        entries = {(entry["system"], entry["test"]): entry for entry in document["results"]}
        self.assertEqual(
            set(entries),
            {(system, test) for system in ("underpass-vxlan", "tun-copy-loop") for test in keys},
        )
        for (_, test), entry in entries.items():
            self.assertGreater(entry["median"], 0)
            self.assertIn(keys[test], entry)
        self.assertEqual({ratio["to"] for ratio in document["ratios"]}, {"tun-copy-loop"})
        self.assertEqual((document["failed"], document["host"]["rights"]), ([], "root"))
        self.assertEqual(document["active"]["underpass-vxlan"]["backend"], "offload")
        self.assertEqual(
            sorted(path.name for path in self.out.iterdir()), ["cpu.svg", "report.md", "results.json", "throughput.svg"]
        )
        self.assertIn(" left] tun-copy-loop", said)

    def test_the_kernel_path(self) -> None:
        """Each way is the one that it is called by, or its figures would have failed."""
        kernel = ("underpass-vxlan-kernel", "underpass-ipip-kernel", "underpass-direct-kernel-path")
        systems, tests = (*kernel, "underpass-vxlan-pump"), ("tcp1", "rtt-udp", "connections")
        self.bench(*SHORT, "--systems", ",".join(systems), "--tests", ",".join(tests))
        document = self.document()
        self.assertEqual((document["failed"], document["skipped"]), ([], []))
        shares = {(entry["system"], entry["test"]): entry["kernel_share"] for entry in document["results"]}
        self.assertEqual(set(shares), {(system, test) for system in systems for test in tests})
        for (system, test), share in shares.items():
            if system not in kernel:
                self.assertEqual(share, 0, (system, test))
            elif test != "connections":
                self.assertGreater(share, 2 / 3, (system, test))
        self.assertIn("## The kernel path", (self.out / "report.md").read_text(encoding="utf-8"))

    def test_what_the_pump_carried_is_no_figure_of_the_kernel_path(self) -> None:
        """ICMP goes by the pump always."""
        (system,) = (system for system in SYSTEMS if system.name == "underpass-vxlan-kernel")
        with unittest.mock.patch.dict(os.environ, environment()), Pair() as lab:
            load = Load(lab, system.up(lab), QUICK.scaled(1))
            judge = system.watch(lab)
            load.rtt()
            with self.assertRaisesRegex(Failure, "something else than the kernel path: n1: it carried 0 packets"):
                judge(True)

    def test_sweeps(self) -> None:
        self.bench(*SHORT, "--sweep", "loss,mtu", "--systems", "veth", "--tests", "tcp1")
        document = self.document()
        curves = {curve["name"]: curve for curve in document["sweeps"]}
        self.assertEqual([point["x"] for point in curves["loss"]["points"]], [0, 0.1, 1])
        self.assertEqual([point["x"] for point in curves["mtu"]["points"]], [1500, 9000, 65535])
        # The link really loses: a GB is some 690,000 segments, so that 1 % of them are thousands.
        again = [point["retransmits_per_gb"] for point in curves["loss"]["points"]]
        self.assertGreater(again[2], 3000)
        self.assertGreater(again[2], again[0])
        self.assertEqual(
            sorted(path.name for path in self.out.iterdir()),
            ["report.md", "results.json", "sweep-loss.svg", "sweep-mtu.svg"],
        )

    def test_the_sweep_over_uplinks(self) -> None:
        self.bench(*SHORT, "--sweep", "uplink", "--systems", "underpass-vxlan,underpass-ipip")
        document = self.document()
        self.assertEqual(document["failed"], [])
        said = {
            curve["system"]: {point["x"]: point["tap"] for point in curve["points"]} for curve in document["sweeps"]
        }
        rows = [name + gro for name in ("all", "no tunnel", "no UDP", "none") for gro in ("", ", GRO")]
        self.assertEqual(
            {system: list(points) for system, points in said.items()},
            dict.fromkeys(("underpass-vxlan", "underpass-ipip"), rows),
        )
        # The link really is as the row says, and the daemon follows.
        for points in said.values():
            active = [row for row, tap in points.items() if tap.startswith("active")]
            self.assertEqual(active, [row for row in rows if row.startswith(("all", "no UDP"))])
        self.assertIn("tx-udp_tnl-csum-segmentation off", said["underpass-vxlan"]["no tunnel"])
        self.assertIn("sweep-uplink.svg", [path.name for path in self.out.iterdir()])

    def test_policies(self) -> None:
        self.bench(*SHORT, "--sweep", "policy", "--tests", "connections")
        document = self.document()
        self.assertEqual((document["failed"], document["skipped"]), ([], []))
        curves = {curve["system"]: [point["x"] for point in curve["points"]] for curve in document["sweeps"]}
        values = ["off", 0, 10, 1000, 10_000]
        self.assertEqual(curves, {"kernel-vxlan": values, "underpass-vxlan": values})
        self.assertIn("its own without policies", (self.out / "report.md").read_text(encoding="utf-8"))

    def test_an_interrupted_bench_goes_on(self) -> None:
        asked = ("--quick", "--runs", "3", "--systems", "veth", "--tests", "rtt,connections")
        process = self.start(*asked)
        self.addCleanup(process.stderr.close)
        partial = self.out / "partial.jsonl"
        wait_until(lambda: partial.exists() and partial.read_text().count('"outcome"') >= 2, 60, "two finished runs")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, 130, said)
        self.assertIn("it goes on from here", said)
        names = subprocess.run(("ip", "netns"), capture_output=True, text=True, check=True).stdout
        self.assertNotIn(f"upbench{process.pid}-", names)
        kept = [
            run["outcome"]["value"] for run in map(json.loads, partial.read_text().splitlines()[1:]) if "outcome" in run
        ]
        self.assertIn(f"going on after {len(kept)} finished runs", self.bench(*asked))
        document = self.document()
        rtt, connections = document["results"]
        self.assertEqual((len(rtt["runs"]), len(connections["runs"])), (3, 3))
        self.assertEqual([rtt["runs"][0], connections["runs"][0]], kept[:2])
        self.assertEqual(document["host"]["resumed_runs"], len(kept))
        self.assertFalse(partial.exists())

    def test_runs_of_other_settings_are_not_taken_over(self) -> None:
        self.out.mkdir()
        (self.out / "partial.jsonl").write_text('{"kernel": "2.4"}\n{"number": 0}\n')
        said = self.bench(*SHORT, "--systems", "veth", "--tests", "udp512")
        self.assertIn("of other settings or programs: starting anew", said)
        (entry,) = self.document()["results"]
        self.assertLessEqual(entry["loss"], 0.001)
        self.assertIn("reordered", entry)


class Rootless(unittest.TestCase):
    """As an ordinary user, from copies of the files, whoever owns the tree."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        for part in ("scripts", "tools"):
            publish(REPO / part, self.directory)
        os.chown(self.directory, USER, USER)
        mode = stat.S_IMODE(os.stat(TUN).st_mode)
        self.addCleanup(os.chmod, TUN, mode)
        os.chmod(TUN, 0o666)

    def as_user(self, *command: Any) -> Any:
        return subprocess.run(
            ("setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups", *command),
            cwd=self.directory,
            env=environment(self.directory),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def test_it_needs_no_root(self) -> None:
        if self.as_user("unshare", "--user", "--map-root-user", "--net", "true").returncode != 0:
            self.skipTest("this machine forbids user namespaces")
        done = self.as_user(
            "scripts/bench", "--quick", "--runs", "1", "--systems", "veth,underpass-vxlan", "--tests", "rtt"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        results = self.directory / "bench-results" / "results.json"
        document = json.loads(results.read_text(encoding="utf-8"))
        self.assertEqual({entry["system"] for entry in document["results"]}, {"veth", "underpass-vxlan"})
        self.assertEqual((document["failed"], document["host"]["rights"]), ([], "user namespace"))
        self.assertEqual(results.stat().st_uid, USER)

    def test_what_is_in_the_way_is_named(self) -> None:
        os.chmod(TUN, 0o600)
        refused = self.directory / "refused"
        refused.mkdir()
        (refused / "unshare").write_text("#!/bin/sh\necho Operation not permitted >&2\nexit 1\n")
        (refused / "unshare").chmod(0o755)
        for path, words in (
            (os.environ["PATH"], "as root, chmod 0666 /dev/net/tun"),
            (f"{refused}:{os.environ['PATH']}", "needs user namespaces, and they are not allowed"),
        ):
            done = self.as_user("env", f"PATH={path}", "scripts/bench", "--systems", "underpass-vxlan")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
