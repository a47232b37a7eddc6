//! The control socket: any bytes of a client get an HTTP answer or none, and the exchange ends.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use underpass::api::{
    CniFacts, Endpoint, NewPeer, PeerStatus, PolicyEntry, PolicyTrace, Reloaded, RouteEntry, RouteMode,
    RoutesChanged, Status,
};
use underpass::control::engine::edits::batch::Batch;
use underpass::control::engine::refusal::{Kind, Refusal};
use underpass::control::engine::{Page, Scope};
use underpass::control::server;
use underpass::control::server::backend::{Ask, Backend};
use underpass::control::server::http::{self, Limits};
use underpass::dataplane::observe::capture::Hub;
use underpass::dataplane::policy::Answer;
use underpass::net::Prefix;
use underpass::policy::Question;

/// Bytes of a client, written at once; its writing side is then closed.
pub fn control(data: &[u8]) {
    // Time stands still until everybody waits, then jumps: no deadline costs real time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let answer = runtime.expect("a runtime").block_on(exchange(data));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
    let status = answer.get(9..12).unwrap_or_default();
    // Not 500: a request has no right to make the daemon fail.
    let known: [&[u8]; 10] = [b"", b"100", b"200", b"400", b"404", b"405", b"409", b"413", b"414", b"431"];
    assert!(known.contains(&status), "{status:?}");
}

async fn exchange(data: &[u8]) -> Vec<u8> {
    let (mut client, server) = duplex(64 * 1024);
    let router = server::router(Arc::new(Fixed(Arc::default())));
    let limits = Limits::default();
    let deadline = limits.lifetime + Duration::from_secs(1);
    let serving = http::serve(Once(Some(server)), router, limits, tokio::time::sleep(deadline));
    let talking = async {
        let mut answer = Vec::new();
        // The server may have refused and closed before it read everything.
        let _ = client.write_all(data).await;
        let _ = client.shutdown().await;
        client.read_to_end(&mut answer).await.expect("a pipe in memory");
        answer
    };
    tokio::join!(serving, talking).1
}

/// A listener with one connection.
struct Once(Option<DuplexStream>);

impl Listener for Once {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.take() {
            Some(stream) => (stream, ()),
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A backend with one route and without packets.
struct Fixed(Arc<Hub>);

impl Backend for Fixed {
    fn status(&self) -> Status {
        Status { node: "node-a".to_owned(), routes: 1, ..Status::default() }
    }

    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>) {
        let entry = RouteEntry {
            prefix: "10.244.2.0/24".to_owned(),
            peer: Some("node-b".to_owned()),
            mode: RouteMode::Vxlan,
            next_hop: Some([192, 0, 2, 2].into()),
            mtu: 1450,
            source: "static".to_owned(),
            reason: "pool 10.244.0.0/16 has vxlan_mode=Always".to_owned(),
            ..RouteEntry::default()
        };
        (page.after.is_none().then_some(entry).into_iter().collect(), None)
    }

    fn route_lines(&self, page: Page) -> (String, Option<Prefix>) {
        let lines = if page.after.is_none() { "10.244.2.0/24 via node-b\n" } else { "" };
        (lines.to_owned(), None)
    }

    fn most_routes(&self) -> usize {
        1 << 20
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        let page = Page { after: None, scope: Scope::Best, most: 1 };
        address.is_ipv4().then(|| self.routes(page).0.remove(0))
    }

    async fn edit_routes(&self, batch: Batch, _wait: bool) -> Result<RoutesChanged, Refusal> {
        let deleted = batch.changes().filter(|change| change.to.is_none()).count();
        Ok(RoutesChanged { added: batch.len() - deleted, deleted, routes: 1 })
    }

    async fn replace_routes(&self, batch: Batch, _wait: bool) -> Result<RoutesChanged, Refusal> {
        Ok(RoutesChanged { added: batch.len(), deleted: 0, routes: batch.len() })
    }

    fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    async fn add_peer(
        &self,
        peer: NewPeer,
        replace: bool,
        _wait: bool,
    ) -> Result<Option<PeerStatus>, Refusal> {
        if !replace && peer.name == "node-b" { Err(Refusal::new(Kind::Conflict, "known")) } else { Ok(None) }
    }

    async fn delete_peer(&self, name: String, _wait: bool) -> Result<(), Refusal> {
        if name == "node-b" { Ok(()) } else { Err(Refusal::new(Kind::Missing, name)) }
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
        Ok(Vec::new())
    }

    fn trace(&self, _question: &Question) -> Result<PolicyTrace, Refusal> {
        Err(Refusal::new(Kind::Missing, "no endpoint"))
    }

    fn connection_workers(&self) -> Result<usize, Refusal> {
        Ok(1)
    }

    async fn connections(&self, _ask: Ask) -> Result<Answer, Refusal> {
        Ok(Answer { connections: Vec::new(), next: None })
    }

    async fn reload(&self, _wait: bool) -> Result<Reloaded, Refusal> {
        Err(Refusal::new(Kind::Busy, "fuzzed"))
    }

    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        Some((Arc::clone(&self.0), vec![4789]))
    }
}
