"""partial.jsonl: every finished run as a line, so that an interrupted bench goes on where it stopped.

The first line holds the settings; a file with other settings is of no use. The file goes when the
results are written.
"""

import hashlib
import json
import os
import pathlib
import platform
from typing import Any


def settings(**more: Any) -> dict[str, Any]:
    """All that makes two runs comparable: the programs, the kernel, what was asked for."""
    programs = {name: digest(os.environ.get(name)) for name in ("UNDERPASS_BIN", "BENCH_NETLOAD", "BENCH_COPYLOOP")}
    return {"programs": programs, "kernel": platform.release(), "root": "BENCH_ROOTLESS" not in os.environ, **more}


def digest(path: str | None) -> str | None:
    if not path or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def finished(kept: list[dict[str, Any]]) -> int:
    """How many of the lines are runs that count."""
    return sum("outcome" in run or "failure" in run for run in kept)


class Partial:
    """The runs kept from an interrupted bench, and a file for those to come."""

    def __init__(self, path: pathlib.Path, wanted: dict[str, Any]) -> None:
        self.path, self.wanted = path, json.loads(json.dumps(wanted))
        self.kept, self.note = self._read()
        if not self.kept:
            path.write_text(json.dumps(self.wanted) + "\n", encoding="utf-8")
        self.file = path.open("a", encoding="utf-8")

    def _read(self) -> tuple[list[dict[str, Any]], str | None]:
        """The finished runs in the file, and a word about it."""
        if not self.path.exists():
            return [], None
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        # What was written last may be cut; without it, lines can be appended again.
        whole = [line for line in lines if line.endswith("\n")]
        try:
            found, *runs = map(json.loads, whole)
        except ValueError:
            return [], "partial.jsonl cannot be read: starting anew"
        if found != self.wanted:
            return [], "partial.jsonl is of other settings or programs: starting anew"
        if len(whole) < len(lines):
            self.path.write_text("".join(whole), encoding="utf-8")
        return runs, f"going on after {finished(runs)} finished runs" if runs else None

    def keep(self, **run: Any) -> None:
        self.file.write(json.dumps(run) + "\n")
        self.file.flush()

    def done(self) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)
