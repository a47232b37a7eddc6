"""The demo with etcd: three nodes in two subnets with nothing but the address of etcd, which find each other there as
flannel's do."""

import functools
import json
import time

from underpass_lab import etcd
from underpass_lab.command import Failure, wait_until
from underpass_lab.demo import forms
from underpass_lab.demo.forms import FAR
from underpass_lab.demo.story import Story, say
from underpass_lab.etcd import ADDRESS, PREFIX, Etcd, EtcdLab
from underpass_lab.nodes import ADDRESSES

# Nodes hear of each other within this, and try again within that after an outage.
CHANGE_S, BACK_S = 5.0, 30.0
OUTAGE_S = 3.0
STRANGER = "192.0.2.77"


class Demo:
    """All cases in one lab."""

    def __init__(self, lab: EtcdLab, story: Story) -> None:
        self.lab, self.story = lab, story
        self.store: Etcd

    def run(self) -> None:
        """Every case; without routes there is nothing more to show."""
        with self.story.case(f"three nodes that know nothing but http://{ADDRESS}:2379 find each other"):
            there = self.story.check("etcd with flannel's configuration", self.begin)
            for node in ADDRESSES if there else ():
                there &= self.story.check(f"underpass on {node}", functools.partial(self.start, node))
            there = there and self.story.check("all subnets on all nodes", self.all_known)
        if there:
            self.traffic()
            self.records()
            self.outage()

    def begin(self) -> str:
        """The configuration there."""
        self.store = Etcd(self.lab)
        self.store.configure("vxlan", DirectRouting=True)
        return self.store.ctl("get", "--print-value-only", f"{PREFIX}/config").strip()

    def start(self, node: str) -> str:
        """The subnet that a node has taken."""
        self.lab.start_node(node, self.store)
        return f"has taken {self.lab.subnet(node)}, its pod is {self.lab.pods[node]}"

    def all_known(self) -> str:
        """What the first node knows of the others."""
        wait_until(lambda: all(self.lab.knows_all(node) for node in ADDRESSES), CHANGE_S, "all subnets")
        return ", ".join(f"{prefix} at {peer}" for prefix, peer in self.lab.known("n1").items())

    def traffic(self) -> None:
        """All ordered pairs, and how their packets travelled."""
        with self.story.case("pods reach each other: direct inside the subnet, VXLAN through the router"):
            forms.traffic(self.lab, self.story, self.lab.pods, "vxlan")

    def ping(self, source: str, target: str) -> None:
        """Three pings that are answered."""
        forms.ping(self.lab, self.lab.pods, source, target)

    def records(self) -> None:
        """What is in etcd, and what follows from it."""
        with self.story.case("what each node says is flannel's, and what is written there is followed"):
            for node in ADDRESSES:
                self.story.check(f"record of {node}", functools.partial(self.record, node))
            self.story.check("a node that lets its lease end", self.expiry)
            self.story.check("junk is left out by name", self.junk)

    def record(self, node: str) -> str:
        """The key and value of a node."""
        key = self.store.record_of(ADDRESSES[node])
        if key != self.lab.subnet(node).replace("/", "-"):
            raise Failure(f"{self.store.records()}")
        return f"{key} {self.store.records()[key].value}"

    def expiry(self) -> str:
        """Its route comes with its record, and goes with it."""
        value = {"PublicIP": STRANGER, "BackendType": "vxlan", "BackendData": {"VtepMAC": "02:00:00:00:00:77"}}
        self.store.put("subnets/10.244.199.0-24", json.dumps(value), self.store.grant(3))
        wait_until(lambda: self.lab.known("n1").get("10.244.199.0/24") == STRANGER, CHANGE_S, "its route")
        begun = time.monotonic()
        wait_until(lambda: self.lab.knows_all("n1"), BACK_S, "the end of its route")
        return f"its route on n1 ended {time.monotonic() - begun:.1f} s later"

    def junk(self) -> str:
        """Why it is left out."""
        self.store.put("subnets/10.244.200.0-24", "{")
        wait_until(lambda: self.lab.refusals("n1"), CHANGE_S, "a refusal")
        said = "; ".join(f"{what}: {why}" for what, why in self.lab.refusals("n1").items())
        self.store.delete("subnets/10.244.200.0-24")
        wait_until(lambda: not self.lab.refusals("n1"), CHANGE_S, "no refusal")
        return said

    def outage(self) -> None:
        """etcd is away for a while, and a node starts meanwhile."""
        with self.story.case("etcd dies: all goes on with what was known, and is shown as degraded"):
            self.story.check("etcd is killed", self.die)
            self.story.check(f"n1 to {FAR} for {OUTAGE_S:.0f} s", self.go_on)
            self.story.check("n1 starts anew without etcd", self.start_alone)
            self.story.check("etcd is back", self.come_back)

    def die(self) -> str:
        """What the nodes show."""
        self.store.kill()
        wait_until(lambda: self.lab.source("n1")["state"] == "degraded", CHANGE_S, "n1 to be degraded")
        return f"status on n1: degraded: {self.lab.source('n1')['reason']}"

    def go_on(self) -> str:
        """Pings over the whole time."""
        end, sent = time.monotonic() + OUTAGE_S, 0
        while time.monotonic() < end:
            self.ping("n1", FAR)
            sent += 3
        return f"{sent} of {sent} pings answered"

    def start_alone(self) -> str:
        """It has the same subnet by its state file."""
        before = self.lab.subnet("n1")
        if self.lab.daemons["n1"].stop() != 0:
            raise Failure(f"the daemon on n1 failed at its end:\n{self.lab.daemons['n1'].log()}")
        self.lab.start_node("n1", self.store)
        if self.lab.subnet("n1") != before:
            raise Failure(f"{before} became {self.lab.subnet('n1')}")
        self.ping("n1", FAR)
        return f"it has {before} as before, 3 of 3 pings answered"

    def come_back(self) -> str:
        """All nodes follow it again."""
        self.store.start()
        for node in ADDRESSES:
            wait_until(functools.partial(self.follows, node), BACK_S, f"{node} to follow etcd")
        if not all(self.lab.knows_all(node) for node in ADDRESSES):
            raise Failure(f"{self.lab.known('n1')}")
        return "all nodes follow it again, with the same subnets"

    def follows(self, node: str) -> bool:
        """Whether a node can follow etcd now."""
        return bool(self.lab.source(node)["state"] == "following")


def main() -> int:
    """The exit status of the cases."""
    say(f"\n== etcd, unpacked from Debian's package\nin {etcd.directory()}")
    story = Story()
    with EtcdLab() as lab:
        Demo(lab, story).run()
    return story.summary()
