"""P10: nodes inside a pool are exempt from it, and an address moves between nodes without a restart."""

import bootstrap

import re
from typing import Any

from shared import SharedLab, own_routes
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES, pod_address, subnet

A, B, C = (pod_address(node) for node in ("n1", "n2", "n3"))
FLOATING = "10.9.9.9"


class NodesInAPool(SharedLab):
    """n3 is behind a router: a kernel route for the pool would lead its tunnel packets back into the TUN."""

    topology = "T3"
    POOLS = [("10.244.0.0/16", "Never", "Always"), ("198.51.0.0/16", "Never", "Always"), ("192.0.0.0/8", "Always", "Never")]

    def test_nodes_are_exempt(self) -> None:
        subnets = {"n1": "192.168.1.0/24", "n2": "192.168.2.0/24", "n3": "198.51.3.0/24"}
        for node in self.lab.nodes:
            others = [other for other in self.lab.nodes if other != node]
            peers = {other: (ADDRESSES[other], [subnet(other), subnets[other]]) for other in others}
            self.start(node, pools=self.POOLS, peers=peers, local=[subnet(node), subnets[node]])
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16", "192.168.2.0/24", "198.51.3.0/24"])
        for target in (B, C):
            self.assertEqual(self.lab.ping("podA", target, count=3), 3, target)
        # Pods reach the nodes as ever, over the underlay, and nothing of that passes the tunnel.
        with self.moves("n1"):
            self.assertEqual(self.lab.ping("n1", ADDRESSES["n3"], count=2), 2)
        self.lab.ip("podC", "address add 198.51.3.2/32 dev lo")
        self.lab.ip("n3", f"route add 198.51.3.0/24 via {C}")
        self.assertEqual(self.lab.ping("podA", "198.51.3.2", count=3), 3, "a pod inside such a pool")
        self.assertEqual(self.lab.daemons["n1"].json("route", "get", "198.51.3.2")["next_hops"][0]["mode"], "vxlan")

    def test_s8_a_packet_to_a_node_that_comes_by_the_tun_ends_there(self) -> None:
        self.restart(pools=self.POOLS)
        for target in (ADDRESSES["n2"], ADDRESSES["n3"]):
            self.lab.ip("n1", f"route add {target}/32 dev up0")
            self.addCleanup(self.lab.ip, "n1", f"route del {target}/32 dev up0")
            before = self.counters("n1").status("bytes")
            self.lab.ping("podA", target, "-i", "0.05", "-W", "0.2", count=10)
            after = self.counters("n1").status("bytes")
            self.assertLess(after["device_rx"] - before["device_rx"], 70_000)
            self.assertEqual(after["underlay_tx"], before["underlay_tx"])


class Floating(SharedLab):
    """An address that belongs to a pod here and then to one there."""

    def configure(self, owner: str) -> None:
        for node, other in (("n1", "n2"), ("n2", "n1")):
            extra = [f"{FLOATING}/32"]
            local = [subnet(node), *(extra if owner == node else [])]
            peers = {other: (ADDRESSES[other], [subnet(other), *(extra if owner == other else [])])}
            text = self.lab.config(node, local=local, peers=peers)
            (self.lab.dir / f"{node}.toml").write_text(text + '\n[metrics]\nlisten = "127.0.0.1:9091"\n')

    def move(self, owner: str, pod: str, address: str, other: str) -> None:
        self.configure(owner)
        for node in ("n1", "n2"):
            self.lab.daemons[node].command("reload")
        self.lab.ip(other, f"address del {FLOATING}/32 dev lo")
        self.lab.ip(pod, f"address add {FLOATING}/32 dev lo")
        self.lab.ip(owner, f"route replace {FLOATING}/32 via {address}")

    def test_local_prefixes_come_and_go_live(self) -> None:
        self.lab.ip("podB", f"address add {FLOATING}/32 dev lo")
        self.lab.ip("podA", f"address add {FLOATING}/32 dev lo")
        flow = self.lab.popen("podA", "ping", "-i", "0.01", "-c", "300", B, stdout=-1)
        for turn, (owner, pod, address, other, asker) in enumerate(
            [("n2", "podB", B, "podA", "podA"), ("n1", "podA", A, "podB", "podB")] * 2
        ):
            self.move(owner, pod, address, other)
            if owner == "n1":
                self.lab.ip("n2", f"route del {FLOATING}/32 via {B}")
            elif turn:
                self.lab.ip("n1", f"route del {FLOATING}/32 via {A}")
            wait_until(lambda: self.asks(asker), 5, f"an answer of {pod}")  # noqa: B023
            self.assertEqual(self.lab.daemons[owner].json("route", "get", FLOATING)["source"], "local")
        said = flow.communicate(timeout=20)[0]
        self.assertRegex(said, r"300 packets transmitted, 300 received", "others lose nothing")
        # What makes the TUN's address takes a restart still.
        file = self.lab.dir / "n1.toml"
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"10\.244\.1\.0/24", "10.244.1.128/25", text, count=1))
        refused = self.lab.daemons["n1"].command("reload", check=False)
        self.assertIn("the TUN's address, has changed", refused.stderr)

    def asks(self, pod: str) -> Any:
        return self.lab.ping(pod, FLOATING, "-W", "0.3", count=1) == 1
