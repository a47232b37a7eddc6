//! HTTP/1.1 for clients that may be hostile: one accept loop for the API and the metrics endpoint.
//!
//! Every connection has a deadline for its request header and one for its whole life, carries one
//! request, and gets a small read buffer. Their number is capped; when the cap is reached the
//! oldest connection is closed, because a well-behaved client needs milliseconds and whoever has
//! stayed longest is the one to suspect. A handler may lift the deadline of its response. So a thousand idle connections cost a newcomer nothing.
//! `axum::serve` offers none of these limits, hence the loop here.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::serve::Listener;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// What a listener grants its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Simultaneous connections; one more closes the oldest.
    pub connections: usize,
    /// Time from the connection to the end of the request header.
    pub header: Duration,
    /// Time from the connection to the last byte of the response.
    pub lifetime: Duration,
    /// Time for responses under way when the listener shuts down.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            header: Duration::from_secs(2),
            lifetime: Duration::from_secs(10),
            grace: Duration::from_millis(200),
        }
    }
}

/// How a handler says that its response may take longer than a connection's lifetime.
#[derive(Clone, Debug, Default)]
pub struct LongLived(Arc<AtomicBool>);

impl LongLived {
    /// Lifts the limit from this connection.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

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
    /// Oldest first.
    handles: VecDeque<AbortHandle>,
    stop: watch::Sender<bool>,
}

impl Connections {
    fn new(router: Router, limits: Limits) -> Self {
        let (stop, _) = watch::channel(false);
        Self { router, limits, tasks: JoinSet::new(), handles: VecDeque::new(), stop }
    }

    fn add(&mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        self.make_room();
        let task = connection(stream, self.router.clone(), self.limits, self.stop.subscribe());
        self.handles.push_back(self.tasks.spawn(task));
    }

    fn make_room(&mut self) {
        self.handles.retain(|handle| !handle.is_finished());
        while self.handles.len() >= self.limits.connections.max(1) {
            if let Some(oldest) = self.handles.pop_front() {
                oldest.abort();
            }
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
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let long_lived = LongLived::default();
    let router = router.layer(Extension(long_lived.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = stop.wait_for(|&stop| stop) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    let mut served = pin!(served);
    let mut result = timeout(limits.lifetime, served.as_mut()).await;
    if result.is_err() && long_lived.is_set() {
        result = Ok(served.await);
    }
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("client connection ended early: {error}"),
        Err(_) => tracing::debug!("client connection closed after {:?}", limits.lifetime),
    }
}
