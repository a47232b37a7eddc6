"""The program behind scripts/bench-routes: see there."""

import argparse
import json
import pathlib
import statistics
from typing import Any

from underpass_lab import machine
from underpass_lab.bench_routes import changes as changing
from underpass_lab.bench_routes import load
from underpass_lab.daemon import Daemon
from underpass_lab.nodes import ADDRESSES, NodeLab
from underpass_lab.paths import REPO

# Changes a second, and in a request.
CHANGES = {"batched": (5000, 50), "single": (5000, 1), "storm": (50_000, 500)}
PARTS = ("load", *CHANGES)


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-routes", description="The routing table under load.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given several times")
    parser.add_argument("--out", type=pathlib.Path, default=REPO / "bench-results", help="directory of the results")
    parser.add_argument("--routes", type=int, default=1_000_000, help="routes in the table")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each run with traffic")
    parser.add_argument("--rounds", type=int, default=3, help="runs with and without changes")
    return parser.parse_args()


def start(lab: NodeLab) -> Daemon:
    """Both daemons; podB also has the addresses that the probe goes to."""
    pools = [(load.POOL, "Never", "Always")]
    peers = {"n2": (ADDRESSES["n2"], ["10.244.2.0/24"]), "n3": (ADDRESSES["n3"], [])}
    lab.start_daemon("n1", pools=pools, peers=peers)
    lab.start_daemon("n2", pools=pools, local=["10.244.2.0/24", changing.PROBE_PREFIX])
    lab.ip("n2", f"route add {changing.PROBE_PREFIX} via 10.244.2.2")
    lab.ip("podB", f"address add {changing.PROBED[0]}/32 dev lo")
    return lab.daemons["n1"]


def means(part: dict[str, Any]) -> str:
    """The throughput without and with changes, as mean and its standard error."""
    both = [[run["gbit_s"] for run in part[runs]] for runs in ("quiet", "disturbed")]
    without, with_changes = map(statistics.mean, both)
    errors = [statistics.stdev(runs) / len(runs) ** 0.5 if len(runs) > 1 else float("nan") for runs in both]
    return (
        f"{without:.3f} ± {errors[0]:.3f}, {with_changes:.3f} ± {errors[1]:.3f} Gbit/s (x {with_changes / without:.3f})"
    )


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    rows: list[tuple[str, object]] = [("", "")]
    if part := result.get("load"):
        full = [one["full_mib"] for one in part["rounds"]]
        empty = [one["empty_mib"] for one in part["rounds"]]
        rows += [
            (f"{part['routes']} routes from a file ({part['file_mib']} MiB)", f"{part['load_s']} s"),
            (
                "memory idle, loaded, peak of loading",
                f"{part['idle_mib']}, {part['loaded_mib']}, {part['load_peak_mib']} MiB",
            ),
            ("list, equals input", f"{part['list_s']} s, {'yes' if part['list_equals_input'] else 'NO'}"),
            (f"{len(full)} rounds, memory full", f"{min(full)} to {max(full)} MiB"),
            (f"{len(full)} rounds, memory empty", f"{min(empty)} to {max(empty)} MiB"),
            ("memory 7 s after the last route", f"{part['end_mib']} MiB"),
            ("replacing all by the same, peak", f"{part['replace_s']} s, {part['replace_peak_mib']} MiB"),
        ]
    for name in CHANGES:
        if part := result.get(name):
            one = part["disturbed"][0]
            rate = sum(run["changes_a_second"] for run in part["disturbed"]) // len(part["disturbed"])
            cpus = [max(run["daemon_cpus"] for run in runs) for runs in (part["quiet"], part["disturbed"])]
            size = one["changes"] // one["requests"]
            rows += [
                (
                    f"{rate} changes/s in requests of {size}: throughput without, with",
                    f"{part['gbit_s'][0]}, {part['gbit_s'][1]} Gbit/s (x {part['ratio']})",
                ),
                ("… the means of all runs, with their standard errors", means(part)),
                ("… paced flow, lost without, with", f"{part['paced_lost'][0]}, {part['paced_lost'][1]}"),
                (
                    "… visible to packets after, p50 and p99",
                    f"{part['visible_ms']['p50']}, {part['visible_ms']['p99']} ms",
                ),
                ("… answered after, p50 and p99", f"{one['answer']['p50_ms']}, {one['answer']['p99_ms']} ms"),
                ("… processors of the daemon without, with", f"{cpus[0]}, {cpus[1]}"),
                ("… processors of the client", str(max(run["client_cpus"] for run in part["disturbed"]))),
                ("… what is left is what was meant", "yes" if part["left_as_expected"] else "NO"),
            ]
    lines = [f"| {key} | {value} |" for key, value in rows]
    lines.insert(1, "|---|---|")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = arguments()
    parts = options.part or PARTS
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "routes.json"
    result = json.loads(file.read_text(encoding="utf-8")) if options.part and file.exists() else {}
    result["about"] = machine.about("scripts/bench-routes")
    with NodeLab("T2", virtual=True) as lab:
        daemon = start(lab)
        if "load" in parts:
            say(f"{options.routes} routes from a file, and ten rounds of adding and deleting")
            result["load"] = load.measure(daemon, lab.dir, options.routes, 10, say)
        if not CHANGES.keys().isdisjoint(parts):
            changing.start_servers(lab)
            say(f"{options.routes} routes, then traffic")
            routes = lab.dir / "routes.txt"
            load.write_routes(routes, options.routes)
            load.timed(daemon, "route", "replace", "--file", routes)
            changing.warm_up(lab, daemon)
        for name, changes in CHANGES.items():
            if name in parts:
                say(f"{changes[0]} changes a second, {changes[1]} in a request")
                result[name] = changing.interleaved(lab, daemon, options.rounds, options.seconds, changes, say)
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = f"{result['about']}\n\n{table(result)}"
    (options.out / "routes.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
