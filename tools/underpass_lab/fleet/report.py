"""The figures as Markdown, with what each node more costs, and what that makes of a larger fleet."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

LARGE = 50_000

Figure = Callable[[dict[str, Any]], float]
# What is shown, its unit in the text, and how many digits behind the point it has.
ROWS: Sequence[tuple[str, str, int, Figure]] = (
    ("all routes are there, after", "s", 2, lambda one: one["converged_s"]),
    ("… of which the feed takes to be told", "s", 2, lambda one: one["told_s"]),
    ("… processor time of the daemon", "s", 2, lambda one: one["converged_cpu_s"]),
    ("a daemon that starts then has all after", "s", 2, lambda one: one["started_s"]),
    ("memory of the daemon", "MiB", 1, lambda one: one["full_mib"]),
    ("… and its peak", "MiB", 1, lambda one: one["peak_mib"]),
    ("processors, idle", "", 4, lambda one: one["idle_cpus"]),
    ("one change is followed after, median", "ms", 1, lambda one: 1e3 * one["change_s"]["median"]),
    ("… the largest of 40", "ms", 1, lambda one: 1e3 * one["change_s"]["max"]),
    ("… processor time of the daemon", "ms", 2, lambda one: 1e3 * one["change_cpu_s"]),
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """One feed: a column for each size, the slope, and the line through all sizes at a large fleet."""
    sizes = [one["nodes"] for one in results]
    head = [results[0]["feed"], *(f"{size} nodes" for size in sizes)]
    fitted = len(sizes) > 1
    lines = [row([*head, *(["each 1000 more", f"the line at {LARGE}"] if fitted else [])])]
    lines.append("|---|" + "---:|" * (len(lines[0].split("|")) - 3))
    for name, unit, digits, figure in ROWS:
        values = [figure(one) for one in results]
        cells = [f"{value:.{digits}f} {unit}".strip() for value in values]
        if fitted:
            slope, start = statistics.linear_regression(sizes, values)
            cells += [f"{value:.{digits}f} {unit}".strip() for value in (1000 * slope, start + LARGE * slope)]
        lines.append(row([name, *cells]))
    return "\n".join(lines) + "\n"


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
