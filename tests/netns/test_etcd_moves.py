"""A node that etcd knows gets another address: it is the same node, with the same subnet."""

import bootstrap

import json

from flannel_etcd import BACK_S, WithEtcd
from shared import METRICS
from underpass_lab.command import wait_until
from underpass_lab.nodes import ADDRESSES

THERE = "192.0.2.21"


class Moves(WithEtcd):
    @classmethod
    def begin(cls, node: str, keys: str = "", more: str = "") -> None:
        """As by the common way, but the address is that of an interface."""
        cls.stop(node)
        text = cls.lab.file(node, cls.etcd, keys, METRICS + more)
        given = f'address = "{ADDRESSES[node]}/24"'
        assert given in text
        cls.lab.run_daemon(node, text.replace(given, 'address = "interface=eth0"'))
        cls.lab.address_pod(node)

    def test_a_node_at_another_address_keeps_its_subnet(self) -> None:
        key, subnet = self.key("n1"), self.lab.subnet("n1")
        wait_until((self.lab.dir / "n1.state.json").exists, 10, "the state file")
        # Otherwise the second address goes with the first.
        self.lab.sysctl("n1", {"ipv4/conf/eth0/promote_secondaries": 1})
        self.lab.ip("n1", f"address add {THERE}/24 dev eth0", f"address del {ADDRESSES['n1']}/24 dev eth0")
        self.lab.ip("n1", "route replace 198.51.100.0/24 via 192.0.2.254")

        def says_it() -> bool:
            found = self.etcd.records().get(key)
            return bool(found and json.loads(found.value)["PublicIP"] == THERE)

        wait_until(says_it, BACK_S, "the record of the node where it is now")
        self.assertEqual(len(self.etcd.records()), 3)
        for node in ("n2", "n3"):
            self.leads_to(node, subnet, THERE)
        self.lab.address_pod("n1")
        self.assertEqual(self.lab.subnet("n1"), subnet)
        for source, target in (("podA", "n2"), ("podA", "n3"), ("podC", "n1")):
            self.answers(source, target)

    def leads_to(self, node: str, subnet: str, address: str) -> None:
        wait_until(lambda: self.lab.known(node).get(subnet) == address, BACK_S, f"the route of {node}")

    def answers(self, source: str, target: str) -> None:
        wait_until(lambda: self.lab.ping(source, self.lab.pods[target], count=1), BACK_S, f"{source} to {target}")
