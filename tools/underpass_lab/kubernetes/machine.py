"""A machine of a cluster, seen from outside: its keeper, its services, commands in it, its end.

The keeper is found by its command line, which ends in the state directory: no record of it could be stale.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

from underpass_lab import netns
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.kubernetes import cgroups
from underpass_lab.kubernetes.plan import Plan
from underpass_lab.paths import PYTHON, TOOLS

KEEPER = "underpass_lab.kubernetes.keeper"
START_S, END_S = 20, 20


@dataclass(frozen=True)
class Process:
    """A process of a machine, with its pid on the host."""

    pid: int
    name: str
    rss_kib: int


class Machine:
    """A node, or the control plane."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        # A node's root directory; the control plane has none of its own.
        self.root = plan.state / name
        self._started: subprocess.Popen[Any] | None = None

    # --- the keeper -------------------------------------------------------------------------------

    def start(self, programs: pathlib.Path) -> None:
        """Starts the keeper, and waits until it listens."""
        files = cgroups.make(self.plan.id, self.name)
        arguments = (self.name, programs, f"{self.plan.id}/{self.name}", self.plan.state)
        words = (
            *("sh", "-ec", 'while [ "$1" != -- ]; do echo 0 >"$1"; shift; done; shift; exec "$@"', "sh", *files, "--"),
            *("nsenter", f"--net={netns.NAMES / f'{self.plan.id}-{self.name}'}", "unshare", "--mount", "--pid"),
            *("--cgroup", "--fork", "--kill-child", PYTHON, "-B", "-P", "-m", KEEPER, *arguments),
        )
        log = self.log("keeper")
        with open(log, "w", encoding="utf-8") as said:
            process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(TOOLS)},
            )
        wait_until(lambda: process.poll() is not None or self._listens(), START_S, f"the keeper of {self.name}")
        if process.poll() is not None:
            raise Failure(f"{self.name} ended at once:\n{log.read_text(encoding='utf-8')}")
        cgroups.settle(self.plan.id, self.name)
        # It may outlive this process; if not, end() takes leave of it.
        self._started = process

    def _listens(self) -> bool:
        try:
            self._ask({"do": "list"})
        except OSError:
            return False
        return True

    def _ask(self, request: dict[str, Any]) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_S)
            connection.connect(str(self.plan.state / f"{self.name}.sock"))
            with connection.makefile("rw", encoding="utf-8") as stream:
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
        if "error" in answer:
            raise Failure(answer["error"])
        services: dict[str, int] = answer["services"]
        return services

    # --- services ---------------------------------------------------------------------------------

    def log(self, service: str) -> pathlib.Path:
        """Where what a service says goes."""
        return self.plan.state / f"{self.name}.{service}.log"

    def services(self) -> dict[str, int]:
        """The services that run, with their pids in the machine."""
        return self._ask({"do": "list"})

    def start_service(self, name: str, *command: object) -> None:
        """Starts a service that does not run already."""
        self._ask({"do": "start", "name": name, "command": [str(word) for word in command]})

    def end_service(self, name: str, number: int = signal.SIGKILL) -> None:
        """Ends a service with a signal, and waits for it. Harmless where it does not run."""
        self._ask({"do": "signal", "name": name, "number": number})
        wait_until(lambda: name not in self.services(), END_S, f"the end of {name} on {self.name}")

    def signal_service(self, name: str, number: int) -> None:
        """Sends a signal, such as SIGSTOP and SIGCONT."""
        self._ask({"do": "signal", "name": name, "number": number})

    # --- commands ---------------------------------------------------------------------------------

    def entry(self) -> tuple[str, ...]:
        """The words before a command that shall run in the machine's namespaces."""
        return ("nsenter", f"--target={self.needed_keeper()}", "--net", "--mount", "--pid")

    def run(
        self, *command: object, check: bool = True, timeout: float = 30, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end in the machine; a CompletedProcess with text in `stdout`, `stderr`."""
        return run(*self.entry(), *command, check=check, timeout=timeout, **options)

    def popen(self, *command: object, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command in the machine; it ends with the machine at the latest."""
        words = [*self.entry(), *map(str, command)]
        return subprocess.Popen(words, **{"stdin": subprocess.DEVNULL, "text": True} | options)

    def path(self, path: object) -> pathlib.Path:
        """Where a file of a node's own /etc, /var, /run and /opt is on the host. Not those in other mounts."""
        return self.root / str(path).lstrip("/")

    # --- processes --------------------------------------------------------------------------------

    def keepers(self) -> dict[bool, list[int]]:
        """The keeper, and what made its namespaces and waits for it: pids by whether they are the keeper itself."""
        found: dict[bool, list[int]] = {True: [], False: []}
        wanted = (KEEPER.encode(), self.name.encode(), os.fsencode(self.plan.state))
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = pathlib.Path(entry.path, "cmdline").read_bytes().split(b"\0")[:-1]
                if (*words[-5:-3], *words[-1:]) == wanted:
                    found[b"python" in os.path.basename(words[0])].append(int(entry.name))
        return found

    def needed_keeper(self) -> int:
        """The pid of the keeper."""
        for pid in self.keepers()[True]:
            return pid
        raise Failure(f"{self.name} does not run: see {self.log('keeper')}, or begin again with down and up")

    def processes(self) -> list[Process]:
        """All processes of the machine, those of its containers too."""
        namespace = os.readlink(f"/proc/{self.needed_keeper()}/ns/pid")
        found = []
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError, KeyError):
                if entry.name.isdigit() and os.readlink(f"{entry.path}/ns/pid") == namespace:
                    lines = pathlib.Path(entry.path, "status").read_text(encoding="utf-8").splitlines()
                    fields = dict(line.split(":", 1) for line in lines)
                    found.append(Process(int(entry.name), fields["Name"].strip(), int(fields["VmRSS"].split()[0])))
        return sorted(found, key=lambda process: process.pid)

    def end(self) -> None:
        """Ends the keeper and with it every process of the machine. Harmless where there is none."""
        # The keeper first: what waits for it takes leave of it, and ends.
        for is_keeper in (True, False):
            self._kill(self.keepers()[is_keeper])
        if self._started:
            self._started.wait()

    def _kill(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # The kernel lets the keeper go last, when nothing is left in its pid namespace.
        wait_until(lambda: all(map(_ended, pids)), END_S, f"the end of {self.name}: {' '.join(map(str, pids))}")


def _ended(pid: int) -> bool:
    """Whether a process is gone, or is only waiting for its parent to notice."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
