"""A running daemon keeps to its own OpenAPI document, whatever schemathesis makes of it."""

import bootstrap

import contextlib
import os
import pathlib
import subprocess
from typing import Any

from bridge import Bridge
from shared import SharedLab
from underpass_lab.api import Api
from underpass_lab.command import Failure, run
from underpass_lab.daemon import Daemon
from underpass_lab.paths import REPO

SEED = 1
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
LIMIT_S = 300


def schemathesis() -> str:
    """The program, where `ensure_dev_tools` of scripts/lib.sh puts it."""
    tools = os.environ.get("DEV_TOOLS")
    if tools is None:
        # Cargo's own answer, since the target directory may be elsewhere.
        command = "cargo metadata --format-version 1 --no-deps --locked --offline | jq -r .target_directory"
        tools = run("sh", "-c", command, cwd=REPO).stdout.strip() + "/tools-venv/bin"
    path = pathlib.Path(tools) / "schemathesis"
    if not path.exists():
        raise Failure(
            f"{path} is missing: run scripts/test, or `. scripts/lib.sh; ensure_dev_tools`, which install "
            "what tools/requirements-dev.txt lists"
        )
    return str(path)


class Document(SharedLab):
    """`GET /v1/openapi.json` and what it promises."""

    daemons = ("n1", "n2")
    config = {"extra": "\n[policy]\n"}

    def test_the_daemon_does_what_the_document_says(self) -> None:
        daemon = self.lab.daemons["n1"]
        before = daemon.json("route", "list")
        # The first fault ends it: answers that do not come take their time.
        with Bridge(self.lab, "n1", daemon.socket) as bridge:
            command = (schemathesis(), "run", f"{bridge.url}/v1/openapi.json", "--checks", CHECKS)
            options = ("--max-examples", 20, "--seed", SEED, "--phases", "examples,coverage,fuzzing")
            quiet = ("--no-color", "--warnings", "off", "--request-timeout", 5, "--max-failures", 1)
            environment = os.environ | {"HOME": str(self.lab.dir)}
            result = self.lab.exec(
                *("n1", *command, *options, *quiet),
                check=False,
                timeout=LIMIT_S,
                cwd=self.lab.dir,
                env=environment,
                stdin=subprocess.DEVNULL,
            )
            statuses = bridge.statuses
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assert_every_request_was_made(statuses)
        self.assertIsNone(daemon.process.poll(), daemon.log())
        self.assert_as_before(daemon, before)

    def assert_every_request_was_made(self, statuses: dict[tuple[str, str, int], int]) -> None:
        answered = {(method, path) for method, path, _ in statuses}
        with contextlib.closing(Api(self.lab.daemons["n1"].socket)) as api:
            document = api.get("/v1/openapi.json")
        for path, item in document["paths"].items():
            for method in item:
                begin = path.partition("{")[0]
                made = any(m == method.upper() and p.startswith(begin) for m, p in answered)
                self.assertTrue(made, f"{method} {path} was not tried: {sorted(answered)}")
        policy = ("/v1/policies", "/v1/policies/trace", "/v1/connections")
        for wanted in ("/v1/status", "/v1/routes", "/v1/peers", "/v1/drops", "/v1/capture", *policy):
            self.assertIn(("GET", wanted, 200), statuses)

    def assert_as_before(self, daemon: Daemon, before: Any) -> None:
        """What was added can be taken away, and a reload brings back what was deleted: schemathesis learns names
        of peers from answers, so n2 may have been."""
        for peer in daemon.json("peer", "list"):
            daemon.command("peer", "del", peer["name"])
        daemon.command("route", "replace", "--file", "/dev/null")
        daemon.command("reload")
        ages = {"age_seconds": 0}
        without_ages = [[route | ages for route in routes] for routes in (before, daemon.json("route", "list"))]
        self.assertEqual(without_ages[0], without_ages[1])
        self.assertEqual(self.lab.status("n1")["routes"], 2)
        self.assertEqual(self.lab.ping("podA", "10.244.2.2"), 3)
