"""A place that every user may look into, for what other users run: the checkout may be root's alone."""

import bootstrap

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

from underpass_lab import network
from underpass_lab.daemon import binary
from underpass_lab.paths import TRAFFIC


@contextlib.contextmanager
def public_directory() -> Iterator[Any]:
    """A new directory below /tmp with mode 0755; gone with the block."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="uppublic-"))
    try:
        place.chmod(0o755)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def publish(program: str | pathlib.Path, place: pathlib.Path, name: str | None = None) -> pathlib.Path:
    """Copies a program or a tree to `place` so that everybody may read and run it, whatever umask and mode of
    the original say; returns the copy."""
    source = pathlib.Path(program)
    copy = place / (name or source.name)
    if source.is_dir():
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, copy)
    for path in (copy, *(copy.rglob("*") if copy.is_dir() else ())):
        if not path.is_symlink():
            runs = path.is_dir() or os.access(path, os.X_OK)
            path.chmod(0o755 if runs else 0o644)
    return copy


@contextlib.contextmanager
def everybody_may_run() -> Iterator[Any]:
    """Within the block the daemon and the traffic generator of the labs are copies in a public place."""
    with public_directory() as place:
        daemon = {"UNDERPASS_BIN": str(publish(binary(), place))}
        with mock.patch.dict(os.environ, daemon), mock.patch.object(network, "TRAFFIC", str(publish(TRAFFIC, place))):
            yield place
