//! Whether a connection gets anywhere.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Bytes that count as progress: with the default limits, a tenth of this each second.
const MILESTONE: usize = 1 << 20;

/// How one connection gets on.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Time from one milestone to the next.
    patience: Duration,
    deadline: Instant,
    last_moved: Instant,
    /// Bytes since the last milestone.
    moved: usize,
    /// For how many reasons the client waits for us.
    working: usize,
    /// Whether we wait for more of a request's body meanwhile.
    reading: bool,
}

impl State {
    /// Whether it is not the client who is slow.
    fn is_working(&self) -> bool {
        self.working > 0 && !self.reading
    }
}

impl Progress {
    /// That of a connection which begins now and has `patience` from milestone to milestone.
    pub(super) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        let deadline = now + patience;
        let state = State { patience, deadline, last_moved: now, moved: 0, working: 0, reading: false };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something was achieved, such as a request.
    pub(super) fn milestone(&self) {
        let mut state = self.state();
        state.deadline = Instant::now() + state.patience;
        state.moved = 0;
    }

    /// Says that `bytes` went over the connection.
    fn moved(&self, bytes: usize) {
        let mut state = self.state();
        state.last_moved = Instant::now();
        state.moved += bytes;
        if state.moved >= MILESTONE {
            state.deadline = state.last_moved + state.patience;
            state.moved = 0;
        }
    }

    /// Says that the client waits for us, for as long as the result lives.
    pub(super) fn working(&self) -> Working {
        self.state().working += 1;
        Working(self.clone())
    }

    /// Says whether we wait for more of a request's body.
    fn reading(&self, reading: bool) {
        self.state().reading = reading;
    }

    /// When a byte last went over the connection; now, while the client waits for us.
    pub(super) fn last_moved(&self) -> Instant {
        let state = self.state();
        if state.is_working() { Instant::now() } else { state.last_moved }
    }

    /// Completes when the time for the next milestone is over.
    pub(super) async fn stalled(&self) {
        loop {
            let deadline = self.state().deadline;
            sleep_until(deadline).await;
            let mut state = self.state();
            if state.is_working() {
                state.deadline = Instant::now() + state.patience;
            } else if state.deadline <= Instant::now() {
                return;
            }
        }
    }
}

/// Work for a client.
#[derive(Debug)]
pub(super) struct Working(Progress);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.state().working -= 1;
        self.0.milestone();
    }
}

/// The body of a request, which tells when it is waited for: that time is the client's own.
#[derive(Debug)]
pub(super) struct Awaited<B> {
    body: B,
    progress: Progress,
}

impl<B> Awaited<B> {
    /// Tells `progress` when `body` is waited for.
    pub(super) fn new(body: B, progress: Progress) -> Self {
        Self { body, progress }
    }
}

impl<B> Drop for Awaited<B> {
    fn drop(&mut self) {
        self.progress.reading(false);
    }
}

impl<B: Body + Unpin> Body for Awaited<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.progress.reading(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that reports what goes over it.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    progress: Progress,
}

impl<S> Metered<S> {
    /// Reports what goes over `stream` to `progress`.
    pub(super) fn new(stream: S, progress: Progress) -> Self {
        Self { stream, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.progress.moved(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.progress.moved(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.progress.moved(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance, pause};

    use super::{MILESTONE, Progress};

    #[tokio::test]
    async fn a_milestone_or_work_buys_time_and_a_trickle_does_not() {
        pause();
        let patience = Duration::from_secs(10);
        let progress = Progress::new(patience);
        let begin = Instant::now();
        let stalled = tokio::spawn({
            let progress = progress.clone();
            async move {
                progress.stalled().await;
                Instant::now()
            }
        });
        for _ in 0..3 {
            advance(Duration::from_secs(6)).await;
            progress.moved(MILESTONE);
        }
        let working = progress.working();
        advance(Duration::from_secs(60)).await;
        assert_eq!(progress.last_moved(), Instant::now());
        // But not while the client keeps us waiting for the rest of its request.
        progress.reading(true);
        assert!(progress.last_moved() < Instant::now());
        progress.reading(false);
        drop(working);
        for _ in 0..8 {
            advance(Duration::from_secs(1)).await;
            progress.moved(1);
        }
        assert!(!stalled.is_finished());
        let stalled = stalled.await.unwrap() - begin;
        // The timer counts whole milliseconds.
        assert_eq!(stalled.as_secs(), 6 * 3 + 60 + 10);
    }
}
