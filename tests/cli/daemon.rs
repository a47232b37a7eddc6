//! The real control server, with fixed answers or over a daemon's own state.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use underpass::api::{
    CniFacts, DirectPathStatus, DirectStatus, Drops, Endpoint, KernelPathStatus, Missing, NewPeer,
    PeerStatus, PeerUplink, PeerWay, PolicyEntry, PolicyStatus, PolicyTrace, Reloaded, RouteEntry, RouteMode,
    RoutesChanged, SourceRefusal, SourceStatus, Status, TraceDecision, TracePolicy, TraceRule, TraceSide,
    TraceTier, TunnelStatus,
};
use underpass::client::{Client, Target};
use underpass::control::daemon::gate::Gate;
use underpass::control::daemon::handle::{Choices, Handle, Links};
use underpass::control::daemon::kernel_path::Carrier;
use underpass::control::daemon::pods::Endpoints;
use underpass::control::daemon::runner::{self, Ports};
use underpass::control::engine::edits::batch::Batch;
use underpass::control::engine::edits::lines::Culprits;
use underpass::control::engine::port::{Capabilities, HostRequest, HostView, Uplink};
use underpass::control::engine::refusal::{Kind, Refusal};
use underpass::control::engine::{Engine, Event, Page, Setup, Start, Update};
use underpass::control::server;
use underpass::control::server::backend::{Ask, Backend};
use underpass::control::server::socket::ControlSocket;
use underpass::dataplane::observe::Counters;
use underpass::dataplane::packet::Offloaded;
use underpass::dataplane::policy::{Answer, Connection, State, Tuple};
use underpass::dataplane::pump::Queries;
use underpass::net::{DropReason, Prefix};
use underpass::policy::{End, Question};
use underpass::route::Source;
use underpass::sync::Published;

use super::underpass;

/// A backend with fixed answers.
pub struct Fixed;

impl Backend for Fixed {
    fn status(&self) -> Status {
        let counters = Counters::new(2);
        let worker = counters.worker(1);
        worker.device.rx_packets.add(1000);
        worker.device.rx_bytes.add(1_450_000);
        worker.underlay.tx_packets.add(988);
        worker.underlay.tx_bytes.add(1500);
        worker.dropped(DropReason::NoRoute, 7);
        worker.dropped(DropReason::SpoofedSource, 5);
        let totals = counters.totals();
        Status {
            name: "underpass".into(),
            version: "0.1.0".into(),
            uptime_seconds: 3725,
            node: "node-a".into(),
            workers: counters.workers(),
            backend: "offload".into(),
            offloads: [("tso".into(), "active".into()), ("uso".into(), "off: kernel too old".into())].into(),
            tunnel: TunnelStatus {
                device: "up0".into(),
                mtu: 1450,
                address: Some("10.244.1.0".parse().unwrap()),
                vtep_mac: "66:2f:40:d1:21:2b".into(),
            },
            counters: (&totals).into(),
            drops: Drops::from(&totals),
            icmp_errors: (3, 1).into(),
            tunnel_control: (4, 5).into(),
            hairpinned_packets: 6,
            kernel_path: KernelPathStatus::default(),
            recut_super_packets: 2,
            device_read_errors: 3,
            stuck_workers: vec![1],
            policy: Some(PolicyStatus {
                scope: "overlay".into(),
                policies: 2,
                endpoints: 30,
                namespaces: 1,
                connections: 120,
                connections_capacity: 524_288,
                untracked: 1,
                generation: 4,
                left_out: vec!["policy shop/lost: there is no tier called security".into()],
                log_lost: 16,
            }),
            direct: DirectStatus { via: "kernel".into(), kernel_routes: 2, pump_routes: 1 },
            missing: vec![Missing {
                what: "packets for 10.9.0.0/16 do not reach the tunnel".into(),
                command: "ip route add 10.9.0.0/16 dev up0".into(),
            }],
            sources: vec![SourceStatus {
                name: "kubernetes".into(),
                state: "degraded".into(),
                reason: "API server: connection refused".into(),
                style: "flannel".into(),
                nodes: 3,
                refused: 2,
                refusals: vec![SourceRefusal {
                    object: "node n7".into(),
                    reason: "its address 192.0.2.2 is another node's".into(),
                }],
                problems: vec!["the state is not kept".into()],
                ..SourceStatus::default()
            }],
            log_lines_lost: 17,
            socket_drops: 3,
            strangers_refused: true,
            routes: 2,
            peers: vec![PeerStatus {
                counters: underpass::api::PeerTraffic::default(),
                uplink: Some(PeerUplink {
                    interface: "eth0".into(),
                    vxlan: None,
                    ipip: Some(PeerWay {
                        way: "socket".into(),
                        reason: "eth0 does not segment IP-in-IP (tx-ipxip4-segmentation off)".into(),
                    }),
                }),
                direct_paths: vec![DirectPathStatus {
                    family: "ipv4".into(),
                    next_hop: "192.0.2.2".parse().unwrap(),
                    verified: false,
                    reason: "probes do not get through both ways".into(),
                    failures: 2,
                }],
                address6: None,
                also_from: Vec::new(),
                sends_for: Vec::new(),
                name: "node-b".into(),
                address: "192.0.2.2".parse().unwrap(),
                subnets: vec!["10.244.2.0/24".into(), "10.244.3.0/24".into()],
                port: 4789,
                vtep_mac: "66:2f:40:d1:21:2c".into(),
            }],
        }
    }

