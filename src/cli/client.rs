//! The client side of the control API, and the arguments that all client commands share.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::text;
use crate::control::api::ErrorBody;

/// What every client command takes.
#[derive(Args, Debug)]
pub(super) struct ClientArgs {
    /// The daemon's control socket
    #[arg(
        long,
        value_name = "PATH",
        env = "UNDERPASS_SOCKET",
        default_value = "/run/underpass/underpass.sock"
    )]
    socket: PathBuf,
    /// Tables for people or JSON for programs
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Tables for people, or the API's JSON for programs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl ClientArgs {
    /// The daemon's answer to a GET of `target`.
    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        Client::new(&self.socket).get(target)
    }

    /// The daemon's answer to a GET of `target` piece by piece, however long it takes.
    pub(super) async fn stream(&self, target: &str) -> Result<Stream, ClientError> {
        Client::new(&self.socket).stream(target).await
    }

    /// Prints `value` as JSON, or as `render` lays it out.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            Output::Text => text::write(&render(value)),
            Output::Json => text::write(&(serde_json::to_string_pretty(value)? + "\n")),
        }
    }
}

/// Time for the whole exchange.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before trying again when the daemon's backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of the largest answer, about a million routes.
const MAX_ANSWER: usize = 256 << 20;

/// A client of the control API. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no daemon at {} (is it running, and is --socket right?)", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// We may not connect.
    #[error("not allowed to use {}; ask for membership in the socket's group, or be root", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Somebody listens, but does not answer.
    #[error("the daemon at {} did not answer within {} s", path.display(), PATIENCE.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon said no.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The daemon's own words.
        message: String,
    },
    /// This process lacks the resources to ask.
    #[error("cannot set up the client")]
    Setup(#[source] io::Error),
    /// The answer is not of our API.
    #[error("cannot understand the answer from {} (is this an underpass daemon?)", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// The exit code of a command that fails with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => 3,
            Self::Denied { .. } | Self::Refused { status: StatusCode::FORBIDDEN, .. } => 4,
            Self::Refused { .. } | Self::Garbled { .. } | Self::Setup(_) => 1,
        }
    }
}

/// The daemon's words for a status that is not 200.
fn refusal(status: StatusCode, body: &[u8], target: &str) -> ClientError {
    let ErrorBody { error } = serde_json::from_slice(body)
        .unwrap_or_else(|_| ErrorBody { error: format!("the daemon answered {status} to {target}") });
    ClientError::Refused { status, message: error }
}

/// An answer that comes in pieces.
pub(super) struct Stream(Incoming);

impl Stream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the daemon closes the connection before the end of the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.0.frame().await.transpose()? {
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Client {
    /// A client of the daemon behind `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The answer to a GET of `target`, a path with its query. Blocks for at most five seconds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ClientError::Setup)?;
        let exchange = async { tokio::time::timeout(PATIENCE, self.exchange(target)).await };
        let timeout = |_| ClientError::Timeout { path: self.socket.clone() };
        let (status, body) = runtime.block_on(exchange).map_err(timeout)??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.garbled(error));
        }
        Err(refusal(status, &body, target))
    }

    /// Begins a GET of `target` whose answer has no end to wait for. Blocks for at most five seconds.
    async fn stream(&self, target: &str) -> Result<Stream, ClientError> {
        let begin = async {
            let stream = self.connect().await?;
            self.send(stream, target).await.map_err(|error| self.garbled(error))
        };
        let timeout = |_| ClientError::Timeout { path: self.socket.clone() };
        let response = tokio::time::timeout(PATIENCE, begin).await.map_err(timeout)??;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Stream(response.into_body()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|source| ClientError::Garbled { path: self.socket.clone(), source })?;
        Err(refusal(status, &body.to_bytes(), target))
    }

    async fn exchange(&self, target: &str) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.connect().await?;
        let response = self.send(stream, target).await.map_err(|error| self.garbled(error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|source| ClientError::Garbled { path: self.socket.clone(), source })?;
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let path = || self.socket.clone();
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => tokio::time::sleep(BACKLOG_PAUSE).await,
                    io::ErrorKind::PermissionDenied => return Err(ClientError::Denied { path: path() }),
                    _ => return Err(ClientError::Unreachable { path: path(), source: error }),
                },
            }
        }
    }

    async fn send(&self, stream: UnixStream, target: &str) -> anyhow::Result<Response<Incoming>> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Errors of the connection reach us through the response.
        tokio::spawn(connection);
        let request = Request::get(target).header("Host", "underpass").body(Empty::<Bytes>::new())?;
        Ok(sender.send_request(request).await?)
    }

    fn garbled(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Garbled { path: self.socket.clone(), source: error.into() }
    }
}
