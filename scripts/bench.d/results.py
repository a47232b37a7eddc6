"""What has been measured so far, and the document made of it."""

import statistics

# Which systems are put in relation: ours to what they replace, and to the other userspace tunnels.
BASELINES = {
    "underpass-direct": ["veth"],
    "underpass-vxlan": ["kernel-vxlan", "ovs-vxlan", "wireguard-go", "boringtun"],
}
DEFAULT_BASELINE = ["kernel-vxlan"]


class Results:
    """Runs by system and test, skipped systems, failures."""

    def __init__(self, host, tests):
        self.host, self.tests = host, tests
        self.runs = {}
        self.skipped, self.failed = [], []
        self.facts = {}

    def add(self, system, test, outcome):
        self.runs.setdefault((system.name, test.name), []).append(outcome)

    def skip(self, system, reason):
        self.skipped.append({"system": system.name, "reason": reason})

    def fail(self, system, test, reason):
        """`test` is None when the system did not come up."""
        self.failed.append({"system": system.name, "test": test.name if test else None, "reason": reason})

    def failures(self, system):
        """How often the system did not come up."""
        return sum(1 for failure in self.failed if failure["system"] == system.name and failure["test"] is None)

    def outcomes(self, system, test):
        return self.runs.get((system, test), [])

    def median(self, system, test):
        values = [outcome["value"] for outcome in self.outcomes(system, test)]
        return statistics.median(values) if values else None

    def document(self):
        return {
            "host": self.host,
            "results": [self._entry(system, test) for system, test in sorted(self.runs, key=self._order)],
            "ratios": self._ratios(),
            "active": {name: facts for name, facts in self.facts.items() if facts},
            "skipped": self.skipped,
            "failed": self.failed,
        }

    def _order(self, key):
        return [test.name for test in self.tests].index(key[1])

    def _entry(self, system, test):
        outcomes = self.outcomes(system, test)
        values = [outcome["value"] for outcome in outcomes]
        entry = {
            "system": system,
            "test": test,
            "unit": next(known.unit for known in self.tests if known.name == test),
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "runs": values,
            "cpu_s_per_gb": median_of(outcomes, "cpu_s_per_gb"),
        }
        if "p99" in outcomes[0]:
            entry["p99"] = median_of(outcomes, "p99")
            entry["back_to_back"] = median_of(outcomes, "back_to_back")
        if "loss" in outcomes[0]:
            entry["loss"] = max(outcome["loss"] for outcome in outcomes)
            entry["reordered"] = sum(outcome["reordered"] for outcome in outcomes)
        return entry

    def _ratios(self):
        ratios = []
        for test in self.tests:
            for system in dict.fromkeys(name for name, _ in self.runs if name.startswith("underpass-")):
                for baseline in BASELINES.get(system, DEFAULT_BASELINE):
                    ours, theirs = self.median(system, test.name), self.median(baseline, test.name)
                    if ours is not None and theirs:
                        ratios.append({"test": test.name, "of": system, "to": baseline, "ratio": ours / theirs})
        return ratios


def median_of(outcomes, key):
    values = [outcome[key] for outcome in outcomes if outcome.get(key) is not None]
    return statistics.median(values) if values else None
