"""What scripts/bench tells before it builds anything, and the documents it makes of given figures."""

import pathlib
import subprocess
import sys
import types
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
# Behind everything else: the engine has modules of the same names as some here.
sys.path.append(str(SCRIPTS / "bench.d"))

import report  # noqa: E402 (the path comes first)
from results import Results  # noqa: E402

HOST = {
    "command": "scripts/bench --quick", "date": "2026-01-02T03:04:05+00:00", "commit": "abc1234", "cpu": "a CPU",
    "cores": 2, "memory_mib": 2048, "kernel": "6.18.0", "distribution": "Debian", "lab": "a veth pair",
    "load_before": 0.1,
    "versions": {"iperf3": "iperf 3.12"},
}


def named(name, unit=None):
    return types.SimpleNamespace(name=name, unit=unit, about=f"about {name}", lower_is_better=False)


TCP, UDP, RTT = named("tcp1", "gbps"), named("udp64", "packets/s"), named("rtt", "us")
VETH, KERNEL, OURS, DIRECT = map(named, ("veth", "kernel-vxlan", "underpass-vxlan", "underpass-direct"))


def bench(*arguments):
    return subprocess.run((SCRIPTS / "bench", *arguments), capture_output=True, text=True, timeout=30, check=False)


class Documents(unittest.TestCase):
    def setUp(self):
        self.results = Results(HOST, [TCP, UDP, RTT])
        for system, values in ((VETH, (20.0, 10.0, 30.0)), (KERNEL, (8.0, 16.0, 12.0)), (OURS, (6.0, 9.0, 3.0)),
                               (DIRECT, (15.0, 15.0, 5.0))):
            for value in values:
                self.results.add(system, TCP, {"value": value, "cpu_s_per_gb": 24 / value})

    def test_an_entry_has_median_spread_and_runs(self):
        self.assertEqual(self.results.document()["results"][2], {
            "system": "underpass-vxlan", "test": "tcp1", "unit": "gbps", "median": 6.0, "min": 3.0, "max": 9.0,
            "runs": [6.0, 9.0, 3.0], "cpu_s_per_gb": 4.0,
        })

    def test_ratios_are_of_medians_and_direct_is_compared_with_the_bare_link(self):
        self.assertEqual(self.results.document()["ratios"], [
            {"test": "tcp1", "of": "underpass-vxlan", "to": "kernel-vxlan", "ratio": 0.5},
            {"test": "tcp1", "of": "underpass-direct", "to": "veth", "ratio": 0.75},
        ])

    def test_udp_keeps_the_worst_loss_and_all_reordering(self):
        for loss, reordered in ((0.0, 3), (0.0009, 4)):
            self.results.add(OURS, UDP, {"value": 1000.0, "cpu_s_per_gb": 1.0, "loss": loss, "reordered": reordered})
        entry = self.results.document()["results"][-1]
        self.assertEqual((entry["loss"], entry["reordered"], entry["median"]), (0.0009, 7, 1000.0))

    def test_skipped_and_failed_are_named_in_both_documents(self):
        self.results.skip(named("boringtun"), "not installed")
        self.results.fail(OURS, RTT, "no answer")
        self.results.fail(named("underpass-vxlan-tap"), None, "no TAP")
        document = self.results.document()
        self.assertEqual(document["skipped"], [{"system": "boringtun", "reason": "not installed"}])
        self.assertEqual(document["failed"], [
            {"system": "underpass-vxlan", "test": "rtt", "reason": "no answer"},
            {"system": "underpass-vxlan-tap", "test": None, "reason": "no TAP"},
        ])
        text = report.markdown(document, self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        for line in ("- boringtun: not installed", "- underpass-vxlan rtt: no answer", "- underpass-vxlan-tap: no TAP"):
            self.assertIn(line, text.splitlines())

    def test_the_tables_of_the_report(self):
        text = report.markdown(self.results.document(), self.results.tests, [VETH, KERNEL, OURS, DIRECT])
        for line in (
            "| | tcp1, Gbit/s |",
            "| veth | 20.0 (10.0–30.0) |",
            "| underpass-vxlan | 4.00 |",
            "| underpass-vxlan / kernel-vxlan | 0.50 |",
        ):
            self.assertIn(line, text.splitlines())

    def test_a_run_without_a_single_figure_is_still_a_report(self):
        nothing = Results(HOST, [TCP])
        nothing.fail(OURS, None, "no TUN")
        text = report.markdown(nothing.document(), nothing.tests, [OURS])
        self.assertIn("- underpass-vxlan: no TUN", text.splitlines())


class CommandLine(unittest.TestCase):
    def test_mistakes_are_told_before_anything_is_built(self):
        for arguments, words in (
            (("--systems", "veth,tunl0"), "unknown: tunl0; known: veth, kernel-vxlan"),
            (("--tests", "tcp2"), "unknown: tcp2; known: tcp1, tcp4"),
            (("--runs", "0"), "0 is not a number from 1 to 100"),
            (("--quik",), "unrecognized arguments: --quik"),
        ):
            done = bench(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertIn(words, done.stderr)

    def test_list_names_all_systems_and_tests(self):
        done = bench("--list")
        names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
        self.assertEqual(names, [
            "veth", "kernel-vxlan", "underpass-vxlan", "underpass-vxlan-socket", "underpass-vxlan-tap",
            "underpass-ipip", "underpass-direct", "underpass-vxlan-plain", "ovs-vxlan", "wireguard-go", "boringtun",
            "tcp1", "tcp4", "tcp1-reverse", "udp1350", "udp64", "rtt", "connections",
        ])
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