    fn routes(&self, _page: Page) -> (Vec<RouteEntry>, Option<Prefix>) {
        (fixed_routes(), None)
    }

    fn route_lines(&self, _page: Page) -> (String, Option<Prefix>) {
        ("10.244.2.0/24 via node-b\n".to_owned(), None)
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        fixed_routes().into_iter().find(|route| route.prefix.parse::<Prefix>().unwrap().contains(address))
    }

    fn most_routes(&self) -> usize {
        1000
    }

    async fn edit_routes(&self, _batch: Batch, _wait: bool) -> Result<RoutesChanged, Refusal> {
        Err(Refusal::new(Kind::Busy, "fixed"))
    }

    async fn replace_routes(&self, _batch: Batch, _wait: bool) -> Result<RoutesChanged, Refusal> {
        Err(Refusal::new(Kind::Busy, "fixed"))
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.status().peers
    }

    async fn add_peer(
        &self,
        _peer: NewPeer,
        _replace: bool,
        _wait: bool,
    ) -> Result<Option<PeerStatus>, Refusal> {
        Err(Refusal::new(Kind::Busy, "fixed"))
    }

    async fn delete_peer(&self, _name: String, _wait: bool) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::Busy, "fixed"))
    }

    fn cni(&self) -> CniFacts {
        CniFacts::default()
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        Vec::new()
    }

    fn put_endpoint(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        endpoint.check().map_err(|reason| Refusal::new(Kind::Malformed, reason))
    }

    fn delete_endpoint(&self, id: &str) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::Missing, id))
    }

    fn policies(&self) -> Result<Vec<PolicyEntry>, Refusal> {
        Ok(fixed_policies())
    }

    fn trace(&self, question: &Question) -> Result<PolicyTrace, Refusal> {
        match &question.source {
            End::Endpoint(name) if name.name == "gone" => {
                Err(Refusal::new(Kind::Missing, format!("source: no endpoint is called {name}")))
            }
            _ => Ok(fixed_trace()),
        }
    }

    fn connection_workers(&self) -> Result<usize, Refusal> {
        Ok(2)
    }

    async fn connections(&self, ask: Ask) -> Result<Answer, Refusal> {
        let known = fixed_connections(ask.worker);
        let connections = known.into_iter().filter(|one| ask.filter.matches(one)).collect();
        Ok(Answer { connections, next: None })
    }

    async fn reload(&self, _wait: bool) -> Result<Reloaded, Refusal> {
        Err(Refusal::new(Kind::Busy, "fixed"))
    }
}

fn fixed_policies() -> Vec<PolicyEntry> {
    let deny = PolicyEntry {
        tier: "security".into(),
        order: Some(10.5),
        kind: "GlobalNetworkPolicy".into(),
        name: "deny-bad".into(),
        egress_endpoints: 30,
        egress_rules: 2,
        packets_denied: 7,
        ..PolicyEntry::default()
    };
    let web = PolicyEntry {
        tier: "default".into(),
        kind: "NetworkPolicy".into(),
        namespace: Some("shop".into()),
        name: "web".into(),
        ingress_endpoints: 3,
        ingress_rules: 1,
        connections_allowed: 1234,
        ..PolicyEntry::default()
    };
    vec![deny, web]
}

