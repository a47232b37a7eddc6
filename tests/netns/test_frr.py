"""FRR writes what BGP found out to a table of its own, by next hop objects; underpass follows it."""

import bootstrap

from shared import SharedLab, own_routes
from underpass_lab.bird import block
from underpass_lab.command import wait_until
from underpass_lab.frr import Frr
from underpass_lab.nodes import ADDRESSES, PODS, pod_address

# Sessions come up within seconds.
SESSION_S = 30.0


class Blocks(SharedLab):
    """Two nodes in one subnet, which know each other by FRR alone."""

    daemons = ()

    def known(self, node: str) -> dict[str, str]:
        """The peers of the blocks that a node has learnt."""
        listed = self.lab.daemons[node].json("route", "list", "--source", "kernel")
        return {route["prefix"]: route["peer"] for route in listed}

    def wait_for(self, node: str, blocks: dict[str, str]) -> None:
        """Waits until a node has learnt exactly these."""
        wait_until(lambda: self.known(node) == blocks, SESSION_S, f"{blocks} on {node}")

    def test_blocks_come_go_and_travel_encapsulated(self) -> None:
        routers = {}
        followed = '[source.kernel]\ntables = [100]\nimplicit_peers = ["192.0.2.0/24"]\n'
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.lab.ip(node, f"route add {pod_address(node)} dev pod0")
            routers[node] = Frr(self.lab, node, ADDRESSES[node], [block(node)], [ADDRESSES[other]])
            self.start(node, peers={}, local=[block(node)], extra=followed)
        for node, other in (("n1", "n2"), ("n2", "n1")):
            self.wait_for(node, {block(other): ADDRESSES[other]})
        routes = self.lab.exec("n1", "ip", "route", "show", "table", "100", "proto", "bgp").stdout
        self.assertIn(f"{block('n2')} nhid", routes)
        self.assertEqual(own_routes(self.lab, "n1"), ["10.244.0.0/16"])
        with self.moves("n1", device_rx=3, device_tx=3, underlay_rx=3, underlay_tx=3):
            self.assertEqual(self.lab.ping(PODS["n1"], pod_address("n2")), 3)
        self.assertEqual(self.missing(), [])
        (peer,) = self.lab.status("n1")["peers"]
        self.assertEqual((peer["name"], peer["address"]), (ADDRESSES["n2"], ADDRESSES["n2"]))
        routers["n2"].stop_bgp()
        self.wait_for("n1", {})
