"""scripts/bench: runs the tests, writes results.json, report.md and the plots.

Called by scripts/bench, which installs and builds what is needed and sets UNDERPASS_BIN (the daemon),
BENCH_NETLOAD (the load generator) and BENCH_COPYLOOP (the floor), both of tools/.
"""

import argparse
import os
import pathlib
import signal
import sys
import tempfile

from underpass_lab.bench import compare, flame, host, options, partial, report, rootless
from underpass_lab.bench.measure import SIDE_BY_SIDE, TESTS, Test
from underpass_lab.bench.progress import Progress, clock
from underpass_lab.bench.results import Results
from underpass_lab.bench.runner import Runner, Turn, along, side_by_side
from underpass_lab.bench.sweeps import SWEEPS
from underpass_lab.bench.systems import SYSTEMS, System
from underpass_lab.command import Failure
from underpass_lab.network import ENDING_SIGNALS


def main(words: list[str]) -> int:
    asked = options.parse(words)
    if asked.list:
        return list_all()
    if asked.compare:
        return compare.main(*asked.compare)
    if not rootless.may_make_namespaces():
        return rootless.enter(words)
    for number in ENDING_SIGNALS:
        signal.signal(number, interrupted)
    return measure(asked, words)


def interrupted(number: int, _frame: object) -> None:
    # The first one ends the bench in good order; no further one shall disturb that.
    for other in ENDING_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def measure(asked: argparse.Namespace, words: list[str]) -> int:
    make_writable(asked.out)
    if asked.flamegraph:
        files = flame.draw(asked.systems, asked.lengths, asked.out, say)
        say(f"wrote {', '.join(files)} to {asked.out}")
        return 0 if files else 1
    turns, tests, skipped = planned(asked)
    systems = [system for system in SYSTEMS if system in {turn.system for turn in turns}]
    if any(system.needs_tun and not system.foreign for system in systems):
        rootless.require_tun()
    results = Results(host.facts(words, systems, asked.sweep), [*tests], asked.sweep or ())
    for system, reason in skipped:
        say(f"skipped: {system.name}: {reason}")
        results.skip(system, reason)
    return go(asked, turns, results)


def make_writable(directory: pathlib.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise Failure(f"--out: {directory}: {error.strerror}") from None


def planned(asked: argparse.Namespace) -> tuple[list[Turn], list[Test], list[tuple[System, str]]]:
    """The turns, the tests in them, and the systems that are left out with the reason."""
    systems = asked.systems or [
        system for system in SYSTEMS if any(system.name in sweep.systems for sweep in asked.sweep)
    ]
    skipped = [(system, reason) for system in systems if (reason := system.missing())]
    able = [system for system in systems if system not in {system for system, _ in skipped}]
    if not asked.sweep:
        return side_by_side(able, asked.tests, asked.runs), asked.tests, skipped
    turns: list[Turn] = []
    used: set[Test] = set()
    for sweep in asked.sweep:
        tests = asked.tests or [test for test in TESTS if test.name in sweep.tests]
        fitting = [
            system for system in able if sweep.applies_to(system) and (asked.systems or system.name in sweep.systems)
        ]
        for system in able:
            if asked.systems and system not in fitting:
                say(f"not in sweep {sweep.name}: {system.name} has no such setting")
        turns += along(sweep, fitting, tests, asked.runs)
        used.update(tests)
    if not turns and not skipped:
        raise Failure("nothing to measure: none of these systems has such a setting")
    return turns, [test for test in TESTS if test in used], skipped


def go(asked: argparse.Namespace, turns: list[Turn], results: Results) -> int:
    path = asked.out / "partial.jsonl"
    if asked.fresh:
        path.unlink(missing_ok=True)
    kept = partial.Partial(
        path,
        partial.settings(
            lengths=vars(asked.lengths),
            turns=[[turn.number, turn.label(), [test.name for test in turn.tests]] for turn in turns],
        ),
    )
    if kept.note:
        say(kept.note)
    results.host["resumed_runs"] = partial.finished(kept.kept)
    runner = Runner(results, kept, asked.lengths, rootless.is_rootless())
    left = runner.left_of(turns)
    seconds = sum(map(runner.seconds, left))
    say(
        f"systems: {len({turn.system for turn in turns})}, tests: {len(results.tests)}, runs of each: {asked.runs}; "
        f"about {clock(seconds)}"
    )
    progress = Progress(seconds)
    try:
        runner.run(left, progress)
    except (KeyboardInterrupt, SystemExit):
        progress.finish()
        say(f"interrupted: started again with the same options, it goes on from here ({path})")
        raise
    progress.finish()
    files = report.write(asked.out, results, SYSTEMS)
    kept.done()
    say(f"wrote {', '.join(files)} to {asked.out}")
    return 1 if results.failed else 0


def list_all() -> int:
    for title, items in (("systems", SYSTEMS), ("tests", SIDE_BY_SIDE), ("sweeps", SWEEPS)):
        print(f"{title}:")
        for item in items:
            missing = item.missing() if hasattr(item, "missing") else None
            print(f"  {item.name:<30}{item.about}{f' [{missing}]' if missing else ''}")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the list or the comparison has seen enough; nothing more is to be flushed there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Failure as failure:
        sys.exit(f"error: {failure}")
