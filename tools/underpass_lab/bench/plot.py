"""Bars for the tests side by side: throughput.svg and cpu.svg.

One panel for each test, one bar for each system, whiskers from the smallest to the largest run.
"""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import pyplot

from underpass_lab.bench.results import Document, Judged, Named

matplotlib.use("svg")

# Median, smallest, largest.
Bar = tuple[float, float, float]

OURS, THEIRS, LIMIT, TEXT = "#1f6f8b", "#b9c0c7", "#6b7680", "#222222"
BAR_INCHES, PANEL_INCHES, NAMES_INCHES, PANELS_A_ROW = 0.25, 3.5, 1.7, 3
HEAD_INCHES, FOOT_INCHES = 1.15, 0.4
SIZES = {"udp1350": "1350 B", "udp512": "512 B", "udp64": "64 B"}
TITLES = {
    "rtt": "Idle round trip",
    "rtt-load": "Round trip beside a full TCP stream",
    "rtt-udp": "Idle round trip, UDP",
    "rtt-udp-load": "Round trip, UDP, beside a full TCP stream",
    "connections": "New TCP connections",
    "tcp1-flood": "TCP, 1 Gbit/s, beside a flood of SYNs",
    "memory": "Memory of the daemon for connections",
    **{name: f"UDP, {size}, at most 0.1 % lost" for name, size in SIZES.items()},
    **{
        f"tcp{streams}{back}": f"TCP, {streams} stream{'s' if streams > 1 else ''}{', reverse' if back else ''}"
        for streams in (1, 4, 16)
        for back in ("", "-reverse")
    },
}
# Unit of the figures: the one on the axis, and its divisor.
UNITS = {
    "gbps": ("Gbit/s", 1),
    "packets/s": ("1000 packets/s", 1e3),
    "us": ("µs", 1),
    "connections/s": ("1000 a second", 1e3),
    "mib": ("MiB", 1),
}


def draw_all(
    directory: pathlib.Path, document: Document, tests: Sequence[Judged], systems: Sequence[Named]
) -> list[str]:
    """Draws the plots that the figures suffice for, and returns the names of the files."""
    entries = {(entry["system"], entry["test"]): entry for entry in document["results"]}
    names = [system.name for system in systems if any(system.name == key[0] for key in entries)]
    throughput: list[Panel] = []
    cost: list[Panel] = []
    for test in tests:
        of_test = {name: entries[name, test.name] for name in names if (name, test.name) in entries}
        if not of_test:
            continue
        unit, divisor = UNITS[test.unit]
        better = "less is better" if test.lower_is_better else "more is better"
        throughput.append(
            Panel(
                TITLES.get(test.name, test.name),
                f"{unit}, {better}",
                {name: bar(entry["runs"], divisor) for name, entry in of_test.items()},
            )
        )
        costs = {
            name: bar(entry["cpu_s_per_gb_runs"]) for name, entry in of_test.items() if entry.get("cpu_s_per_gb_runs")
        }
        if costs:
            cost.append(Panel(TITLES.get(test.name, test.name), "CPU seconds per GB, less is better", costs))
    files = {
        "throughput.svg": ("Tunnels side by side: underpass and others", throughput),
        "cpu.svg": ("What a GB through each tunnel costs: CPU seconds of the whole machine", cost),
    }
    for name, (title, panels) in files.items():
        if panels:
            draw(directory / name, title, panels, names, document["host"])
    return [name for name, (_, panels) in files.items() if panels]


def bar(values: Sequence[float], divisor: float = 1) -> Bar:
    """Median, smallest, largest."""
    return statistics.median(values) / divisor, min(values) / divisor, max(values) / divisor


@dataclasses.dataclass(frozen=True)
class Panel:
    """Title, axis, and for each system median, smallest and largest."""

    title: str
    axis: str
    bars: dict[str, Bar]


