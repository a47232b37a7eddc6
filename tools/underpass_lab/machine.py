"""What figures were measured on and of."""

import datetime
import os
import pathlib
import platform
import sys

from underpass_lab.command import run
from underpass_lab.paths import REPO


def cpu_model() -> str:
    """The name of the processor."""
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def commit() -> str:
    """The commit that was measured, marked when files differ from it."""
    # The files may belong to another user; nothing of theirs is run.
    git = ("git", "-c", "safe.directory=*", "-C", REPO, "describe", "--always", "--dirty")
    return run(*git, check=False).stdout.strip() or "unknown"


def about(script: str) -> dict[str, str]:
    """Where, when and of what the figures of a script are."""
    return {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "host": f"{os.cpu_count()} x {cpu_model()}",
        "kernel": platform.release(),
        "command": " ".join([script, *sys.argv[1:]]),
    }
