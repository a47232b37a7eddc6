"""Without root: the bench starts itself again in namespaces of its own, where the user is root.

User, network, mount and process namespaces, and a tmpfs on /run for the named network namespaces. What
is left on the machine when they end is nothing.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

from underpass_lab.command import Failure
from underpass_lab.network import ENDING_SIGNALS
from underpass_lab.userns import Facts, advice

RIGHTS = ["--user", "--map-root-user", "--net", "--mount"]
# Where /proc is masked, as in some containers, a namespace of processes cannot have a /proc of its own.
PROCESSES = ["--pid", "--fork", "--mount-proc", "--kill-child"]
TUN = "/dev/net/tun"


def is_rootless() -> bool:
    return "BENCH_ROOTLESS" in os.environ


def may_make_namespaces() -> bool:
    return is_rootless() or os.geteuid() == 0


def require_tun() -> None:
    try:
        os.close(os.open(TUN, os.O_RDWR))
    except FileNotFoundError:
        raise Failure(f"{TUN} is missing: as root, modprobe tun; in a container, pass the device in") from None
    except OSError as error:
        raise Failure(f"{TUN}: {error.strerror}: as root, chmod 0666 {TUN}") from None


def enter(words: list[str]) -> int:
    """Runs the bench again inside the namespaces, and returns its exit status."""
    choice = flags()
    command = [
        "unshare",
        *choice,
        "sh",
        "-c",
        'mount -t tmpfs tmpfs /run && exec "$@"',
        "sh",
        *(sys.executable, "-P", "-m", "underpass_lab.bench"),
        *words,
    ]
    process = subprocess.Popen(command, env={**os.environ, "BENCH_ROOTLESS": str(os.getuid())})
    forks = "--fork" in choice
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda number, _frame: forward(process.pid, forks, number))
    status = process.wait()
    return 128 - status if status < 0 else status


def flags() -> list[str]:
    for choice in (RIGHTS + PROCESSES, RIGHTS):
        if allowed(choice)[0]:
            return choice
    said = allowed(RIGHTS)[1]
    raise Failure(
        f"without root, this needs user namespaces, and they are not allowed here:\n  {said}\n"
        f"{advice(said, Facts())}\nor run this as root"
    )


def allowed(choice: list[str]) -> tuple[bool, str]:
    """Whether such namespaces can be made, and the words of the refusal."""
    done = subprocess.run(
        ("unshare", *choice, "mount", "-t", "tmpfs", "tmpfs", "/run"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stderr.strip() or f"unshare: exit status {done.returncode}"


def forward(process: int, forks: bool, number: int) -> None:
    """Passes a signal on to the bench inside: an `unshare` that forks only waits for it."""
    targets = [process]
    if forks:
        with contextlib.suppress(OSError):
            children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
            targets = list(map(int, children.split())) or targets
    for target in targets:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, number)
