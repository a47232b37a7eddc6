"""Nobody but the daemon attaches to its TUN and its TAP, though everybody may open /dev/net/tun."""

import bootstrap

import contextlib
import json
import pathlib
import subprocess
import unittest
from collections.abc import Iterator
from typing import Any

import stranger
from fast import MODES
from public import everybody_may_run
from rootless import NO_RIGHTS, OPEN_TUN, USER, hand_over, prepare_tun
from shared import SharedLab
from startup import refused
from underpass_lab.command import run, wait_until
from underpass_lab.nodes import pod_address
from underpass_lab.paths import PYTHON
from unprivileged import RootlessLab

B = pod_address("n2")
VXLAN = MODES["vxlan"]
NOBODY = 65534
# A user without groups and without capabilities.
AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--no-new-privs",
)
# He reads the program from its command line: he may not be able to look into the checkout.
PROGRAM = (PYTHON, "-I", "-c", pathlib.Path(stranger.__file__).read_text(encoding="utf-8"))
WAYS = [(kind, queues) for kind in ("tun", "tap") for queues in ("one", "several")]


class Strangers(SharedLab):
    """What tests of several labs have in common."""

    def popen_stranger(self, node: str, *words: Any, who: Any = AS_NOBODY) -> Any:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return self.lab.popen(node, *OPEN_TUN, *who, *PROGRAM, *words, **pipes)

    @contextlib.contextmanager
    def attached(self, node: str, *words: Any, who: Any = AS_NOBODY) -> Iterator[Any]:
        """A stranger who is at a device within the block."""
        process = self.popen_stranger(node, *words, who=who)
        try:
            self.assertEqual(process.stdout.readline(), "attached\n", words)
            yield process
        finally:
            process.kill()
            process.communicate()

    def outcome(self, node: str, *words: Any, who: Any = AS_NOBODY) -> str:
        """`attached`, or the error that a stranger gets."""
        process = self.popen_stranger(node, *words, who=who)
        return str(process.communicate(timeout=20)[0]).strip()

    def tun(self, node: str, device: str = "up0") -> Any:
        """What `ip` says of a TUN or TAP: user, multi_queue, numqueues and so on."""
        (link,) = json.loads(self.lab.tool("ip", "-n", self.lab.ns(node), "-d", "-j", "link", "show", device).stdout)
        return link["linkinfo"]["info_data"]

    def assertKept(self, node: str, device: str, kind: Any, allowed: Any) -> None:
        """No way leads in. The kernel looks at the kind and the number of queues before it asks who it is: with
        those of the device it must be the owner that keeps him out."""
        for way in WAYS:
            with self.subTest(device=device, way=way):
                said = self.outcome(node, device, *way)
                self.assertIn(said, ("EPERM",) if way == (kind, allowed) else ("EPERM", "EINVAL"))


class Everybody(Strangers):
    """A daemon of root, and uid 65534 beside it."""

    daemons = ()

    def setUp(self) -> None:
        self.addCleanup(self.stop, "n1")

    def test_the_tun_and_the_tap(self) -> None:
        self.start("n1", tunnel={"workers": 2}, **VXLAN)
        self.assertKept("n1", "up0", "tun", "several")
        self.assertKept("n1", "up0-x", "tap", "several")
        self.assertEqual((self.tun("n1")["user"], self.tun("n1")["numqueues"]), ("root", 2))
        self.assertEqual(self.tun("n1", "up0-x")["user"], "root")
        self.assertEqual(self.missing(), [])

    def test_the_tun_of_the_plain_backend(self) -> None:
        self.start("n1", tunnel={"backend": "plain"}, **VXLAN)
        self.assertEqual(self.tun("n1")["user"], "root")
        self.assertKept("n1", "up0", "tun", "one")


class Root(Strangers, SharedLab):
    """Nothing keeps root away; he is noticed, and so is his end."""

    QUEUES = "another process than {pid} gets a part of the packets"

    def noticed(self, device: str, kind: Any) -> None:
        daemon = self.lab.daemons["n1"]
        told = daemon.log().count(f"{device} has ")
        said = self.QUEUES.format(pid=daemon.pid)
        with self.attached("n1", device, kind, "several", who=()) as process:
            wait_until(self.missing, 10, "a word of the stranger")
            (chore,) = self.lab.status("n1")["missing"]
            self.assertRegex(chore["what"], rf"^{device} has \d+ queues and \d+ are ours: {said}")
            self.assertIn(chore["what"], daemon.command("status").stdout.replace("\n", " "))
            # The command finds both.
            found = run("sh", "-c", chore["command"]).stdout
            for pid in (daemon.pid, process.pid):
                self.assertIn(str(pid), found.split())
            wait_until(lambda: f"{device} has " in daemon.log(), 5, "a line in the log")
        wait_until(lambda: not self.missing(), 10, "that the stranger is gone")
        wait_until(lambda: "no longer needed: `grep" in daemon.log(), 5, "the end in the log")
        self.assertEqual(daemon.log().count(f"{device} has "), told + 1, "told once")

    def test_at_the_tun(self) -> None:
        self.restart(tunnel={"workers": 2}, **VXLAN)
        self.noticed("up0", "tun")

    def test_at_the_tap(self) -> None:
        self.restart(**VXLAN)
        self.noticed("up0-x", "tap")

    def test_an_owner_that_was_changed_is_changed_back(self) -> None:
        self.restart(tunnel={"workers": 2}, **VXLAN)
        daemon = self.lab.daemons["n1"]
        with self.attached("n1", "up0", "tun", "several", f"owner={NOBODY}", who=()):
            wait_until(lambda: "gave up0 to user 65534" in daemon.log(), 10, "a word of it")
            wait_until(lambda: self.tun("n1")["user"] == "root", 5, "the owner")
            self.assertEqual(self.outcome("n1", "up0", "tun", "several"), "EPERM")
        wait_until(lambda: not self.missing(), 10, "that the stranger is gone")
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)


