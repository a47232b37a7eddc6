"""A pool from the environment, as a manifest gives it, beside those of the file."""

import bootstrap

from shared import METRICS, SharedLab
from startup import refused
from underpass_lab.command import wait_until
from underpass_lab.daemon import binary
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

B = pod_address("n2")
OTHER = "10.250.2.0/24"


class FromTheEnvironment(SharedLab):
    daemons = ()

    def configure(self, node: str) -> str:
        """The configuration of a node whose only pool is another one."""
        other = "n2" if node == "n1" else "n1"
        peers = {other: (ADDRESSES[other], [subnet(other), *([OTHER] if other == "n2" else [])])}
        local = [subnet(node), *([OTHER] if node == "n2" else [])]
        pools = [("10.250.0.0/16", "Never", "Always")]
        return self.lab.config(node, pools=pools, peers=peers, local=local) + METRICS

    def test_it_is_a_pool_like_others_and_stays_with_a_reload(self) -> None:
        environment = {"UNDERPASS_POOL_CIDR": "10.244.0.0/16", "UNDERPASS_POOL_IPIP": "Always"}
        for node in ("n1", "n2"):
            self.lab.start_daemon(node, self.configure(node), environment=environment)
        daemon = self.lab.daemons["n1"]
        for _ in range(2):
            self.assertEqual(self.lab.ping("podA", B), 3)
            self.assertEqual(daemon.json("route", "get", B)["mode"], "ipip")
            self.assertEqual(daemon.json("route", "get", "10.250.2.7")["mode"], "vxlan")
            daemon.command("reload")
        # Sed changes the word, and the daemon is started again.
        for node in ("n1", "n2"):
            self.stop(node)
            environment["UNDERPASS_POOL_IPIP"] = "CrossSubnet"
            self.lab.start_daemon(node, self.configure(node), environment=environment)
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", B)["mode"], "direct")
        wait_until(lambda: self.lab.ping("podA", B, count=1) == 1, 5, "a ping")
        # A reload whose file has the same pool is refused, and everything stays.
        file = self.lab.dir / "n1.toml"
        twice = file.read_text(encoding="utf-8").replace("10.250.0.0/16", "10.244.0.0/16")
        file.write_text(twice, encoding="utf-8")
        answer = self.lab.daemons["n1"].command("reload", check=False)
        self.assertEqual(answer.returncode, 1)
        self.assertIn("--pool 10.244.0.0/16: the configuration file has this pool already", answer.stderr)
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", B)["mode"], "direct")

    def test_what_is_wrong_with_it_is_named(self) -> None:
        self.stop("n1")
        text = self.configure("n1")
        wrapper = ("env", "UNDERPASS_POOL_CIDR=10.250.0.0/16")
        self.assertIn("--pool 10.250.0.0/16: the configuration file has", refused(self.lab, "n1", text, wrapper))
        file = self.lab.dir / "n1.toml"
        file.write_text(text, encoding="utf-8")
        for words, said in (
            (["UNDERPASS_POOL_IPIP=Always"], "--pool <CIDR>"),
            (["UNDERPASS_POOL_CIDR=10.244.0.0/16", "UNDERPASS_POOL_IPIP=always"], "--ipip-mode <MODE>"),
        ):
            result = self.lab.exec("n1", "env", *words, binary(), "run", "--config", file, check=False)
            self.assertEqual(result.returncode, 2)
            self.assertIn(said, result.stderr)
