"""R1 by `underpass check`, and C1: who may use the control socket and where it may lie."""

import bootstrap

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from typing import Any

from shared import SharedLab
from startup import refused
from underpass_lab.command import run, wait_until
from underpass_lab.daemon import binary


class BadConfiguration(SharedLab):
    """R1: broken TOML, unknown key, duplicate subnet, /33. The same text from `check` and from `run`."""

    daemons = ()

    def cases(self) -> Iterator[Any]:
        """(what, configuration, line of the culprit, expected message)"""
        good = self.lab.config("n1")
        yield "broken TOML", good.replace('name = "n1"', 'name = "n1'), 'name = "n1', "string"
        misspelt = good.replace("[local]\nsubnets", "[local]\nsubnet")
        yield "unknown key", misspelt, "subnet =", 'unknown key "subnet" in [local]'
        yield "/33", good.replace("10.244.0.0/16", "10.244.0.0/33"), "10.244.0.0/33", "10.244.0.0/33"
        twice = good.replace('["10.244.2.0/24"]', '["10.244.2.0/24", "10.244.1.0/24"]')
        yield "duplicate subnet", twice, '"10.244.1.0/24"]\n', "10.244.1.0/24"

    def test_r1_bad_config(self) -> None:
        for what, text, culprit, message in self.cases():
            with self.subTest(what):
                file = self.lab.dir / "bad.toml"
                file.write_text(text, encoding="utf-8")
                checked = run(binary(), "check", file, check=False)
                self.assertEqual((checked.returncode, checked.stdout), (1, ""))
                line = text[: text.rindex(culprit)].count("\n") + 1
                pattern = rf"^{re.escape(str(file))}:{line}:(\d+): .*{re.escape(message)}"
                found = re.search(pattern, checked.stderr, re.M)
                assert found, f"{pattern}\n{checked.stderr}"
                self.assertTrue(1 <= int(found[1]) <= len(text.splitlines()[line - 1]) + 1, checked.stderr)
                self.assertEqual(refused(self.lab, "n1", text, file=file), checked.stderr)

    def test_all_errors_at_once(self) -> None:
        text = self.lab.config("n1").replace("10.244.0.0/16", "10.244.0.1/16").replace("4096", "16777216")
        file = self.lab.dir / "bad.toml"
        file.write_text(text, encoding="utf-8")
        stderr = run(binary(), "check", file, check=False).stderr
        self.assertRegex(stderr, r"(?s):10:7: vni: VNI 16777216.*:19:8: cidr: .10\.244\.0\.1/16")

    def test_a_good_file_is_good_for_anybody_anywhere(self) -> None:
        file = self.lab.dir / "good.toml"
        file.write_text(self.lab.config("n1"), encoding="utf-8")
        for path in (self.lab.dir, file):
            path.chmod(0o755)
        command = ("unshare", "--net", "setpriv", "--reuid=65534", "--clear-groups", binary(), "check", file)
        checked = run(*command, check=False)
        self.assertEqual((checked.returncode, checked.stderr), (0, ""))