class Prepared(Strangers):
    """A TUN that an administrator has made: with an owner, without one, and with a wrong one."""

    daemons = ()
    program: str

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        cls.program = hand_over(cls.lab)

    def setUp(self) -> None:
        self.addCleanup(self.remove)

    def remove(self) -> None:
        self.stop("n1")
        run("ip", "-n", self.lab.ns("n1"), "link", "del", "up0", check=False)

    def start_user(self) -> Any:
        return self.start("n1", command=[*NO_RIGHTS, self.program], tunnel={"workers": 2}, **VXLAN)

    def test_the_user_of_the_tun_keeps_others_away(self) -> None:
        prepare_tun(self.lab, "n1", "multi_queue", "vnet_hdr")
        self.start_user()
        self.assertKept("n1", "up0", "tun", "several")
        self.assertEqual(self.missing(), [])

    def test_one_without_an_owner_is_the_daemons_from_then_on(self) -> None:
        for flags, queues in (("multi_queue vnet_hdr", "several"), ("", "one")):
            for start, owner in ((self.start_user, USER), (lambda: self.start("n1", **VXLAN), 0)):
                with self.subTest(flags, owner=owner):
                    self.lab.ip("n1", f"tuntap add dev up0 mode tun {flags}")
                    with self.attached("n1", "up0", "tun", queues):
                        pass
                    start()
                    self.assertOwner(owner)
                    self.assertKept("n1", "up0", "tun", queues)
                    self.assertEqual(self.lab.daemons["n1"].stop(), 0)
                    self.assertOwner(owner)
                    self.assertKept("n1", "up0", "tun", queues)
                    self.remove()

    def assertOwner(self, uid: int) -> None:
        # `ip` has the name of a user who has one.
        named = run("getent", "passwd", uid, check=False).stdout.split(":")[0]
        self.assertEqual(str(self.tun("n1")["user"]), named or str(uid))

    def test_one_where_somebody_is_already(self) -> None:
        self.lab.ip("n1", "tuntap add dev up0 mode tun multi_queue vnet_hdr")
        with self.attached("n1", "up0", "tun", "several"):
            said = refused(self.lab, "n1", self.lab.config("n1", **VXLAN))
            self.assertRegex(said, r"cannot open TUN device up0: another process holds it")

    def test_one_of_another_user_is_not_for_root(self) -> None:
        for owner in (USER, NOBODY):
            with self.subTest(owner):
                self.lab.ip("n1", f"tuntap add dev up0 mode tun user {owner} multi_queue")
                said = refused(self.lab, "n1", self.lab.config("n1", **VXLAN))
                self.assertRegex(said, rf"the existing TUN up0 belongs to user {owner}\b.*who could read and forge")
                self.assertIn("`ip tuntap add dev up0 mode tun user 0 multi_queue`", said)
                self.remove()


class InAUserNamespace(Strangers, SharedLab):
    """The owner is whom the daemon's user is outside; others in the namespace are kept away, too."""

    lab_type = RootlessLab

    @classmethod
    def setUpClass(cls) -> None:
        cls.enterClassContext(everybody_may_run())
        super().setUpClass()

    def test_it_carries_and_is_the_users(self) -> None:
        self.restart(tunnel={"workers": 2}, **VXLAN)
        self.assertEqual(self.lab.ping("podA", B, count=3), 3)
        self.assertEqual(self.tun("n1")["user"], "root")
        self.assertEqual(self.missing(), [])
        self.assertEqual(self.lab.daemons["n1"].log().count("taken back"), 0)
        # Somebody whom the namespace does not know: he enters its network alone.
        enter = ("nsenter", f"--net={self.lab.names / self.lab.ns('n1')}", "--")
        for device, kind in (("up0", "tun"), ("up0-x", "tap")):
            done = run(*OPEN_TUN, *enter, *AS_NOBODY, *PROGRAM, device, kind, "several", stdin=subprocess.DEVNULL)
            self.assertEqual(done.stdout.strip(), "EPERM")

    def test_a_user_without_a_number_cannot_own_it(self) -> None:
        self.stop("n1")
        self.addCleanup(self.start, "n1")
        nameless = (
            "unshare",
            "--user",
            "--keep-caps",
            "--net",
            "sh",
            "-c",
            'ip link set lo up && ip address add 192.0.2.1/24 dev lo && exec "$@"',
            "sh",
        )
        said = refused(self.lab, "n1", self.lab.config("n1", **VXLAN), nameless)
        self.assertRegex(said, r"cannot become its owner, as user 65534 has no number in this user namespace; map")


if __name__ == "__main__":
    unittest.main()
