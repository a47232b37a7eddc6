//! The API over a real Unix socket: every endpoint, then the clients that mean no good.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::backend::{Ask, Backend};
use super::{ControlSocket, Limits, serve_with};
use crate::api::{
    CniFacts, Drops, Endpoint, ErrorCode, NewPeer, PeerStatus, PolicyEntry, PolicyTrace, Reloaded,
    RouteEntry, RouteMode, RoutesChanged, Status,
};
use crate::control::engine::Page;
use crate::control::engine::edits::batch::Batch;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::dataplane::observe::Counters;
use crate::dataplane::observe::capture::Hub;
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::Answer;
use crate::net::{DropReason, Prefix};
use crate::policy::Question;
use policies::Workers;

mod policies;

/// One route, listed so many times.
struct OneRoute {
    counters: Counters,
    listed: usize,
    /// How often somebody waited for publication.
    waited: AtomicUsize,
    /// How often a peer was to be replaced.
    replaced: AtomicUsize,
    /// How long a change takes.
    takes: Duration,
    /// What follows connections, while policies are on.
    workers: Mutex<Option<Workers>>,
}

impl Backend for OneRoute {
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

    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>) {
        let begin = page.after.map_or(0, number);
        let end = self.listed.min(begin + page.most);
        let next = (end < self.listed).then(|| numbered(end));
        (vec![self.entry(); end - begin], next)
    }

    fn route_lines(&self, page: Page) -> (String, Option<Prefix>) {
        let (entries, next) = self.routes(page);
        (entries.iter().map(|entry| format!("{} via node-b\n", entry.prefix)).collect(), next)
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        let prefix: Prefix = "10.244.2.0/24".parse().unwrap();
        prefix.contains(address).then(|| self.entry())
    }

    fn most_routes(&self) -> usize {
        1000
    }

    fn most_changes(&self) -> usize {
        3000
    }

    async fn edit_routes(&self, batch: Batch, wait: bool) -> Result<RoutesChanged, Refusal> {
        self.settle(wait).await;
        let deleted = batch.changes().filter(|change| change.to.is_none()).count();
        Ok(RoutesChanged { added: batch.len() - deleted, deleted, routes: 1 })
    }

    async fn replace_routes(&self, batch: Batch, wait: bool) -> Result<RoutesChanged, Refusal> {
        self.settle(wait).await;
        Ok(RoutesChanged { added: batch.len(), deleted: 0, routes: batch.len() })
    }

    fn peers(&self) -> Vec<PeerStatus> {
        vec![PeerStatus {
            counters: crate::api::PeerTraffic::default(),
            uplink: None,
            direct_paths: Vec::new(),
            address6: None,
            also_from: Vec::new(),
            sends_for: Vec::new(),
            port: 4789,
            name: "node-b".into(),
            address: "192.0.2.2".parse().unwrap(),
            subnets: Vec::new(),
            vtep_mac: String::new(),
        }]
    }

    async fn add_peer(
        &self,
        peer: NewPeer,
        replace: bool,
        wait: bool,
    ) -> Result<Option<PeerStatus>, Refusal> {
        self.replaced.fetch_add(usize::from(replace), Relaxed);
        assert_eq!(peer.name, "node-b");
        self.settle(wait).await;
        Ok(self.peers().pop())
    }

    async fn delete_peer(&self, name: String, wait: bool) -> Result<(), Refusal> {
        self.settle(wait).await;
        if name == "node-b" { Ok(()) } else { Err(Refusal::new(Kind::Missing, name)) }
    }

    fn cni(&self) -> CniFacts {
        CniFacts { subnets: vec!["10.244.1.0/24".into()], mtu: 1450, limited: None }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        Vec::new()
    }

    fn put_endpoint(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        endpoint.check().map_err(|reason| Refusal::new(Kind::Malformed, reason))
    }

    fn delete_endpoint(&self, id: &str) -> Result<(), Refusal> {
        if id == "c1:eth0" { Ok(()) } else { Err(Refusal::new(Kind::Missing, id)) }
    }

    fn policies(&self) -> Result<Vec<PolicyEntry>, Refusal> {
        self.with_workers(|_| vec![PolicyEntry { name: "web".into(), ..PolicyEntry::default() }])
    }

    fn trace(&self, question: &Question) -> Result<PolicyTrace, Refusal> {
        self.with_workers(|_| policies::traced(question))
    }

    fn connection_workers(&self) -> Result<usize, Refusal> {
        self.with_workers(|workers| workers.known.len())
    }

    async fn connections(&self, ask: Ask) -> Result<Answer, Refusal> {
        tokio::time::sleep(self.takes).await;
        self.with_workers(|workers| workers.answer(ask))?
    }

    async fn reload(&self, wait: bool) -> Result<Reloaded, Refusal> {
        self.settle(wait).await;
        Ok(Reloaded { peers: 1, routes: 1 })
    }

    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        Some((Arc::clone(self.counters.capture()?), vec![4789]))
    }
}

