//! The control socket: any bytes of a client get an HTTP answer or none, and the exchange ends.

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use underpass::capture::Hub;
use underpass::control::api::{RouteEntry, RouteMode, Status};
use underpass::control::http::{self, Limits};
use underpass::control::{Dataplane, server};

/// Bytes of a client, written at once; its writing side is then closed.
pub fn control(data: &[u8]) {
    // Time stands still until everybody waits, then jumps: no deadline costs real time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let answer = runtime.expect("a runtime").block_on(exchange(data));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
    let status = answer.get(9..12).unwrap_or_default();
    let known: [&[u8]; 10] = [b"", b"200", b"400", b"404", b"405", b"409", b"413", b"414", b"431", b"500"];
    assert!(known.contains(&status), "{status:?}");
    assert_ne!(status, b"500", "a request has no right to make the daemon fail");
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

/// A dataplane with one route and without packets.
struct Fixed(Arc<Hub>);

impl Dataplane for Fixed {
    fn status(&self) -> Status {
        Status { node: "node-a".to_owned(), routes: 1, ..Status::default() }
    }

    fn routes(&self) -> Vec<RouteEntry> {
        vec![RouteEntry {
            prefix: "10.244.2.0/24".to_owned(),
            peer: Some("node-b".to_owned()),
            mode: RouteMode::Vxlan,
            next_hop: Some([192, 0, 2, 2].into()),
            mtu: 1450,
            source: "static".to_owned(),
            reason: "pool 10.244.0.0/16 has vxlan_mode=Always".to_owned(),
        }]
    }

    fn capture(&self) -> Option<(Arc<Hub>, u16)> {
        Some((Arc::clone(&self.0), 4789))
    }

    fn route_get(&self, address: IpAddr) -> Option<RouteEntry> {
        address.is_ipv4().then(|| self.routes().remove(0))
    }
}
