//! Sending a file to the daemon piece by piece, however large it is.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};

use super::ClientError;

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// The contents of a file, or of standard input for `-`, as the body of a request.
pub(super) struct Upload {
    input: Box<dyn Read + Send>,
    failure: Failure,
}

/// Why a file could not be read to its end; the request then fails for another reason.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Upload {
    /// Begins to read `path`.
    pub(super) fn open(path: &Path) -> Result<(Self, Failure), ClientError> {
        let input: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).map_err(|source| unreadable(path, source))?)
        };
        let failure = Failure::default();
        Ok((Self { input, failure: failure.clone() }, failure))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut piece = vec![0; PIECE];
        Poll::Ready(match self.input.read(&mut piece) {
            Ok(0) => None,
            Ok(len) => {
                piece.truncate(len);
                Some(Ok(Frame::data(piece.into())))
            }
            Err(error) => {
                let told = io::Error::from(error.kind());
                *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Some(Err(told))
            }
        })
    }
}

impl Failure {
    /// The failure to read `path`, if that was the cause of `error`.
    pub(super) fn or(&self, path: &Path, error: ClientError) -> ClientError {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(source) => unreadable(path, source),
            None => error,
        }
    }
}

fn unreadable(path: &Path, source: io::Error) -> ClientError {
    let what = if path == Path::new("-") { PathBuf::from("standard input") } else { path.to_owned() };
    ClientError::Input { what: what.display().to_string(), source }
}