/// A denied packet, with every field that there is.
fn fixed_trace() -> PolicyTrace {
    let matched = |rule, action: &str| TraceRule { rule, action: action.into() };
    let policy = |policy: &str, matched| TracePolicy { policy: policy.into(), matched };
    let tier = |tier: &str, default_action: &str, policies| TraceTier {
        tier: tier.into(),
        default_action: default_action.into(),
        policies,
    };
    PolicyTrace {
        source: "10.244.1.2".parse().unwrap(),
        destination: "10.244.2.7".parse().unwrap(),
        protocol: "tcp".into(),
        source_port: Some(49152),
        destination_port: Some(80),
        icmp_type: None,
        icmp_code: None,
        allowed: false,
        egress: TraceSide {
            address: "10.244.1.2".parse().unwrap(),
            endpoint: Some("shop/web-0".into()),
            labels: [("app".into(), "web".into()), ("tier".into(), "front".into())].into(),
            node: Some("node-a".into()),
            network_sets: Vec::new(),
            tiers: vec![
                tier("security", "Pass", vec![policy("deny-bad", Vec::new())]),
                tier(
                    "default",
                    "Deny",
                    vec![policy("shop/web", vec![matched(0, "Log"), matched(2, "Deny")])],
                ),
            ],
            decided: TraceDecision {
                by: "rule".into(),
                tier: Some("default".into()),
                policy: Some("shop/web".into()),
                rule: Some(2),
                action: Some("Deny".into()),
            },
            reason: "egress[2] of policy shop/web in tier default: Deny".into(),
            allowed: false,
            enforced_here: true,
            enforced_by: Some("node-a".into()),
            enforcement: "this node enforces it: packets to node-b pass the pump".into(),
        },
        ingress: TraceSide {
            address: "10.244.2.7".parse().unwrap(),
            endpoint: None,
            labels: [].into(),
            node: None,
            network_sets: vec!["shop/partners".into()],
            tiers: Vec::new(),
            decided: TraceDecision { by: "no_endpoint".into(), ..TraceDecision::default() },
            reason: "no endpoint that is known has this address, so no policy is about it".into(),
            allowed: true,
            enforced_here: false,
            enforced_by: Some("node-b".into()),
            enforcement: "node-b enforces it".into(),
        },
    }
}

fn fixed_connections(worker: usize) -> Vec<Connection> {
    let connection = |source: &str, destination: &str, protocol, ports, icmp, state| Connection {
        tuple: Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            ports,
            icmp,
        },
        state,
        age: 65,
        expires_in: 432_000,
    };
    match worker {
        0 => vec![connection("10.244.1.2", "10.244.2.7", 6, Some((40000, 80)), None, State::Established)],
        _ => vec![
            connection("fd00:1::2", "fd00:2::7", 17, Some((5000, 53)), None, State::Unanswered),
            connection("10.244.1.2", "10.244.2.7", 1, None, Some((8, 0)), State::Answered),
        ],
    }
}

fn fixed_routes() -> Vec<RouteEntry> {
    let local = RouteEntry {
        prefix: "10.244.1.0/24".into(),
        mtu: 1450,
        source: "local".into(),
        reason: "own subnet".into(),
        ..RouteEntry::default()
    };
    let remote = RouteEntry {
        prefix: "10.244.2.0/24".into(),
        peer: Some("node-b".into()),
        mode: RouteMode::Ipip,
        next_hop: Some("192.0.2.2".parse().unwrap()),
        mtu: 1480,
        source: "static".into(),
        reason: "pool 10.244.0.0/16 ipip_mode=Always".into(),
        age_seconds: 3725,
        ..RouteEntry::default()
    };
    vec![local, remote]
}

