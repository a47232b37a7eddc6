"""Certificates and passwords of etcd: what is wrong is said with the next step, and nobody ends because of it."""

import bootstrap

import time
from typing import ClassVar

from flannel_etcd import BACK_S, WithEtcd
from shared import METRICS
from underpass_lab.daemon import Daemon
from underpass_lab.etcd import ADDRESS, PREFIX, Authority


class Waiting(WithEtcd):
    nodes: ClassVar[tuple[str, ...]] = ()

    def launch(self, keys: str) -> None:
        """Starts the daemon of n1 without waiting for anything."""
        self.stop("n1")
        (self.lab.dir / "n1.log").unlink(missing_ok=True)
        file = self.lab.dir / "n1.toml"
        file.write_text(self.lab.file("n1", self.etcd, keys, METRICS), encoding="utf-8")
        self.lab.daemons["n1"] = Daemon(self.lab, "n1", file)

    def waits(self, text: str) -> None:
        """n1 says this, and goes on trying."""
        self.says("n1", text)
        self.assertIsNone(self.lab.daemons["n1"].process.poll())

    def ready(self) -> None:
        self.lab.daemons["n1"].wait_ready(BACK_S)
        self.lab.address_pod("n1")
        self.following("n1")


class Certificates(Waiting):
    tls = True

    def test_they_are_checked_on_both_sides(self) -> None:
        authority = self.etcd.authority
        assert authority is not None
        other = Authority(self.lab.dir / "other", "other")
        certificate, key = authority.sign("n1", "192.0.2.1")
        foreign, foreign_key = other.sign("n1", "192.0.2.1")
        own = f'cert = "{certificate}"\nkey = "{key}"\n'

        def tls(ca: object, identity: str) -> str:
            return f'[source.etcd.tls]\nca = "{ca}"\n{identity}'

        at = f"etcd at https://{ADDRESS}:2379: "
        self.launch(tls(other.certificate, own))
        self.waits("another one than `ca` under [source.etcd.tls] has signed its certificate: correct that")
        self.assertIn(at, self.log("n1"))
        self.launch(tls(authority.certificate, ""))
        self.waits("etcd wants a certificate of this node: give `cert` and `key` under [source.etcd.tls]")
        self.launch(tls(authority.certificate, f'cert = "{foreign}"\nkey = "{foreign_key}"\n'))
        self.waits("does not take this node's certificate: correct `cert` and `key` under [source.etcd.tls]")
        missing = self.lab.dir / "later.pem"
        self.launch(tls(missing, own))
        self.waits(f"ca {missing}: No such file or directory (os error 2); correct `ca` under [source.etcd.tls]")
        # Files are read at each try.
        missing.write_bytes(authority.certificate.read_bytes())
        self.ready()
        self.assert_own_record("n1")
        # One that runs goes on when etcd comes back as somebody else.
        missing.write_bytes(other.certificate.read_bytes())
        self.etcd.kill()
        self.etcd.start()
        self.says("n1", "not followed for now, the last state stays")
        self.assertIn("has signed its certificate", self.degraded_for("has signed its certificate"))
        missing.write_bytes(authority.certificate.read_bytes())
        self.following("n1")

    def degraded_for(self, text: str) -> str:
        """Waits until n1 shows this as the reason why it cannot follow etcd."""
        end = time.monotonic() + BACK_S
        while text not in (reason := self.degraded("n1")) and time.monotonic() < end:
            time.sleep(0.1)
        return reason


class Passwords(Waiting):
    def test_who_may_do_what(self) -> None:
        ctl = self.etcd.ctl
        ctl("user", "add", "root:root")
        ctl("user", "grant-role", "root", "root")
        ctl("user", "add", "flannel:right")
        ctl("role", "add", "network")
        ctl("role", "grant-permission", "network", "--prefix=true", "read", f"{PREFIX}/")
        ctl("user", "grant-role", "flannel", "network")
        ctl("auth", "enable")
        self.etcd.user = "root:root"
        file = self.lab.dir / "password"
        file.write_text("wrong\n", encoding="ascii")
        user = f'[source.etcd.user]\nname = "flannel"\npassword_file = "{file}"\n'
        self.launch("")
        self.waits("etcd wants to know who this is: give [source.etcd.user]")
        self.launch(user)
        self.waits("the user flannel or the password is wrong: correct [source.etcd.user]")
        self.assertNotIn("wrong\n", self.log("n1").replace("is wrong", ""))
        # Without an end of the daemon, as the file is read at each try.
        file.write_text("right\n", encoding="ascii")
        self.waits(f"permission denied; allow the user flannel to read and write the keys behind {PREFIX}/")
        ctl("role", "grant-permission", "network", "--prefix=true", "readwrite", f"{PREFIX}/")
        self.ready()
        self.assert_own_record("n1")
        # One that runs goes on, shows it, and comes back.
        ctl("user", "passwd", "flannel", "--interactive=false", input="changed\n")
        self.etcd.kill()
        self.etcd.start()
        self.degraded("n1")
        self.assertIsNone(self.lab.daemons["n1"].process.poll())
        file.write_text("changed", encoding="ascii")
        self.following("n1")
