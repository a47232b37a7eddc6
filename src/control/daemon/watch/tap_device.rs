//! The TAP as a device: made at the start where that is possible, and again whenever it is gone.
//!
//! Its queues are those of the workers and stay with them; only the device behind them is another one then.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, bail};

use super::tap_test::TapTest;
use crate::control::daemon::backoff::Backoff;
use crate::control::engine::Failure;
use crate::control::engine::port::{HostError, HostRequest, LinkChange, TAP_QUIET, TAP_SYSCTLS};
use crate::control::host::{Answer, Guarded, Host, name_beside};
use crate::dataplane::underlay::tap::{PushHeader, Tap};

/// The TAP and what it is made of.
pub(crate) struct TapDevice {
    name: String,
    /// One queue for each worker and, as the last one, that of the test.
    queues: Vec<Tap>,
    /// Our underlay address.
    source: Ipv4Addr,
    /// Its index, as of when it was made.
    index: u32,
    /// What tests it; `None` while it is not there.
    test: Option<TapTest>,
    /// Why there is none now.
    reason: String,
    retry: Backoff,
}

impl TapDevice {
    /// The TAP `name` with a queue for each of so many workers, not made yet.
    ///
    /// # Errors
    /// When /dev/net/tun cannot be opened so often.
    pub(crate) fn new(name: String, workers: usize, source: Ipv4Addr) -> anyhow::Result<Self> {
        let queues = Tap::unattached(workers + 1).context("cannot open the queues of the TAP")?;
        let reason = "not made yet".to_owned();
        Ok(Self { name, queues, source, index: 0, test: None, reason, retry: Backoff::default() })
    }

    /// The queue of the worker with this number.
    pub(crate) fn queue(&self, worker: usize) -> Option<Tap> {
        self.queues.get(worker).cloned()
    }

    /// What tests it; `None` while it is not there.
    pub(crate) fn test(&mut self) -> Option<&mut TapTest> {
        self.test.as_mut()
    }

    /// Its index, while it is there: another device may have its name afterwards.
    pub(crate) fn own_index(&self) -> Option<u32> {
        self.test.as_ref().map(|_| self.index)
    }

    /// Whether it can carry IP-in-IP; yes while that is not known.
    pub(crate) fn carries_ipip(&self) -> bool {
        self.test.as_ref().is_none_or(|test| test.link().ipip)
    }

    /// Whether it has to be made, and that may be tried.
    pub(crate) fn is_waiting(&self, now: Instant) -> bool {
        let there = self.test.is_some() && self.attached_to().as_deref() == Some(&self.name);
        !there && self.retry.is_due(now)
    }

    /// Why it is not there.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Sees to it that it is there. Returns what guards it when it was made just now.
    pub(crate) async fn ensure(&mut self, host: &Host) -> Option<Guarded> {
        let now = Instant::now();
        if self.test.is_some() {
            if self.attached_to().as_deref() == Some(&self.name) {
                return None;
            }
            "it was removed by others".clone_into(&mut self.reason);
            tracing::warn!("the TAP {} is gone, making it again", self.name);
            self.test = None;
        }
        if !self.retry.is_due(now) {
            return None;
        }
        match self.make(host).await {
            Ok(guarded) => {
                self.retry.succeeded(now);
                Some(guarded)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if reason != self.reason {
                    tracing::warn!("there is no TAP {}: {reason}; trying again", self.name);
                    self.reason = reason;
                }
                self.retry.failed(now);
                None
            }
        }
    }

    /// Makes it.
    ///
    /// # Errors
    /// Why it is not there; nothing is left of it then.
    pub(crate) async fn make(&mut self, host: &Host) -> anyhow::Result<Guarded> {
        // One under another name.
        self.remove(host).await;
        // The kernel would share the TAP of another daemon with us.
        if host.link_by_name(&self.name).await?.is_some() {
            bail!("a device {} exists already", self.name);
        }
        let made = self.open(host).await;
        if made.is_err() {
            self.remove(host).await;
        }
        made
    }

    /// Makes it and brings it up, once it is certain that nobody else is at it.
    async fn open(&mut self, host: &Host) -> anyhow::Result<Guarded> {
        let name = &self.name;
        let request = HostRequest::OpenTap { name: name.clone(), queues: self.queues.clone() };
        let Answer::Tap(opened) = host.execute(request).await.map_err(first)? else { bail!("no answer") };
        let mut guarded = Guarded::new(name, opened.ownership, self.queues.len());
        guarded.check(host).await?;
        let link = host.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.clone()))?;
        let set = |sysctl, value| HostRequest::Sysctl { name: name.clone(), sysctl, value };
        // Where there is no IPv6 at all there is nothing to quiet.
        let _ = host.execute(set(TAP_QUIET.0, TAP_QUIET.1)).await;
        let needed = TAP_SYSCTLS.map(|(sysctl, value)| set(sysctl, value));
        let up = HostRequest::Link { index: link.index, name: name.clone(), change: LinkChange::Up };
        for request in needed.into_iter().chain([up]) {
            host.execute(request).await.map_err(first)?;
        }
        let push = PushHeader::attach(link.index, self.source);
        if let Err(error) = &push {
            tracing::info!("the TAP {name} is not used for ipip, eBPF is not available: {error}");
        }
        self.index = link.index;
        let queue = self.queues.last().cloned().context("it has no queue")?;
        self.test = Some(TapTest::new(queue, opened.mac, push.ok(), self.source));
        Ok(guarded)
    }

    /// Removes the device that our queues are attached to, if there is one.
    async fn remove(&mut self, host: &Host) {
        self.test = None;
        let Some(name) = self.attached_to() else { return };
        let Ok(Some(link)) = host.link_by_name(&name).await else { return };
        let _ = host.execute(HostRequest::RemoveTap { index: link.index, name }).await;
    }

    fn attached_to(&self) -> Option<String> {
        self.queues.first().and_then(Tap::device)
    }
}

/// The first thing that the kernel refused.
pub(crate) fn first(failures: Vec<Failure>) -> HostError {
    let unknown = || HostError::Open { error: "the kernel refused without a reason".to_owned(), errno: None };
    failures.into_iter().next().map_or_else(unknown, |failure| failure.error)
}

/// Name of the TAP beside the TUN `device`.
pub(crate) fn tap_name(device: &str) -> String {
    name_beside(device, "-x")
}

#[cfg(test)]
mod tests {
    use super::tap_name;

    #[test]
    fn the_taps_name_fits_the_kernel() {
        assert_eq!(tap_name("up0"), "up0-x");
        assert_eq!(tap_name("a23456789012345"), "a234567890123-x");
        assert_eq!(tap_name("ééééééé"), "éééééé-x");
    }
}
