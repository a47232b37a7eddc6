"""Who may talk to the API server: its certificate, the tokens and the kubeconfig of each user.

All is in STATE/credentials: ca.crt, ca.key, server.crt and server.key of the API server, service-accounts.key and .pub
of service accounts, tokens.csv with all users, and a kubeconfig USER.conf for each.
"""

import base64
import json
import pathlib
import secrets

from underpass_lab.command import run
from underpass_lab.kubernetes.plan import API_PORT, API_SERVICE, CONTROL_ADDRESS, Plan

NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
DAYS = 365
# File of a kubeconfig: user and groups, as the API server's own rules of access name them.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}


class Credentials:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.directory = plan.state / "credentials"

    def file(self, name: str) -> pathlib.Path:
        return self.directory / name

    def kubeconfig(self, user: str) -> pathlib.Path:
        """The kubeconfig of `admin`, of a node by its name, or of a part of the control plane."""
        return self.file(f"{user}.conf")

    def make(self) -> None:
        """Makes all of it."""
        self.directory.mkdir(mode=0o700)
        self._make_certificates()
        self.openssl("genrsa", "-out", "service-accounts.key", 2048)
        self.openssl("rsa", "-in", "service-accounts.key", "-pubout", "-out", "service-accounts.pub")
        users = USERS | {name: (f"system:node:{name}", "system:nodes") for name in self.plan.names}
        self.file("tokens.csv").write_text("", encoding="ascii")
        for file, (user, group) in users.items():
            self.add_user(file, user, group)

    def _make_certificates(self) -> None:
        names = [f"DNS:{name}" for name in NAMES]
        addresses = [f"IP:{address}" for address in (CONTROL_ADDRESS, API_SERVICE, "127.0.0.1")]
        self.file("server.ext").write_text(
            f"subjectAltName={','.join(names + addresses)}\nextendedKeyUsage=serverAuth\n", encoding="ascii"
        )
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        self.openssl(
            *("req", "-x509", *key, "-days", DAYS, "-subj", "/CN=underpass-test-ca", "-keyout", "ca.key"),
            *("-out", "ca.crt"),
        )
        self.openssl("req", *key, "-subj", "/CN=kube-apiserver", "-keyout", "server.key", "-out", "server.csr")
        self.openssl(
            *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", DAYS, "-extfile", "server.ext", "-out", "server.crt"),
        )

    def openssl(self, *words: object) -> None:
        """Runs openssl in the directory of all this."""
        run("openssl", *words, cwd=self.directory)

    def add_user(self, file: str, user: str, group: str = "") -> pathlib.Path:
        """One more user, whom the API server knows from its next start on; the kubeconfig."""
        token = secrets.token_hex(16)
        with open(self.file("tokens.csv"), "a", encoding="ascii") as tokens:
            tokens.write(f'{token},{user},{user},"{group}"\n')
        certificate = base64.b64encode(self.file("ca.crt").read_bytes()).decode()
        server = f"https://{CONTROL_ADDRESS}:{API_PORT}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": certificate}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self.kubeconfig(file)
        path.write_text(json.dumps(config, indent=1), encoding="ascii")
        return path
