"""The command line, and how long it will take."""

import argparse
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TypeVar

from underpass_lab.bench.measure import SIDE_BY_SIDE, TESTS, Lengths, Test
from underpass_lab.bench.progress import clock
from underpass_lab.bench.sweeps import POLICY, POLICY_SWEEPS, SWEEPS, Sweep
from underpass_lab.bench.systems import SYSTEMS, System

Item = TypeVar("Item", System, Test, Sweep)

FULL = Lengths(tcp_s=5, probe_ms=300, confirm_ms=2000, rtt_count=300, loaded_ms=4000, connections_ms=3000)
QUICK = Lengths(tcp_s=2, probe_ms=100, confirm_ms=300, rtt_count=60, loaded_ms=1500, connections_ms=400)
FULL_RUNS, QUICK_RUNS = 5, 3
# Making a lab, bringing a system up, warming up, taking it down; seconds.
SETUP_S = 1.5
# The same for a table of a million routes.
ROUTES_S = 5
QUICK_TESTS = [test.name for test in TESTS if test.quick]
DEFAULT_OUT = pathlib.Path("bench-results")


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Throughput of tunnels, side by side, in one run.",
        epilog=durations(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="3 short runs instead of 5 longer ones, and fewer tests")
    parser.add_argument(
        "--systems", metavar="LIST", type=chooser(SYSTEMS), help="comma-separated, or all; default: all"
    )
    parser.add_argument(
        "--tests",
        metavar="LIST",
        type=choose_tests,
        help=f"comma-separated, or all; default: all, with --quick {', '.join(QUICK_TESTS)}. "
        f"{POLICY}: what policies cost, the same as --sweep {','.join(POLICY_SWEEPS)}",
    )
    parser.add_argument(
        "--sweep",
        metavar="LIST",
        type=chooser(SWEEPS),
        help="in place of the tests side by side: throughput against a setting; "
        f"{', '.join(sweep.name for sweep in SWEEPS)}, comma-separated, or all",
    )
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, help=f"where the files go; default: {DEFAULT_OUT}")
    parser.add_argument(
        "--runs",
        metavar="N",
        type=number(1, 100),
        help=f"runs of each test; default: {QUICK_RUNS} with --quick, else {FULL_RUNS}",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=number(1, 600),
        help="length of a TCP run, the other tests in proportion; "
        f"default: {QUICK.tcp_s} with --quick, else {FULL.tcp_s}",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="do not go on with the runs that an interrupted bench left in DIR"
    )
    parser.add_argument(
        "--flamegraph",
        action="store_true",
        help="in place of the tests: where the processors are during one TCP stream (perf, inferno); "
        "default system: underpass-vxlan",
    )
    parser.add_argument(
        "--compare",
        metavar=("OLD", "NEW"),
        nargs=2,
        type=pathlib.Path,
        help="compare two results.json and run nothing; exit status 1 when something is worse",
    )
    parser.add_argument("--list", action="store_true", help="list systems, tests and sweeps, run nothing")
    parser.add_argument(
        "--install-peers",
        action="store_true",
        help="install the other userspace tunnels first (Debian packages, one crate)",
    )
    return settle(parser, parser.parse_args(words))


def settle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> argparse.Namespace:
    """Puts the defaults in, which depend on each other."""
    if options.tests == POLICY:
        if options.sweep:
            parser.error(f"--tests {POLICY} is --sweep {','.join(POLICY_SWEEPS)}: leave one of them out")
        options.tests, options.sweep = None, [sweep for sweep in SWEEPS if sweep.name in POLICY_SWEEPS]
    lengths = QUICK if options.quick else FULL
    options.lengths = lengths.scaled(options.seconds) if options.seconds else lengths
    options.runs = options.runs or (QUICK_RUNS if options.quick else FULL_RUNS)
    if options.flamegraph:
        options.systems = options.systems or [system for system in SYSTEMS if system.name == "underpass-vxlan"]
    if not options.sweep:
        options.systems = options.systems or SYSTEMS
        options.tests = options.tests or [test for test in SIDE_BY_SIDE if test.quick or not options.quick]
    options.out = options.out or default_out()
    if "BENCH_ROOTLESS" in os.environ and options.out.resolve().is_relative_to("/run"):
        parser.error("--out: without root, /run is not the one outside; choose another directory")
    return options


def default_out() -> pathlib.Path:
    """bench-results, or a directory for temporary files where the current one belongs to another user."""
    near = DEFAULT_OUT if DEFAULT_OUT.exists() else pathlib.Path(".")
    if os.access(near, os.W_OK):
        return DEFAULT_OUT
    # The same in the namespaces, where the user has another number.
    user = os.environ.get("BENCH_ROOTLESS", os.getuid())
    return pathlib.Path(tempfile.gettempdir()) / f"underpass-bench-results-{user}"


def chooser(known: Sequence[Item]) -> Callable[[str], list[Item]]:
    """Turns a comma-separated list of names into the things of that name, in the order of `known`."""

    def choose(text: str) -> list[Item]:
        names = [name for name in text.split(",") if name]
        if names == ["all"]:
            return list(known)
        unknown = sorted(set(names) - {item.name for item in known})
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown) or 'nothing'}; known: {', '.join(item.name for item in known)}"
            )
        return [item for item in known if item.name in names]

    return choose


def choose_tests(text: str) -> list[Test] | str:
    """The tests of these names, or POLICY, which is none but stands for sweeps."""
    return POLICY if text == POLICY else chooser(SIDE_BY_SIDE)(text)


def number(least: int, most: int) -> Callable[[str], int]:
    def parse_number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return int(text)

    return parse_number


# --- how long it takes ----------------------------------------------------------------------------


def turn_seconds(tests: Sequence[Test], lengths: Lengths, routes: int | None = 0) -> float:
    """One run of these tests on one system."""
    return SETUP_S + ROUTES_S * (routes or 0) / 1e6 + sum(test.seconds(lengths) for test in tests)


def durations() -> str:
    """The end of --help."""

    def tables(lengths: Lengths, tests: Sequence[Test], runs: int) -> str:
        return clock(runs * len(SYSTEMS) * turn_seconds(tests, lengths))

    def sweep(item: Sweep, lengths: Lengths, runs: int) -> str:
        tests = [test for test in TESTS if test.name in item.tests]
        turns = (turn_seconds(tests, lengths, item.conditions(value).routes) for value in item.values)
        return clock(runs * len(item.systems) * sum(turns))

    quick = [test for test in TESTS if test.quick]
    lines = [
        "how long it takes, in minutes (or h:min:s), when all systems are installed:",
        f"  --quick                 {tables(QUICK, quick, QUICK_RUNS):>8}",
        f"  --quick --tests all     {tables(QUICK, SIDE_BY_SIDE, QUICK_RUNS):>8}",
        f"  neither                 {tables(FULL, SIDE_BY_SIDE, FULL_RUNS):>8}",
        *(
            f"  --quick --sweep {item.name:<8}{sweep(item, QUICK, QUICK_RUNS):>8}"
            f"   without --quick {sweep(item, FULL, FULL_RUNS)}"
            for item in SWEEPS
        ),
        "An interrupted bench goes on where it stopped when it is started again with the same options and programs.",
        "docs/benchmarks.md explains every test, system and figure.",
    ]
    return "\n".join(lines)
