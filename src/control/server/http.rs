//! HTTP/1.1 for clients that may be hostile: one accept loop for the API and the metrics endpoint.
//!
//! Every connection has a deadline for its request header and one by which it must have made
//! progress, and gets a small read buffer. It carries one request, or several where the client asks
//! for that. The number of connections is capped; when the cap is reached the one that moved
//! nothing for longest is closed, because a well-behaved client is never still for long. So a
//! thousand idle connections cost a newcomer nothing, and a long upload not its life. The time in which
//! a client waits for us, from the end of its request to the begin of the answer, is not counted.
//! `axum::serve` offers none of these limits, hence the loop here.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::progress::{Awaited, Metered, Progress};

/// What a listener grants its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Simultaneous connections; one more closes the one that moved nothing for longest.
    pub connections: usize,
    /// Time from the connection to the end of the request header.
    pub header: Duration,
    /// Time in which a connection must begin a request or move a mebibyte.
    pub lifetime: Duration,
    /// Time for responses under way when the listener shuts down.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            header: Duration::from_secs(2),
            lifetime: Duration::from_secs(10),
            grace: Duration::from_millis(200),
        }
    }
}

/// Simultaneous connections of one listener. Each is a descriptor, so it counts where those are counted.
pub const CONNECTIONS: usize = 64;

/// Bytes of request line and headers a client may send, enough for every request there is.
const MAX_HEADER: usize = 16 * 1024;

/// Answers requests on `listener` with `router` until `shutdown` completes, and then for at most
/// `limits.grace` those already begun.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut connections = Connections::new(router, limits);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, _) = listener.accept() => connections.add(stream),
            Some(_) = connections.tasks.join_next() => {}
        }
    }
    drop(listener);
    connections.finish().await;
}

/// The connections of one listener, each a task.
struct Connections {
    router: Router,
    limits: Limits,
    tasks: JoinSet<()>,
    open: Vec<(AbortHandle, Progress)>,
    stop: watch::Sender<bool>,
}

impl Connections {
    fn new(router: Router, limits: Limits) -> Self {
        let (stop, _) = watch::channel(false);
        Self { router, limits, tasks: JoinSet::new(), open: Vec::new(), stop }
    }

    fn add(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.make_room();
        let progress = Progress::new(self.limits.lifetime);
        let stream = Metered::new(stream, progress.clone());
        let task =
            connection(stream, progress.clone(), self.router.clone(), self.limits, self.stop.subscribe());
        self.open.push((self.tasks.spawn(task), progress));
    }

    fn make_room(&mut self) {
        self.open.retain(|(handle, _)| !handle.is_finished());
        while self.open.len() >= self.limits.connections.max(1) {
            let still = self.open.iter().enumerate().min_by_key(|(_, (_, progress))| progress.last_moved());
            let Some((place, _)) = still else { return };
            self.open.swap_remove(place).0.abort();
        }
    }

    /// Ends idle connections at once and the others as soon as their response is out.
    async fn finish(mut self) {
        self.stop.send_replace(true);
        let done = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(self.limits.grace, done).await.is_err() {
            tracing::debug!("closing connections that did not finish in time");
        }
    }
}

/// One connection from its first byte to its end; errors are the client's affair.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    progress: Progress,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let router = TowerToHyperService::new(router);
    let begun = progress.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        begun.milestone();
        let close = !asks_for_more(&request);
        request.extensions_mut().insert(begun.clone());
        let working = begun.working();
        let answer = router.call(request.map(|body| Awaited::new(body, begun.clone())));
        async move {
            let mut response = answer.await?;
            drop(working);
            if close {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = stop.wait_for(|&stop| stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    tokio::select! {
        result = served => match result {
            Ok(()) => {}
            Err(error) => tracing::debug!("client connection ended early: {error}"),
        },
        () = progress.stalled() => tracing::debug!("client connection closed after {:?}", limits.lifetime),
    }
}

/// Whether the client says that it has more than this request.
fn asks_for_more(request: &Request<Incoming>) -> bool {
    let value = request.headers().get(CONNECTION);
    value.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"))
}
