"""The three files: results.json for programs, report.md and throughput.svg for people."""

import json

# Units as people write them.
UNITS = {"gbps": "Gbit/s", "us": "µs", "connections/s": "1/s"}


def write(directory, results, systems):
    import plot  # here, so that `--list` works without matplotlib

    directory.mkdir(parents=True, exist_ok=True)
    document = results.document()
    (directory / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "report.md").write_text(markdown(document, results.tests, systems))
    plot.draw(directory / "throughput.svg", document, results.tests, systems)


def figure(value):
    """Three significant digits, without an exponent."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(document, tests, systems):
    entries = {(entry["system"], entry["test"]): entry for entry in document["results"]}
    names = [system.name for system in systems if any(system.name == key[0] for key in entries)]
    tests = [test for test in tests if any(test.name == key[1] for key in entries)]
    parts = [
        heading(document["host"], entries),
        "## Results\n\n" + main_table(entries, names, tests),
        cpu_section(entries, names, tests),
        round_trip_section(entries, names),
        reordering_section(document["results"]),
        ratio_section(document["ratios"], tests),
        absent_section("Skipped", document["skipped"]),
        absent_section("Failed", document["failed"]),
        active_section(document["active"]),
        "## What is what\n\n" + meanings(systems, names, tests) + "\n" + versions(document["host"]["versions"]),
    ]
    return "\n".join(part for part in parts if part)


def heading(host, entries):
    runs = max((len(entry["runs"]) for entry in entries.values()), default=0)
    return f"""# Tunnels side by side

`{host['command']}`, {host['date']}, commit {host['commit']}

{host['cpu']}, {host['cores']} cores, {host['memory_mib'] / 1024:.0f} GiB; Linux {host['kernel']},
{host['distribution']}; load average before the run {host['load_before']}.
Lab: {host['lab']}. Sender, receiver and both ends of the tunnel share these cores.

Runs of each test: {runs}, interleaved between the systems; the median, then the smallest and the largest in brackets.
On one machine there is no wire to wait for: the figures say what a tunnel costs, and the ratios within this run
carry further than the figures.
"""


def main_table(entries, names, tests):
    def cell(name, test):
        entry = entries.get((name, test.name))
        if entry is None:
            return "–"
        return f"{figure(entry['median'])} ({figure(entry['min'])}–{figure(entry['max'])})"

    columns = [f"{test.name}, {UNITS.get(test.unit, test.unit)}" for test in tests]
    return table(names, columns, [[cell(name, test) for test in tests] for name in names])


def cpu_section(entries, names, tests):
    def cost(name, test):
        return entries.get((name, test.name), {}).get("cpu_s_per_gb")

    columns = [test for test in tests if any(cost(name, test) for name in names)]
    if not columns:
        return ""
    rows = [[figure(cost(name, test)) for test in columns] for name in names]
    note = "Of the whole machine, load generators included, for 10^9 bytes of payload received.\n\n"
    return "## CPU seconds per GB\n\n" + note + table(names, [test.name for test in columns], rows)


def round_trip_section(entries, names):
    names = [name for name in names if (name, "rtt") in entries]
    if not names:
        return ""
    rows = [[figure(entries[name, "rtt"][key]) for key in ("median", "p99", "back_to_back")] for name in names]
    note = "Microseconds, medians of the runs. Idle: an echo every 10 ms; back to back: the next echo at once.\n\n"
    return "## Round trips\n\n" + note + table(names, ["idle, median", "idle, p99", "back to back, median"], rows)


def reordering_section(results):
    reordered = [entry for entry in results if entry.get("reordered")]
    if not reordered:
        return ""
    lines = [f"- {entry['system']} {entry['test']}: {entry['reordered']}" for entry in reordered]
    return "## Reordered\n\nDatagrams that arrived behind a later one, in all runs.\n\n" + "\n".join(lines) + "\n"


def ratio_section(ratios, tests):
    if not ratios:
        return ""
    pairs = list(dict.fromkeys((ratio["of"], ratio["to"]) for ratio in ratios))
    values = {(ratio["of"], ratio["to"], ratio["test"]): ratio["ratio"] for ratio in ratios}
    rows = [[figure(values.get((*pair, test.name))) for test in tests] for pair in pairs]
    note = "Median over median. More is better, except for `rtt`, where it is the slowdown.\n\n"
    return "## Ratios\n\n" + note + table([f"{of} / {to}" for of, to in pairs], [test.name for test in tests], rows)


def table(names, columns, rows):
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(row) + " |" for name, row in zip(names, rows)]
    return "\n".join(lines) + "\n"


def active_section(active):
    if not active:
        return ""
    def line(name, facts):
        return f"- {name}: {', '.join(f'{key} {value}' for key, value in facts.items())}"

    lines = [line(name, facts) for name, facts in active.items()]
    return "## What each daemon used\n\n" + "\n".join(lines) + "\n"


def absent_section(title, items):
    if not items:
        return ""
    lines = [f"- {item['system']}{' ' + item['test'] if item.get('test') else ''}: {item['reason']}" for item in items]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def meanings(systems, names, tests):
    lines = [f"- `{system.name}`: {system.about}" for system in systems if system.name in names]
    return "\n".join(lines + [f"- `{test.name}`: {test.about}" for test in tests]) + "\n"


def versions(known):
    return "Versions:\n\n" + "\n".join(f"- {name}: {version}" for name, version in known.items()) + "\n"
