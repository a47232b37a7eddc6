"""The command lines that run something inside a lab."""

import os
import pathlib
import sys

# The working directory stays what it was where the lab has one of that name.
_STAY = 'cd "$0" 2>/dev/null || cd /; exec "$@"'
_HERE = pathlib.Path(__file__).resolve().parent


def command(lab, *words, name=None):
    """Runs `words` in the keeper's namespaces, or in the network namespace `name` of the lab."""
    pid = lab.needed_keeper()
    own = os.readlink("/proc/self/ns/user") == os.readlink(f"/proc/{pid}/ns/user")
    user = () if own else ("--user", "--preserve-credentials")
    there = ("ip", "netns", "exec", name) if name else ()
    return ["nsenter", "--target", str(pid), *user, "--mount", "--net", "--pid", "--",
            "/bin/sh", "-c", _STAY, os.getcwd(), *there, *map(str, words)]


def engine(lab, module, *words, name=None):
    """The same for a file of this directory."""
    return command(lab, sys.executable, _HERE / module, *words, name=name)


def environment(lab, name):
    """What a command on a node finds: `underpass` in PATH, talking to the daemon of that node."""
    values = dict(os.environ, PATH=f"{lab.file('bin')}:{os.environ.get('PATH', os.defpath)}", UNDERPASS_LAB=lab.name)
    values["UNDERPASS_SOCKET"] = str(lab.file(f"{name}.sock"))
    return values
