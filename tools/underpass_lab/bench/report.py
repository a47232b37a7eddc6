"""The files of a run: results.json for programs, report.md and the plots for people."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from underpass_lab.bench.pair import OFF_RULES
from underpass_lab.bench.results import About, Document, Entry, Judged, Results

# By system and test.
Entries = dict[tuple[str, str], Entry]

# Units as people write them.
UNITS = {"gbps": "Gbit/s", "us": "µs", "connections/s": "1/s", "mib": "MiB"}


def write(directory: pathlib.Path, results: Results, systems: Sequence[About]) -> list[str]:
    """Writes all files and returns their names."""
    from underpass_lab.bench import (
        curves,  # here, so that `--list` works without matplotlib
        plot,
    )

    document = results.document()
    texts = {
        "results.json": json.dumps(document, indent=1) + "\n",
        "report.md": markdown(document, results.tests, systems),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    plots = plot.draw_all(directory, document, results.tests, systems) if document["results"] else []
    plots += curves.draw_all(directory, document, systems)
    return [*texts, *plots]


def figure(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(document: Document, tests: Sequence[Judged], systems: Sequence[About]) -> str:
    entries = {(entry["system"], entry["test"]): entry for entry in document["results"]}
    curves = document["sweeps"]
    measured = {key[0] for key in entries} | {curve["system"] for curve in curves}
    names = [system.name for system in systems if system.name in measured]
    used = {key[1] for key in entries} | {curve["test"] for curve in curves}
    tests = [test for test in tests if test.name in used]
    parts = [
        heading(document["host"], [*entries.values(), *(point for curve in curves for point in curve["points"])]),
        *tables(document, entries, names, tests),
        *(sweep_section(name, curves, names) for name in dict.fromkeys(curve["name"] for curve in curves)),
        absent_section("Skipped", document["skipped"]),
        absent_section("Failed", document["failed"]),
        active_section(document["active"]),
        "## What is what\n\n" + meanings(systems, names, tests) + "\n" + versions(document["host"]["versions"]),
    ]
    return "\n".join(part for part in parts if part)


def tables(document: Document, entries: Entries, names: list[str], tests: Sequence[Judged]) -> list[str]:
    """The sections of a run without sweeps."""
    if not entries and document["sweeps"]:
        return []
    return [
        "## Results\n\n" + main_table(entries, names, tests),
        cpu_section(entries, names, tests),
        round_trip_section(entries, names),
        kernel_path_section(entries, names, tests),
        retransmit_section(entries, names, tests),
        reordering_section(document["results"]),
        ratio_section(document["ratios"], tests),
    ]


def heading(host: dict[str, Any], entries: list[Entry]) -> str:
    runs = max((len(entry["runs"]) for entry in entries), default=0)
    rights = (
        ""
        if host.get("rights", "root") == "root"
        else (
            "\nMeasured without root, in a user namespace: no eBPF, and the UDP tests receive into a buffer of "
            f"{host['rmem_max'] >> 10} KiB (net.core.rmem_max)\nin place of 16 MiB, so that they find lower rates."
        )
    )
    control = f", TCP with {host['congestion_control']}" if "congestion_control" in host else ""
    return f"""# Tunnels side by side

`{host["command"]}`, {host["date"]}, commit {host["commit"]}

{host["cpu"]}, {host["cores"]} cores, {host["memory_mib"] / 1024:.0f} GiB; Linux {host["kernel"]},
{host["distribution"]}{control}; load average before the run {host["load_before"]}.
Lab: {host["lab"]}. Sender, receiver and both ends of the tunnel share these cores.{rights}