impl OneRoute {
    fn with_workers<T>(&self, ask: impl FnOnce(&mut Workers) -> T) -> Result<T, Refusal> {
        let off = || Refusal::new(Kind::Missing, "policies are off");
        self.workers.lock().unwrap().as_mut().map(ask).ok_or_else(off)
    }

    async fn settle(&self, wait: bool) {
        self.waited.fetch_add(usize::from(wait), Relaxed);
        tokio::time::sleep(self.takes).await;
    }

    fn entry(&self) -> RouteEntry {
        RouteEntry {
            prefix: "10.244.2.0/24".into(),
            peer: Some("node-b".into()),
            mode: RouteMode::Vxlan,
            next_hop: Some("192.0.2.2".parse().unwrap()),
            mtu: 1450,
            source: "static".into(),
            reason: "pool 10.244.0.0/16 vxlan_mode=Always".into(),
            ..RouteEntry::default()
        }
    }
}

/// A cursor behind so many routes, and back.
fn numbered(count: usize) -> Prefix {
    Prefix::host(std::net::Ipv4Addr::from_bits(count as u32).into())
}

fn number(cursor: Prefix) -> usize {
    cursor.as_ipv4().unwrap().0.to_bits() as usize
}

struct Server {
    path: PathBuf,
    backend: Arc<OneRoute>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::with_routes(1, limits)
    }

    fn with_routes(listed: usize, limits: Limits) -> Self {
        Self::with(listed, Duration::ZERO, limits)
    }

    fn with(listed: usize, takes: Duration, limits: Limits) -> Self {
        let closed = Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(closed).tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = ControlSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let backend = Arc::new(OneRoute {
            counters: Counters::new(1),
            listed,
            waited: 0.into(),
            replaced: 0.into(),
            takes,
            workers: Mutex::default(),
        });
        backend.counters.worker(0).dropped(DropReason::NoRoute, 2);
        let task = tokio::spawn(serve_with(socket, Arc::clone(&backend), limits, async {
            _ = stopped.await;
        }));
        Self { path, backend, stop, task, _dir: dir }
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
        self.send("GET", target, "", "").await
    }

    /// Status and JSON of the reply to a request with a body of type `kind`.
    async fn send(&self, method: &str, target: &str, kind: &str, body: &str) -> (u16, Value) {
        let len = body.len();
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len}");
        let (status, body) = self.ask(format!("{head}\r\n\r\n{body}").as_bytes()).await;
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
    let body = if head.contains("chunked") { unchunked(body) } else { body.to_owned() };
    (head.lines().next().unwrap_or("").to_owned(), body)
}

/// A body without the lengths of its chunks, as far as it goes.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((len, data)) = rest.split_once("\r\n") {
        let Some(chunk) = usize::from_str_radix(len, 16).ok().and_then(|len| data.get(..len)) else { break };
        body.push_str(chunk);
        rest = data[chunk.len()..].trim_start_matches("\r\n");
    }
    body
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
    let (code, facts) = server.get("/v1/cni").await;
    assert_eq!((code, facts), (200, json!({"subnets": ["10.244.1.0/24"], "mtu": 1450})));
    assert_eq!(server.get("/v1/endpoints").await, (200, json!([])));
}

