//! Logs for the workers what they gave up: a worker only counts, because it must never wait for a log.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::dataplane::observe::{Counters, Fallback};

/// Which fallbacks are logged already.
#[derive(Default)]
pub struct Fallbacks([AtomicBool; Fallback::ALL.len()]);

impl Fallbacks {
    /// Logs each offload that the kernel has refused since the start, once.
    pub fn tell(&self, counters: &Counters) {
        for fallback in Fallback::ALL {
            let Some((worker, error)) = counters.refused(fallback) else { continue };
            if !self.0[fallback as usize].swap(true, Relaxed) {
                tracing::warn!(%error, worker, "{}", words(fallback));
            }
        }
    }
}

/// What happened, and what happens instead.
fn words(fallback: Fallback) -> &'static str {
    match fallback {
        Fallback::UdpGso => "the kernel refused UDP_SEGMENT; sending unsegmented from now on",
        Fallback::Tap => "the TAP refused a super-packet; sending through sockets from now on",
        Fallback::PacketSocket => "the packet socket failed; sending through the raw socket from now on",
        Fallback::DeviceGso => "the TUN refused a super-packet; what it refuses is cut before it is written",
    }
}
