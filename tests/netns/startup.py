"""Starts that must fail, and what a daemon must not leave behind."""

import bootstrap

import os
from typing import Any

from shared import own_routes
from underpass_lab.command import run
from underpass_lab.daemon import binary
from underpass_lab.nodes import NodeLab


def refused(lab: NodeLab, node: str, text: str, wrapper: Any = (), file: Any = None, program: str | None = None) -> Any:
    """Runs a daemon that must refuse to start; returns what it said. `wrapper` goes before the command.

    It must exit with 1 by itself, and neither its device, its routes nor its socket may be left.
    """
    file = file or lab.dir / f"{node}-refused.toml"
    file.write_text(text, encoding="utf-8")
    had_socket = os.path.lexists(lab.dir / f"{node}.sock")
    had_device = device_exists(lab, node)
    result = lab.exec(node, *wrapper, program or binary(), "run", "--config", file, check=False, timeout=5)
    if result.returncode != 1 or result.stdout:
        raise AssertionError(f"status {result.returncode}, said {result.stdout}{result.stderr}")
    if device_exists(lab, node) != had_device or (own_routes(lab, node) and not had_device):
        raise AssertionError(f"something is left on {node}: device or routes {own_routes(lab, node)}")
    if os.path.lexists(lab.dir / f"{node}.sock") != had_socket:
        raise AssertionError("the socket is left")
    return result.stderr


def device_exists(lab: NodeLab, node: str, device: str = "up0") -> bool:
    """Whether a device exists on a node."""
    return run("ip", "-n", lab.ns(node), "link", "show", device, check=False).returncode == 0