/// Two peers, whose addresses no traffic ever reaches: there are no workers.
pub const CONFIG: &str = r#"
[node]
name = "node-a"
address = "192.0.2.1/24"
[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "CrossSubnet"
[local]
subnets = ["10.244.1.0/24"]
[[peer]]
name = "node-b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]
[[peer]]
name = "node-c"
address = "198.51.100.3"
subnets = []
"#;

/// A daemon's own engine over a host that does everything it is asked and shows nothing, without workers; its
/// configuration file is in `dir`. Returns also what has to run beside it.
fn real(dir: &Path) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let file = dir.join("test.toml");
    std::fs::write(&file, CONFIG).unwrap();
    let config = underpass::config::load(&file).unwrap();
    let capabilities = Capabilities { net_admin: true, net_raw: true };
    let start = Start {
        network_policy: None,
        setup: Setup { capabilities, workers: 1, uplink_mtu: 1500, uplink: 2 },
        uplink: Uplink { name: "eth0".into(), index: 2, mtu: 1500, ..Uplink::default() },
        ways: std::collections::HashMap::new(),
        tap: None,
        tap_state: Offloaded::off("no TAP"),
        view: HostView::default(),
        addresses: Vec::new(),
        now: Instant::now(),
    };
    let (engine, first) = Engine::new(config, start).unwrap();
    let (snapshots, seen) = watch::channel(Arc::new(engine.snapshot()));
    let (host, mut requests) = mpsc::unbounded_channel();
    let forwarding = Arc::new(Published::new(first));
    let gate = Arc::new(Gate::new(Vec::new(), Arc::clone(&forwarding)));
    let counters = Counters::new(1);
    let carrier = Carrier::off(Offloaded::off("a test"), Arc::clone(&forwarding), counters.clone());
    let ports = Ports {
        forwarding,
        gate: Arc::clone(&gate),
        carrier: carrier.clone(),
        snapshots,
        host,
        probes: [mpsc::unbounded_channel().0, mpsc::unbounded_channel().0],
        shrunk: Arc::default(),
    };
    let inbox = runner::start().unwrap().begin(engine, ports);
    let (reloads, mut wishes) = mpsc::channel(1);
    let choices = Choices { backend: "plain", offloads: Vec::new(), address: "10.244.1.0".parse().unwrap() };
    let handle = Handle::new(
        Links {
            inbox: inbox.clone(),
            snapshots: seen,
            reloads,
            gate,
            endpoints: Endpoints::default(),
            queries: Queries::default(),
            carrier,
        },
        counters,
        choices,
    );
    let beside = async move {
        let mut generation = 0;
        loop {
            tokio::select! {
                Some((id, request)) = requests.recv() => inbox.send(match request {
                    HostRequest::Observe(_) => Event::Observed(id, Box::default()),
                    _ => Event::Ended(id, Vec::new()),
                }),
                Some((wait, answer)) = wishes.recv() => {
                    generation += 1;
                    let config = underpass::config::load(&file).map(Box::new);
                    let config = config.map_err(|errors| {
                        let mut culprits = Culprits::default();
                        errors.to_string().lines().for_each(|line| culprits.push(|| line.to_owned()));
                        Refusal::of(Kind::Malformed, culprits)
                    });
                    let update = Update::Configuration { config, view: None, network_policy: None };
                    let event = |asked| Event::Update { source: Source::Static, generation, update, request: Some(asked) };
                    let _ = answer.send(inbox.ask(wait, event).await);
                }
                else => return,
            }
        }
    };
    (handle, beside)
}

fn directory() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

/// The control server on a thread of its own, until dropped.
pub struct Daemon {
    pub dir: TempDir,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// With fixed answers.
    pub fn start() -> Self {
        Self::over(directory(), Arc::new(Fixed), std::future::pending())
    }

    /// With a state that can be changed.
    pub fn with_state() -> Self {
        let dir = directory();
        let (handle, beside) = real(dir.path());
        Self::over(dir, Arc::new(handle), beside)
    }

    fn over<B: Backend>(
        dir: TempDir,
        backend: Arc<B>,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let socket = dir.path().join("underpass.sock");
        let bound = ControlSocket::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let beside = tokio::spawn(beside);
                server::serve(bound, backend, async { _ = stopped.await }).await.unwrap();
                beside.abort();
            });
        });
        Self { dir, socket, stop: Some(stop), thread: Some(thread) }
    }

    /// The answer to a GET.
    pub fn get(&self, path: &str) -> Value {
        Client::new(&self.socket).get(&Target::new(path)).unwrap()
    }

    /// Stdout of a client command that must succeed in silence.
    pub fn ask(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.try_ask(args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        stdout
    }

    pub fn try_ask(&self, args: &[&str]) -> (i32, String, String) {
        underpass(&[args, &["--socket", self.socket.to_str().unwrap()]].concat())
    }

    pub fn ask_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[args, &["-o", "json"]].concat())).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}
