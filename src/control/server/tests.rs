//! The API over a real Unix socket: every endpoint, then the clients that mean no good.

use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{ControlSocket, Dataplane, Drops, Limits, RouteEntry, Status, serve_with};
use crate::capture::Hub;
use crate::control::api::RouteMode;
use crate::metrics::Counters;
use crate::net::DropReason;

/// One route, listed so many times.
struct OneRoute {
    counters: Counters,
    listed: usize,
}

impl Dataplane for OneRoute {
    fn status(&self) -> Status {
        let totals = self.counters.totals();
        Status {
            node: "node-a".into(),
            workers: self.counters.workers(),
            counters: (&totals).into(),
            drops: Drops::from(&totals),
            routes: 1,
            ..Status::default()
        }
    }

    fn routes(&self) -> Vec<RouteEntry> {
        let route = RouteEntry {
            prefix: "10.244.2.0/24".into(),
            peer: Some("node-b".into()),
            mode: RouteMode::Vxlan,
            next_hop: Some("192.0.2.2".parse().unwrap()),
            mtu: 1450,
            source: "static".into(),
            reason: "pool 10.244.0.0/16 vxlan_mode=Always".into(),
        };
        vec![route; self.listed]
    }

    fn capture(&self) -> Option<(Arc<Hub>, u16)> {
        Some((Arc::clone(self.counters.capture()?), 4789))
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        let prefix: crate::net::Prefix = "10.244.2.0/24".parse().unwrap();
        prefix.contains(address).then(|| self.routes().remove(0))
    }
}

struct Server {
    path: PathBuf,
    counters: Counters,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::with_routes(1, limits)
    }

    fn with_routes(listed: usize, limits: Limits) -> Self {
        let closed = Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = ControlSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let counters = Counters::new(1);
        let dataplane = Arc::new(OneRoute { counters: counters.clone(), listed });
        dataplane.counters.worker(0).dropped(DropReason::NoRoute, 2);
        let task = tokio::spawn(serve_with(socket, dataplane, limits, async { _ = stopped.await }));
        Self { path, counters, stop, task, _dir: dir }
    }

    async fn connect(&self) -> UnixStream {
        connect(&self.path).await
    }

    /// Status line and body of the reply to `request`, empty when closed without one.
    async fn ask(&self, request: &[u8]) -> (String, String) {
        let mut stream = self.connect().await;
        // The server may have refused and closed before it read everything.
        let _ = stream.write_all(request).await;
        reply(stream).await
    }

    async fn get(&self, target: &str) -> (u16, Value) {
        let (status, body) = self.ask(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        let code = status.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(&body).unwrap())
    }

    /// A well-behaved client is answered within 200 ms.
    async fn assert_lively(&self) {
        let begin = Instant::now();
        assert_eq!(self.get("/v1/status").await.0, 200);
        assert!(begin.elapsed() < Duration::from_millis(200), "{:?}", begin.elapsed());
    }
}

async fn connect(path: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            // The backlog is full for the moment.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn reply(mut stream: UnixStream) -> (String, String) {
    let mut bytes = Vec::new();
    // A reset after the reply is as good as a close.
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.lines().next().unwrap_or("").to_owned(), body.to_owned())
}

#[tokio::test]
async fn every_endpoint_answers() {
    let server = Server::start(Limits::default());
    let (code, status) = server.get("/v1/status").await;
    assert_eq!((code, &status["node"], &status["drops"]["no_route"]), (200, &json!("node-a"), &json!(2)));
    let (code, drops) = server.get("/v1/drops").await;
    assert_eq!((code, drops.as_object().unwrap().len()), (200, DropReason::ALL.len()));
    assert_eq!(drops, status["drops"]);
    let (code, routes) = server.get("/v1/routes").await;
    assert_eq!((code, &routes[0]["prefix"]), (200, &json!("10.244.2.0/24")));
    let (code, route) = server.get("/v1/routes/get?address=10.244.2.7").await;
    assert_eq!((code, &route), (200, &routes[0]));
}

#[tokio::test]
async fn refusals_are_json_with_a_reason() {
    let server = Server::start(Limits::default());
    for (target, code, part) in [
        ("/v1/routes/get?address=8.8.8.8", 404, "no route to 8.8.8.8"),
        ("/v1/routes/get?address=::1", 404, "no route to ::1"),
        ("/v1/routes/get?address=300.1.1.1", 400, "address"),
        ("/v1/routes/get?address=%00%ff", 400, "address"),
        ("/v1/routes/get", 400, "address"),
        ("/v1/capture?point=nowhere", 400, "point: \"nowhere\" is none of device, underlay, drop"),
        ("/v1/capture?filter=host", 400, "filter: it ends where an address should be"),
        ("/v1/capture?snaplen=0", 400, "snaplen"),
        ("/v1/capture?snaplen=70000", 400, "snaplen"),
        ("/v1/capture?count=-1", 400, "count"),
        ("/v1/nothing", 404, "no such path: /v1/nothing"),
        ("/metrics", 404, "no such path"),
    ] {
        let (got, body) = server.get(target).await;
        let error = body["error"].as_str().unwrap();
        assert_eq!(got, code, "{target}: {error}");
        assert!(error.contains(part), "{target}: {error}");
    }
    let (status, body) =
        server.ask(b"POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");
    assert!(body.contains("does not take POST"), "{body}");
}

