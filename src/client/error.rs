//! Why a request has no answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;

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
    /// The connection was closed before there was an answer.
    #[error("the daemon at {} closed the connection without an answer; whether it did what was asked is not known", path.display())]
    Ended {
        /// The socket.
        path: PathBuf,
        /// How it ended.
        source: hyper::Error,
    },
    /// The daemon said no.
    #[error("{message}{}", list(.errors))]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What kind of error it is, see [`ErrorBody`](crate::api::ErrorBody).
        code: String,
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

/// One culprit a line.
fn list(errors: &[String]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}
