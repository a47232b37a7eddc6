"""What scripts/bench tells before it builds anything, and the documents it makes of given figures.

Short runs of the bench itself are in test_bench_runs.py.
"""

import bootstrap

import copy
import io
import json
import pathlib
import statistics
import subprocess
import tempfile
import types
import unittest
from typing import Any

from underpass_lab.bench import report
from underpass_lab.bench.progress import Progress
from underpass_lab.bench.results import Results
from underpass_lab.paths import PACKAGE, REPO

HOST = {
    "command": "scripts/bench --quick",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "cpu": "a CPU",
    "cores": 2,
    "memory_mib": 2048,
    "kernel": "6.18.0",
    "distribution": "Debian",
    "lab": "a veth pair",
    "load_before": 0.1,
    "machine": "x86_64",
    "congestion_control": "cubic",
    "rmem_max": 212992,
    "rights": "root",
    "resumed_runs": 0,
    "versions": {"iperf3": "iperf 3.12"},
}


def named(name: str, unit: str | None = None) -> Any:
    return types.SimpleNamespace(name=name, unit=unit, about=f"about {name}", lower_is_better=False)


SCHEMA = json.loads((PACKAGE / "bench" / "results.schema.json").read_text(encoding="utf-8"))
TCP, UDP, RTT = named("tcp1", "gbps"), named("udp64", "packets/s"), named("rtt", "us")
VETH, KERNEL, OURS, DIRECT = map(named, ("veth", "kernel-vxlan", "underpass-vxlan", "underpass-direct"))


def bench(*arguments: Any) -> Any:
    return subprocess.run(
        (REPO / "scripts" / "bench", *arguments), capture_output=True, text=True, timeout=30, check=False
    )