#[tokio::test]
async fn refusals_are_json_with_a_reason() {
    let server = Server::start(Limits::default());
    for (target, code, part) in [
        ("/v1/routes/get?address=8.8.8.8", "no_route", "no route to 8.8.8.8"),
        ("/v1/routes/get?address=::1", "no_route", "no route to ::1"),
        ("/v1/routes/get?address=300.1.1.1", "malformed", "address"),
        ("/v1/routes/get?address=%00%ff", "malformed", "address"),
        ("/v1/routes/get", "malformed", "address"),
        (
            "/v1/capture?point=nowhere",
            "malformed",
            "point: \"nowhere\" is none of device, underlay, drop, log",
        ),
        ("/v1/capture?filter=host", "malformed", "filter: it ends where an address should be"),
        ("/v1/capture?snaplen=0", "malformed", "snaplen"),
        ("/v1/capture?snaplen=70000", "malformed", "snaplen"),
        ("/v1/capture?count=-1", "malformed", "count"),
        ("/v1/nothing", "unknown_path", "no such path: /v1/nothing"),
        ("/metrics", "unknown_path", "no such path"),
    ] {
        let (got, body) = server.get(target).await;
        let error = body["error"].as_str().unwrap();
        assert_eq!(body["code"], code, "{target}: {error}");
        assert_eq!(got, status_of(code), "{target}: {error}");
        assert!(error.contains(part), "{target}: {error}");
    }
}

/// The status that an error's word has.
fn status_of(code: &str) -> u16 {
    let code = ErrorCode::ALL.into_iter().find(|known| known.name() == code).unwrap();
    super::refusal::status_of(code).as_u16()
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_what_there_is() {
    let server = Server::start(Limits::default());
    let (_, body) = server.get("/v1/nothing").await;
    let all = "/v1/status, /v1/routes, /v1/routes/get, /v1/peers, /v1/drops, /v1/capture, /v1/openapi.json, \
               /v1/peers/{name}, /v1/reload, /v1/cni, /v1/endpoints, /v1/endpoints/{id}, \
               /v1/policies, /v1/policies/trace, /v1/connections";
    assert_eq!(body["error"], format!("no such path: /v1/nothing; there are {all}"));
    for (method, path, text, allow) in [
        ("GET", "/v1/reload", "POST", "POST"),
        ("POST", "/v1/status", "GET", "GET, HEAD"),
        ("PATCH", "/v1/routes", "GET, POST, PUT or DELETE", "GET, HEAD, POST, PUT, DELETE"),
        ("DELETE", "/v1/peers", "GET or POST", "GET, HEAD, POST"),
        ("GET", "/v1/peers/node-b", "DELETE", "DELETE"),
        ("POST", "/v1/openapi.json", "GET", "GET, HEAD"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let mut stream = server.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(head.contains(&format!("\r\nallow: {allow}\r\n")), "{answer}");
        let expected = json!({
            "code": "method_not_allowed",
            "error": format!("{path} does not take {method}; use {text}"),
        });
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
    }
}

#[tokio::test]
async fn the_document_and_the_table_name_the_same_requests() {
    let server = Server::start(Limits::default());
    let (code, document) = server.get("/v1/openapi.json").await;
    assert_eq!((code, &document["openapi"]), (200, &json!("3.1.0")));
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
        })
        .collect();
    let table = super::table::table::<OneRoute>();
    let known: Vec<_> =
        table.iter().map(|request| (request.path.to_owned(), request.verb.name().to_lowercase())).collect();
    assert_eq!(documented.len(), table.len());
    assert_eq!(documented, known.into_iter().collect());
    for (path, method) in documented {
        let operation = &document["paths"][&path][&method];
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses["200"]["content"].as_object().is_some_and(|kinds| !kinds.is_empty()), "{path}");
        for (status, response) in responses.iter().filter(|(status, _)| *status != "200") {
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ErrorBody", "{method} {path} {status}");
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(array) => array.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = Server::start(Limits::default()).get("/v1/openapi.json").await.1;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let place = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(place).is_some(), "{reference}");
    }
    let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(document["components"]["schemas"]["ErrorCode"]["enum"], json!(codes));
    assert_eq!(document["components"]["schemas"]["ErrorBody"]["required"], json!(["code", "error"]));
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
    let worker = server.backend.counters.handle(0);
    worker.dropped_packet((DropReason::NoRoute, None), 1, Direction::Outbound, [&packet[..]].into_iter());
    worker.dropped_packet(
        (DropReason::PolicyIngress, Some(&"shop/allow-web".into())),
        1,
        Direction::Inbound,
        [&packet[..20], &packet[20..]].into_iter(),
    );
    worker.dropped_packet(
        (DropReason::Ttl, None),
        1,
        Direction::Inbound,
        [&b"not an IP packet"[..]].into_iter(),
    );
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let count = |part: &[u8]| bytes.windows(part.len()).filter(|window| *window == part).count();
    assert_eq!((count(&packet), count(b"no_route"), count(b"policy_ingress")), (2, 1, 1));
    // A comment (option 1) of its own for the policy that denied it.
    assert_eq!(count(b"\x01\x00\x15\x00policy shop/allow-web"), 1);
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

