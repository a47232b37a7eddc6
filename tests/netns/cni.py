"""A container runtime as far as its network plugins see it: what it runs, with which environment and input."""

import bootstrap

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from underpass_lab.command import run
from underpass_lab.daemon import binary
from underpass_lab.network import Lab

PLUGIN = "underpass-cni"
STOCK = "/usr/lib/cni"


class Refused(Exception):
    """The error of a plugin, as it stands on its stdout."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.code = int(error["code"])
        self.text = f"{error['msg']}; {error.get('details', '')}"


class Runtime:
    """Runs the first plugin of a node's network configuration."""

    def __init__(self, lab: Lab, node: str, conflist: pathlib.Path) -> None:
        self.lab, self.node, self.conflist = lab, node, conflist

    def configuration(self) -> dict[str, Any]:
        """What the first plugin gets on its stdin, by the conflist as it is now."""
        whole = json.loads(self.conflist.read_text(encoding="utf-8"))
        plugin: dict[str, Any] = whole["plugins"][0]
        return {"cniVersion": whole["cniVersion"], "name": whole["name"], **plugin}

    def environment(self, verb: str, container: str, **variables: str) -> dict[str, str]:
        """The variables of one call; those that are given empty are left out."""
        words = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{container};K8S_POD_UID=uid-{container}"
        own = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"{self.lab.names}/{self.lab.ns(container)}",
            "CNI_ARGS": words,
            "CNI_PATH": f"{pathlib.Path(binary()).parent}:{STOCK}",
        } | variables
        return {name: value for name, value in (os.environ | own).items() if value}

    def call(self, verb: str, container: str = "", stdin: str | None = None, **variables: str) -> Any:
        """What a verb answers: its result, None where it has none; raises Refused."""
        text = json.dumps(self.configuration()) if stdin is None else stdin
        program = pathlib.Path(binary()).parent / PLUGIN
        words = ("nsenter", f"--net={self.lab.names}/{self.lab.ns(self.node)}", program)
        done = run(*words, check=False, timeout=60, input=text, env=self.environment(verb, container, **variables))
        if done.returncode == 0:
            return json.loads(done.stdout) if done.stdout else None
        raise Refused(json.loads(done.stdout))

    def add(self, container: str, **more: Any) -> Any:
        """ADD with the conflist's configuration and `more` keys."""
        return self.call("ADD", container, json.dumps(self.configuration() | more))

    def delete(self, container: str, **more: Any) -> None:
        """DEL, which has no result."""
        answer = self.call("DEL", container, json.dumps(self.configuration() | more))
        if answer is not None:
            raise AssertionError(answer)