Runs of each test: {runs}, interleaved between the systems; the median, then the smallest and the largest in brackets.
On one machine there is no wire to wait for: the figures say what a tunnel costs, and the ratios within this run
carry further than the figures.
"""


def main_table(entries: Entries, names: list[str], tests: Sequence[Judged]) -> str:
    def cell(name: str, test: Judged) -> str:
        return spread(entries.get((name, test.name)))

    columns = [f"{test.name}, {UNITS.get(test.unit, test.unit)}" for test in tests]
    return table(names, columns, [[cell(name, test) for test in tests] for name in names])


def spread(entry: Entry | None) -> str:
    """A median with the smallest and the largest."""
    if entry is None:
        return "–"
    return f"{figure(entry['median'])} ({figure(entry['min'])}–{figure(entry['max'])})"


def cpu_section(entries: Entries, names: list[str], tests: Sequence[Judged]) -> str:
    def cost(name: str, test: Judged) -> float | None:
        return entries.get((name, test.name), {}).get("cpu_s_per_gb")

    columns = [test for test in tests if any(cost(name, test) for name in names)]
    if not columns:
        return ""
    rows = [[figure(cost(name, test)) for test in columns] for name in names]
    note = "Of the whole machine, load generators included, for 10^9 bytes of payload received.\n\n"
    return "## CPU seconds per GB\n\n" + note + table(names, [test.name for test in columns], rows)


def round_trip_section(entries: Entries, names: list[str]) -> str:
    """More than the medians: the slow ones, and what a busy path changes."""
    kinds = {"rtt": "ICMP echoes", "rtt-udp": "Questions and answers by UDP, one flow"}
    made = {about: round_trip_table(entries, names, test) for test, about in kinds.items()}
    if not any(made.values()):
        return ""
    note = (
        "Microseconds, medians of the runs. Idle: one every 10 ms; back to back: the next one at once; under load: one "
        "every 5 ms beside one TCP stream at full rate.\n"
    )
    return "## Round trips\n\n" + note + "".join(f"\n{about}:\n\n{text}" for about, text in made.items() if text)


def round_trip_table(entries: Entries, names: list[str], kind: str) -> str:
    columns = [
        (kind, "median", "idle, median"),
        (kind, "p99", "idle, p99"),
        (kind, "back_to_back", "back to back, median"),
        (f"{kind}-load", "median", "under load, median"),
        (f"{kind}-load", "p99", "under load, p99"),
        (f"{kind}-load", "load_gbps", "the load, Gbit/s"),
        (f"{kind}-load", "lost", "lost under load"),
    ]
    columns = [column for column in columns if any((name, column[0]) in entries for name in names)]
    if not columns:
        return ""

    def cell(name: str, test: str, key: str) -> str:
        value = entries.get((name, test), {}).get(key)
        return str(value) if key == "lost" and value is not None else figure(value)

    rows = [[cell(name, test, key) for test, key, _ in columns] for name in names]
    return table(names, [title for _, _, title in columns], rows)


def kernel_path_section(entries: Entries, names: list[str], tests: Sequence[Judged]) -> str:
    """Which way packets went, of the daemons that have the choice."""

    def part(name: str, test: Judged) -> float | None:
        return entries.get((name, test.name), {}).get("kernel_share")

    ours = [name for name in names if any(part(name, test) is not None for test in tests)]
    if not any(part(name, test) for name in ours for test in tests):
        return ""
    rows = [[percent(part(name, test)) for test in tests] for name in ours]
    note = "Share of the packets at both nodes that programs in the kernel carried in place of the pump.\n\n"
    return "## The kernel path\n\n" + note + table(ours, [test.name for test in tests], rows)


def percent(share: float | None) -> str:
    # Only all is 100 %.
    return "–" if share is None else f"{math.floor(1000 * share) / 10:g} %"


def retransmit_section(entries: Entries, names: list[str], tests: Sequence[Judged]) -> str:
    def again(name: str, test: Judged) -> float | None:
        return entries.get((name, test.name), {}).get("retransmits_per_gb")

    columns = [test for test in tests if any(again(name, test) is not None for name in names)]
    if not columns:
        return ""
    rows = [[figure(again(name, test)) for test in columns] for name in names]
    note = "Segments that TCP sent again, for 10^9 bytes of payload received; medians of the runs.\n\n"
    return "## TCP retransmits per GB\n\n" + note + table(names, [test.name for test in columns], rows)


def sweep_section(name: str, curves: list[Entry], names: list[str]) -> str:
    """One table for each test: a row for each system, a column for each value."""
    text = f"## Sweep: {name}\n"
    chosen = [curve for curve in curves if curve["name"] == name]
    values = list(dict.fromkeys(point["x"] for curve in chosen for point in curve["points"]))
    for test in dict.fromkeys(curve["test"] for curve in chosen):
        of_test = [curve for curve in chosen if curve["test"] == test]
        lines = sorted(of_test, key=lambda curve: names.index(curve["system"]))
        points = [{point["x"]: point for point in curve["points"]} for curve in lines]
        unit = UNITS.get(lines[0]["unit"], lines[0]["unit"])
        text += f"\n{test}, {unit}, by {lines[0]['axis']}:\n\n" + table(
            [curve["system"] for curve in lines],
            [value_name(value) for value in values],
            [[spread(known.get(value)) for value in values] for known in points],
        )
        if name == "policy":
            text += policy_section(dict(zip((curve["system"] for curve in lines), points, strict=True)), values)
        if name == "tracked":
            text += memory_section(dict(zip((curve["system"] for curve in lines), points, strict=True)), values)
        if name == "uplink":
            text += uplink_section(dict(zip((curve["system"] for curve in lines), points, strict=True)), values)
        if any("retransmits_per_gb" in point for known in points for point in known.values()):
            text += "\nTCP retransmits per GB, medians:\n\n" + table(
                [curve["system"] for curve in lines],
                [value_name(value) for value in values],
                [[figure(known.get(value, {}).get("retransmits_per_gb")) for value in values] for known in points],
            )
    return text


def value_name(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


DEFAULT = "underpass-vxlan"
# Who chooses among its ways: what it is called, what the ways are called, and who has only one of them.
CHOOSERS = {
    DEFAULT: ("The default", "the best of socket, TAP and kernel path", ("socket", "tap", "kernel")),
    f"{DEFAULT}-pump": ("The pump alone", "the better of socket and TAP", ("socket", "tap")),
}


def uplink_section(points: dict[str, dict[Any, Entry]], values: list[Any]) -> str:
    """Whether who chooses chose well."""
    return "".join(choice_section(chooser, points, values) for chooser in CHOOSERS if chooser in points)


def choice_section(chooser: str, points: dict[str, dict[Any, Entry]], values: list[Any]) -> str:
    """Against the best of its own ways, and against the kernel."""
    title, own, ways = CHOOSERS[chooser]

    def median(system: str, value: Any) -> float | None:
        return points.get(system, {}).get(value, {}).get("median")

    def ratio(value: Any, systems: Sequence[str]) -> str:
        others = [found for system in systems if (found := median(system, value))]
        ours = median(chooser, value)
        return figure(ours / max(others)) if ours is not None and others else "–"

    def chosen(value: Any) -> tuple[str, str]:
        point = points[chooser].get(value, {})
        return percent(point.get("kernel_share")), str(point.get("tap", "–"))

    forced = [f"{DEFAULT}-{way}" for way in ways]
    rows = [[ratio(value, forced), ratio(value, ("kernel-vxlan",)), *chosen(value)] for value in values]
    columns = [f"over {own}", "over kernel-vxlan", "by the kernel path", "what it says of its TAP"]
    return f"\n{title}, {chooser}, median over median:\n\n" + table(values, columns, rows)


KERNEL = "kernel-vxlan"


def policy_section(points: dict[str, dict[Any, Entry]], values: list[Any]) -> str:
    """What rules cost each system, and how it compares with the kernel under the same."""

    def ratio(ours: Entry | None, theirs: Entry | None) -> str:
        return f"{ours['median'] / theirs['median']:.3f}" if ours and theirs and theirs["median"] else "–"

    names, rows = [], []
    for system, known in points.items():
        names.append(f"{system} / its own without policies")
        rows.append([ratio(known.get(value), known.get(OFF_RULES)) for value in values])
    for system in points:
        if system != KERNEL and KERNEL in points:
            names.append(f"{system} / {KERNEL}")
            rows.append([ratio(points[system].get(value), points[KERNEL].get(value)) for value in values])
    return "\nMedian over median:\n\n" + table(names, [value_name(value) for value in values], rows)


def memory_section(points: dict[str, dict[Any, Entry]], values: list[Any]) -> str:
    """Of the same runs: what 500,000 connections need."""
    rows = [[figure(known.get(value, {}).get("per_500k")) for value in values] for known in points.values()]
    return "\nMiB for 500,000 connections:\n\n" + table([*points], [value_name(value) for value in values], rows)


def reordering_section(results: list[Entry]) -> str:
    reordered = [entry for entry in results if entry.get("reordered")]
    if not reordered:
        return ""
    lines = [f"- {entry['system']} {entry['test']}: {entry['reordered']}" for entry in reordered]
    return "## Reordered\n\nDatagrams that arrived behind a later one, in all runs.\n\n" + "\n".join(lines) + "\n"


def ratio_section(ratios: list[Entry], tests: Sequence[Judged]) -> str:
    if not ratios:
        return ""
    pairs = list(dict.fromkeys((ratio["of"], ratio["to"]) for ratio in ratios))
    values = {(ratio["of"], ratio["to"], ratio["test"]): ratio["ratio"] for ratio in ratios}
    rows = [[figure(values.get((*pair, test.name))) for test in tests] for pair in pairs]
    note = "Median over median. More is better, except for round trips (`rtt…`), where it is the slowdown.\n\n"
    return "## Ratios\n\n" + note + table([f"{of} / {to}" for of, to in pairs], [test.name for test in tests], rows)


def table(names: Sequence[str], columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(names, rows, strict=True)]
    return "\n".join(lines) + "\n"


def active_section(active: dict[str, dict[str, Any]]) -> str:
    if not active:
        return ""

    def line(name: str, facts: dict[str, Any]) -> str:
        return f"- {name}: {', '.join(f'{key} {value}' for key, value in facts.items())}"

    lines = [line(name, facts) for name, facts in active.items()]
    return "## What each daemon used\n\n" + "\n".join(lines) + "\n"


def absent_section(title: str, items: list[Entry]) -> str:
    if not items:
        return ""

    def where(item: Entry) -> str:
        sweep = f"{item['sweep']}={item['x']}" if "sweep" in item else None
        return " ".join(word for word in (item["system"], item.get("test"), sweep) if word)

    lines = [f"- {where(item)}: {item['reason']}" for item in items]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def meanings(systems: Sequence[About], names: list[str], tests: Sequence[Judged]) -> str:
    lines = [f"- `{system.name}`: {system.about}" for system in systems if system.name in names]
    return "\n".join(lines + [f"- `{test.name}`: {test.about}" for test in tests]) + "\n"


def versions(known: dict[str, str]) -> str:
    return "Versions:\n\n" + "\n".join(f"- {name}: {version}" for name, version in known.items()) + "\n"
