"""A log that takes nothing is in nobody's way: packets flow, the control plane answers, the daemon ends."""

import bootstrap

import contextlib
import fcntl
import os
import re
import signal
import threading
import time
from typing import Any

from fast import MIB
from shared import SharedLab, scrape
from underpass_lab.api import Api
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import pod_address

B = pod_address("n2")
BROKEN = "nonsense\n"
STORM = 3000
LOST = re.compile(r"underpass: log lines lost: (\d+);")


def fill(writer: Any) -> None:
    """Fills a pipe, so that whoever writes to it waits."""
    os.set_blocking(writer, False)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)


class Log(SharedLab):
    """D1 and D2: what becomes of the log's reader is not the tunnel's business."""

    daemons = ()

    def tearDown(self) -> None:
        super().tearDown()
        for node in ("n1", "n2"):
            self.stop(node)

    def start_with(self, stderr: Any, environment: Any = None, command: Any = None) -> None:
        """Both daemons with such a stderr."""
        for node in ("n1", "n2"):
            self.start(node, stderr=stderr, environment=environment, command=command, tunnel={"workers": 2})

    def storm(self, count: int = STORM) -> None:
        """Reloads that fail, each with a line in the log; the good file is back afterwards."""
        file = self.lab.dir / "n1.toml"
        good = file.read_text(encoding="utf-8")
        file.write_text(BROKEN, encoding="utf-8")
        with contextlib.closing(Api(self.lab.daemons["n1"].socket)) as api:
            for _ in range(count):
                status, answer = api.ask("POST", "/v1/reload")
                self.assertEqual(status, 400, answer)
        file.write_text(good, encoding="utf-8")

    def lost(self) -> Any:
        """Lines that n1 has lost, as both ways of reading it say."""
        text = scrape(self.lab, "n1")
        (metric,) = map(int, re.findall(r"^underpass_log_lines_lost_total (\d+)$", text, re.M))
        shown = self.lab.status("n1")["log_lines_lost"]
        # With RUST_LOG=trace the questions themselves are worth hundreds of lines.
        self.assertLessEqual(metric, shown)
        self.assertEqual(metric > 0, shown > 0)
        return shown

    def assertWorks(self) -> None:
        """Traffic, changes and questions, while and after the log is given far more than it can hold."""
        answered = []
        flood = threading.Thread(target=lambda: answered.append(self.lab.ping("podA", B, count=100)))
        flood.start()
        self.storm()
        flood.join()
        self.assertEqual(answered, [100])
        self.lab.tcp_transfer("podA", "podB", B, 4 * MIB)
        n1 = self.lab.daemons["n1"]
        self.assertEqual(n1.command("reload").returncode, 0)
        n1.process.send_signal(signal.SIGHUP)
        with contextlib.closing(Api(n1.socket)) as api:
            begun = time.monotonic()
            self.assertEqual(api.get("/v1/status")["node"], "n1")
            self.assertLess(time.monotonic() - begun, 1)

    def assertEnds(self) -> None:
        """SIGTERM ends both in time, with success."""
        for node in ("n1", "n2"):
            begun = time.monotonic()
            self.assertEqual(self.lab.daemons.pop(node).stop(timeout=5), 0)
            self.assertLess(time.monotonic() - begun, 3)

    def test_d1_the_reader_is_gone(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        self.addCleanup(os.close, writer)
        self.start_with(writer)
        self.assertWorks()
        self.assertGreater(self.lost(), STORM)
        self.assertIn("lines lost: stderr was full", self.lab.daemons["n1"].command("status").stdout)
        self.assertEnds()

    def test_d1_the_disk_is_full(self) -> None:
        with open("/dev/full", "wb") as full:
            self.start_with(full)
        self.assertWorks()
        self.assertGreater(self.lost(), STORM)
        self.assertEnds()

    def test_d2_nobody_reads(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        fill(writer)
        # On top of the storm, all that the libraries can say.
        self.start_with(writer, environment={"RUST_LOG": "trace"})
        self.assertWorks()
        self.assertGreater(self.lost(), STORM // 3)
        self.assertEnds()

    def test_d2_a_failure_with_nobody_who_reads_it(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        fill(writer)
        self.start_with(writer)
        daemon = self.lab.daemons.pop("n1")
        self.lab.ip("n1", "link del up0")
        self.assertEqual(daemon.process.wait(5), 1)

    def test_stderr_is_closed(self) -> None:
        closing = ("sh", "-c", 'exec "$@" 2>&-', "sh", binary())
        self.start_with(None, command=closing)
        n1 = self.lab.daemons["n1"]
        # Were the descriptor free, it would be the next socket or device.
        self.assertEqual(os.readlink(f"/proc/{n1.pid}/fd/2"), "/dev/null")
        self.assertWorks()
        self.assertEqual(self.lost(), 0)
        self.assertEnds()

    def test_a_slow_reader_knows_what_it_missed(self) -> None:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self.start("n1", stderr=writer)
        os.close(writer)
        said, hurry = bytearray(), threading.Event()

        def read() -> None:
            with open(reader, "rb", buffering=0) as log:
                while piece := log.read(256):
                    said.extend(piece)
                    if b"ready;" in said:
                        hurry.wait(0.01)

        reading = threading.Thread(target=read)
        reading.start()
        wait_until(lambda: b"ready;" in said, 5, "the start")
        self.storm()
        lost = self.lost()
        self.assertGreater(lost, 0)
        hurry.set()
        wait_until(lambda: sum(map(int, LOST.findall(said.decode()))) == lost, 10, "the number of lost lines")
        self.assertEqual(self.lab.daemons.pop("n1").stop(), 0)
        reading.join(5)
        lines = said.decode().splitlines()
        self.assertRegex(lines[-1], "SIGTERM: stopping")
        outcome = [line for line in lines if "not reloaded" in line]
        self.assertEqual(len(outcome) + lost, STORM)
        # Every line is whole: it begins with the time, or tells of lost ones.
        for line in lines:
            self.assertRegex(line, r"^(\d{4}-\d\d-\d\dT\S+ +(INFO|WARN|ERROR) .|underpass: log lines lost: \d+; )")

    def test_a_level_that_is_none(self) -> None:
        self.start("n1", environment={"RUST_LOG": "underpass=loud"})
        log = self.lab.daemons["n1"].log()
        self.assertRegex(log, r"WARN .*RUST_LOG=.underpass=loud. is not understood, the level is info")
        self.assertIn("ready;", log)