#[tokio::test]
async fn changes_are_read_in_every_form() {
    let server = Server::start(Limits::default());
    let json =
        r#"{"add":[{"prefix":"10.9.0.0/24","via":["node-b","node-c"],"mtu":1400}],"del":["10.8.0.0/24"]}"#;
    let text = "# two\n10.9.0.0/24 via node-b\ndel 10.8.0.0/24\n";
    for (method, target, kind, body, expected) in [
        ("POST", "/v1/routes", "application/json", json, json!({"added": 1, "deleted": 1, "routes": 1})),
        (
            "POST",
            "/v1/routes",
            "",
            r#"{"del":["10.8.0.0/24"]}"#,
            json!({"added": 0, "deleted": 1, "routes": 1}),
        ),
        (
            "POST",
            "/v1/routes",
            "text/plain; charset=utf-8",
            text,
            json!({"added": 1, "deleted": 1, "routes": 1}),
        ),
        (
            "POST",
            "/v1/routes?delete=true",
            "text/plain",
            "10.9.0.0/24 via b",
            json!({"added": 0, "deleted": 1, "routes": 1}),
        ),
        (
            "PUT",
            "/v1/routes",
            "text/plain",
            "10.9.0.0/24 via node-b\n",
            json!({"added": 1, "deleted": 0, "routes": 1}),
        ),
        ("DELETE", "/v1/routes?prefix=10.8.0.0/24", "", "", json!({"added": 0, "deleted": 1, "routes": 1})),
        ("DELETE", "/v1/peers/node-b", "", "", json!({"deleted": "node-b"})),
        ("DELETE", "/v1/endpoints/c1:eth0", "", "", json!({"deleted": "c1:eth0"})),
        ("POST", "/v1/reload", "", "", json!({"peers": 1, "routes": 1})),
    ] {
        assert_eq!(
            server.send(method, target, kind, body).await,
            (200, expected),
            "{method} {target} {body}"
        );
    }
    assert_eq!(server.backend.waited.load(Relaxed), 0);
    let peer = r#"{"name":"node-b","address":"192.0.2.2"}"#;
    let (code, added) = server.send("POST", "/v1/peers?wait=true", "application/json", peer).await;
    assert_eq!((code, &added["name"]), (200, &json!("node-b")));
    assert_eq!(server.backend.waited.load(Relaxed), 1);
    assert_eq!(server.backend.replaced.load(Relaxed), 0);
    assert_eq!(server.send("POST", "/v1/peers?replace=true", "application/json", peer).await.0, 200);
    assert_eq!(server.backend.replaced.load(Relaxed), 1);
    assert_eq!(server.get("/v1/peers").await.1[0]["name"], "node-b");
}

