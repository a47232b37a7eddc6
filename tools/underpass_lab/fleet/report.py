"""The figures as Markdown, with what each node more costs, and what that makes of a larger fleet."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

LARGE = 50_000

Figure = Callable[[dict[str, Any]], float]


class Row(NamedTuple):
    """What is shown, its unit in the text, and how many digits behind the point it has."""

    what: str
    unit: str
    digits: int
    figure: Figure
    # Whether it is the daemon's alone, so that a line through the sizes says something about it.
    grows: bool = True

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f} {self.unit}".strip()


ROWS = (
    Row("all routes are there, after", "s", 2, lambda one: one["converged_s"], grows=False),
    Row("… of which the feed takes to be told", "s", 2, lambda one: one["told_s"], grows=False),
    Row("… processor time of the daemon", "s", 2, lambda one: one["converged_cpu_s"]),
    Row("a daemon that starts then has all after", "s", 2, lambda one: one["started_s"]),
    Row("memory of the daemon", "MiB", 1, lambda one: one["full_mib"]),
    Row("… and its peak", "MiB", 1, lambda one: one["peak_mib"]),
    Row("processors, idle", "", 4, lambda one: one["idle_cpus"]),
    Row("one change is followed after, median", "ms", 1, lambda one: 1e3 * one["change_s"]["median"]),
    Row("… the largest of 40", "ms", 1, lambda one: 1e3 * one["change_s"]["max"], grows=False),
    Row("… processor time of the daemon", "ms", 2, lambda one: 1e3 * one["change_cpu_s"]),
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """One feed: a column for each size, the slope, and the line through all sizes at a large fleet."""
    sizes = [one["nodes"] for one in results]
    head = [results[0]["feed"], *(f"{size} nodes" for size in sizes)]
    fitted = len(sizes) > 1
    lines = [row([*head, *(["each 1000 more", f"the line at {LARGE}"] if fitted else [])])]
    lines.append("|---|" + "---:|" * (len(lines[0].split("|")) - 3))
    for one in ROWS:
        values = [one.figure(result) for result in results]
        cells = [one.text(value) for value in values]
        if fitted:
            slope, start = statistics.linear_regression(sizes, values)
            line = (1000 * slope, start + LARGE * slope)
            cells += [one.text(value) if one.grows else "" for value in line]
        lines.append(row([one.what, *cells]))
    return "\n".join(lines) + "\n"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