#[tokio::test]
async fn a_capture_outlives_other_answers_and_ends_with_its_client() {
    let lifetime = Duration::from_millis(100);
    let server = Server::start(Limits { lifetime, ..Limits::default() });
    let begin = async |target: &str| {
        let mut stream = server.connect().await;
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = vec![0; 15];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8(head).unwrap())
    };
    let (mut stream, head) = begin("/v1/capture?point=drop&count=2&filter=proto%200%20or%20udp").await;
    assert_eq!(head, "HTTP/1.1 200 OK");
    let (code, body) = server.get("/v1/capture").await;
    assert_eq!((code, &body["error"]), (409, &json!("another capture is running; there is one at a time")));
    tokio::time::sleep(2 * lifetime).await;
    let packet = crate::wire::testing::Spec::udp4(b"captured").build();
    let worker = server.counters.worker(0);
    worker.dropped_packet(DropReason::NoRoute, 1, false, [&packet[..]].into_iter());
    worker.dropped_packet(DropReason::Ttl, 1, true, [&packet[..20], &packet[20..]].into_iter());
    worker.dropped_packet(DropReason::Ttl, 1, true, [&b"not an IP packet"[..]].into_iter());
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let count = |part: &[u8]| bytes.windows(part.len()).filter(|window| *window == part).count();
    assert_eq!((count(&packet), count(b"no_route"), count(b"ttl")), (2, 1, 1));
    // The client's end is enough, without a packet to send to it.
    for _ in 0..2 {
        let running = async {
            loop {
                let (stream, head) = begin("/v1/capture").await;
                if head == "HTTP/1.1 200 OK" {
                    return stream;
                }
            }
        };
        drop(timeout(Duration::from_secs(20), running).await.unwrap());
    }
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let server = Server::start(Limits::default());
    let mut line = b"GET /".to_vec();
    line.resize(1 << 20, b'a');
    let (status, _) = server.ask(&line).await;
    assert!(status.is_empty() || status.starts_with("HTTP/1.1 4"), "{status}");
    let mut header = b"GET /v1/status HTTP/1.1\r\nX: ".to_vec();
    header.resize(1 << 20, b'b');
    let (status, _) = server.ask(&header).await;
    assert!(status.is_empty() || status.starts_with("HTTP/1.1 431"), "{status}");
    server.assert_lively().await;
}

#[tokio::test]
async fn garbage_is_refused() {
    let server = Server::start(Limits::default());
    for garbage in
        [&b"\x00\xff\xfe garbage \x80\r\n\r\n"[..], b"{\"a\":[[[[", b"\r\n\r\n\r\n", b"\x16\x03\x01\x02\x00"]
    {
        let mut stream = server.connect().await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let (status, _) = reply(stream).await;
        assert!(status.is_empty() || status.starts_with("HTTP/1.1 400"), "{garbage:?}: {status}");
    }
    server.assert_lively().await;
}

#[tokio::test]
async fn a_huge_body_is_not_read() {
    let server = Server::start(Limits::default());
    let mut request = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".to_vec();
    request.resize(1 << 20, b'x');
    let (status, _) = server.ask(&request).await;
    assert!(status.is_empty() || status == "HTTP/1.1 200 OK", "{status}");
    server.assert_lively().await;
}

#[tokio::test]
async fn a_slow_client_stalls_nobody_and_is_cut_off() {
    let limits = Limits { header: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    let begin = Instant::now();
    let mut slow = server.connect().await;
    slow.write_all(b"G").await.unwrap();
    server.assert_lively().await;
    let (status, _) = reply(slow).await;
    assert!(status.is_empty() || status.starts_with("HTTP/1.1 408"), "{status}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let limits = Limits { lifetime: Duration::from_millis(300), ..Limits::default() };
    let server = Server::with_routes(20_000, limits);
    let mut deaf = server.connect().await;
    deaf.write_all(b"GET /v1/routes HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    server.assert_lively().await;
    let cut_off = async {
        while deaf.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), cut_off).await.unwrap();
    let (status, body) = reply(deaf).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(serde_json::from_str::<Value>(&body).is_err(), "the whole answer fits in the socket buffer");
}

#[tokio::test]
async fn many_idle_connections_cost_a_newcomer_nothing() {
    let server = Server::start(Limits::default());
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(server.connect().await);
    }
    server.assert_lively().await;
    // All but the last few have been closed to make room.
    let (status, _) = reply(idle.swap_remove(0)).await;
    assert_eq!(status, "");
}

#[tokio::test]
async fn shutdown_is_prompt_and_removes_the_socket() {
    let server = Server::start(Limits::default());
    let _idle = server.connect().await;
    let mut half = server.connect().await;
    half.write_all(b"GET /v1/st").await.unwrap();
    server.assert_lively().await;
    let begin = Instant::now();
    server.stop.send(()).unwrap();
    server.task.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert!(!server.path.exists());
}
