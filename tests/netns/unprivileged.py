"""An ordinary user without any right: uid 1000, user namespaces, and a TUN device that everybody may open."""

import bootstrap

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
from typing import Any

from public import publish
from rootless import AS_USER, OWN_TUN, USER
from underpass_lab.command import run, wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import NodeLab
from underpass_lab.paths import REPO

NO_TUN = "no"


def as_user(*command: Any, tun: str = "0666", home: str | pathlib.Path = "/nowhere") -> list[str]:
    """The command line that runs `command` as that user; `tun` is the mode of /dev/net/tun, or NO_TUN."""
    make = "true" if tun == NO_TUN else f"mknod -m {tun} /dev/net/tun c 10 200"
    environment = [
        f"{name}={value}"
        for name, value in {
            "PATH": "/usr/bin:/bin",
            "HOME": home,
            "XDG_RUNTIME_DIR": home,
            "UNDERPASS_BIN": f"{home}/tree/bin/underpass",
        }.items()
    ]
    return [*OWN_TUN, make, *AS_USER, "env", "-i", *environment, *map(str, command)]


def fill(home: pathlib.Path) -> None:
    """Makes a directory the user's, with a copy of scripts and daemon in `tree`: the checkout may be private."""
    tree = home / "tree"
    tree.mkdir(mode=0o755)
    for part in ("scripts", "tools", "config"):
        publish(REPO / part, tree)
    (tree / "bin").mkdir(mode=0o755)
    publish(binary(), tree / "bin", "underpass")
    os.chown(home, USER, USER)


class RootlessLab(NodeLab):
    """A lab in a user namespace of that user; the daemons have no right outside of it."""

    def __enter__(self) -> Any:
        os.chown(self.dir, USER, USER)
        ready = "ip link set lo up && mount -t tmpfs tmpfs /run && echo ready && exec sleep infinity"
        self._holder = subprocess.Popen(
            as_user("unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", ready),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self._holder.stdout.readline() if self._holder.stdout else ""
        if line != "ready\n":
            raise AssertionError(f"no user namespace: {self._holder.communicate()[1]}")
        pid = self._holder.pid
        self.names = pathlib.Path(f"/proc/{pid}/root/run/netns")
        self.entry = (
            *AS_USER,
            "nsenter",
            f"--target={pid}",
            "--user",
            "--preserve-credentials",
            "--mount",
            "--net",
            "--",
        )
        return super().__enter__()

    def close(self) -> None:
        super().close()
        self._holder.kill()
        self._holder.communicate()


class UserLabs:
    """`scripts/lab` in the hands of that user; everything is gone when the `with` block ends."""

    def __enter__(self) -> Any:
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="uplab-"))
        try:
            fill(self.home)
        except BaseException:
            shutil.rmtree(self.home)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.lab("down", "--all")
        shutil.rmtree(self.home, ignore_errors=True)

    def command(self, *words: Any, **options: Any) -> Any:
        return as_user(self.home / "tree" / "scripts" / "lab", *words, home=self.home, **options)

    def lab(self, *words: Any, check: bool = True, timeout: float = 120, tun: str = "0666", **options: Any) -> Any:
        """Runs `scripts/lab` to its end."""
        return run(*self.command(*words, tun=tun), check=check, timeout=timeout, cwd="/", **options)


class LabCase(unittest.TestCase):
    """Each class has a home directory and is left without a lab."""

    user: UserLabs
    root: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        cls.user = cls.enterClassContext(UserLabs())
        cls.root = cls.user.home / "underpass-lab"

    def lab(self, *words: Any, **options: Any) -> Any:
        return self.user.lab(*words, **options)

    def topology(self, text: str, name: str = "mine") -> Any:
        file = self.user.home / f"{name}.toml"
        file.write_text(text, encoding="utf-8")
        return file

    def keeper(self, name: str) -> Any:
        """The pid of process 1 of a lab."""
        command = b"underpass_lab.lab.keeper\0" + os.fsencode(self.root / name) + b"\0"
        for process in pathlib.Path("/proc").iterdir():
            try:
                line = (process / "cmdline").read_bytes() if process.name.isdigit() else b""
            except OSError:
                continue
            if line.endswith(command) and b"python" in line.split(b"\0")[0]:
                return int(process.name)
        return None

    def processes(self) -> Any:
        """What runs in a lab of this home, or serves one; namespaces without a name end with their processes."""
        home, found = os.fsencode(self.user.home), []
        for process in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and home in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes())
        return found

    def assertNothingLeft(self) -> None:
        wait_until(lambda: not self.processes(), 10, "the end of all processes")
        self.assertFalse(self.root.exists(), "the state directory")
        self.assertNotIn(str(self.user.home), pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
