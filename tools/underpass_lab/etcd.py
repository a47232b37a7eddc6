"""etcd as Debian packages it, unpacked into a cache and not installed, in a namespace of a lab; and labs whose nodes
find each other by it, as flannel's do."""

import base64
import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
from typing import Any

from underpass_lab.cache import cache, once
from underpass_lab.command import Failure, run, wait_until
from underpass_lab.daemon import Daemon
from underpass_lab.debian import Archive
from underpass_lab.network import Lab
from underpass_lab.nodes import ADDRESSES, PODS, NodeLab

PACKAGES = ("etcd-server", "etcd-client")
STORE, ADDRESS = "store", "192.0.2.10"
PREFIX = "/coreos.com/network"
NETWORK = "10.244.0.0/16"
START_S = 20.0


def directory() -> pathlib.Path:
    """Where the programs are; fetches them the first time."""
    recipe = hashlib.sha256(json.dumps((1, PACKAGES)).encode()).hexdigest()[:8]
    return once("etcd", cache() / f"etcd-{recipe}", _fetch)


def _fetch(work: pathlib.Path) -> pathlib.Path:
    (work / "apt").mkdir()
    Archive(work / "apt").unpack(PACKAGES, work / "result")
    return work / "result"


class Authority:
    """Who signs certificates, and what it has signed, in a directory."""

    def __init__(self, directory: pathlib.Path, name: str = "ca") -> None:
        self.directory, self.name = directory, name
        directory.mkdir(exist_ok=True)
        self._run("req", "-x509", *self._new(name), "-days", "2", "-subj", f"/CN={name}", "-out", self.certificate)

    @property
    def certificate(self) -> pathlib.Path:
        """Its own."""
        return self.directory / f"{self.name}.pem"

    def sign(self, name: str, address: str) -> tuple[pathlib.Path, pathlib.Path]:
        """A certificate for a host at `address`, and its key."""
        request, signed = self.directory / f"{name}.csr", self.directory / f"{name}.pem"
        extensions = self.directory / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n", encoding="ascii"
        )
        self._run("req", *self._new(name), "-subj", f"/CN={name}", "-out", request)
        own = ("-CA", self.certificate, "-CAkey", self.directory / f"{self.name}.key", "-CAcreateserial")
        self._run("x509", "-req", "-in", request, *own, "-days", "2", "-extfile", extensions, "-out", signed)
        return signed, self.directory / f"{name}.key"

    def _new(self, name: str) -> tuple[object, ...]:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        return (*key, "-keyout", self.directory / f"{name}.key")

    def _run(self, *words: object) -> None:
        run("openssl", *words)


@dataclasses.dataclass(frozen=True)
class Found:
    """A key as etcd has it."""

    value: str
    lease: int
    modified: int


