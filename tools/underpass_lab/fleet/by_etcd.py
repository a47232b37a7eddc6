"""A fleet whose nodes are flannel's records in etcd."""

import json

from underpass_lab.etcd import ADDRESS, PREFIX, STORE, Etcd
from underpass_lab.fleet import crowd
from underpass_lab.fleet.feed import OWN_BLOCK, Feed

# Most operations of one transaction, by etcd's own limit of 128.
TOGETHER = 100


class ByEtcd(Feed):
    name = "etcd"

    def prepare(self) -> None:
        self.lab.add_host(STORE, f"{ADDRESS}/24")
        self.etcd = Etcd(self.lab)
        network = {"Network": str(crowd.POOL), "SubnetLen": crowd.BLOCK_LEN}
        self.etcd.put("config", json.dumps(network | {"Backend": {"Type": "vxlan", "DirectRouting": True}}))

    def tell(self) -> None:
        for first in range(0, self.nodes, TOGETHER):
            numbers = range(first, min(first + TOGETHER, self.nodes))
            # A quoted word is one of Go's, as JSON has it.
            puts = "".join(f"put {self._key(number)} {json.dumps(self._record(number))}\n" for number in numbers)
            # No condition, these if it holds, nothing if not.
            self.etcd.ctl("txn", input=f"\n{puts}\n\n")

    @staticmethod
    def _key(number: int) -> str:
        return f"{PREFIX}/subnets/{crowd.block(number).replace('/', '-')}"

    @staticmethod
    def _record(number: int) -> str:
        data = {"VNI": 1, "VtepMAC": crowd.mac(number)}
        address = {"PublicIP": crowd.address(number), "PublicIPv6": None}
        return json.dumps(address | {"BackendType": "vxlan", "BackendData": data}, separators=(",", ":"))

    def take_back(self, number: int) -> None:
        self.etcd.ctl("del", self._key(number))

    def give(self, number: int) -> None:
        self.etcd.ctl("put", "--", self._key(number), self._record(number))

    def end(self) -> None:
        self.etcd.process.terminate()
        self.etcd.process.wait(30)

    def source(self) -> str:
        directory = self.lab.dir
        return (
            f'[source.etcd]\nendpoints = ["{self.etcd.endpoint}"]\nsubnet = "{OWN_BLOCK}"\n'
            f'subnet_file = "{directory}/subnet.env"\nstate_file = "{directory}/state.json"\n'
        )
