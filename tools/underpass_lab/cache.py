"""Where programs are kept that are fetched or built once."""

import fcntl
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

Say = Callable[[str], None]


def cache() -> pathlib.Path:
    """$UNDERPASS_CACHE or ~/.cache/underpass."""
    named = os.environ.get("UNDERPASS_CACHE")
    return pathlib.Path(named).absolute() if named else pathlib.Path.home() / ".cache" / "underpass"


def once(name: str, directory: pathlib.Path, make: Callable[[pathlib.Path], pathlib.Path]) -> pathlib.Path:
    """Has `make` build what belongs into `directory` unless that has been done. It is given a working directory, and
    returns the one in it that gets the name `directory`: so one that is there is whole."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / f"{name}.lock", "w", encoding="ascii") as lock:
        # Who comes second waits, and finds all done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            for left in cache().glob(f"{name}.build-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=f"{name}.build-", dir=cache()) as work:
                make(pathlib.Path(work)).rename(directory)
    return directory
