//! The client side of the control API, and the arguments that all client commands share.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::cli::out;
use crate::api::ErrorBody;

/// Which daemon is meant.
#[derive(Args, Debug)]
pub(super) struct SocketArgs {
    /// The daemon's control socket
    #[arg(
        long,
        value_name = "PATH",
        env = "UNDERPASS_SOCKET",
        default_value = "/run/underpass/underpass.sock"
    )]
    socket: PathBuf,
}

impl SocketArgs {
    /// The client of that daemon.
    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// What every client command takes.
#[derive(Args, Debug)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    socket: SocketArgs,
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
        self.client().get(target)
    }

    /// The client of the daemon that is meant.
    pub(super) fn client(&self) -> Client {
        self.socket.client()
    }

    /// The daemon's answer to a GET of `target` piece by piece, however long it takes.
    pub(super) async fn stream(&self, target: &str) -> Result<Stream, ClientError> {
        self.client().stream(target).await
    }

    /// Prints `value` as JSON, or as `render` lays it out.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            Output::Text => out::write(&render(value)),
            Output::Json => out::write(&(serde_json::to_string_pretty(value)? + "\n")),
        }
    }
}

/// Time for the answer to a question, and between two pieces of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time for the answer to a change, behind its last byte: a million routes take seconds.
const CHANGE_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before trying again when the daemon's backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of the largest answer that is taken as a whole.
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
    #[error("the daemon at {} did not answer within {} s", path.display(), patience.as_secs())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The time it had.
        patience: Duration,
    },
    /// The daemon said no.
    #[error("{message}{}", list(.errors))]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The daemon's own words.
        message: String,
        /// Each culprit, where there are several.
        errors: Vec<String>,
    },
    /// What was to be sent cannot be read.
    #[error("cannot read {what}")]
    Input {
        /// The file.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// What was received cannot be passed on.
    #[error(transparent)]
    Output(anyhow::Error),
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
            Self::Refused { .. }
            | Self::Input { .. }
            | Self::Output(_)
            | Self::Garbled { .. }
            | Self::Setup(_) => 1,
        }
    }
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

/// One culprit a line.
fn list(errors: &[String]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
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
        let request = self.request(Method::GET, target, "", Full::default());
        self.block_on(async { self.document(request?, PATIENCE).await })
    }

    /// The answer to a change: `method`, `target` and a body of type `kind`. Waits for a minute
    /// behind the body's last byte.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn change<T, B>(&self, method: Method, target: &str, kind: &str, body: B) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = self.request(method, target, kind, body);
        self.block_on(async { self.document(request?, CHANGE_PATIENCE).await })
    }

    /// Hands the pieces of the answer to a GET of `target` to `take` as they arrive, until it says
    /// no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pieces(
        &self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<bool>,
    ) -> Result<(), ClientError> {
        self.block_on(async {
            let mut stream = self.stream(target).await?;
            let next = async |stream: &mut Stream| {
                self.within(PATIENCE, stream.next()).await?.map_err(|error| self.garbled(error))
            };
            while let Some(piece) = next(&mut stream).await? {
                if !take(&piece).map_err(ClientError::Output)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn block_on<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime: Runtime = runtime.map_err(ClientError::Setup)?;
        runtime.block_on(work)
    }

    async fn within<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Result<T, ClientError> {
        let late = |_| ClientError::Timeout { path: self.socket.clone(), patience };
        timeout(patience, work).await.map_err(late)
    }

    fn request<B>(
        &self,
        method: Method,
        target: &str,
        kind: &str,
        body: B,
    ) -> Result<Request<B>, ClientError> {
        let mut request = Request::builder().method(method).uri(target).header("Host", "underpass");
        if !kind.is_empty() {
            request = request.header("Content-Type", kind);
        }
        request.body(body).map_err(|error| self.garbled(error))
    }

    async fn document<T, B>(&self, request: Request<B>, patience: Duration) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let response = self.within(patience, self.exchange(request)).await??;
        let status = response.status();
        let body = self.whole(response, patience).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.garbled(error));
        }
        Err(self.refusal(status, &body))
    }

    /// Begins a GET of `target` whose answer comes in pieces, for as long as it likes. The first byte
    /// must come within five seconds.
    async fn stream(&self, target: &str) -> Result<Stream, ClientError> {
        let request = self.request(Method::GET, target, "", Full::<Bytes>::default())?;
        let response = self.within(PATIENCE, self.exchange(request)).await??;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Stream(response.into_body()));
        }
        Err(self.refusal(status, &self.whole(response, PATIENCE).await?))
    }

    async fn exchange<B>(&self, request: Request<B>) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.garbled(error))?;
        // Errors of the connection reach us through the response.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| self.garbled(error))
    }

    async fn whole(&self, response: Response<Incoming>, patience: Duration) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        let body = self.within(patience, body).await?;
        Ok(body.map_err(|error| self.garbled(error))?.to_bytes())
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

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let ErrorBody { error, errors } = serde_json::from_slice(body).unwrap_or_else(|_| ErrorBody {
            error: format!("the daemon answered {status}"),
            errors: Vec::new(),
        });
        ClientError::Refused { status, message: error, errors }
    }

    fn garbled(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Garbled { path: self.socket.clone(), source: error.into() }
    }
}
