//! The real control server over a dataplane with fixed answers.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use underpass::control::api::{Drops, PeerStatus, RouteEntry, RouteMode, Status, TunnelStatus};
use underpass::control::{ControlSocket, Dataplane, server};
use underpass::metrics::Counters;
use underpass::net::{DropReason, Prefix};

use super::underpass;

/// A dataplane with fixed answers.
pub struct Fixed;

impl Dataplane for Fixed {
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
            },
            counters: (&totals).into(),
            drops: Drops::from(&totals),
            icmp_errors: (3, 1).into(),
            routes: 2,
            peers: vec![PeerStatus {
                address6: None,
                name: "node-b".into(),
                address: "192.0.2.2".parse().unwrap(),
                subnets: vec!["10.244.2.0/24".into(), "10.244.3.0/24".into()],
                vtep_mac: "66:2f:40:d1:21:2c".into(),
            }],
        }
    }

    fn routes(&self) -> Vec<RouteEntry> {
        let local = RouteEntry {
            prefix: "10.244.1.0/24".into(),
            peer: None,
            mode: RouteMode::Local,
            next_hop: None,
            mtu: 1450,
            source: "local".into(),
            reason: "own subnet".into(),
        };
        let remote = RouteEntry {
            prefix: "10.244.2.0/24".into(),
            peer: Some("node-b".into()),
            mode: RouteMode::Ipip,
            next_hop: Some("192.0.2.2".parse().unwrap()),
            mtu: 1480,
            source: "static".into(),
            reason: "pool 10.244.0.0/16 ipip_mode=Always".into(),
        };
        vec![local, remote]
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        self.routes().into_iter().find(|route| route.prefix.parse::<Prefix>().unwrap().contains(address))
    }
}

/// The control server on a thread of its own, until dropped.
pub struct Daemon {
    pub dir: TempDir,
    pub socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let socket = dir.path().join("underpass.sock");
        let bound = ControlSocket::bind(&socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server::serve(bound, Arc::new(Fixed), async { _ = stopped.await })).unwrap();
        });
        Self { dir, socket, stop: Some(stop), thread: Some(thread) }
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