#[tokio::test]
async fn changes_that_cannot_be_understood_name_every_culprit() {
    let server = Server::start(Limits::default());
    let both =
        r#"{"add":[{"prefix":"10.9.0.1/24","via":["b"]},{"prefix":"10.9.0.0/24","via":[]}],"del":["x"]}"#;
    let (code, body) = server.send("POST", "/v1/routes", "application/json", both).await;
    assert_eq!((code, &body["error"]), (400, &json!("3 errors, nothing has changed")));
    assert_eq!(body["code"], "malformed");
    assert_eq!(body["errors"][0], "add[0]: \"10.9.0.1/24\" has host bits set; did you mean 10.9.0.0/24?");
    assert!(body["errors"][2].as_str().unwrap().starts_with("del[0]: \"x\" is not an IP prefix"));
    let deep = "[".repeat(10_000);
    for (method, target, kind, body, part) in [
        ("POST", "/v1/routes", "application/json", &*deep, "cannot understand"),
        ("POST", "/v1/routes", "application/json", r#"{"ad":[]}"#, "unknown field `ad`"),
        ("POST", "/v1/routes", "application/json", "\u{0}", "cannot understand"),
        ("POST", "/v1/routes", "text/plain", "10.0.0.0/8\n", "line 1: write `PREFIX via PEER"),
        ("POST", "/v1/routes?wait=perhaps", "text/plain", "", "wait"),
        ("PUT", "/v1/routes", "text/plain", "del 10.0.0.0/8", "line 1: `del` means nothing"),
        ("PUT", "/v1/routes", "application/json", "{}", "by text only"),
        ("DELETE", "/v1/routes?prefix=10.0.0.1/8", "", "", "host bits"),
        ("DELETE", "/v1/routes", "", "", "give ?prefix=PREFIX"),
        ("POST", "/v1/peers", "application/json", r#"{"name":"x"}"#, "missing field `address`"),
        (
            "POST",
            "/v1/peers?replace=perhaps",
            "application/json",
            "{}",
            "there are ?wait=true and ?replace=true",
        ),
    ] {
        let (code, answer) = server.send(method, target, kind, body).await;
        let error = answer["error"].as_str().unwrap();
        assert_eq!(code, 400, "{method} {target}: {error}");
        assert!(error.contains(part), "{method} {target}: {error}");
    }
    let (code, answer) = server.send("DELETE", "/v1/peers/node-x", "", "").await;
    assert_eq!((code, &answer["code"]), (404, &json!("not_found")));
    let (code, answer) = server.send("PUT", "/v1/endpoints/c1:eth0", "application/json", "{}").await;
    assert_eq!((code, &answer["code"]), (400, &json!("malformed")));
    let (code, answer) = server.send("DELETE", "/v1/endpoints/c2:eth0", "", "").await;
    assert_eq!((code, &answer["code"]), (404, &json!("not_found")));
    let (code, answer) = server.send("DELETE", "/v1/peers/%ff", "", "").await;
    assert_eq!((code, &answer["code"]), (400, &json!("malformed")));
    let (code, answer) = server.get("/v1/routes?source=bgp").await;
    let error = "no source is called \"bgp\"; there are local, static, control, kernel, kubernetes, etcd";
    assert_eq!((code, answer["error"].as_str()), (400, Some(error)));
    assert_eq!(server.get("/v1/routes?format=xml").await.0, 400);
}

#[tokio::test]
async fn long_lists_are_whole_in_both_forms() {
    for listed in [0, 1, 512, 1025] {
        let server = Server::with_routes(listed, Limits::default());
        let (code, list) = server.get("/v1/routes").await;
        assert_eq!((code, list.as_array().unwrap().len()), (200, listed));
        let (_, text) = server.ask(b"GET /v1/routes?format=text HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(text, "10.244.2.0/24 via node-b\n".repeat(listed));
    }
}

#[tokio::test]
async fn a_connection_carries_several_requests_if_asked_to() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream
            .write_all(b"GET /v1/drops HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
    }
    stream.write_all(b"GET /v1/drops HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(reply(stream).await.0, "HTTP/1.1 200 OK", "and is closed behind the last");
}

#[tokio::test]
async fn requests_may_be_sent_before_the_answers_to_earlier_ones() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect().await;
    let request = b"GET /v1/drops HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n";
    let last = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(&[request.repeat(50).as_slice(), last].concat()).await.unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await.unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 51);
    assert!(answers.rsplit("\r\n\r\n").next().unwrap().contains("\"workers\""), "in their order: {answers}");
}

#[tokio::test]
async fn an_idle_connection_that_was_used_is_closed() {
    let limits = Limits { header: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    let mut stream = server.connect().await;
    stream.write_all(b"GET /v1/drops HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let begin = Instant::now();
    assert_eq!(reply(stream).await.0, "HTTP/1.1 200 OK");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_long_upload_goes_on_and_a_trickling_one_is_cut_off() {
    let limits = Limits { lifetime: Duration::from_millis(400), ..Limits::default() };
    let server = Server::start(limits);
    let head = b"PUT /v1/routes HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(head).await.unwrap();
    let begin = Instant::now();
    // A mebibyte at a time, for longer than the lifetime.
    let chunk = [&b"100000\r\n"[..], &b"# comment\n".repeat(104_858)[..1 << 20], b"\r\n"].concat();
    while begin.elapsed() < Duration::from_millis(1000) {
        stream.write_all(&chunk).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(reply(stream).await.0, "HTTP/1.1 200 OK");
    let mut slow = server.connect().await;
    slow.write_all(head).await.unwrap();
    let cut_off = async {
        while slow.write_all(b"1\r\n#\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), cut_off).await.unwrap();
}

#[tokio::test]
async fn a_line_without_end_needs_no_memory() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect().await;
    let head = b"POST /v1/routes HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let _ = stream.write_all(&vec![b'1'; 64 << 10]).await;
    let (status, body) = reply(stream).await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert!(body.contains("line 1: longer than 4096 bytes"), "{body}");
}

#[tokio::test]
async fn whoever_waits_for_a_change_is_answered_however_long_it_takes() {
    let limits = Limits { lifetime: Duration::from_millis(100), ..Limits::default() };
    let server = Server::with(1, Duration::from_millis(350), limits);
    *server.backend.workers.lock().unwrap() = Some(Workers { known: vec![Vec::new()], stuck: None });
    let peer = r#"{"name":"node-b","address":"192.0.2.2"}"#;
    let mut changes = BTreeSet::new();
    for (method, path, query, kind, body) in [
        ("POST", "/v1/routes", "?wait=true", "text/plain", "10.9.0.0/24 via node-b\n"),
        ("PUT", "/v1/routes", "?wait=true", "text/plain", "10.9.0.0/24 via node-b\n"),
        ("DELETE", "/v1/routes", "?prefix=10.8.0.0/24&wait=true", "", ""),
        ("POST", "/v1/peers", "?wait=true", "application/json", peer),
        ("DELETE", "/v1/peers/{name}", "?wait=true", "", ""),
        ("DELETE", "/v1/peers/{name}", "", "text/plain", "a body that has no meaning"),
        ("POST", "/v1/reload", "?wait=true", "", ""),
        ("PUT", "/v1/endpoints/{id}", "", "application/json", r#"{"container_id":"c1","ifname":"eth0"}"#),
        ("DELETE", "/v1/endpoints/{id}", "", "", ""),
        ("DELETE", "/v1/connections", "?all=true", "", ""),
    ] {
        let target = path.replace("{name}", "node-b").replace("{id}", "c1:eth0") + query;
        assert_eq!(server.send(method, &target, kind, body).await.0, 200, "{method} {target}");
        changes.insert((path, method));
    }
    let table = super::table::table::<OneRoute>();
    let all = table.iter().map(|request| (request.path, request.verb.name()));
    assert_eq!(changes, all.filter(|(_, method)| *method != "GET").collect(), "every change is tried");
}

#[tokio::test]
async fn more_routes_than_allowed_are_refused_while_they_arrive() {
    let server = Server::start(Limits::default());
    let head = b"PUT /v1/routes HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = server.connect().await;
    stream.write_all(head).await.unwrap();
    let line = "10.9.0.0/24 via node-b\n";
    let chunk = format!("{:x}\r\n{}\r\n", line.len() * 1001, line.repeat(1001));
    stream.write_all(chunk.as_bytes()).await.unwrap();
    // The end of the body is never sent.
    let (status, body) = reply(stream).await;
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large");
    assert!(body.contains("more than 1000 routes in one request"), "{body}");
    assert!(body.contains("`max_routes` under [control]"), "{body}");
}

#[tokio::test]
async fn what_is_there_can_be_removed_although_fewer_may_be_added() {
    let server = Server::start(Limits::default());
    let text = |lead: &str, count| (0..count).map(|n| format!("{lead}{}\n", numbered(n))).collect::<String>();
    let (status, all) = server.send("POST", "/v1/routes?delete=true", "text/plain", &text("", 3000)).await;
    assert_eq!((status, &all["deleted"]), (200, &3000.into()), "{all}");
    let (status, all) = server.send("POST", "/v1/routes", "text/plain", &text("del ", 3000)).await;
    assert_eq!((status, &all["deleted"]), (200, &3000.into()), "{all}");
    let (status, refused) =
        server.send("POST", "/v1/routes?delete=true", "text/plain", &text("", 3001)).await;
    assert_eq!(status, 413, "{refused}");
}
