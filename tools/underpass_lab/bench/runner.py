"""The runs: which there are, in which order, and what becomes of each."""

import dataclasses
from typing import Any

from underpass_lab.bench import report
from underpass_lab.bench.measure import TESTS, Lengths, Load, Test, quiet
from underpass_lab.bench.options import turn_seconds
from underpass_lab.bench.pair import Conditions, Pair
from underpass_lab.bench.partial import Partial
from underpass_lab.bench.progress import Progress
from underpass_lab.bench.results import Point, Results
from underpass_lab.bench.sweeps import Sweep
from underpass_lab.bench.systems import SYSTEMS, System
from underpass_lab.command import Failure, brief

# A system that fails in this many rounds is not tried again.
GIVE_UP = 2
OUTSIDE_SWEEPS: Point = (None, None)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One run of some tests on one system, in a lab of its own."""

    number: int
    system: System
    tests: list[Test]
    point: Point = OUTSIDE_SWEEPS
    conditions: Conditions = Conditions()

    def label(self) -> str:
        sweep, value = self.point
        return self.system.name if sweep is None else f"{self.system.name} {sweep}={value}"


def side_by_side(systems: list[System], tests: list[Test], runs: int) -> list[Turn]:
    """A B C, A B C …: what slows the machine for a while then slows all of them."""
    return [Turn(number, system, tests) for number in range(runs) for system in systems]


def along(sweep: Sweep, systems: list[System], tests: list[Test], runs: int) -> list[Turn]:
    """All systems at the first value, at the second …, and all of that again."""
    return [
        Turn(number, system, tests, (sweep.name, value), sweep.conditions(value))
        for number in range(runs)
        for value in sweep.values
        for system in systems
    ]


class Runner:
    """Goes through the turns; keeps what it finds out in the results and in the partial file."""

    def __init__(self, results: Results, partial: Partial, lengths: Lengths, rootless: bool) -> None:
        self.results, self.partial, self.lengths, self.rootless = results, partial, lengths, rootless
        self.finished: set[tuple[int, Point, str, str | None]] = set()
        self.unfit: set[str] = set()

    def left_of(self, turns: list[Turn]) -> list[Turn]:
        """Takes over what an interrupted bench has kept; returns the turns that are left, with the tests that
        are left of each."""
        systems = {system.name: system for system in SYSTEMS}
        tests = {test.name: test for test in TESTS}
        for kept in self.partial.kept:
            point = (kept["sweep"], kept["x"])
            self._take(systems[kept["system"]], tests.get(kept["test"]), point, kept)
            if "facts" not in kept:
                self.finished.add((kept["number"], point, kept["system"], kept["test"]))
        left = (
            dataclasses.replace(turn, tests=[test for test in turn.tests if not self._is_finished(turn, test)])
            for turn in turns
        )
        return [turn for turn in left if turn.tests]

    def _is_finished(self, turn: Turn, test: Test) -> bool:
        # A turn that failed as a whole is noted without a test.
        return any((turn.number, turn.point, turn.system.name, name) in self.finished for name in (test.name, None))

    def seconds(self, turn: Turn) -> float:
        """About how long a turn takes."""
        return turn_seconds(turn.tests, self.lengths, turn.conditions.routes)

    def run(self, turns: list[Turn], progress: Progress) -> None:
        for turn in turns:
            worth_it = turn.system.name not in self.unfit and self.results.failures(turn.system, turn.point) < GIVE_UP
            unneeded = self._turn(turn, progress) if worth_it else self.seconds(turn)
            progress.end(unneeded, skipped=True)

    def _turn(self, turn: Turn, progress: Progress) -> float:
        """Returns how many of its seconds were not needed, because it failed."""
        left = self.seconds(turn)
        progress.begin(turn.label())
        try:
            with Pair(turn.conditions) as lab:
                load = Load(lab, turn.system.up(lab), self.lengths)
                load.warm_up()
                self._note(turn, None, facts=turn.system.inspect(lab))
                for test in turn.tests:
                    progress.begin(f"{turn.label()} {test.name}")
                    text = self._test(turn, test, load)
                    progress.end(test.seconds(self.lengths), text)
                    left -= test.seconds(self.lengths)
            quiet()
        except Failure as failure:
            # Other people's programs owe us nothing in a user namespace.
            found = "skipped" if self.rootless and turn.system.foreign else "failure"
            reason = f"does not run without root here: {brief(failure)}" if found == "skipped" else brief(failure)
            self._note(turn, None, **{found: reason})
            progress.say(f"{turn.label()} {'FAILED' if found == 'failure' else 'skipped'}: {reason}")
            quiet()
            return left
        progress.end(left)
        return 0

    def _test(self, turn: Turn, test: Test, load: Load) -> str:
        """Returns what to say about it."""
        try:
            judge = turn.system.watch(load.lab)
            outcome = test.run(load)
            outcome |= judge(test.established)
        except Failure as failure:
            self._note(turn, test, failure=brief(failure))
            return f"{turn.label()} {test.name} FAILED: {brief(failure)}"
        self._note(turn, test, outcome=outcome)
        return f"{turn.label():<46}{test.name:<15}{report.figure(outcome['value'])} {test.unit}"

    def _note(self, turn: Turn, test: Test | None, **found: Any) -> None:
        self._take(turn.system, test, turn.point, found)
        self.partial.keep(
            number=turn.number,
            sweep=turn.point[0],
            x=turn.point[1],
            system=turn.system.name,
            test=test.name if test else None,
            **found,
        )

    def _take(self, system: System, test: Test | None, point: Point, found: dict[str, Any]) -> None:
        if "outcome" in found and test:
            self.results.add(system, test, found["outcome"], point)
        elif "failure" in found:
            self.results.fail(system, test, found["failure"], point)
        elif "skipped" in found:
            self.results.skip(system, found["skipped"])
            self.unfit.add(system.name)
        else:
            self.results.note(system, found["facts"], point)
