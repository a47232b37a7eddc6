"""throughput.svg: one panel for each test, one bar for each system, whiskers from smallest to largest run."""

import math

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402 (the backend comes first)

OURS, THEIRS, LIMIT, TEXT = "#1f6f8b", "#b9c0c7", "#6b7680", "#222222"
PANELS_A_ROW = 2
BAR_INCHES = 0.27
TITLES = {
    "tcp1": "TCP, 1 stream",
    "tcp4": "TCP, 4 streams",
    "tcp1-reverse": "TCP, 1 stream, reverse",
    "udp1350": "UDP, 1350 B, at most 0.1 % lost",
    "udp64": "UDP, 64 B, at most 0.1 % lost",
    "rtt": "Idle round trip",
    "connections": "New TCP connections",
}
# Unit of the figures: the one on the axis, and its divisor.
UNITS = {
    "gbps": ("Gbit/s", 1),
    "packets/s": ("1000 packets/s", 1e3),
    "us": ("µs", 1),
    "connections/s": ("1000 a second", 1e3),
}


def draw(path, document, tests, systems):
    entries = {(entry["system"], entry["test"]): entry for entry in document["results"]}
    tests = [test for test in tests if any(test.name == key[1] for key in entries)]
    names = [system.name for system in systems if any(system.name == key[0] for key in entries)]
    matplotlib.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 9, "text.color": TEXT, "axes.labelcolor": TEXT,
        "svg.fonttype": "path", "svg.hashsalt": "underpass",
    })
    columns = min(PANELS_A_ROW, max(len(tests), 1))
    rows = max(math.ceil(len(tests) / columns), 1)
    height = rows * (BAR_INCHES * max(len(names), 2) + 1.05) + 0.8
    picture, grid = pyplot.subplots(rows, columns, figsize=(max(5.2 * columns + 0.6, 7.4), height), squeeze=False)
    panels = list(grid.flat)
    for panel, test in zip(panels, tests):
        draw_panel(panel, test, names, entries)
    for panel in panels[len(tests):]:
        panel.axis("off")
    label(picture, document["host"], height)
    picture.savefig(path, facecolor="white", metadata={"Date": None})
    pyplot.close(picture)


def draw_panel(panel, test, names, entries):
    unit, divisor = UNITS[test.unit]
    largest = max(entry["max"] for (_, name), entry in entries.items() if name == test.name) / divisor
    for position, name in enumerate(names):
        entry = entries.get((name, test.name))
        if entry is None:
            panel.text(0, position, " not measured", va="center", color=LIMIT, style="italic")
            continue
        draw_bar(panel, position, name, entry, divisor, largest)
    better = "less is better" if test.lower_is_better else "more is better"
    panel.set_title(TITLES.get(test.name, test.name), loc="left", fontweight="bold", fontsize=10)
    panel.set_xlabel(f"{unit}, {better}", loc="left", fontsize=8, color=LIMIT)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_xlim(0, largest * 1.2)
    panel.tick_params(length=0)
    panel.xaxis.grid(True, color="#e6e9ec", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        panel.spines[side].set_visible(False)


def draw_bar(panel, position, name, entry, divisor, largest):
    median, low, high = (entry[key] / divisor for key in ("median", "min", "max"))
    panel.barh(position, median, height=0.68, color=OURS if name.startswith("underpass") else THEIRS)
    panel.errorbar(median, position, xerr=[[median - low], [high - median]], color=TEXT, linewidth=1, capsize=2.5)
    panel.text(high + largest * 0.015, position, short(median), va="center", fontsize=8.5)


def short(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def label(picture, host, height):
    picture.suptitle("Tunnels side by side: underpass and others", x=0.02, y=1 - 0.15 / height,
                     ha="left", va="top", fontsize=13, fontweight="bold")
    picture.text(0.02, 1 - 0.45 / height, "Bars: median of all runs; whiskers: smallest and largest run. "
                 "Two nodes on one machine, joined by a veth pair.", ha="left", va="top", fontsize=9, color=LIMIT)
    picture.text(0.02, 0.12 / height, f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}, "
                 f"{host['date'][:10]}", ha="left", va="bottom", fontsize=7.5, color=LIMIT)
    picture.tight_layout(rect=(0.01, 0.3 / height, 0.99, 1 - 0.55 / height), w_pad=2.5, h_pad=1.8)
