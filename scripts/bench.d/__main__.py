"""The engine of scripts/bench: runs the tests, writes results.json, report.md and throughput.svg.

Called by scripts/bench, which installs and builds what is needed and sets UNDERPASS_BIN (the daemon)
and BENCH_NETLOAD (the load generator, examples/netload).
"""

import argparse
import pathlib
import signal
import sys
import time

import host
import report
from lab import Failure, Lab
from measure import TESTS, Lengths, Load, quiet
from results import Results
from systems import SYSTEMS

FULL = Lengths(tcp_s=10, probe_ms=500, confirm_ms=3000, rtt_count=500, connections_ms=5000)
QUICK = Lengths(tcp_s=2, probe_ms=100, confirm_ms=300, rtt_count=60, connections_ms=400)
# Making a lab, bringing a system up, warming up, taking it down; seconds.
SETUP_S = 1.2
# A system that fails in this many rounds is not tried again.
GIVE_UP = 2


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Throughput of tunnels, side by side, in one run.", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="3 short runs instead of 5 long ones")
    parser.add_argument("--systems", metavar="LIST", type=chooser(SYSTEMS), help="comma-separated; default: all")
    parser.add_argument("--tests", metavar="LIST", type=chooser(TESTS), help="comma-separated; default: all")
    parser.add_argument("--out", metavar="DIR", type=pathlib.Path, default=pathlib.Path("bench-results"),
                        help="where the three files go; default: bench-results")
    parser.add_argument("--runs", metavar="N", type=positive, help="runs of each test; default: 3 with --quick, else 5")
    parser.add_argument("--list", action="store_true", help="list systems and tests, run nothing")
    parser.add_argument("--install-peers", action="store_true",
                        help="install the other userspace tunnels first (Debian packages, one crate)")
    return parser.parse_args()


def chooser(known):
    """Turns a comma-separated list of names into the things of that name, in the order of `known`."""

    def choose(text):
        names = [name for name in text.split(",") if name]
        unknown = sorted(set(names) - {item.name for item in known})
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown) or 'nothing'}; known: {', '.join(item.name for item in known)}")
        return [item for item in known if item.name in names]

    return choose


def positive(text):
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 100")
    return int(text)


def main():
    options = arguments()
    if options.list:
        return list_all()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    systems, tests = options.systems or SYSTEMS, options.tests or TESTS
    runs = options.runs or (3 if options.quick else 5)
    results = Results(host.facts(sys.argv[1:], systems), tests)
    measurable = []
    for system in systems:
        reason = system.missing()
        if reason:
            say(f"skipped: {system.name}: {reason}")
            results.skip(system, reason)
        else:
            measurable.append(system)
    rounds(measurable, tests, runs, QUICK if options.quick else FULL, results)
    report.write(options.out, results, systems)
    say(f"wrote results.json, report.md and throughput.svg to {options.out}")
    return 1 if results.failed else 0


def list_all():
    for title, items in (("systems", SYSTEMS), ("tests", TESTS)):
        print(f"{title}:")
        for item in items:
            missing = item.missing() if hasattr(item, "missing") else None
            print(f"  {item.name:<24}{item.about}{f' [{missing}]' if missing else ''}")
    return 0


def rounds(systems, tests, runs, lengths, results):
    """Runs A B C, A B C …: what slows the machine for a while then slows all of them."""
    progress = Progress(systems, tests, runs, lengths)
    for number in range(runs):
        for system in systems:
            if results.failures(system) < GIVE_UP:
                one_turn(system, tests, lengths, results, progress)
            progress.done_until(number, system)


def one_turn(system, tests, lengths, results, progress):
    """One run of every test on one system, in a lab of its own."""
    try:
        with Lab() as lab:
            load = Load(lab, system.up(lab), lengths)
            load.warm_up()
            results.facts[system.name] = system.inspect(lab)
            for test in tests:
                one_run(system, test, load, results, progress)
    except Failure as failure:
        results.fail(system, None, str(failure))
        progress.say(f"{system.name} FAILED: {failure}")
    quiet()


def one_run(system, test, load, results, progress):
    try:
        outcome = test.run(load)
    except Failure as failure:
        results.fail(system, test, str(failure))
        progress.say(f"{system.name} {test.name} FAILED: {failure}")
        return
    results.add(system, test, outcome)
    progress.say(f"{system.name:<24}{test.name:<14}{report.figure(outcome['value'])} {test.unit}")


class Progress:
    """One line for each finished run on standard error, with the time left."""

    def __init__(self, systems, tests, runs, lengths):
        self.systems = systems
        self.turn_s = SETUP_S + sum(test.seconds(lengths) for test in tests)
        self.left = runs * len(systems)
        self.turn_begun = time.monotonic()
        say(f"{len(systems)} systems, {len(tests)} tests, {runs} runs: about {clock(self.left * self.turn_s)}")

    def done_until(self, number, system):
        """A turn has ended: what turns take is known better now."""
        now = time.monotonic()
        turns = number * len(self.systems) + self.systems.index(system)
        self.turn_s = (self.turn_s * (turns + 1) + now - self.turn_begun) / (turns + 2)
        self.left -= 1
        self.turn_begun = now

    def say(self, text):
        left = self.left * self.turn_s - (time.monotonic() - self.turn_begun)
        say(f"[{clock(max(left, 0))} left] {text}")


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failure as failure:
        sys.exit(f"error: {failure}")
