"""What has been measured so far, and the document made of it (results.schema.json, docs/benchmarks.md)."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

# A sweep and its value; both None outside sweeps.
Point = tuple[str | None, Any]
Outcome = dict[str, Any]
# The parts of results.json, as JSON has them.
Entry = dict[str, Any]
Document = dict[str, Any]
# By system and test.
Runs = dict[tuple[str, str], list[Outcome]]


class Named(Protocol):
    """A system."""

    name: str


class Measured(Protocol):
    """A test."""

    name: str
    unit: str


class About(Named, Protocol):
    """A system with its meaning."""

    about: str


class Judged(Measured, Protocol):
    """A test with its meaning."""

    about: str
    lower_is_better: bool


class Swept(Protocol):
    """A sweep."""

    name: str
    axis: str
    values: Sequence[Any]


SCHEMA_VERSION = 1
# Which systems are put in relation: ours to what they replace, and to the other userspace tunnels.
BASELINES = {
    "underpass-direct": ["veth"],
    "underpass-direct-kernel": ["veth"],
    "underpass-direct-kernel-path": ["veth"],
    "underpass-vxlan": ["kernel-vxlan", "ovs-vxlan", "wireguard-go", "boringtun", "tun-copy-loop"],
    "underpass-vxlan-busy-poll": ["kernel-vxlan", "underpass-vxlan-pump"],
    "underpass-vxlan-kernel": ["kernel-vxlan", "underpass-vxlan-pump"],
}
DEFAULT_BASELINE = ["kernel-vxlan"]
# What else a test may find out: the key of an outcome, and how those of all runs become one figure.
DETAILS = {
    "p99": "median",
    "back_to_back": "median",
    "load_gbps": "median",
    "retransmits_per_gb": "median",
    "loss": "max",
    "reordered": "sum",
    "lost": "sum",
    "per_500k": "median",
    "known": "median",
    "flood_pps": "median",
    "kernel_share": "median",
}


SUMMARIES: dict[str, Callable[[list[Any]], Any]] = {"median": statistics.median, "max": max, "sum": sum}


class Results:
    """Runs by system and test, those of sweeps by sweep and value too; skipped systems, failures."""

    def __init__(self, host: dict[str, Any], tests: list[Judged], sweeps: Sequence[Swept] = ()) -> None:
        self.host, self.tests, self.sweeps = host, tests, sweeps
        # By (sweep, value) and (system, test); sweep and value are None outside sweeps.
        self.runs: dict[Point, Runs] = {(None, None): {}}
        self.skipped: list[Entry] = []
        self.failed: list[Entry] = []
        self.facts: dict[str, dict[str, Any]] = {}
        # In sweeps: by point and system.
        self.facts_at: dict[tuple[Point, str], dict[str, Any]] = {}

    def add(self, system: Named, test: Measured, outcome: Outcome, point: Point = (None, None)) -> None:
        self.runs.setdefault(point, {}).setdefault((system.name, test.name), []).append(outcome)

    def skip(self, system: Named, reason: str) -> None:
        self.skipped.append({"system": system.name, "reason": reason})

    def note(self, system: Named, facts: dict[str, Any], point: Point = (None, None)) -> None:
        """What a system said that it used."""
        if point == (None, None):
            self.facts[system.name] = facts
        else:
            self.facts_at[point, system.name] = facts

    def fail(self, system: Named, test: Measured | None, reason: str, point: Point = (None, None)) -> None:
        """`test` is None when the system did not come up."""
        where = {} if point[0] is None else {"sweep": point[0], "x": point[1]}
        self.failed.append({"system": system.name, "test": test.name if test else None, **where, "reason": reason})

    def failures(self, system: Named, point: Point = (None, None)) -> int:
        """How often the system did not come up."""
        return sum(
            1
            for failure in self.failed
            if failure["system"] == system.name
            and failure["test"] is None
            and (failure.get("sweep"), failure.get("x")) == point
        )

    def document(self) -> Document:
        return {
            "schema_version": SCHEMA_VERSION,
            "host": self.host,
            "results": [
                entry(outcomes, system=system, test=test, unit=self._unit(test))
                for (system, test), outcomes in self._ordered(self.runs[None, None])
            ],
            "ratios": self._ratios(),
            "sweeps": [curve for sweep in self.sweeps for curve in self._curves(sweep)],
            "active": {name: facts for name, facts in self.facts.items() if facts},
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def _ordered(self, runs: Runs) -> list[tuple[tuple[str, str], list[Outcome]]]:
        order = [test.name for test in self.tests]
        return sorted(runs.items(), key=lambda item: order.index(item[0][1]))

    def _unit(self, test: str) -> str:
        return next(known.unit for known in self.tests if known.name == test)

    def _curves(self, sweep: Swept) -> list[Entry]:
        """One for each system and test: the same figures as outside sweeps, at each value."""
        curves: dict[tuple[str, str], Entry] = {}
        for value in sweep.values:
            for (system, test), outcomes in self._ordered(self.runs.get((sweep.name, value), {})):
                curve = curves.setdefault(
                    (system, test),
                    {
                        "name": sweep.name,
                        "axis": sweep.axis,
                        "system": system,
                        "test": test,
                        "unit": self._unit(test),
                        "points": [],
                    },
                )
                tap = self.facts_at.get(((sweep.name, value), system), {}).get("tap")
                said = {"tap": tap} if sweep.name == "uplink" and tap else {}
                curve["points"].append(entry(outcomes, x=value, **said))
        return list(curves.values())

    def _ratios(self) -> list[Entry]:
        medians = {key: median_of(outcomes, "value") for key, outcomes in self.runs[None, None].items()}
        ratios = []
        for test in self.tests:
            for system in dict.fromkeys(name for name, _ in medians if name.startswith("underpass-")):
                for baseline in BASELINES.get(system, DEFAULT_BASELINE):
                    ours, theirs = medians.get((system, test.name)), medians.get((baseline, test.name))
                    if ours is not None and theirs:
                        ratios.append({"test": test.name, "of": system, "to": baseline, "ratio": ours / theirs})
        return ratios


def entry(outcomes: list[Outcome], **names: Any) -> Entry:
    """The figures of one system and test, from all its runs."""
    values = [outcome["value"] for outcome in outcomes]
    figures = {
        **names,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "runs": values,
        "cpu_s_per_gb": median_of(outcomes, "cpu_s_per_gb"),
    }
    costs = known(outcomes, "cpu_s_per_gb")
    if costs:
        figures["cpu_s_per_gb_runs"] = costs
    for key, summary in DETAILS.items():
        details = known(outcomes, key)
        if details:
            figures[key] = SUMMARIES[summary](details)
    return figures


def known(outcomes: list[Outcome], key: str) -> list[Any]:
    return [outcome[key] for outcome in outcomes if outcome.get(key) is not None]


def median_of(outcomes: list[Outcome], key: str) -> float | None:
    values = known(outcomes, key)
    return statistics.median(values) if values else None
