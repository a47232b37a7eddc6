"""What scripts/bench tells before it builds anything, and the documents it makes of given figures.

Short runs of the bench itself are in test_bench_runs.py.
"""

import bootstrap

import copy
import io
import json
import pathlib
import socket
import statistics
import subprocess
import tempfile
import threading
import types
import unittest
from typing import Any

from underpass_lab.bench import kernel_path, measure, report, rules
from underpass_lab.bench.kernel_path import Count, Counts
from underpass_lab.bench.options import QUICK
from underpass_lab.bench.pair import FORBIDDEN, Conditions
from underpass_lab.bench.partial import Partial
from underpass_lab.bench.progress import Progress
from underpass_lab.bench.results import Results
from underpass_lab.bench.runner import Runner, Turn
from underpass_lab.bench.sweeps import SWEEPS
from underpass_lab.bench.systems import SYSTEMS, Underpass
from underpass_lab.command import Failure
from underpass_lab.paths import PACKAGE, PYTHON, REPO

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

    def test_round_trips_by_udp_have_a_table_of_their_own(self) -> None:
        asked = named("rtt-udp", "us")
        self.results.tests.append(asked)
        self.results.add(OURS, RTT, {"value": 150.0, "p99": 250.0, "back_to_back": 50.0})
        self.results.add(OURS, asked, {"value": 20.0, "p99": 30.0, "back_to_back": 10.0})
        lines = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT]).splitlines()
        for title, row in (
            ("ICMP echoes:", "| underpass-vxlan | 150 | 250 | 50.0 |"),
            ("Questions and answers by UDP, one flow:", "| underpass-vxlan | 20.0 | 30.0 | 10.0 |"),
        ):
            self.assertIn(row, lines[lines.index(title) :][:8])

    def test_which_way_packets_went_is_told(self) -> None:
        text = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        self.assertNotIn("## The kernel path", text)
        ours = named("underpass-vxlan-kernel")
        for share in (0.5, 0.9996, 1.0):
            self.results.add(ours, TCP, {"value": 9.0, "cpu_s_per_gb": 1.0, "kernel_share": share})
        text = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT, ours])
        self.assertIn("| underpass-vxlan-kernel | 99.9 % |", text.splitlines())
        self.assertIn("| underpass-vxlan-kernel / kernel-vxlan | 0.75 |", text.splitlines())

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
        names = ("underpass-vxlan-socket", "underpass-vxlan-tap", "underpass-vxlan-kernel", "underpass-vxlan-pump")
        by_socket, by_tap, by_kernel, pump = map(named, names)
        results = Results(HOST, [TCP], [sweep])
        figures = (
            (KERNEL, (4.0, 2.0)),
            (OURS, (3.5, 1.0)),
            (by_socket, (3.5, 4.0)),
            (by_tap, (0.5, 1.0)),
            (by_kernel, (7.0, 2.0)),
            (pump, (3.5, 2.0)),
        )
        for system, values in figures:
            part = {"kernel_share": 0.0} if system == OURS else {}
            for value, figure in zip(sweep.values, values, strict=True):
                results.add(system, TCP, {"value": figure, "cpu_s_per_gb": 1.0, **part}, ("uplink", value))
        for system in (OURS, pump):
            results.note(system, {"tap": "off: u0 is slow"}, ("uplink", "no tunnel"))
            results.note(system, {"tap": "active"}, ("uplink", "none, GRO"))
        return results, [system for system, _ in figures]

    def test_the_sweep_over_uplinks_judges_the_choice(self) -> None:
        results, systems = self.uplink_results()
        text = report.markdown(results.document(), [TCP], systems).splitlines()
        for line in (
            "| | no tunnel | none, GRO |",
            "| | over the best of socket, TAP and kernel path | over kernel-vxlan | by the kernel path "
            "| what it says of its TAP |",
            "| no tunnel | 0.50 | 0.88 | 0 % | off: u0 is slow |",
            "| none, GRO | 0.25 | 0.50 | 0 % | active |",
            "| | over the better of socket and TAP | over kernel-vxlan | by the kernel path "
            "| what it says of its TAP |",
            "| no tunnel | 1.00 | 0.88 | – | off: u0 is slow |",
            "| none, GRO | 0.50 | 1.00 | – | active |",
        ):
            self.assertIn(line, text)

    def policy_results(self) -> Any:
        """Rules cost us nothing and the kernel a half; connections cost us 100 MiB."""
        memory = named("memory", "mib")
        policy = types.SimpleNamespace(name="policy", axis="rules that match nothing", values=("off", 1000))
        tracked = types.SimpleNamespace(name="tracked", axis="connections known", values=(1_000_000,))
        results = Results(HOST, [TCP, memory], [policy, tracked])
        for system, values in ((KERNEL, (8.0, 4.0)), (OURS, (6.0, 5.97))):
            for value, figure in zip(policy.values, values, strict=True):
                results.add(system, TCP, {"value": figure, "cpu_s_per_gb": 1.0}, ("policy", value))
        for grown in (90.0, 100.0, 110.0):
            found = {"value": grown, "per_500k": grown / 2, "known": 1_000_000}
            results.add(OURS, memory, found, ("tracked", 1_000_000))
        return results

    def test_the_sweep_over_policies_tells_what_rules_cost(self) -> None:
        results = self.policy_results()
        text = report.markdown(results.document(), results.tests, [KERNEL, OURS]).splitlines()
        for line in (
            "| | off | 1,000 |",
            "| kernel-vxlan / its own without policies | 1.000 | 0.500 |",
            "| underpass-vxlan / its own without policies | 1.000 | 0.995 |",
            "| underpass-vxlan / kernel-vxlan | 0.750 | 1.492 |",
            "memory, MiB, by connections known:",
            "| underpass-vxlan | 100 (90.0–110) |",
            "MiB for 500,000 connections:",
            "| underpass-vxlan | 50.0 |",
        ):
            self.assertIn(line, text)

    def test_numbers_and_names_on_an_axis_are_drawn(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            try:
                from underpass_lab.bench import curves
            except ImportError:
                self.skipTest("python3-matplotlib is not installed")
            files = curves.draw_all(pathlib.Path(directory), self.policy_results().document(), [KERNEL, OURS])
            self.assertEqual(files, ["sweep-policy.svg", "sweep-tracked.svg"])
            self.assertIn("Memory against", (pathlib.Path(directory) / files[1]).read_text(encoding="utf-8"))

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
        self.results.add(OURS, RTT, {"value": 20.0, "p99": 30.0, "back_to_back": 10.0, "kernel_share": 0.5})
        self.results.skip(named("boringtun"), "not installed")
        self.results.fail(named("underpass-vxlan-tap"), None, "no TAP")
        self.results.fail(OURS, TCP, "no answer", ("loss", 0.1))
        document = self.results.document()
        jsonschema.validate(document, SCHEMA)
        jsonschema.validate(self.uplink_results()[0].document(), SCHEMA)
        jsonschema.validate(self.policy_results().document(), SCHEMA)
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


class PolicyRules(unittest.TestCase):
    """The same rules for both."""

    def test_policies_and_nftables_deny_the_same(self) -> None:
        made = [policy["spec"] for policy in rules.policies(2500)]
        self.assertEqual([len(spec["egress"]) for spec in made], [1000, 1000, 500, 1])
        self.assertEqual([spec["order"] for spec in made], [0, 1000, 2000, 2500])
        lines = {line.strip() for line in rules.nftables(2500).splitlines()}
        seen = set()
        for spec in made[:-1]:
            for side, direction in (("source", "ingress"), ("destination", "egress")):
                for rule in spec[direction]:
                    (net,), (port,) = rule[side]["nets"], rule["destination"]["ports"]
                    self.assertIn(f"ip {side[0]}addr {net} tcp dport {port} drop", lines)
                    seen.add((direction, net, port))
        self.assertEqual(len(seen), 5000)
        self.assertEqual(made[-1]["egress"], [{"action": "Allow", "destination": {"nets": rules.ALLOWED}}])
        self.assertNotIn(f"{FORBIDDEN}/32", rules.ALLOWED)

    def test_more_than_there_are_networks_is_refused(self) -> None:
        with self.assertRaises(Failure):
            rules.denied(20_000)


def grown(carried: int, tun: dict[str, Count], link: dict[str, Count]) -> Counts:
    return Counts(carried, link, tun)


def both_ways(sent: tuple[int, int], received: tuple[int, int]) -> dict[str, Count]:
    return {"tx": Count(*sent), "rx": Count(*received)}


BOTH = ("tx", "rx")
# A GB in super-packets with their acknowledgements, as one node counts them; its segments; a thousand questions.
STREAM = both_ways((16_000, 1_000_000_000), (9_000, 1_044_000))
SEGMENTS = 730_000
QUESTIONS = both_ways((1_000, 104_000), (1_000, 104_000))
SOME, NONE = both_ways((12, 3_000), (11, 2_000)), both_ways((0, 0), (0, 0))


class KernelPath(unittest.TestCase):
    """A figure of one way must not be had by the other one."""

    def test_what_programs_carried_is_carried(self) -> None:
        for counts in (grown(SEGMENTS + 9_000, SOME, STREAM), grown(1_980, SOME, QUESTIONS)):
            self.assertIsNone(kernel_path.not_carried(counts, BOTH, 1500))
            self.assertIsNone(kernel_path.fault([counts] * 2, "on", True, BOTH, 1500))

    def test_a_flow_of_the_pump_is_not(self) -> None:
        # The TUN's counts have no outer headers.
        stream, questions = (
            both_ways((16_000, 998_000_000), (9_000, 468_000)),
            both_ways((1_000, 40_000), (1_000, 40_000)),
        )
        for counts in (grown(0, stream, STREAM), grown(40, questions, QUESTIONS)):
            words = kernel_path.not_carried(counts, BOTH, 1500) or ""
            self.assertRegex(words, r"^it carried (0|40) packets of at least \d+$")

    def test_one_way_by_the_pump_is_told(self) -> None:
        for counts, words in (
            (grown(9_000, both_ways((16_000, 998_000_000), (0, 0)), STREAM), "it carried 9000 packets of at least"),
            (grown(SEGMENTS, both_ways((0, 0), (9_000, 468_000)), STREAM), "468000 of 1044000 bytes received went by"),
            (grown(1_000, both_ways((0, 0), (1_000, 40_000)), QUESTIONS), "it carried 1000 packets of at least 2000"),
        ):
            self.assertIn(words, kernel_path.not_carried(counts, BOTH, 1500) or "")

    def test_packets_that_took_neither_way_are_not_carried(self) -> None:
        self.assertIn("it carried 0 packets", kernel_path.not_carried(grown(0, NONE, STREAM), BOTH, 1500) or "")
        # Some other flow's packets are not those of the stream.
        self.assertIn("it carried 5000", kernel_path.not_carried(grown(5_000, SOME, STREAM), BOTH, 1500) or "")

    def test_without_encapsulation_what_comes_in_is_the_kernels(self) -> None:
        receiver = grown(9_000, NONE, {"tx": STREAM["rx"], "rx": STREAM["tx"]})
        self.assertIsNone(kernel_path.not_carried(receiver, ("tx",), 1500))
        self.assertIsNotNone(kernel_path.not_carried(receiver, BOTH, 1500))

    def test_what_is_asked_for_is_what_counts(self) -> None:
        carried, pumped = grown(SEGMENTS + 9_000, SOME, STREAM), grown(0, STREAM, STREAM)
        for nodes, asked, established, words in (
            ([carried, pumped], "on", True, "something else than the kernel path: n2: it carried 0"),
            ([pumped, carried], "on", True, "something else than the kernel path: n1: it carried 0"),
            ([], "on", True, "n1: the daemon does not know it"),
            ([carried, pumped], "on", False, None),
            ([pumped, pumped], "off", True, None),
            ([pumped, carried], "off", False, "something else than the pump: the kernel path carried 739000 packets"),
            ([], "off", True, None),
            ([carried, pumped], None, True, None),
        ):
            found = kernel_path.fault(nodes, asked, established, BOTH, 1500)
            if words is None:
                self.assertIsNone(found)
            else:
                self.assertIn(words, found or "")

    def test_the_share_is_of_segments(self) -> None:
        half = grown(0, both_ways((10, 0), (1, 1_095_000_000)), STREAM)
        self.assertAlmostEqual(kernel_path.share([grown(729_990, NONE, STREAM), half], 1500) or 0, 0.5, places=4)
        self.assertIsNone(kernel_path.share([], 1500))

    def test_a_figure_of_the_wrong_way_is_no_figure(self) -> None:
        """Through the runner, beside a test that programs need not carry."""

        def watch(_lab: Any) -> Any:
            def judge(established: bool) -> dict[str, Any]:
                if established:
                    raise Failure("measured something else")
                return {"kernel_share": 0.25}

            return judge

        system: Any = types.SimpleNamespace(name="ours", watch=watch)
        load: Any = types.SimpleNamespace(lab=None)
        tests = [
            measure.Test(name, "gbps", "about", lambda _load: {"value": 1.0}, lambda _lengths: 1, established=is_flow)
            for name, is_flow in (("stream", True), ("echoes", False))
        ]
        results = Results(HOST, [*tests])
        with tempfile.TemporaryDirectory() as directory:
            partial = Partial(pathlib.Path(directory) / "partial.jsonl", {})
            runner = Runner(results, partial, QUICK, rootless=False)
            said = [runner._test(Turn(0, system, tests), test, load) for test in tests]
            partial.done()
        self.assertIn("stream FAILED: measured something else", said[0])
        document = results.document()
        self.assertEqual(
            document["failed"], [{"system": "ours", "test": "stream", "reason": "measured something else"}]
        )
        self.assertEqual([(entry["test"], entry["kernel_share"]) for entry in document["results"]], [("echoes", 0.25)])

    def test_systems_ask_for_the_way_in_their_names(self) -> None:
        ours = {system.name: system for system in SYSTEMS if isinstance(system, Underpass)}
        asked = {name: system._tunnel(Conditions()).get("kernel_path") for name, system in ours.items()}
        self.assertEqual(
            {name for name, way in asked.items() if way == "on"},
            {"underpass-vxlan-kernel", "underpass-ipip-kernel", "underpass-direct-kernel-path"},
        )
        # Named by a way of the pump.
        self.assertEqual(
            {name for name, way in asked.items() if way == "off"},
            {f"underpass-vxlan-{way}" for way in ("pump", "busy-poll", "socket", "tap", "plain")},
        )
        self.assertEqual({name for name, system in ours.items() if system.ways == ("tx",)}, set(DIRECTS))
        text = ours["underpass-ipip-kernel"]._config("n1", pathlib.Path("socket"), Conditions())
        self.assertIn('\nkernel_path = "on"\n', text)

    def test_sweeps_over_the_pumps_settings_measure_the_pump(self) -> None:
        ours = {system.name: system for system in SYSTEMS if isinstance(system, Underpass)}
        for sweep in SWEEPS:
            of_pump = sweep.name in ("workers", "routes")
            keys = ours["underpass-vxlan"]._tunnel(sweep.conditions(sweep.values[-1]))
            self.assertEqual(keys.get("kernel_path"), "off" if of_pump else None, sweep.name)
            self.assertEqual(sweep.applies_to(ours["underpass-vxlan-kernel"]), not of_pump and sweep.name != "tracked")


DIRECTS = ("underpass-direct", "underpass-direct-kernel", "underpass-direct-kernel-path")


class RoundTripsByUdp(unittest.TestCase):
    """ask.py, with a far end that behaves as told."""

    def setUp(self) -> None:
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(self.far.close)
        self.far.bind(("127.0.0.1", 0))
        self.heard: list[bytes] = []
        self.near: set[Any] = set()

    def ask(self, *flags: object, silent: frozenset[int] = frozenset()) -> Any:
        """Answers all questions but those of these numbers; before each answer comes one to the question before."""

        def serve() -> None:
            while (question := self.far.recvfrom(64))[0] != b"end":
                datagram, near = question
                self.near.add(near)
                self.heard.append(datagram)
                number = int.from_bytes(datagram[:4], "little")
                if number not in silent:
                    self.far.sendto(self.heard[-2][:4] + bytes(16) if len(self.heard) > 1 else b"", near)
                    self.far.sendto(datagram[:4] + bytes(16), near)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = self.far.getsockname()[1]
            words = [PYTHON, "-I", measure.ASK, "127.0.0.1", "--port", port, *flags]
            return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=30, check=False)
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"end", self.far.getsockname())
            thread.join()

    def test_one_flow_asks_what_netload_answers(self) -> None:
        done = self.ask("--count", 20, "--gap-ms", 0)
        self.assertEqual(done.stderr, "")
        found = json.loads(done.stdout)
        self.assertEqual((found["count"], found["lost"]), (20, 0))
        self.assertGreaterEqual(found["p99_us"], found["p50_us"])
        self.assertGreater(found["p50_us"], 0)
        self.assertEqual((len(self.heard), len(self.near)), (120, 1))
        self.assertEqual({(len(question), question[4:]) for question in self.heard}, {(12, b"\xff" * 8)})

    def test_what_is_lost_is_counted_and_too_much_of_it_is_an_error(self) -> None:
        done = self.ask("--count", 20, "--gap-ms", 0, silent=frozenset({105}))
        found = json.loads(done.stdout)
        self.assertEqual((found["count"], found["lost"]), (19, 1))
        # An answer that came late is none to the next question: nothing takes as long as what was lost.
        self.assertLess(found["p99_us"], 1_000_000)
        done = self.ask("--count", 20, "--gap-ms", 0, "--max-lost", 1, silent=frozenset({3, 103}))
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("127.0.0.1: 2 round trips lost", done.stderr)

    def test_it_ends_in_time(self) -> None:
        done = self.ask("--count", 100_000, "--gap-ms", 1, "--limit-ms", 100)
        self.assertLess(json.loads(done.stdout)["count"], 101)


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
            (("--tests", "policy", "--sweep", "mtu"), "--tests policy is --sweep policy,tracked"),
            (("--tests", "policy,tcp1"), "unknown: policy; known: tcp1, tcp4"),
            (("--tests", "memory"), "unknown: memory; known: tcp1"),
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
                "underpass-vxlan-pump",
                "underpass-vxlan-busy-poll",
                "underpass-vxlan-socket",
                "underpass-vxlan-tap",
                "underpass-vxlan-kernel",
                "underpass-ipip",
                "underpass-ipip-kernel",
                "underpass-direct",
                "underpass-direct-kernel-path",
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
                "rtt-udp",
                "rtt-load",
                "rtt-udp-load",
                "connections",
                "workers",
                "mtu",
                "routes",
                "loss",
                "uplink",
                "policy",
                "tracked",
            ],
        )
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
