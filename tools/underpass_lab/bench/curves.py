"""Lines for the sweeps: sweep-NAME.svg, throughput and CPU seconds per GB against one setting.

One panel for each test, one line for each system, whiskers from the smallest to the largest run.
"""

import functools
import itertools
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from underpass_lab.bench.plot import HEAD_INCHES, LIMIT, TITLES, UNITS, canvas, label, save, tidy
from underpass_lab.bench.results import Document, Entry, Named

# Distinct also without colours, by their marks.
LINES = {
    "veth": ("#6b7680", "s"),
    "kernel-vxlan": ("#222222", "D"),
    "underpass-vxlan": ("#1f6f8b", "o"),
    "underpass-ipip": ("#c8553d", "^"),
    "underpass-direct": ("#588b3a", "v"),
}
OTHER_LINES = (
    ("#8e5ea2", "P"),
    ("#b8860b", "X"),
    ("#3b6fd4", "*"),
    ("#a0522d", "<"),
    ("#00897b", ">"),
    ("#ad1457", "h"),
    ("#546e7a", "d"),
)
WIDTH_INCHES, HEIGHT_INCHES = 9.6, 3.0
LEGENDS_A_ROW, LEGEND_INCHES = 4, 0.18
ABOUT = {
    "workers": "the number of worker threads",
    "mtu": "the MTU of the link",
    "routes": "the size of the routing table",
    "loss": "loss on the link",
    "uplink": "what the link segments itself",
    "policy": "policies",
    "tracked": "connections that are known",
}
RATES = ("gbps", "packets/s", "connections/s")
LINKS = {
    "loss": "Two nodes on one machine; the link between them drops packets at random, both ways.",
}


def draw_all(directory: pathlib.Path, document: Document, systems: Sequence[Named]) -> list[str]:
    """Draws one plot for each sweep, and returns the names of the files."""
    order = [system.name for system in systems]
    files = []
    for name in dict.fromkeys(curve["name"] for curve in document["sweeps"]):
        chosen = sorted(
            (curve for curve in document["sweeps"] if curve["name"] == name),
            key=lambda curve: order.index(curve["system"]),
        )
        files.append(f"sweep-{name}.svg")
        draw(directory / files[-1], name, chosen, document["host"])
    return files


def draw(path: pathlib.Path, name: str, curves: list[Entry], host: dict[str, Any]) -> None:
    panels: list[tuple[str, str, list[Entry], Callable[[Entry], list[float] | None]]] = []
    for test in dict.fromkeys(curve["test"] for curve in curves):
        of_test = [curve for curve in curves if curve["test"] == test]
        unit, divisor = UNITS[of_test[0]["unit"]]
        panels.append((TITLES.get(test, test), unit, of_test, functools.partial(runs_of, divisor)))
        if any(point.get("cpu_s_per_gb_runs") for curve in of_test for point in curve["points"]):
            panels.append(
                (
                    f"{TITLES.get(test, test)}: cost",
                    "CPU seconds per GB",
                    of_test,
                    costs_of,
                )
            )
    columns = 2 if len(panels) > 1 else 1
    rows = math.ceil(len(panels) / columns)
    names = list(dict.fromkeys(curve["system"] for curve in curves))
    head = HEAD_INCHES + LEGEND_INCHES * (math.ceil(len(names) / LEGENDS_A_ROW) - 1)
    width, height = WIDTH_INCHES, rows * (HEIGHT_INCHES + 0.3) + 0.4 + head
    picture, places = canvas(width, height, rows, columns, left=0.7, head=head)
    for place, panel in zip(places, panels, strict=False):
        draw_panel(place, *panel)
    for place in places[len(panels) :]:
        place.axis("off")
    units = {curve["unit"] for curve in curves}
    subject = "Throughput" if units & {*RATES} else "Memory" if "mib" in units else "Round trip"
    label(
        picture,
        f"{subject} against {ABOUT.get(name, name)}",
        "Marks: median of all runs; whiskers: smallest and largest run. "
        + LINKS.get(name, "Two nodes on one machine, joined by a veth pair."),
        host,
    )
    handles, labels = places[0].get_legend_handles_labels()
    picture.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.1 / width, 1 - 0.66 / height),
        ncol=LEGENDS_A_ROW,
        frameon=False,
        fontsize=8,
        borderaxespad=0,
    )
    save(picture, path)


def runs_of(divisor: float, point: Entry) -> list[float]:
    """The figures of all runs in the unit of the axis."""
    return [run / divisor for run in point["runs"]]


def costs_of(point: Entry) -> list[float] | None:
    """CPU seconds per GB of all runs, where they are known."""
    return point.get("cpu_s_per_gb_runs")


def draw_panel(
    place: Any, title: str, unit: str, curves: list[Entry], values_of: Callable[[Entry], list[float] | None]
) -> None:
    values = in_order(curves)
    top = 0.0
    named = any(isinstance(value, str) for value in values)
    others = itertools.cycle(OTHER_LINES)
    for number, curve in enumerate(curves):
        colour, mark = LINES.get(curve["system"]) or next(others)
        points = [(values.index(point["x"]), runs) for point in curve["points"] if (runs := values_of(point))]
        # Beside each other, so that whiskers at one value can be told apart.
        shift = (number - (len(curves) - 1) / 2) * (0.11 if named else 0.05)
        medians = [statistics.median(runs) for _, runs in points]
        errors = [
            [median - min(runs) for (_, runs), median in zip(points, medians, strict=True)],
            [max(runs) - median for (_, runs), median in zip(points, medians, strict=True)],
        ]
        place.errorbar(
            [position + shift for position, _ in points],
            medians,
            yerr=errors,
            color=colour,
            marker=mark,
            markersize=5,
            linewidth=0 if named else 1.4,
            elinewidth=0.9,
            capsize=2,
            label=curve["system"],
        )
        top = max([top, *(max(runs) for _, runs in points)])
    place.set_title(title, loc="left", fontweight="bold", fontsize=10)
    place.set_ylabel(unit, fontsize=8.5, color=LIMIT)
    place.set_xlabel(curves[0]["axis"], fontsize=8.5, color=LIMIT)
    labels = [value.replace(" ", "\n") if isinstance(value, str) else f"{value:,}" for value in values]
    place.set_xticks(range(len(values)), labels, fontsize=7.5 if named else None)
    place.set_xlim(-0.5, len(values) - 0.5)
    place.set_ylim(0, top * 1.08 or 1)
    tidy(place, "y")


def in_order(curves: list[Entry]) -> list[Any]:
    """All values: numbers by size, names as the curve that has most of them orders them."""
    longest_first = sorted(curves, key=lambda curve: -len(curve["points"]))
    values = list(dict.fromkeys(point["x"] for curve in longest_first for point in curve["points"]))
    return values if any(isinstance(value, str) for value in values) else sorted(values)
