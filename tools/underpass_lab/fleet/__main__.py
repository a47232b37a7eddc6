"""The program behind scripts/fleet: see there."""

import argparse
import json
import pathlib
from typing import Any

from underpass_lab import machine
from underpass_lab.command import end_with
from underpass_lab.daemon import binary
from underpass_lab.fleet import crowd, report
from underpass_lab.fleet.by_bird import ByBird
from underpass_lab.fleet.by_etcd import ByEtcd
from underpass_lab.fleet.feed import CHANGES, Feed
from underpass_lab.fleet.measure import Measurement
from underpass_lab.nodes import NodeLab
from underpass_lab.paths import REPO

FEEDS: dict[str, type[Feed]] = {"etcd": ByEtcd, "bird": ByBird}
# The sizes beside the one that is asked for, as parts of it.
PARTS = (4, 2, 1)


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fleet", description="A daemon in a fleet of thousands of nodes.")
    parser.add_argument("--out", type=pathlib.Path, default=REPO / "bench-results", help="directory of the results")
    parser.add_argument("--nodes", type=int, default=5000, help="nodes of the largest fleet")
    parser.add_argument("--feed", choices=FEEDS, help="only this one")
    parser.add_argument("--seconds", type=int, default=20, help="seconds of the measurement of an idle daemon")
    options = parser.parse_args()
    if not PARTS[0] * CHANGES <= options.nodes <= crowd.MOST:
        parser.error(f"--nodes: {PARTS[0] * CHANGES} to {crowd.MOST}")
    return options


def measure(kind: type[Feed], nodes: int, seconds: int) -> dict[str, Any]:
    """A fleet of one size, in a lab of its own."""
    with NodeLab("T2") as lab:
        feed = kind(lab, nodes)
        feed.prepare()
        result = Measurement(feed, seconds).run()
        feed.end()
    return result


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine.about("scripts/fleet") | {"build": pathlib.Path(binary()).parent.name}
    results, text = [], f"{about}\n"
    for feed in [options.feed] if options.feed else FEEDS:
        of_feed = []
        for part in PARTS:
            nodes = options.nodes // part
            say(f"{nodes} nodes by {FEEDS[feed].name}")
            of_feed.append(measure(FEEDS[feed], nodes, options.seconds))
        results += of_feed
        text += f"\n{report.table(of_feed)}"
    (options.out / "fleet.json").write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
    (options.out / "fleet.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    end_with(main)
