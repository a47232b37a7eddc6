//! The binary as an operator meets it: help, exit codes, and client commands against the real
//! control server on a real Unix socket.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use underpass::control::api::{Drops, PeerStatus, RouteEntry, RouteMode, Status, TunnelStatus};
use underpass::control::{ControlSocket, Dataplane, server};
use underpass::metrics::Counters;
use underpass::net::{DropReason, Prefix};

/// Exit code, stdout and stderr of the binary.
fn underpass(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(cargo_bin!("underpass"));
    finish(command.args(args).env_remove("UNDERPASS_SOCKET").env_remove("RUST_LOG").output().unwrap())
}

fn finish(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A dataplane with fixed answers.
struct Fixed;

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
            routes: 2,
            peers: vec![PeerStatus {
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
struct Daemon {
    dir: TempDir,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
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
    fn ask(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.try_ask(args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        stdout
    }

    fn try_ask(&self, args: &[&str]) -> (i32, String, String) {
        underpass(&[args, &["--socket", self.socket.to_str().unwrap()]].concat())
    }

    fn ask_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ask(&[args, &["-o", "json"]].concat())).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    for (command, about) in [
        (&["run"][..], "Run the daemon in the foreground"),
        (&["check"], "Check a configuration file"),
        (&["status"], "Show what the daemon runs with"),
        (&["route"], "Show routes and explain"),
        (&["route", "list"], "List all routes"),
        (&["route", "get"], "Show the route that packets to an address take, and why"),
        (&["drops"], "Show how many packets were not delivered"),
    ] {
        let (code, stdout, stderr) = underpass(&[command, &["--help"]].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.starts_with(about), "{stdout}");
        assert!(stdout.contains("Examples:\n  "), "{stdout}");
        let is_client = !matches!(command, ["run"] | ["check"] | ["route"]);
        for option in ["--socket <PATH>", "-o, --output <FORMAT>", "UNDERPASS_SOCKET"] {
            assert_eq!(stdout.contains(option), is_client, "{command:?} {option}\n{stdout}");
        }
    }
    let (code, stdout, _) = underpass(&["--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 denied"));
}

#[test]
fn version_is_the_packages() {
    let (code, stdout, _) = underpass(&["--version"]);
    assert_eq!((code, stdout.as_str()), (0, concat!("underpass ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn wrong_usage_exits_2() {
    for args in [
        &[][..],
        &["fly"],
        &["run"],
        &["check"],
        &["check", "a", "b"],
        &["status", "--nonsense"],
        &["status", "-o", "yaml"],
        &["route"],
        &["route", "get"],
        &["route", "get", "10.0.0.0/8"],
        &["route", "get", "node-b"],
        &["drops", "--socket"],
    ] {
        let (code, stdout, stderr) = underpass(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(stderr.contains("Usage: underpass") || stderr.contains("try '--help'"), "{args:?}: {stderr}");
    }
}

/// Three peers in two pools.
const GOOD: &str = r#"[node]
name = "node-a"
address = "192.0.2.1/24"

[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "CrossSubnet"

[[pool]]
cidr = "10.245.0.0/16"
vxlan_mode = "Always"

[local]
subnets = ["10.244.1.0/24"]

[[peer]]
name = "node-b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]

[[peer]]
name = "node-c"
address = "198.51.100.3"
subnets = ["10.244.3.0/24"]

[[peer]]
name = "node-d"
address = "198.51.100.4"
subnets = ["10.245.4.0/24"]
"#;

#[test]
fn check_says_what_a_good_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.toml");
    fs::write(&good, GOOD).unwrap();
    let good = good.to_str().unwrap();
    let expected = format!("{good}: ok (node node-a, 3 peers, 4 subnets, 2 pools)\n");
    assert_eq!(underpass(&["check", good]), (0, expected, String::new()));
}

#[test]
fn check_and_run_report_all_errors_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    let text = GOOD.replace("10.244.2.0/24", "10.244.2.1/24").replace("198.51.100.3", "198.51.100.300");
    fs::write(&bad, text).unwrap();
    let bad = bad.to_str().unwrap();
    let (code, stdout, stderr) = underpass(&["check", bad]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with(&format!("{bad}:19:")) && lines[0].contains("10.244.2.1/24"), "{stderr}");
    assert!(lines[1].starts_with(&format!("{bad}:23:")) && lines[1].contains("198.51.100.300"), "{stderr}");
    assert_eq!(underpass(&["run", "--config", bad]), (1, String::new(), stderr));
}

#[test]
fn check_of_a_missing_file_fails() {
    let (code, stdout, stderr) = underpass(&["check", "/nonexistent.toml"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("/nonexistent.toml: "), "{stderr}");
}

#[test]
fn an_absent_daemon_exits_3() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    for (socket, reason) in [(&absent, "No such file"), (&stale, "Connection refused")] {
        let socket = socket.to_str().unwrap();
        for command in [&["status"][..], &["route", "list"], &["route", "get", "10.0.0.1"], &["drops"]] {
            let (code, stdout, stderr) = underpass(&[command, &["--socket", socket]].concat());
            assert_eq!((code, stdout.as_str()), (3, ""), "{command:?}");
            assert!(stderr.starts_with(&format!("underpass: no daemon at {socket}")), "{stderr}");
            assert_eq!(stderr.matches(reason).count(), 1, "{stderr}");
        }
    }
}

#[test]
fn a_silent_daemon_exits_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    let (code, _, stderr) = underpass(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(stderr.contains("did not answer within 5 s"), "{stderr}");
}

#[test]
fn a_closed_socket_file_exits_4() {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&daemon.socket, Permissions::from_mode(0o000)).unwrap();
    let (code, stdout, stderr) = status_without_privileges(&daemon);
    assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
    assert!(stderr.starts_with("underpass: not allowed to use"), "{stderr}");
}

#[test]
fn strangers_to_the_group_are_denied() {
    let daemon = Daemon::start();
    if !is_root(daemon.dir.path()) {
        return; // The owner may connect, and only root can become somebody else.
    }
    fs::set_permissions(daemon.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (code, _, stderr) = status_without_privileges(&daemon);
    assert_eq!(code, 4, "{stderr}");
}

/// `status` as whoever runs the tests, or as nobody when that is root, whom no mode stops.
fn status_without_privileges(daemon: &Daemon) -> (i32, String, String) {
    let mut binary = cargo_bin!("underpass").to_path_buf();
    let root = is_root(daemon.dir.path());
    if root {
        // Nobody may lack access to the build directory.
        let copy = daemon.dir.path().join("underpass");
        fs::copy(&binary, &copy).unwrap();
        binary = copy;
    }
    let mut command = Command::new(binary);
    command.arg("status").arg("--socket").arg(&daemon.socket).current_dir("/");
    if root {
        command.uid(65534).gid(65534);
    }
    finish(command.output().unwrap())
}

fn is_root(own_directory: &Path) -> bool {
    fs::metadata(own_directory).unwrap().uid() == 0
}

#[test]
fn status_as_text() {
    let expected = "\
node      node-a
daemon    underpass 0.1.0, up 1h 2m
tunnel    up0, mtu 1450, address 10.244.1.0
backend   offload, 2 workers
offloads  tso active
          uso off: kernel too old
routes    2
dropped   12 (no_route 7, spoofed_source 5)

EDGE      RX PACKETS  RX BYTES  TX PACKETS  TX BYTES
device          1000   1.3 MiB           0       0 B
underlay           0       0 B         988   1.4 KiB

PEER    ADDRESS    VTEP MAC           SUBNETS
node-b  192.0.2.2  66:2f:40:d1:21:2c  10.244.2.0/24, 10.244.3.0/24
";
    assert_eq!(Daemon::start().ask(&["status"]), expected);
}

#[test]
fn status_as_json() {
    let status = Daemon::start().ask_json(&["status"]);
    for (pointer, expected) in [
        ("/node", json!("node-a")),
        ("/workers", json!(2)),
        ("/backend", json!("offload")),
        ("/tunnel", json!({"device": "up0", "mtu": 1450, "address": "10.244.1.0"})),
        ("/counters/device/rx_packets", json!(1000)),
        ("/counters/device/rx_bytes", json!(1_450_000)),
        ("/counters/device/tx_packets", json!(0)),
        ("/counters/underlay/tx_bytes", json!(1500)),
        ("/drops/no_route", json!(7)),
        ("/drops/ttl", json!(0)),
        ("/routes", json!(2)),
        ("/peers/0/name", json!("node-b")),
        ("/offloads/tso", json!("active")),
        ("/uptime_seconds", json!(3725)),
    ] {
        assert_eq!(status.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert_eq!(status["drops"].as_object().unwrap().len(), DropReason::ALL.len());
}

#[test]
fn route_list() {
    let daemon = Daemon::start();
    let expected = "\
PREFIX         PEER    MODE   NEXT HOP    MTU  SOURCE
10.244.1.0/24  -       local  -          1450  local
10.244.2.0/24  node-b  ipip   192.0.2.2  1480  static
";
    assert_eq!(daemon.ask(&["route", "list"]), expected);
    let routes = daemon.ask_json(&["route", "list"]);
    let prefixes: Vec<_> = routes.as_array().unwrap().iter().map(|route| &route["prefix"]).collect();
    assert_eq!(prefixes, ["10.244.1.0/24", "10.244.2.0/24"]);
}

#[test]
fn route_get() {
    let daemon = Daemon::start();
    let expected = "\
prefix    10.244.2.0/24
peer      node-b
mode      ipip
next hop  192.0.2.2
mtu       1480
source    static
reason    pool 10.244.0.0/16 ipip_mode=Always
";
    assert_eq!(daemon.ask(&["route", "get", "10.244.2.9"]), expected);
    let expected = json!({
        "prefix": "10.244.2.0/24", "peer": "node-b", "mode": "ipip", "next_hop": "192.0.2.2",
        "mtu": 1480, "source": "static", "reason": "pool 10.244.0.0/16 ipip_mode=Always",
    });
    assert_eq!(daemon.ask_json(&["route", "get", "10.244.2.9"]), expected);
    assert_eq!(daemon.ask_json(&["route", "get", "10.244.1.9"])["peer"], Value::Null);
    for address in ["8.8.8.8", "2001:db8::1"] {
        let (code, stdout, stderr) = daemon.try_ask(&["route", "get", address]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.starts_with(&format!("underpass: no route to {address}")), "{stderr}");
    }
}

#[test]
fn drops() {
    let daemon = Daemon::start();
    let text = daemon.ask(&["drops"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), DropReason::ALL.len() + 2, "{text}");
    assert_eq!(lines[0], "REASON          PACKETS  MEANING");
    for (line, reason) in lines[1..].iter().zip(DropReason::ALL) {
        assert!(line.starts_with(reason.name()) && line.ends_with(reason.help()), "{line}");
    }
    assert_eq!(lines[4].split_whitespace().nth(1), Some("5"), "{text}");
    assert_eq!(lines[lines.len() - 1], "total                12");
    assert_eq!(daemon.ask_json(&["drops"]), daemon.ask_json(&["status"])["drops"]);
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = Daemon::start();
    let mut command = Command::new(cargo_bin!("underpass"));
    let (code, stdout, stderr) =
        finish(command.arg("status").env("UNDERPASS_SOCKET", &daemon.socket).output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("node      node-a\n"), "{stdout}");
}

#[test]
fn the_api_document_names_everything() {
    let document = include_str!("../docs/control-api.md");
    for reason in DropReason::ALL {
        let row = format!("| `{}` | ", reason.name());
        assert_eq!(document.matches(&row).count(), 1, "{row}");
    }
    let mut status = serde_json::to_value(Fixed.status()).unwrap();
    status["offloads"] = json!({});
    let mut names = Vec::new();
    collect_names(&status, &mut names);
    collect_names(&serde_json::to_value(Fixed.routes()).unwrap(), &mut names);
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name} is not documented");
    }
    for path in ["/v1/status", "/v1/routes", "/v1/routes/get?address=ADDR", "/v1/drops"] {
        assert!(document.contains(&format!("`GET {path}`")), "{path}");
    }
}

/// Every key of every object in `value`.
fn collect_names(value: &Value, names: &mut Vec<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        names.push(name.clone());
        collect_names(inner, names);
    }
    value.as_array().into_iter().flatten().for_each(|inner| collect_names(inner, names));
}
