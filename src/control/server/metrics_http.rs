//! The metrics endpoint: `GET /metrics` on TCP, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::exposition::Form;
use super::http::{self, Limits};
use crate::control::server::render::Exporter;

/// The listener of the metrics endpoint could not be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics: cannot listen on {address} (set another metrics.listen, or remove it)")]
pub struct MetricsBindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Listens on `address`, the `metrics.listen` of the configuration.
///
/// # Errors
/// When the address is taken or not one of ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, MetricsBindError> {
    TcpListener::bind(address).await.map_err(|source| MetricsBindError { address, source })
}

/// Answers scrapes on `listener` until `shutdown` completes.
pub async fn serve(listener: TcpListener, exporter: Exporter, shutdown: impl Future<Output = ()>) {
    let router = Router::new().route("/metrics", get(scrape)).with_state(Arc::new(exporter));
    http::serve(listener, router, Limits::default(), shutdown).await;
}

async fn scrape(State(exporter): State<Arc<Exporter>>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let form = Form::accepted(&accepted.collect::<Vec<_>>().join(","));
    match exporter.render() {
        Ok(text) => ([(header::CONTENT_TYPE, form.media_type())], form.of(text)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;

    use super::{bind, serve};
    use crate::control::server::render::{Exporter, Now};
    use crate::dataplane::observe::Counters;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        get_as(address, path, "").await
    }

    async fn get_as(address: std::net::SocketAddr, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    #[tokio::test]
    async fn metrics_and_nothing_else() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(bind(address).await.unwrap_err().to_string().contains(&address.to_string()));
        let counters = Counters::new(1);
        counters.worker(0).device.rx_packets.add(9);
        let exporter =
            Exporter::new(counters, || Now { routes: 4, peers: 3, reloaded: true, ..Now::default() });
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, exporter, async { _ = stopped.await }));

        let reply = get(address, "/metrics").await;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        let content_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.contains(content_type), "{head}");
        assert!(
            body.contains(r#"underpass_packets_total{edge="device",direction="rx",worker="0"} 9"#),
            "{body}"
        );
        assert!(body.ends_with("# EOF\n"));
        let reply = get_as(address, "/metrics", "Accept: text/plain\r\n").await;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(body.contains("# TYPE underpass_packets_total counter\n"), "{body}");
        for path in ["/", "/metrics/", "/debug/pprof", "/v1/status"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        stop.send(()).unwrap();
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
