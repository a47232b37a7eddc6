"""The routing daemons BIRD and FRR as Debian packages them, unpacked into a cache: nothing is installed, and no service
starts.

    CACHE/routing-RECIPE/usr/sbin/bird …

RECIPE is a hash of what decides about the result.
"""

import hashlib
import json
import os
import pathlib

from underpass_lab.cache import cache, once
from underpass_lab.debian import Archive

# Each with all that it needs and this system does not have.
PACKAGES = ("bird2", "frr")
LIBRARIES = ("usr/lib/{}-linux-gnu", "lib/{}-linux-gnu", "usr/lib/{}-linux-gnu/frr")


def directory() -> pathlib.Path:
    """Where the programs are; fetches them the first time."""
    recipe = hashlib.sha256(json.dumps((1, PACKAGES)).encode()).hexdigest()[:8]
    return once("routing", cache() / f"routing-{recipe}", _fetch)


def environment(programs: pathlib.Path) -> dict[str, str]:
    """What their libraries are found by."""
    machine = os.uname().machine
    places = [str(programs / place.format(machine)) for place in LIBRARIES]
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "LD_LIBRARY_PATH": ":".join(places)}


def _fetch(work: pathlib.Path) -> pathlib.Path:
    (work / "apt").mkdir()
    archive = Archive(work / "apt")
    archive.unpack_with_dependencies(PACKAGES, work / "result")
    return work / "result"
