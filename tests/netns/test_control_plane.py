"""D4, D7, D8: no file, client, disk or table that is full stops the control plane, and what a change does is done
whole or not at all. A stream between the pods goes on meanwhile."""

import bootstrap

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from typing import Any

from fast import resident_bytes
from shared import SharedLab
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import pod_address

LIMIT_S = 2.0
MANY = 100_000
# As routes they would take more than 100 MiB.
MILLIONS = 1 << 21


class ControlPlane(SharedLab):
    daemons = ("n1", "n2")

    def tearDown(self) -> None:
        self.assertEqual(self.lab.ping("podA", pod_address("n2")), 3)
        super().tearDown()

    def connects(self, path: str) -> bool:
        """Whether somebody listens at a path."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(path)
            return True
        return False

    def test_d7_a_socket_that_is_removed_is_made_again(self) -> None:
        path = self.lab.daemons["n1"].socket
        before = os.lstat(path)
        # The kernel knows it by its own name, so what cleans by age sees that it is alive.
        self.assertIn(path, self.lab.exec("n1", "cat", "/proc/net/unix").stdout)
        os.unlink(path)
        wait_until(lambda: self.connects(path), LIMIT_S, "the socket")
        after = os.lstat(path)
        self.assertTrue(stat.S_ISSOCK(after.st_mode))
        self.assertEqual((after.st_mode, after.st_uid, after.st_gid), (before.st_mode, before.st_uid, before.st_gid))
        self.assertIn("made again", self.lab.daemons["n1"].log())
        self.lab.daemons["n1"].command("route", "list")

    def test_d7_and_so_is_its_directory(self) -> None:
        directory = self.lab.dir / "run"
        text = self.lab.config("n1").replace(f"{self.lab.dir}/n1.sock", f"{directory}/n1.sock")
        self.stop("n1")
        self.addCleanup(self.start, "n1")
        file = self.lab.dir / "directory.toml"
        file.write_text(text, encoding="utf-8")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        daemon = self.lab.popen("n1", binary(), "run", "--config", file, **quiet)
        self.addCleanup(daemon.wait, 5)
        self.addCleanup(daemon.terminate)
        path = str(directory / "n1.sock")
        wait_until(lambda: self.connects(path), 5, "the socket")
        shutil.rmtree(directory)
        wait_until(lambda: self.connects(path), LIMIT_S, "the socket")
        self.assertEqual(stat.S_IMODE(os.stat(directory).st_mode), 0o750)

    def test_d7_another_daemons_socket_is_left_alone(self) -> None:
        path = self.lab.daemons["n1"].socket
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            inode = os.lstat(path).st_ino
            wait_until(lambda: "another daemon listens" in self.lab.daemons["n1"].log(), LIMIT_S, "a line in the log")
            self.assertEqual(os.lstat(path).st_ino, inode)
        # It is gone and has left its file.
        wait_until(lambda: self.connects(path), LIMIT_S, "the socket")

    def test_d8_a_configuration_that_cannot_be_read_holds_nothing_up(self) -> None:
        daemon = self.lab.daemons["n1"]
        file = self.lab.dir / "n1.toml"
        good = file.read_text(encoding="utf-8")
        self.addCleanup(file.write_text, good, encoding="utf-8")
        for make, what in (
            (lambda: os.mkfifo(file), "a pipe"),
            (lambda: file.symlink_to("/dev/zero"), "a device"),
            (lambda: file.write_bytes(bytes(17 << 20)), "larger than 16 MiB"),
        ):
            with self.subTest(what):
                file.unlink()
                make()
                begin = time.monotonic()
                refused = daemon.command("reload", check=False)
                self.assertEqual(refused.returncode, 1)
                self.assertIn(what, refused.stderr)
                self.assertLess(time.monotonic() - begin, LIMIT_S)
                daemon.command("route", "add", "10.9.0.0/24", "--via", "n2")
                daemon.command("route", "del", "10.9.0.0/24")
        file.unlink()
        file.write_text(good, encoding="utf-8")
        daemon.command("reload")

    def test_d8_too_many_routes_are_refused_before_they_take_memory(self) -> None:
        daemon = self.lab.daemons["n1"]
        file = self.lab.dir / "n1.toml"
        good = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"(?m)^(socket = .*)$", r"\1\nmax_routes = 1000", good), encoding="utf-8")
        self.addCleanup(daemon.command, "reload")
        self.addCleanup(file.write_text, good, encoding="utf-8")
        daemon.command("reload")
        lines = self.lab.dir / "many.txt"
        with lines.open("w", encoding="utf-8") as out:
            out.writelines(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 via n2\n" for n in range(MILLIONS))
        memory = resident_bytes(daemon.pid)
        # The largest that it was begins again with what it is.
        with open(f"/proc/{daemon.pid}/clear_refs", "w", encoding="ascii") as clear:
            clear.write("5")
        refused = daemon.command("route", "replace", "--file", lines, check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("max_routes", refused.stderr)
        self.assertLess(self.most_resident(daemon.pid) - memory, 20 << 20)
        # One by one it ends at the same number.
        few = "".join(f"172.16.{n >> 8}.{n & 255}/32 via n2\n" for n in range(990))
        self.lines("add", "172.16.0.0/12 via n2\n" + few)
        more = "".join(f"172.18.0.{n}/32 via n2\n" for n in range(20))
        refused = daemon.command("route", "add", "--file", self.text(more), check=False)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("there would be", refused.stderr)
        self.assertEqual(self.lab.status("n1")["routes"], 2 + 991)
        self.lines("replace", "")

    def test_d4_what_is_full_refuses_an_edit_and_no_deletion(self) -> None:
        daemon = self.lab.daemons["n1"]
        for n in range(3, 20):
            daemon.command("peer", "add", f"p{n}", f"192.0.2.{n + 100}")
        self.addCleanup(self.restart)
        names = [f"p{n}" for n in range(3, 20)]

        def sets(numbers: range) -> str:
            # One wide route, so that the kernel needs no other.
            rows = ["10.128.0.0/9 via n2\n"]
            for bits in numbers:
                owners = [name for place, name in enumerate(names) if bits >> place & 1]
                if len(owners) > 1:
                    rows.append(f"10.{128 + (bits >> 16)}.{bits >> 8 & 255}.{bits & 255}/32 via {','.join(owners)}\n")
            return "".join(rows)

        # More different sets over time than there are ids.
        for numbers in (range(40_000), range(40_000, 80_000)):
            self.lines("replace", sets(numbers), timeout=30)
        owners = ",".join(names[:9])
        self.lines("add", f"10.9.0.0/24 via {owners}\n")
        refused = daemon.command("route", "add", "--file", self.text(sets(range(40_000))), check=False, timeout=30)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("nothing has changed", refused.stderr)
        before = self.lab.status("n1")["routes"]
        daemon.command("peer", "del", names[0])
        route = daemon.json("route", "get", "10.9.0.1")
        self.assertEqual([hop["peer"] for hop in route["next_hops"]], names[1:9])
        self.assertEqual(self.lab.status("n1")["routes"], before)

    def test_a_peer_goes_with_all_its_routes_and_the_client_is_told(self) -> None:
        daemon = self.lab.daemons["n1"]
        daemon.command("peer", "add", "big", "192.0.2.77")
        self.addCleanup(self.restart)
        lines = self.lab.dir / "peer.txt"
        with lines.open("w", encoding="utf-8") as out:
            # One wide route, so that the kernel needs no other.
            out.write("11.0.0.0/8 via big\n")
            out.writelines(f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 via big\n" for n in range(MANY))
        daemon.command("route", "add", "--file", lines, timeout=120)
        deleted = daemon.command("peer", "del", "big", timeout=120, check=False)
        self.assertEqual((deleted.returncode, deleted.stderr), (0, ""))
        self.assertEqual(self.lab.status("n1")["routes"], 2)

    def test_replace_tells_what_it_did_and_peers_have_only_subnets_with_routes(self) -> None:
        daemon = self.lab.daemons["n1"]
        daemon.command("peer", "add", "p3", "192.0.2.33", "--subnet", "10.33.0.0/16")
        self.addCleanup(daemon.command, "peer", "del", "p3")
        self.assertEqual(self.subnets("p3"), ["10.33.0.0/16"])
        said = self.lines("replace", "10.9.0.0/24 via n2\n10.9.1.0/24 via p3\n")
        self.assertEqual(said, "2 routes added, 1 deleted, 4 in the table\n")
        self.assertEqual(self.subnets("p3"), [])
        self.assertEqual(self.lines("replace", "10.9.0.0/24 via n2\n"), "0 routes added, 1 deleted, 3 in the table\n")
        self.assertEqual(self.lines("replace", ""), "0 routes added, 1 deleted, 2 in the table\n")

    def subnets(self, name: str) -> Any:
        """The subnets that `peer list` has for a peer."""
        peers = self.lab.daemons["n1"].json("peer", "list")
        return next(peer["subnets"] for peer in peers if peer["name"] == name)

    def text(self, content: str) -> Any:
        """A file with this content."""
        file = self.lab.dir / "lines.txt"
        file.write_text(content, encoding="utf-8")
        return file

    def lines(self, verb: str, content: str, timeout: float = 10) -> str:
        """What a change of routes by a file says."""
        return self.lab.daemons["n1"].command("route", verb, "--file", self.text(content), timeout=timeout).stdout

    def most_resident(self, pid: int) -> int:
        """The most bytes that a process had in memory."""
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