class Socket(SharedLab):
    """C1."""

    daemons = ("n1",)

    def test_c1_mode_and_owner(self) -> None:
        status = os.lstat(self.lab.daemons["n1"].socket)
        self.assertTrue(stat.S_ISSOCK(status.st_mode))
        self.assertEqual((stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid), (0o660, 0, 0))

    def test_c1_a_directory_that_is_made_is_closed_to_others(self) -> None:
        directory = self.lab.dir / "run"
        text = self.lab.config("n2").replace(f"{self.lab.dir}/n2.sock", f"{directory}/n2.sock")
        file = self.lab.dir / "directory.toml"
        file.write_text(text, encoding="utf-8")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        daemon = self.lab.popen("n2", binary(), "run", "--config", file, **quiet)
        wait_until((directory / "n2.sock").exists, 5, "the socket")
        self.assertEqual(stat.S_IMODE(os.stat(directory).st_mode), 0o750)
        daemon.terminate()
        self.assertEqual(daemon.wait(2), 0)
        self.assertEqual(list(directory.iterdir()), [])

    def test_c1_another_user_is_denied(self) -> None:
        self.lab.dir.chmod(0o755)
        socket_path = self.lab.daemons["n1"].socket
        command = (binary(), "status", "--socket", socket_path)
        denied = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command, check=False)
        self.assertEqual(denied.returncode, 4, denied.stderr)
        self.assertIn(socket_path, denied.stderr)
        # The group may.
        run("setpriv", "--reuid=65534", "--regid=0", "--clear-groups", *command)

    def test_c1_symlink_directory_and_file_are_refused(self) -> None:
        self.stop("n1")
        self.addCleanup(self.restart)
        path, target = self.lab.dir / "n1.sock", self.lab.dir / "target"
        target.write_text("precious", encoding="utf-8")
        for make, what in (
            (lambda: path.symlink_to(target), "a symbolic link"),
            (lambda: path.symlink_to("nowhere"), "a symbolic link"),
            (path.mkdir, "a directory"),
            (lambda: path.write_text("x", encoding="utf-8"), "a file, not a socket"),
        ):
            with self.subTest(what):
                make()
                stderr = refused(self.lab, "n1", self.lab.config("n1"))
                self.assertIn(f"control socket {path}: the path is {what}", stderr)
                self.assertTrue(os.path.lexists(path))
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.assertEqual(target.read_text(encoding="utf-8"), "precious")

    def test_c1_a_stale_socket_is_replaced(self) -> None:
        daemon = self.lab.daemons.pop("n1")
        before = os.lstat(daemon.socket).st_ctime_ns
        daemon.process.kill()
        daemon.process.wait()
        self.assertTrue(stat.S_ISSOCK(os.lstat(daemon.socket).st_mode), "the killed daemon leaves its socket")
        daemon = self.start("n1")
        self.assertNotEqual(os.lstat(daemon.socket).st_ctime_ns, before)
        self.assertEqual(self.lab.status("n1")["node"], "n1")

    def test_c1_a_second_daemon_is_refused_and_the_first_goes_on(self) -> None:
        daemon = self.lab.daemons["n1"]
        before = os.lstat(daemon.socket).st_ino
        text = self.lab.config("n2").replace("n2.sock", "n1.sock")
        stderr = refused(self.lab, "n2", text)
        self.assertIn(f"another daemon listens on {daemon.socket}", stderr)
        self.assertEqual(os.lstat(daemon.socket).st_ino, before)
        self.assertEqual(self.lab.status("n1")["node"], "n1")

    def test_the_file_goes_with_the_daemon(self) -> None:
        path = self.lab.daemons["n1"].socket
        self.stop("n1")
        self.assertFalse(os.path.lexists(path))
        self.start("n1")


class Reading(SharedLab):
    """What the reading commands promise to scripts."""

    daemons = ("n1",)

    def test_status_has_what_is_promised(self) -> None:
        status = self.lab.status("n1")
        self.assertEqual((status["node"], status["tunnel"]["device"], status["tunnel"]["mtu"]), ("n1", "up0", 1480))
        self.assertEqual(status["routes"], 2)
        self.assertEqual([peer["name"] for peer in status["peers"]], ["n2"])
        self.assertEqual(status["drops"], self.lab.drops("n1"))
        self.assertEqual(len(status["drops"]), 20)

    def test_route_get_without_a_route_fails(self) -> None:
        result = self.lab.daemons["n1"].command("route", "get", "10.244.9.9", check=False)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        self.assertIn("10.244.9.9", result.stderr)

    def test_nobody_listens(self) -> None:
        result = run(binary(), "status", "--socket", self.lab.dir / "nowhere", check=False)
        self.assertEqual(result.returncode, 3, result.stderr)

    def test_route_list_is_the_configuration(self) -> None:
        routes = self.lab.daemons["n1"].json("route", "list")
        found = {(route["prefix"], route["peer"], route["mode"]) for route in routes}
        self.assertEqual(found, {("10.244.1.0/24", None, "local"), ("10.244.2.0/24", "n2", "ipip")})
