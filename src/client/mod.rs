//! The client of the control API: HTTP over the control socket of a daemon.

mod error;
mod pcapng;
mod target;
mod upload;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

pub use error::ClientError;
pub use pcapng::Tally;
pub use target::Target;

use crate::api::{self, ErrorBody};
use upload::Upload;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
/// Time of silence: for the answer to a question and between two pieces of it. A daemon that works on a
/// change for longer still answers questions.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before trying again when the daemon's backlog is full.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of the largest answer that is taken as a whole.
const MAX_ANSWER: usize = 256 << 20;

/// A client of the control API. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How long the daemon may be silent.
    patience: Duration,
    /// How long a request may take in all; `None` is for as long as the daemon is there.
    limit: Option<Duration>,
}

/// An answer that comes in pieces.
pub struct Stream(Incoming);

impl Stream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the daemon closes the connection before the end of the answer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
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
        Self { socket: socket.to_owned(), patience: PATIENCE, limit: None }
    }

    /// The same, for requests that may take no longer than `limit`, whatever the daemon does.
    pub fn limited(socket: &Path, limit: Duration) -> Self {
        Self { socket: socket.to_owned(), patience: limit, limit: Some(limit) }
    }

    /// The answer to a GET of `target`. It must begin within five seconds, and never pause for as long.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        let request = self.request(Method::GET, target, "", Full::default());
        self.block_on(async {
            let response = self.within(self.exchange(request?)).await??;
            self.document(response).await
        })
    }

    /// The answer to a `POST` of `value` as JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &self,
        target: &Target,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| ClientError::Output(error.into()))?;
        self.change(Method::POST, target, JSON, Full::<Bytes>::from(body))
    }

    /// The answer to a `POST` without a body.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn order<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.change(Method::POST, target, "", Full::<Bytes>::default())
    }

    /// The answer to a `PUT` of `value` as JSON.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put<T: DeserializeOwned>(
        &self,
        target: &Target,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(value).map_err(|error| ClientError::Output(error.into()))?;
        self.change(Method::PUT, target, JSON, Full::<Bytes>::from(body))
    }

    /// The answer to a `DELETE`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.change(Method::DELETE, target, "", Full::<Bytes>::default())
    }

    /// The answer to a `POST` of the lines of `file`; `-` is standard input.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post_lines<T: DeserializeOwned>(&self, target: &Target, file: &Path) -> Result<T, ClientError> {
        self.lines(Method::POST, target, file)
    }

    /// The answer to a `PUT` of the lines of `file`; `-` is standard input.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn put_lines<T: DeserializeOwned>(&self, target: &Target, file: &Path) -> Result<T, ClientError> {
        self.lines(Method::PUT, target, file)
    }

    fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        file: &Path,
    ) -> Result<T, ClientError> {
        let (upload, failure) = Upload::open(file)?;
        self.change(method, target, TEXT, upload).map_err(|error| failure.or(file, error))
    }

    /// The answer to a change; waits for it for as long as the daemon answers questions.
    fn change<T, B>(&self, method: Method, target: &Target, kind: &str, body: B) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let request = self.request(method, target, kind, body);
        self.block_on(async {
            let response = self.patiently(self.exchange(request?)).await??;
            self.document(response).await
        })
    }

    /// Hands the pieces of the answer to a GET of `target` to `take` as they arrive, until it says
    /// no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn pieces(
        &self,
        target: &Target,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<bool>,
    ) -> Result<(), ClientError> {
        self.block_on(async {
            let mut stream = self.stream(target).await?;
            while let Some(piece) = self.piece(&mut stream).await? {
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
        runtime.block_on(async {
            let Some(limit) = self.limit else { return work.await };
            let late = |_| ClientError::Timeout { path: self.socket.clone(), patience: limit };
            timeout(limit, work).await.map_err(late)?
        })
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, ClientError> {
        let late = |_| ClientError::Timeout { path: self.socket.clone(), patience: self.patience };
        timeout(self.patience, work).await.map_err(late)
    }

    /// What comes of `work`, which may take long as long as the daemon is there.
    async fn patiently<T>(&self, work: impl Future<Output = T>) -> Result<T, ClientError> {
        let mut work = pin!(work);
        loop {
            let alive = async {
                sleep(self.patience).await;
                let question =
                    self.request(Method::GET, &Target::new(api::DROPS), "", Full::<Bytes>::default())?;
                self.within(self.exchange(question)).await?.map(drop)
            };
            tokio::select! {
                done = &mut work => return Ok(done),
                alive = alive => alive?,
            }
        }
    }

    fn request<B>(
        &self,
        method: Method,
        target: &Target,
        kind: &str,
        body: B,
    ) -> Result<Request<B>, ClientError> {
        let mut request = Request::builder().method(method).uri(target.as_str()).header("Host", "underpass");
        if !kind.is_empty() {
            request = request.header("Content-Type", kind);
        }
        request.body(body).map_err(|error| self.garbled(error))
    }

    async fn document<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, ClientError> {
        let status = response.status();
        let body = self.whole(response).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| self.garbled(error));
        }
        Err(self.refusal(status, &body))
    }

    /// Begins a GET of `target` whose answer comes in pieces, for as long as it likes. The first byte
    /// must come within five seconds.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stream(&self, target: &Target) -> Result<Stream, ClientError> {
        let request = self.request(Method::GET, target, "", Full::<Bytes>::default())?;
        let response = self.within(self.exchange(request)).await??;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Stream(response.into_body()));
        }
        Err(self.refusal(status, &self.whole(response).await?))
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
        sender.send_request(request).await.map_err(|error| {
            if error.is_parse() {
                return self.garbled(error);
            }
            // Closed without an answer: the request may have been followed.
            ClientError::Ended { path: self.socket.clone(), source: error }
        })
    }

    /// The next piece of an answer, which must come within the time of silence.
    async fn piece(&self, stream: &mut Stream) -> Result<Option<Bytes>, ClientError> {
        self.within(stream.next()).await?.map_err(|error| self.garbled(error))
    }

    /// The body of an answer of bounded size.
    async fn whole(&self, response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
        let mut stream = Stream(response.into_body());
        let mut whole = Vec::new();
        while let Some(piece) = self.piece(&mut stream).await? {
            if whole.len() + piece.len() > MAX_ANSWER {
                return Err(self.garbled(format!("it has more than {} MiB", MAX_ANSWER >> 20)));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let path = || self.socket.clone();
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
                    io::ErrorKind::PermissionDenied => return Err(ClientError::Denied { path: path() }),
                    _ => return Err(ClientError::Unreachable { path: path(), source: error }),
                },
            }
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let unknown = |_| ErrorBody {
            code: String::new(),
            error: format!("the daemon answered {status}"),
            errors: Vec::new(),
        };
        let ErrorBody { code, error, errors } = serde_json::from_slice(body).unwrap_or_else(unknown);
        ClientError::Refused { status, code, message: error, errors }
    }

    fn garbled(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Garbled { path: self.socket.clone(), source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use super::{Client, ClientError, Target};
    use crate::api;

    const PATIENCE: Duration = Duration::from_millis(100);
    const WORK: Duration = Duration::from_millis(500);

    /// A daemon that takes long for a `DELETE`; what it answers meanwhile is for `question` to say.
    fn ask(answer: &'static str, question: &'static str) -> Result<u32, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut head = [0; 6];
                    stream.read_exact(&mut head).unwrap();
                    let is_change = head.starts_with(b"DELETE");
                    std::thread::sleep(if is_change || question.is_empty() { WORK } else { Duration::ZERO });
                    let text = if is_change { answer } else { question };
                    // Who asked may have given up.
                    let _ = stream.write_all(text.as_bytes());
                });
            }
        });
        let client = Client { socket: path, patience: PATIENCE, limit: None };
        client.delete(&Target::new(api::ROUTES))
    }

    const SEVEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n7";

    #[test]
    fn a_change_may_take_long_while_the_daemon_answers() {
        assert_eq!(ask(SEVEN, SEVEN).unwrap(), 7);
    }

    #[test]
    fn a_daemon_that_says_nothing_at_all_is_given_up() {
        let begin = Instant::now();
        assert!(matches!(ask(SEVEN, ""), Err(ClientError::Timeout { .. })));
        assert!(begin.elapsed() < WORK, "{:?}", begin.elapsed());
    }

    #[test]
    fn an_end_without_an_answer_is_called_that() {
        let error = ask("", SEVEN).unwrap_err();
        assert!(error.to_string().contains("whether it did what was asked is not known"), "{error}");
    }
}
