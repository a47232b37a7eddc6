"""The command lines that run something inside a lab."""

import os
import sys

from underpass_lab.lab.state import RunningLab

# The working directory stays what it was where the lab has one of that name.
_STAY = 'cd "$0" 2>/dev/null || cd /; exec "$@"'
# How a module of this package is run; the scripts have put its place into PYTHONPATH.
MODULE = (sys.executable, "-P", "-m")


def command(lab: RunningLab, *words: object, name: str | None = None) -> list[str]:
    """Runs `words` in the keeper's namespaces, or in the network namespace `name` of the lab."""
    pid = lab.needed_keeper()
    own = os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{pid}/ns/user")
    user = () if own else ("--user", "--preserve-credentials")
    there = ("ip", "netns", "exec", name) if name else ()
    enter = ["nsenter", "--target", str(pid), *user, "--mount", "--net", "--pid", "--"]
    return [*enter, "/bin/sh", "-c", _STAY, os.getcwd(), *there, *map(str, words)]


def module(lab: RunningLab, which: str, *words: object, name: str | None = None) -> list[str]:
    """The same for a module of this package."""
    return command(lab, *MODULE, f"underpass_lab.{which}", *words, name=name)


def environment(lab: RunningLab, name: str | None = None) -> dict[str, str]:
    """What a command in a lab finds; on a node also `underpass` in PATH, talking to the daemon of that node."""
    # How this package was found is not for others.
    values = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if name:
        values["PATH"] = f"{lab.file('bin')}:{os.environ.get('PATH', os.defpath)}"
        values["UNDERPASS_LAB"] = lab.name
        values["UNDERPASS_SOCKET"] = str(lab.file(f"{name}.sock"))
    return values
