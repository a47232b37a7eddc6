"""`--compare OLD NEW`: what got better or worse between two results.json, beyond their noise.

A figure has changed when the runs of both files do not overlap and the medians are further apart than
the noise: the largest of

- the spread (largest less smallest run, over the median) of this figure in either file,
- the median spread of its test over all systems in either file, because the spread of three runs is
  itself a matter of luck, and
- 5 %; 10 % where a file has fewer than three runs.

`worse` means less throughput, or a longer round trip. What failed in the new file and was measured in
the old one is worse, too.
"""

import json
import pathlib
import statistics
from collections.abc import Iterator

from underpass_lab.bench.results import Document, Entry
from underpass_lab.command import Failure

# Sweep, value, system, test.
Key = tuple[str | None, object, str, str]
# Sweep, test.
Group = tuple[str | None, str]

FLOOR, FLOOR_OF_FEW, FEW = 0.05, 0.10, 3
LOWER_IS_BETTER = {"us", "mib"}
VERDICTS = ("worse", "better", "same")
# Facts without which two files are hardly comparable.
FACTS = ("cpu", "cores", "kernel", "lab", "rights")
# Systems that do not change with our commits: when they do, it was the machine.
REFERENCES = ("veth", "kernel-vxlan")


def main(old_path: pathlib.Path, new_path: pathlib.Path) -> int:
    old, new = read(old_path), read(new_path)
    compared = judge(old, new)
    print("\n".join(lines(old, new, compared)))
    return 1 if any(item["verdict"] == "worse" for item in compared) else 0


def read(path: pathlib.Path) -> Document:
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8"))
        document["results"], document["host"]
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise Failure(f"{path} is no results.json of scripts/bench") from None
    return document


def figures(document: Document) -> dict[Key, Entry]:
    """All entries by (sweep, x, system, test); sweep and x are None outside sweeps."""
    found: dict[Key, Entry] = {}
    for entry in document["results"]:
        found[None, None, entry["system"], entry["test"]] = entry
    for curve in document.get("sweeps", []):
        for point in curve["points"]:
            found[curve["name"], point["x"], curve["system"], curve["test"]] = {"unit": curve["unit"], **point}
    return found


def judge(old: Document, new: Document) -> list[Entry]:
    """One item for each figure of the old file: key, medians, change, noise, verdict."""
    before, after = figures(old), figures(new)
    usual = [usual_spreads(before), usual_spreads(after)]
    compared = [
        compare(key, before[key], after[key], max(spreads.get(group(key), 0) for spreads in usual))
        for key in before
        if key in after
    ]
    return compared + [gone(key, before[key]) for key in before if key not in after and has_failed(new, key)]


def compare(key: Key, old: Entry, new: Entry, usual: float) -> Entry:
    few = min(len(old["runs"]), len(new["runs"])) < FEW
    noise = max(spread(old), spread(new), usual, FLOOR_OF_FEW if few else FLOOR)
    change = new["median"] / old["median"] - 1 if old["median"] else 0
    apart = new["min"] > old["max"] or new["max"] < old["min"]
    # Half as much and twice as much are the same distance.
    beyond = max(1 + change, 1 / (1 + change) if change > -1 else float("inf")) > 1 + noise
    verdict = "same"
    if apart and beyond:
        verdict = "better" if (change < 0) == (old["unit"] in LOWER_IS_BETTER) else "worse"
    return {
        "key": key,
        "old": old["median"],
        "new": new["median"],
        "unit": old["unit"],
        "change": change,
        "noise": noise,
        "verdict": verdict,
    }


def gone(key: Key, old: Entry) -> Entry:
    return {
        "key": key,
        "old": old["median"],
        "new": None,
        "unit": old["unit"],
        "change": None,
        "noise": None,
        "verdict": "worse",
    }


def has_failed(document: Document, key: Key) -> bool:
    sweep, x, system, test = key
    return any(
        failure["system"] == system
        and failure.get("test") in (test, None)
        and (failure.get("sweep"), failure.get("x")) == (sweep, x)
        for failure in document.get("failed", [])
    )


def spread(entry: Entry) -> float:
    return (entry["max"] - entry["min"]) / entry["median"] if entry["median"] else 0


def group(key: Key) -> Group:
    """What shares its usual spread: a test, in a sweep or outside."""
    return key[0], key[3]


def usual_spreads(entries: dict[Key, Entry]) -> dict[Group, float]:
    spreads: dict[Group, list[float]] = {}
    for key, entry in entries.items():
        if len(entry["runs"]) > 1:
            spreads.setdefault(group(key), []).append(spread(entry))
    return {name: statistics.median(values) for name, values in spreads.items()}


# --- what is printed ------------------------------------------------------------------------------


def lines(old: Document, new: Document, compared: list[Entry]) -> Iterator[str]:
    for title, document in (("old", old), ("new", new)):
        host = document["host"]
        yield f"{title}: {host.get('commit')}, {host.get('date')}, {host.get('command')}"
    for fact in FACTS:
        pair = [document["host"].get(fact) for document in (old, new)]
        if pair[0] != pair[1] and None not in pair:
            yield f"warning: not the same {fact}: {pair[0]} and {pair[1]}"
    yield ""
    for item in sorted(compared, key=lambda item: VERDICTS.index(item["verdict"])):
        yield line(item)
    for key in figures(old):
        if key not in {item["key"] for item in compared}:
            yield f"{'-':<8}{label(key):<44}only in the old file"
    counts = {verdict: sum(item["verdict"] == verdict for item in compared) for verdict in VERDICTS}
    yield ""
    yield ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    moved = [
        item["change"]
        for item in compared
        if item["key"][2] in REFERENCES and item["change"] is not None and item["verdict"] != "same"
    ]
    if moved:
        yield (
            f"{' and '.join(REFERENCES)} are not ours and {len(moved)} of their figures changed: "
            "the machine was not the same; repeat both runs"
        )


def line(item: Entry) -> str:
    if item["new"] is None:
        return f"{item['verdict']:<8}{label(item['key']):<44}failed; was {number(item['old'])} {item['unit']}"
    return (
        f"{item['verdict']:<8}{label(item['key']):<44}{number(item['old']):>9} -> {number(item['new']):>9} "
        f"{item['unit']:<14}{item['change']:+6.1%}  noise {item['noise']:.0%}"
    )


def label(key: Key) -> str:
    sweep, x, system, test = key
    return f"{system} {test}" if sweep is None else f"{system} {test} {sweep}={x}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