class Documents(unittest.TestCase):
    def setUp(self) -> None:
        self.results = Results(HOST, [TCP, UDP, RTT])
        for system, values in (
            (VETH, (20.0, 10.0, 30.0)),
            (KERNEL, (8.0, 16.0, 12.0)),
            (OURS, (6.0, 9.0, 3.0)),
            (DIRECT, (15.0, 15.0, 5.0)),
        ):
            for value in values:
                self.results.add(system, TCP, {"value": value, "cpu_s_per_gb": 24 / value})

    def test_an_entry_has_median_spread_and_runs(self) -> None:
        self.assertEqual(
            self.results.document()["results"][2],
            {
                "system": "underpass-vxlan",
                "test": "tcp1",
                "unit": "gbps",
                "median": 6.0,
                "min": 3.0,
                "max": 9.0,
                "runs": [6.0, 9.0, 3.0],
                "cpu_s_per_gb": 4.0,
                "cpu_s_per_gb_runs": [4.0, 24 / 9, 8.0],
            },
        )

    def test_ratios_are_of_medians_and_direct_is_compared_with_the_bare_link(self) -> None:
        self.assertEqual(
            self.results.document()["ratios"],
            [
                {"test": "tcp1", "of": "underpass-vxlan", "to": "kernel-vxlan", "ratio": 0.5},
                {"test": "tcp1", "of": "underpass-direct", "to": "veth", "ratio": 0.75},
            ],
        )

    def test_udp_keeps_the_worst_loss_and_all_reordering(self) -> None:
        for loss, reordered in ((0.0, 3), (0.0009, 4)):
            self.results.add(OURS, UDP, {"value": 1000.0, "cpu_s_per_gb": 1.0, "loss": loss, "reordered": reordered})
        entry = self.results.document()["results"][-1]
        self.assertEqual((entry["loss"], entry["reordered"], entry["median"]), (0.0009, 7, 1000.0))

    def test_retransmits_and_round_trips_under_load_are_medians(self) -> None:
        loaded = named("rtt-load", "us")
        self.results.tests.append(loaded)
        for number in (3, 1, 2):
            self.results.add(OURS, TCP, {"value": 6.0, "cpu_s_per_gb": 4.0, "retransmits_per_gb": 10 * number})
            self.results.add(OURS, loaded, {"value": 100 * number, "p99": 900, "lost": number, "load_gbps": number})
        tcp, rtt = (entry for entry in self.results.document()["results"] if entry["system"] == OURS.name)
        self.assertEqual(tcp["retransmits_per_gb"], 20)
        self.assertEqual((rtt["median"], rtt["p99"], rtt["lost"], rtt["load_gbps"]), (200, 900, 6, 2))
        text = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        self.assertIn("| underpass-vxlan | 200 | 900 | 2.00 | 6 |", text.splitlines())
        self.assertIn("| underpass-vxlan | 20.0 |", text.splitlines())

    def test_a_sweep_is_a_curve_for_each_system_and_test(self) -> None:
        sweep = types.SimpleNamespace(name="routes", axis="routes in the table", values=(1, 100))
        results = Results(HOST, [TCP], [sweep])
        for value in (100, 1):
            for run in (1, 2, 3):
                results.add(OURS, TCP, {"value": 10.0 * run / value, "cpu_s_per_gb": 1.0}, ("routes", value))
        results.fail(DIRECT, TCP, "no answer", ("routes", 100))
        document = results.document()
        (curve,) = document["sweeps"]
        self.assertEqual(
            (curve["name"], curve["system"], curve["test"], curve["unit"]),
            ("routes", "underpass-vxlan", "tcp1", "gbps"),
        )
        self.assertEqual(
            [(point["x"], point["median"], point["max"]) for point in curve["points"]],
            [(1, 20.0, 30.0), (100, 0.2, 0.3)],
        )
        self.assertEqual((document["results"], document["ratios"]), ([], []))
        text = report.markdown(document, [TCP], [OURS, DIRECT]).splitlines()
        self.assertIn("| underpass-vxlan | 20.0 (10.0–30.0) | 0.20 (0.10–0.30) |", text)
        self.assertIn("- underpass-direct tcp1 routes=100: no answer", text)

    def uplink_results(self) -> tuple[Any, list[Any]]:
        """The default chose the socket in one row, and wrongly the TAP in the other."""
        sweep = types.SimpleNamespace(name="uplink", axis="offloads of the link", values=("no tunnel", "none, GRO"))
        socket, tap = named("underpass-vxlan-socket"), named("underpass-vxlan-tap")
        results = Results(HOST, [TCP], [sweep])
        figures = ((KERNEL, (4.0, 2.0)), (OURS, (3.5, 1.0)), (socket, (3.5, 4.0)), (tap, (0.5, 1.0)))
        for system, values in figures:
            for value, figure in zip(sweep.values, values, strict=True):
                results.add(system, TCP, {"value": figure, "cpu_s_per_gb": 1.0}, ("uplink", value))
        results.note(OURS, {"tap": "off: u0 is slow"}, ("uplink", "no tunnel"))
        results.note(OURS, {"tap": "active"}, ("uplink", "none, GRO"))
        return results, [KERNEL, OURS, socket, tap]

    def test_the_sweep_over_uplinks_judges_the_choice(self) -> None:
        results, systems = self.uplink_results()
        text = report.markdown(results.document(), [TCP], systems).splitlines()
        for line in (
            "| | no tunnel | none, GRO |",
            "| | over the better of socket and tap | over kernel-vxlan | what it says of its TAP |",
            "| no tunnel | 1.00 | 0.88 | off: u0 is slow |",
            "| none, GRO | 0.25 | 0.50 | active |",
        ):
            self.assertIn(line, text)

    def test_names_on_an_axis_are_drawn_in_their_order(self) -> None:
        results, systems = self.uplink_results()
        with tempfile.TemporaryDirectory() as directory:
            try:
                from underpass_lab.bench import curves
            except ImportError:
                self.skipTest("python3-matplotlib is not installed")
            (file,) = curves.draw_all(pathlib.Path(directory), results.document(), systems)
            self.assertIn("<svg", (pathlib.Path(directory) / file).read_text(encoding="utf-8"))
        made = [{"points": [{"x": x} for x in values]} for values in (("none",), ("no UDP", "all", "none"))]
        self.assertEqual(curves.in_order(made), ["no UDP", "all", "none"])
        self.assertEqual(curves.in_order([{"points": [{"x": 100}, {"x": 1}]}]), [1, 100])

    def test_documents_obey_the_schema(self) -> None:
        jsonschema = self.jsonschema()
        for loss, reordered in ((0.0, 3), (0.0009, 4)):
            self.results.add(OURS, UDP, {"value": 1000.0, "cpu_s_per_gb": 1.0, "loss": loss, "reordered": reordered})
        self.results.add(OURS, RTT, {"value": 20.0, "p99": 30.0, "back_to_back": 10.0})
        self.results.skip(named("boringtun"), "not installed")
        self.results.fail(named("underpass-vxlan-tap"), None, "no TAP")
        self.results.fail(OURS, TCP, "no answer", ("loss", 0.1))
        document = self.results.document()
        jsonschema.validate(document, SCHEMA)
        jsonschema.validate(self.uplink_results()[0].document(), SCHEMA)
        wrongs: list[tuple[str, Any]] = [("median", "fast"), ("runs", []), ("unit", "gbit"), ("system", "Kernel VXLAN")]
        for broken in wrongs:
            wrong = copy.deepcopy(document)
            wrong["results"][0][broken[0]] = broken[1]
            with self.assertRaises(jsonschema.ValidationError):
                jsonschema.validate(wrong, SCHEMA)

    def jsonschema(self) -> Any:
        try:
            import jsonschema
        except ImportError:
            self.skipTest("python3-jsonschema is not installed")
        return jsonschema

    def test_skipped_and_failed_are_named_in_both_documents(self) -> None:
        self.results.skip(named("boringtun"), "not installed")
        self.results.fail(OURS, RTT, "no answer")
        self.results.fail(named("underpass-vxlan-tap"), None, "no TAP")
        document = self.results.document()
        self.assertEqual(document["skipped"], [{"system": "boringtun", "reason": "not installed"}])
        self.assertEqual(
            document["failed"],
            [
                {"system": "underpass-vxlan", "test": "rtt", "reason": "no answer"},
                {"system": "underpass-vxlan-tap", "test": None, "reason": "no TAP"},
            ],
        )
        text = report.markdown(document, self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        for line in ("- boringtun: not installed", "- underpass-vxlan rtt: no answer", "- underpass-vxlan-tap: no TAP"):
            self.assertIn(line, text.splitlines())

    def test_the_tables_of_the_report(self) -> None:
        text = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        for line in (
            "| | tcp1, Gbit/s |",
            "| veth | 20.0 (10.0–30.0) |",
            "| underpass-vxlan | 4.00 |",
            "| underpass-vxlan / kernel-vxlan | 0.50 |",
        ):
            self.assertIn(line, text.splitlines())

    def test_a_run_without_a_single_figure_is_still_a_report(self) -> None:
        nothing = Results(HOST, [TCP])
        nothing.fail(OURS, None, "no TUN")
        text = report.markdown(nothing.document(), nothing.tests, [OURS])
        self.assertIn("- underpass-vxlan: no TUN", text.splitlines())


class Compare(unittest.TestCase):
    """Verdicts on made-up files."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)

    def document(self, figures: Any, failed: Any = ()) -> dict[str, Any]:
        """Of `{(system, test): runs}`, with a sweep of the same."""
        units = {"tcp1": "gbps", "rtt": "us"}

        def entry(runs: Any) -> dict[str, Any]:
            return {"median": statistics.median(runs), "min": min(runs), "max": max(runs), "runs": runs}

        return {
            "host": HOST,
            "results": [
                {"system": system, "test": test, "unit": units[test], **entry(runs)}
                for (system, test), runs in figures.items()
            ],
            "sweeps": [
                {
                    "name": "loss",
                    "axis": "%",
                    "system": system,
                    "test": test,
                    "unit": units[test],
                    "points": [{"x": 0, **entry(runs)}],
                }
                for (system, test), runs in figures.items()
            ],
            "failed": list(failed),
        }

    def compare(self, old: Any, new: Any) -> tuple[Any, dict[str, Any], Any]:
        """The exit status and the verdicts by what they are about."""
        for name, document in (("old", old), ("new", new)):
            (self.directory / name).write_text(json.dumps(document), encoding="utf-8")
        done = bench("--compare", self.directory / "old", self.directory / "new")
        self.assertEqual(done.stderr, "")
        rows = [line.split() for line in done.stdout.splitlines()]
        return (
            done.returncode,
            {
                " ".join(row[1:3]): row[0]
                for row in rows
                if row and row[0] in ("worse", "better", "same", "-") and "loss=0" not in row
            },
            done.stdout,
        )

    def test_only_what_is_beyond_the_noise_has_changed(self) -> None:
        old = {
            ("veth", "tcp1"): [20, 20.5, 21],
            ("a", "tcp1"): [10, 10.2, 10.4],
            ("b", "tcp1"): [10, 10.2, 10.4],
            ("c", "tcp1"): [8, 10, 12],
            ("d", "tcp1"): [10, 10.1, 10.2],
            ("a", "rtt"): [100, 101, 102],
            ("b", "rtt"): [100, 101, 102],
        }
        new = {
            ("veth", "tcp1"): [20.2, 20.6, 21],
            ("a", "tcp1"): [7, 7.1, 7.2],
            ("b", "tcp1"): [14, 14.2, 14.4],
            ("c", "tcp1"): [7.2, 7.5, 7.9],
            ("d", "tcp1"): [9.7, 9.8, 9.9],
            ("a", "rtt"): [150, 151, 152],
            ("b", "rtt"): [60, 61, 62],
        }
        status, verdicts, _ = self.compare(self.document(old), self.document(new))
        self.assertEqual(
            verdicts,
            {
                "veth tcp1": "same",
                "a tcp1": "worse",
                "b tcp1": "better",
                # Apart, but by less than the runs of the old file are among themselves.
                "c tcp1": "same",
                # Apart, but by less than 5 %.
                "d tcp1": "same",
                # Of round trips less is better.
                "a rtt": "worse",
                "b rtt": "better",
            },
        )
        self.assertEqual(status, 1)

    def test_nothing_worse_is_success(self) -> None:
        old = self.document({("a", "tcp1"): [10, 10.2, 10.4]})
        for new in ({("a", "tcp1"): [10.1, 10.2, 10.6]}, {("a", "tcp1"): [20, 20.2, 20.4]}):
            self.assertEqual(self.compare(old, self.document(new))[0], 0)

    def test_what_fails_now_is_worse_and_what_was_not_run_is_not(self) -> None:
        old = self.document({("a", "tcp1"): [10, 10, 10], ("b", "tcp1"): [10, 10, 10]})
        failed = [{"system": "a", "test": None, "reason": "no TUN"}]
        status, verdicts, _ = self.compare(old, self.document({}, failed))
        self.assertEqual((status, verdicts), (1, {"a tcp1": "worse", "b tcp1": "-"}))

    def test_a_machine_that_changed_is_mentioned(self) -> None:
        old, new = self.document({("veth", "tcp1"): [20, 20, 20]}), self.document({("veth", "tcp1"): [9, 9, 9]})
        new["host"] = {**HOST, "kernel": "6.99.0"}
        status, _, text = self.compare(old, new)
        self.assertEqual(status, 1)
        self.assertIn("warning: not the same kernel: 6.18.0 and 6.99.0", text)
        self.assertIn("the machine was not the same", text)

    def test_other_files_are_refused(self) -> None:
        for text in ("[]", "{", '{"host": {}}'):
            path = self.directory / "file"
            path.write_text(text, encoding="utf-8")
            done = bench("--compare", path, path)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("is no results.json", done.stderr)
        self.assertIn("No such file", bench("--compare", self.directory / "none", path).stderr)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ProgressLines(unittest.TestCase):
    def test_a_line_has_the_time_left_and_a_terminal_a_bar(self) -> None:
        plain, terminal = io.StringIO(), Terminal()
        for stream in (plain, terminal):
            progress = Progress(120, stream)
            progress.begin("veth tcp1")
            progress.end(60, "veth tcp1 20 gbps")
            progress.finish()
        (line,) = plain.getvalue().splitlines()
        self.assertRegex(line, r"^\[0:\d\d left\] veth tcp1 20 gbps$")
        self.assertIn("[##############..............]  50%  ", terminal.getvalue())
        self.assertTrue(terminal.getvalue().endswith("\r\x1b[K"))


class CommandLine(unittest.TestCase):
    def test_mistakes_are_told_before_anything_is_built(self) -> None:
        for arguments, words in (
            (("--systems", "veth,tunl0"), "unknown: tunl0; known: veth, kernel-vxlan"),
            (("--tests", "tcp2"), "unknown: tcp2; known: tcp1, tcp4"),
            (("--runs", "0"), "0 is not a number from 1 to 100"),
            (("--quik",), "unrecognized arguments: --quik"),
            (("--sweep", "mut"), "unknown: mut; known: workers, mtu, routes, loss, uplink"),
            (("--seconds", "0.5"), "0.5 is not a number from 1 to 600"),
        ):
            done = bench(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(words, done.stderr)

    def test_help_says_how_long_it_takes(self) -> None:
        done = bench("--help")
        self.assertRegex(done.stdout, r"--quick --sweep routes +\d+:\d\d")
        self.assertEqual(done.returncode, 0)

    def test_list_names_all_systems_tests_and_sweeps(self) -> None:
        done = bench("--list")
        names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
        self.assertEqual(
            names,
            [
                "veth",
                "kernel-vxlan",
                "underpass-vxlan",
                "underpass-vxlan-socket",
                "underpass-vxlan-tap",
                "underpass-ipip",
                "underpass-direct",
                "underpass-direct-kernel",
                "underpass-vxlan-plain",
                "tun-copy-loop",
                "ovs-vxlan",
                "wireguard-go",
                "boringtun",
                "tcp1",
                "tcp4",
                "tcp16",
                "tcp1-reverse",
                "tcp4-reverse",
                "tcp16-reverse",
                "udp1350",
                "udp512",
                "udp64",
                "rtt",
                "rtt-load",
                "connections",
                "workers",
                "mtu",
                "routes",
                "loss",
                "uplink",
            ],
        )
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