class Etcd:
    """One member of etcd, alone, in a namespace of a lab."""

    def __init__(self, lab: Lab, name: str = STORE, address: str = ADDRESS, authority: Authority | None = None) -> None:
        """With an `authority` it speaks TLS, and wants certificates of that of its clients."""
        self.lab, self.name, self.authority = lab, name, authority
        self.directory = lab.dir / f"{name}.etcd"
        self.directory.mkdir()
        self.programs = directory() / "usr/bin"
        self.endpoint = f"{'https' if authority else 'http'}://{address}:2379"
        self.user = ""
        self._tls: tuple[object, ...] = ()
        if authority:
            certificate, key = authority.sign(name, address)
            self._tls = ("--cert", certificate, "--key", key)
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        words: list[object] = ["--name", self.name, "--data-dir", self.directory / "data"]
        words += ["--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint]
        if self.authority:
            words += ["--cert-file", self._tls[1], "--key-file", self._tls[3], "--client-cert-auth"]
            words += ["--trusted-ca-file", self.authority.certificate]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        # The package knows machines that etcd itself does not support yet.
        environment["ETCD_UNSUPPORTED_ARCH"] = "arm64"
        with open(self.log, "a", encoding="utf-8") as log:
            self.process: subprocess.Popen[str] = self.lab.popen(
                self.name, self.programs / "etcd", *words, env=environment, stdout=log, stderr=log
            )
        what = f"etcd on {self.name}, see {self.log}"
        wait_until(lambda: self.process.poll() is not None or self._answers(), START_S, what)
        if self.process.poll() is not None:
            raise Failure(f"etcd on {self.name} has ended: {self.log.read_text(encoding='utf-8')}")

    @property
    def log(self) -> pathlib.Path:
        return self.directory / "log"

    def _answers(self) -> bool:
        return "unhealthy" not in self._ctl("endpoint", "health", check=False) and self._is_listening()

    def _is_listening(self) -> bool:
        return bool(self.lab.exec(self.name, "ss", "-Hnlt", "sport = :2379").stdout)

    def kill(self) -> None:
        """As if it had crashed."""
        self.process.kill()
        self.process.wait(10)

    def ctl(self, *words: object, **options: Any) -> str:
        """What `etcdctl` says."""
        return self._ctl(*words, **options)

    def _ctl(self, *words: object, check: bool = True, **more: Any) -> str:
        options: list[object] = ["--endpoints", self.endpoint, "--command-timeout", "10s"]
        if self.authority:
            options += ["--cacert", self.authority.certificate, *self._tls]
        if self.user:
            options += ["--user", self.user]
        environment = os.environ | {"ETCDCTL_API": "3"}
        done = self.lab.exec(
            self.name, self.programs / "etcdctl", *options, *words, check=check, env=environment, **more
        )
        return done.stdout + (done.stderr if not check else "")

    def put(self, key: str, value: str, lease: int = 0) -> None:
        """Writes a key behind the prefix."""
        words = ("--lease", f"{lease:x}") if lease else ()
        self.ctl("put", *words, "--", f"{PREFIX}/{key}", value)

    def delete(self, key: str) -> None:
        """Deletes a key behind the prefix."""
        self.ctl("del", f"{PREFIX}/{key}")

    def grant(self, seconds: int) -> int:
        """A lease."""
        return int(self.ctl("lease", "grant", seconds).split()[1], 16)

    def configure(self, backend: str = "vxlan", **more: Any) -> None:
        """Writes flannel's configuration; `more` is of the backend."""
        conf: dict[str, Any] = {"Network": NETWORK, "Backend": {"Type": backend, **more}}
        self.put("config", json.dumps(conf))

    def records(self) -> dict[str, Found]:
        """What is below `subnets/`, by the rest of the key."""
        said = json.loads(self.ctl("get", "--prefix", f"{PREFIX}/subnets/", "-w", "json"))
        found = {}
        for item in said.get("kvs", []):
            key = base64.b64decode(item["key"]).decode(errors="replace").removeprefix(f"{PREFIX}/subnets/")
            value = base64.b64decode(item.get("value", "")).decode(errors="replace")
            found[key] = Found(value, item.get("lease", 0), item["mod_revision"])
        return found

    def record_of(self, address: str) -> str:
        """The key, below `subnets/`, of the node with this address; nothing where there is none."""
        wanted = f'"PublicIP":"{address}"'
        return next((key for key, found in self.records().items() if wanted in found.value), "")


class EtcdLab(NodeLab):
    """Three nodes in two subnets and an etcd beside n1 and n2. Files of nodes have nothing but the address of etcd;
    pods get addresses when a node has a subnet."""

    def __init__(self, topology: str = "T3", **options: bool) -> None:
        super().__init__(topology, **options)
        self.pods: dict[str, str] = {}
        self.pods6: dict[str, str] = {}
        # Of nodes that have one.
        self.addresses6: dict[str, str] = {}

    def build(self) -> None:
        super().build()
        self.add_host(STORE, f"{ADDRESS}/24")
        self.ip(STORE, "route add 198.51.100.0/24 via 192.0.2.254")

    def _add_pod(self, node: str) -> None:
        self.add_namespace(PODS[node])
        self.link(node, "pod0", PODS[node], "eth0")

    def file(self, node: str, etcd: Etcd, keys: str = "", more: str = "", name: str = "") -> str:
        """The file of a node: its name and address, and `keys` of [source.etcd]."""
        own6 = f'address6 = "{self.addresses6[node]}/64"\n' if node in self.addresses6 else ""
        subnet_file, state_file = self.dir / f"{node}.subnet.env", self.dir / f"{node}.state.json"
        return (
            f'[node]\nname = "{name or node}"\naddress = "{ADDRESSES[node]}/24"\n{own6}'
            f'[control]\nsocket = "{self.dir / node}.sock"\n'
            f'[source.etcd]\nendpoints = ["{etcd.endpoint}"]\n'
            f'subnet_file = "{subnet_file}"\nstate_file = "{state_file}"\n{keys}\n{more}\n'
        )

    def start_node(self, node: str, etcd: Etcd, keys: str = "", more: str = "") -> Daemon:
        """Starts the daemon of a node, waits until it has a subnet, and gives its pod an address there."""
        daemon = self.run_daemon(node, self.file(node, etcd, keys, more))
        self.address_pod(node)
        return daemon

    def address_pod(self, node: str) -> None:
        """Gives the pod of a node an address of its subnet, as flannel's file has it."""
        file = self.dir / f"{node}.subnet.env"
        wait_until(file.exists, 10, f"{file}")
        values = dict(line.split("=", 1) for line in file.read_text(encoding="ascii").splitlines())
        gateway, length = values["FLANNEL_SUBNET"].split("/")
        address = gateway.rpartition(".")[0] + ".2"
        if self.pods.get(node) == address:
            return
        pod = PODS[node]
        self.ip(node, "address flush dev pod0 scope global", f"address add {gateway}/{length} dev pod0")
        self.ip(pod, "address flush dev eth0 scope global", f"address add {address}/{length} dev eth0")
        self.ip(pod, f"route replace default via {gateway}")
        self.pods[node] = address
        if six := values.get("FLANNEL_IPV6_SUBNET"):
            gateway, length = six.split("/")
            address = gateway.removesuffix("1") + "2"
            self.ip(node, f"address add {gateway}/{length} dev pod0 nodad")
            self.ip(pod, f"address add {address}/{length} dev eth0 nodad", f"route replace default via {gateway}")
            self.pods6[node] = address

    def subnet(self, node: str) -> str:
        """The pod subnet of a node."""
        return self.pods[node].rpartition(".")[0] + ".0/24"

    def known(self, node: str) -> dict[str, str]:
        """The peers of the subnets that a node has learnt."""
        listed = self.daemons[node].json("route", "list", "--source", "etcd")
        return {route["prefix"]: route["peer"] for route in listed}

    def knows_all(self, node: str) -> bool:
        """Whether a node has learnt the subnets of all others that have one, and nothing else."""
        others = {self.subnet(other): ADDRESSES[other] for other in self.pods if other != node}
        six = {pod.removesuffix("2") + "/64": f"{ADDRESSES[it]}-v6" for it, pod in self.pods6.items() if it != node}
        return self.known(node) == others | six

    def source(self, node: str) -> Any:
        """How a node follows etcd, as `status` says."""
        return next(item for item in self.status(node)["sources"] if item["name"] == "etcd")

    def refusals(self, node: str) -> dict[str, str]:
        """What a node leaves out of what etcd says, and why."""
        return {item["object"]: item["reason"] for item in self.source(node)["refusals"]}
