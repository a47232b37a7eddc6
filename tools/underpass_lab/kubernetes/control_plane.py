"""The commands of the control plane: etcd, API server, controllers, scheduler."""

from underpass_lab.kubernetes.credentials import Credentials
from underpass_lab.kubernetes.plan import (
    API_PORT,
    CONTROL_ADDRESS,
    GATE,
    PODS,
    PODS6,
    SERVICES,
    SERVICES6,
    Plan,
)

ETCD = "http://127.0.0.1:2379"


def etcd(plan: Plan) -> tuple[str, ...]:
    peers = "http://127.0.0.1:2380"
    return (
        *("etcd", f"--data-dir={plan.state}/etcd", "--logger=zap", "--log-level=warn"),
        *(f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
        f"--initial-cluster=default={peers}",
    )


def api_server(plan: Plan, credentials: Credentials) -> tuple[str, ...]:
    file = credentials.file
    return (
        *("kube-apiserver", f"--etcd-servers={ETCD}", f"--cert-dir={credentials.directory}"),
        *(f"--bind-address={CONTROL_ADDRESS}", f"--advertise-address={CONTROL_ADDRESS}", f"--secure-port={API_PORT}"),
        *(f"--tls-cert-file={file('server.crt')}", f"--tls-private-key-file={file('server.key')}"),
        *("--insecure-port=0", f"--token-auth-file={file('tokens.csv')}"),
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"),
        f"--service-account-key-file={file('service-accounts.pub')}",
        f"--service-account-signing-key-file={file('service-accounts.key')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={plan.both(SERVICES, SERVICES6)}",
        *("--kubelet-preferred-address-types=InternalIP", "--profiling=false"),
        *_gates(plan),
    )


def controller_manager(plan: Plan, credentials: Credentials) -> tuple[str, ...]:
    config = credentials.kubeconfig("controller-manager")
    return (
        *("kube-controller-manager", f"--kubeconfig={config}", "--leader-elect=false", "--port=0"),
        *("--bind-address=127.0.0.1", f"--cert-dir={credentials.directory}"),
        "--controllers=*,-tokencleaner,-bootstrapsigner,-csrsigning",
        # By default it would make a directory in /usr.
        f"--flex-volume-plugin-dir={plan.state}/volume-plugins",
        *("--allocate-node-cidrs", f"--cluster-cidr={plan.both(PODS, PODS6)}"),
        f"--service-cluster-ip-range={plan.both(SERVICES, SERVICES6)}",
        f"--service-account-private-key-file={credentials.file('service-accounts.key')}",
        *(f"--root-ca-file={credentials.file('ca.crt')}", "--use-service-account-credentials"),
        *_gates(plan),
    )


def scheduler(plan: Plan, credentials: Credentials) -> tuple[str, ...]:
    config = credentials.kubeconfig("scheduler")
    return (
        *("kube-scheduler", f"--kubeconfig={config}", "--leader-elect=false", "--port=0"),
        *("--bind-address=127.0.0.1", f"--cert-dir={credentials.directory}"),
        *_gates(plan),
    )


def _gates(plan: Plan) -> tuple[str, ...]:
    return (f"--feature-gates={GATE}",) if plan.dual_stack else ()
