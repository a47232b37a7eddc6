//! What the workers gave up: logged for them, because a worker only counts and must never wait for a log, and
//! offered to them again after a while, because what the kernel refused may have been the fault of a moment.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::dataplane::observe::{Counters, Fallback};

/// What has been in use for so long without a refusal is in use again.
const SETTLED: Duration = Duration::from_secs(60);

/// What is known of each offload.
#[derive(Default)]
pub(super) struct Fallbacks([Known; Fallback::ALL.len()]);

#[derive(Default)]
struct Known {
    /// Whether it is logged that a worker gave it up.
    told: bool,
    /// Refusals as of the last look, and when a look showed more of them.
    refusals: u64,
    last: Option<Instant>,
    offers: Backoff,
}

impl Fallbacks {
    /// Logs which offloads were given up, and which have been in use again for a while.
    pub(super) fn tell(&mut self, counters: &Counters, now: Instant) {
        for fallback in Fallback::ALL {
            let known = &mut self.0[fallback as usize];
            // Also those that were taken up again since the last look.
            let refusals = counters.fallbacks(fallback);
            if std::mem::replace(&mut known.refusals, refusals) != refusals {
                known.last = Some(now);
                if !std::mem::replace(&mut known.told, true)
                    && let Some((worker, error)) = counters.refused(fallback)
                {
                    tracing::warn!(%error, worker, "{}", words(fallback));
                }
            } else if known.told
                && !counters.has_given_up(fallback)
                && known.last.is_none_or(|last| now >= last + SETTLED)
            {
                tracing::info!("{}: in use again", fallback.offload());
                known.told = false;
            }
        }
    }

    /// Offers again what was given up, at longer and longer intervals. The TAP is offered by who tests it.
    pub(super) fn offer(&mut self, counters: &Counters, now: Instant) {
        for fallback in Fallback::ALL.into_iter().filter(|fallback| *fallback != Fallback::Tap) {
            let offers = &mut self.0[fallback as usize].offers;
            if !counters.has_given_up(fallback) || !offers.is_due(now) {
                continue;
            }
            counters.offer(fallback);
            offers.tried(now);
        }
    }
}

/// What happened, and what happens instead.
fn words(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::UdpGso => "the kernel refused UDP_SEGMENT; sending unsegmented for now",
        Fallback::Tap => "the TAP refused a super-packet; sending through sockets for now",
        Fallback::PacketSocket => "the packet socket failed; sending through the raw socket for now",
        Fallback::DeviceGso => "the TUN refused a super-packet; what it refuses is cut before it is written",
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, Instant};

    use super::Fallbacks;
    use crate::dataplane::observe::{Counters, Fallback};

    #[test]
    fn what_was_given_up_is_offered_again_but_not_all_the_time() {
        let (counters, mut fallbacks, start) = (Counters::new(1), Fallbacks::default(), Instant::now());
        let worker = counters.worker(0);
        let mut offers = Vec::new();
        for second in 0..300 {
            // It is refused as soon as it is tried.
            worker.fell_back(Fallback::PacketSocket, &io::Error::from_raw_os_error(libc::ENXIO));
            worker.fell_back(Fallback::Tap, &io::Error::from_raw_os_error(libc::EIO));
            let now = start + Duration::from_secs(second);
            fallbacks.tell(&counters, now);
            fallbacks.offer(&counters, now);
            if worker.takes_up(Fallback::PacketSocket) {
                offers.push(second);
            }
            assert!(!worker.takes_up(Fallback::Tap), "it has not been tested");
        }
        assert_eq!(offers, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]);
    }
}
