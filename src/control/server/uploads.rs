//! Who may send a large body: few at a time, and nobody for long while others wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout};

use crate::control::engine::refusal::{Kind, Refusal};

/// Bytes of a body that needs no permission.
const SMALL: u64 = 64 << 10;
/// Larger bodies read at a time, so that hostile clients cannot fill the memory.
const AT_ONCE: usize = 2;
/// Time after which an upload gives way to one that waits.
const TENURE: Duration = Duration::from_secs(15);
/// Time that an upload which was told to give way has for it.
const MARGIN: Duration = Duration::from_secs(5);

/// Permissions to send large bodies.
pub(super) struct Uploads {
    permits: Semaphore,
    /// Those under way, oldest first.
    running: Mutex<Vec<(Instant, Arc<Notify>)>>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { permits: Semaphore::new(AT_ONCE), running: Mutex::default() }
    }
}

impl Uploads {
    /// The permission to read the body that `headers` announce.
    ///
    /// # Errors
    /// [`Kind::Busy`] when many others wait too.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<Upload<'_>, Refusal> {
        let announced =
            headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|bytes| bytes <= SMALL) {
            return Ok(Upload { large: None });
        }
        let permitted = async {
            tokio::select! {
                permit = self.permits.acquire() => permit.ok(),
                never = self.press() => never,
            }
        };
        match timeout(TENURE + MARGIN, permitted).await {
            Ok(Some(permit)) => Ok(Upload { large: Some(self.begin(permit)) }),
            _ => Err(Refusal::new(Kind::Busy, "other large requests are under way; try again")),
        }
    }

    /// Tells the oldest upload to give way whenever its time is over; never completes.
    async fn press<T>(&self) -> T {
        loop {
            let oldest = self.running().first().cloned();
            let (due, notify) = match oldest {
                Some((begun, notify)) => (begun + TENURE, Some(notify)),
                None => (Instant::now() + TENURE, None),
            };
            sleep_until(due.max(Instant::now() + Duration::from_millis(10))).await;
            if let Some(notify) = notify {
                notify.notify_one();
            }
        }
    }

    fn begin<'a>(&'a self, permit: SemaphorePermit<'a>) -> Large<'a> {
        let notify = Arc::new(Notify::new());
        self.running().push((Instant::now(), Arc::clone(&notify)));
        Large { uploads: self, give_way: notify, _permit: permit }
    }

    fn running(&self) -> MutexGuard<'_, Vec<(Instant, Arc<Notify>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permission to read one body.
pub(super) struct Upload<'a> {
    large: Option<Large<'a>>,
}

impl Upload<'_> {
    /// What `work` makes of the body, for which this permission is used up.
    ///
    /// # Errors
    /// Those of `work`; [`Kind::Busy`] when it took long and others waited.
    pub(super) async fn read<T>(self, work: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let Some(large) = &self.large else { return work.await };
        tokio::select! {
            done = work => done,
            () = large.give_way.notified() => {
                let seconds = TENURE.as_secs();
                let text = format!("the body took longer than {seconds} s and others wait; nothing has changed");
                Err(Refusal::new(Kind::Busy, text))
            }
        }
    }
}

struct Large<'a> {
    uploads: &'a Uploads,
    give_way: Arc<Notify>,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Large<'_> {
    fn drop(&mut self) {
        self.uploads.running().retain(|(_, notify)| !Arc::ptr_eq(notify, &self.give_way));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::time::Duration;

    use axum::http::HeaderMap;
    use axum::http::header::CONTENT_LENGTH;
    use tokio::time::{Instant, pause};

    use super::{AT_ONCE, TENURE, Uploads};
    use crate::control::engine::refusal::{Kind, Refusal};

    #[tokio::test]
    async fn who_holds_a_place_for_long_gives_way_to_who_waits() {
        pause();
        let uploads = Arc::new(Uploads::default());
        let endless = |_| {
            let uploads = Arc::clone(&uploads);
            tokio::spawn(async move {
                let upload = uploads.admit(&HeaderMap::new()).await?;
                upload.read(pending::<Result<(), Refusal>>()).await
            })
        };
        let slow: Vec<_> = (0..AT_ONCE).map(endless).collect();
        tokio::time::sleep(10 * TENURE).await;
        assert!(slow.iter().all(|slow| !slow.is_finished()), "without others who wait");
        let begin = Instant::now();
        let mut small = HeaderMap::new();
        small.insert(CONTENT_LENGTH, 100.into());
        assert_eq!(uploads.admit(&small).await.unwrap().read(async { Ok(5) }).await, Ok(5));
        assert_eq!(begin.elapsed(), Duration::ZERO, "a small body needs no place");
        let next = uploads.admit(&HeaderMap::new()).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        let gone = slow.iter().filter(|slow| slow.is_finished()).count();
        assert_eq!(gone, 1, "the other one stays");
        assert_eq!(next.read(async { Ok(7) }).await, Ok(7));
        for slow in slow.into_iter().filter(|slow| slow.is_finished()) {
            assert_eq!(slow.await.unwrap().unwrap_err().kind, Kind::Busy);
        }
        // One that has only begun is left alone for its time, and the one that stayed is told first.
        let young = endless(2);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let begin = Instant::now();
        uploads.admit(&HeaderMap::new()).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        assert!(!young.is_finished());
    }
}