def draw(path: pathlib.Path, title: str, panels: list[Panel], names: list[str], host: dict[str, Any]) -> None:
    columns = min(PANELS_A_ROW, max(len(panels), 1))
    rows = math.ceil(len(panels) / columns)
    height = HEAD_INCHES + FOOT_INCHES + rows * (BAR_INCHES * max(len(names), 2) + 0.85)
    width = max(NAMES_INCHES + columns * PANEL_INCHES, 7.4)
    picture, places = canvas(width, height, rows, columns, left=NAMES_INCHES)
    for number, (place, panel) in enumerate(zip(places, panels, strict=False)):
        draw_panel(place, panel, names, with_names=number % columns == 0)
    for place in places[len(panels) :]:
        place.axis("off")
    label(
        picture,
        title,
        "Bars: median of all runs; whiskers: smallest and largest run. "
        "Two nodes on one machine, joined by a veth pair.",
        host,
    )
    legend(picture, width, height)
    save(picture, path)


def draw_panel(place: Any, panel: Panel, names: list[str], with_names: bool) -> None:
    largest = max(high for _, _, high in panel.bars.values())
    for position, name in enumerate(names):
        if name in panel.bars:
            draw_bar(place, position, name, panel.bars[name], largest)
        else:
            place.text(0, position, " not measured", va="center", color=LIMIT, style="italic", fontsize=8)
    place.set_title(panel.title, loc="left", fontweight="bold", fontsize=10)
    place.set_xlabel(panel.axis, loc="left", fontsize=8, color=LIMIT)
    place.set_yticks(range(len(names)), names if with_names else [])
    place.set_ylim(len(names) - 0.4, -0.6)
    place.set_xlim(0, largest * 1.22 or 1)
    tidy(place, "x")
    place.spines["bottom"].set_visible(False)


def draw_bar(place: Any, position: int, name: str, figures: Bar, largest: float) -> None:
    median, low, high = figures
    place.barh(position, median, height=0.68, color=OURS if name.startswith("underpass") else THEIRS)
    place.errorbar(median, position, xerr=[[median - low], [high - median]], color=TEXT, linewidth=1, capsize=2.5)
    place.text(high + largest * 0.02, position, short(median), va="center", fontsize=8)


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# --- what all plots share -------------------------------------------------------------------------


def canvas(
    width: float, height: float, rows: int, columns: int, left: float, head: float = HEAD_INCHES
) -> tuple[Any, list[Any]]:
    """An empty picture with room for names, head and foot, in inches, and its places."""
    matplotlib.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "svg.fonttype": "path",
            "svg.hashsalt": "underpass",
        }
    )
    picture, grid = pyplot.subplots(rows, columns, figsize=(width, height), squeeze=False)
    panel = (height - head - FOOT_INCHES) / rows
    picture.subplots_adjust(
        left=left / width,
        right=1 - 0.15 / width,
        top=1 - head / height,
        bottom=(FOOT_INCHES + 0.45) / height,
        wspace=0.11 if left == NAMES_INCHES else 0.22,
        hspace=0.8 / max(panel - 0.8, 0.1),
    )
    return picture, list(grid.flat)


def tidy(place: Any, axis: str) -> None:
    place.tick_params(length=0)
    place.grid(True, axis=axis, color="#e6e9ec", linewidth=0.8)
    place.set_axisbelow(True)
    place.spines.top.set_visible(False)
    place.spines.right.set_visible(False)


def label(picture: Any, title: str, note: str, host: dict[str, Any]) -> None:
    width, height = picture.get_size_inches()
    picture.suptitle(title, x=0.15 / width, y=1 - 0.15 / height, ha="left", va="top", fontsize=13, fontweight="bold")
    picture.text(0.15 / width, 1 - 0.45 / height, note, ha="left", va="top", fontsize=8.5, color=LIMIT)
    rights = ", measured without root" if host.get("rights") == "user namespace" else ""
    picture.text(
        0.15 / width,
        0.12 / height,
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, "
        f"{host['date'][:10]}, commit {host['commit']}{rights}",
        ha="left",
        va="bottom",
        fontsize=7.5,
        color=LIMIT,
    )


def legend(picture: Any, width: float, height: float) -> None:
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color in (OURS, THEIRS)]
    picture.legend(
        handles,
        ["underpass", "others"],
        loc="upper right",
        fontsize=8,
        frameon=False,
        ncol=2,
        bbox_to_anchor=(1 - 0.1 / width, 1 - 0.6 / height),
        borderaxespad=0,
    )


def save(picture: Any, path: pathlib.Path) -> None:
    picture.savefig(path, facecolor="white", metadata={"Date": None})
    pyplot.close(picture)
