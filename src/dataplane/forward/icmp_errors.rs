//! ICMP errors to the senders of packets that cannot be forwarded, on their way back to the device.
//!
//! They are few by design. Each worker has a bucket for every kind of error and sender (as far as a
//! small table tells senders apart), so that one that causes errors all the time does not keep others
//! from theirs, and one for all of them together.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::inputs::TunLink;
use crate::dataplane::observe::WorkerCounters;
use crate::dataplane::packet::Delivery;
use crate::wire::Ipv4;
use crate::wire::icmp::{self, Problem};

/// Errors a second of one kind to one sender, by one worker.
pub(super) const PER_SENDER: u32 = 20;
/// Errors a second by one worker.
pub(super) const PER_WORKER: u32 = 500;
/// Errors at once, to one sender and to all: as many as may wait for the end of a batch.
pub(super) const BURST: u32 = 32;

/// Senders and kinds told apart.
const BUCKETS: usize = 256;

/// The errors of one worker that wait to be written.
#[derive(Debug)]
pub struct IcmpErrors {
    senders: Box<[Bucket; BUCKETS]>,
    all: Bucket,
    packets: Box<[[u8; icmp::MAX_V6]; BURST as usize]>,
    /// Bytes of each.
    lens: Vec<usize>,
}

impl Default for IcmpErrors {
    fn default() -> Self {
        Self {
            senders: Box::new([Bucket::default(); BUCKETS]),
            all: Bucket::default(),
            packets: Box::new([[0; icmp::MAX_V6]; BURST as usize]),
            lens: Vec::with_capacity(BURST as usize),
        }
    }
}

impl IcmpErrors {
    /// Makes the error about `packet`, which `sender` sent, unless there may be none about it or
    /// there were too many.
    #[cold]
    pub(super) fn answer(
        &mut self,
        tun: &TunLink,
        sender: IpAddr,
        packet: &[u8],
        problem: Problem,
        counters: &WorkerCounters,
    ) {
        let source = match sender {
            IpAddr::V4(_) if tun.answers_as_target => {
                Ipv4::parse(packet).ok().map(|packet| packet.destination().into())
            }
            IpAddr::V4(_) => tun.address.map(IpAddr::V4),
            IpAddr::V6(_) => tun.address6.map(IpAddr::V6),
        };
        let Some(source) = source.filter(|_| icmp::may_answer(packet)) else { return };
        if !self.may_send(sender, problem, Instant::now()) {
            return counters.icmp_suppressed.add(1);
        }
        let Some(out) = self.packets.get_mut(self.lens.len()) else {
            return counters.icmp_suppressed.add(1);
        };
        if let Ok(len) = icmp::write(out, source, packet, problem) {
            self.lens.push(len);
        }
    }

    fn may_send(&mut self, sender: IpAddr, problem: Problem, now: Instant) -> bool {
        let hash =
            BuildHasherDefault::<DefaultHasher>::new().hash_one((sender, std::mem::discriminant(&problem)));
        let one = &mut self.senders[usize::try_from(hash % BUCKETS as u64).unwrap_or(0)];
        one.may(now, PER_SENDER) && self.all.may(now, PER_WORKER) && {
            one.take(now, PER_SENDER);
            self.all.take(now, PER_WORKER);
            true
        }
    }

    /// Takes the errors that wait, each to be written to the device.
    pub fn drain(&mut self) -> impl Iterator<Item = Delivery<'_>> {
        self.packets.iter().zip(self.lens.drain(..)).map(|(packet, len)| Delivery::plain(&packet[..len]))
    }
}

/// A token bucket of [`BURST`] tokens, as the time at which it is full again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Whether there is a token, `rate` of which come in each second.
    pub(super) fn may(&self, now: Instant, rate: u32) -> bool {
        let missing = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        missing <= Duration::from_secs(1) / rate * (BURST - 1)
    }

    pub(super) fn take(&mut self, now: Instant, rate: u32) {
        let from = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(from + Duration::from_secs(1) / rate);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::{BURST, IcmpErrors, PER_SENDER, PER_WORKER};
    use crate::wire::icmp::Problem;

    const TOO_BIG: Problem = Problem::TooBig { mtu: 1400 };

    fn pod(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 244, 1, last).into()
    }

    /// Of `count` attempts, one every `gap`, how many may be sent.
    fn granted(
        replies: &mut IcmpErrors,
        from: &mut Instant,
        count: u32,
        gap: Duration,
        who: impl Fn(u32) -> (IpAddr, Problem),
    ) -> u32 {
        (0..count)
            .filter(|n| {
                *from += gap;
                let (sender, problem) = who(*n);
                replies.may_send(sender, problem, *from)
            })
            .count() as u32
    }

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate() {
        let (mut replies, mut now) = (IcmpErrors::default(), Instant::now());
        let flood = Duration::from_micros(100);
        let sent = granted(&mut replies, &mut now, 100_000, flood, |_| (pod(2), TOO_BIG));
        assert!((BURST + 10 * PER_SENDER).abs_diff(sent) <= 1, "{sent}");
        // After a rest there is a burst again, and no more than one.
        now += Duration::from_secs(100);
        assert_eq!(granted(&mut replies, &mut now, 1000, Duration::ZERO, |_| (pod(2), TOO_BIG)), BURST);
    }

    #[test]
    fn one_sender_or_kind_does_not_use_up_the_errors_of_another() {
        let (mut replies, mut now) = (IcmpErrors::default(), Instant::now());
        granted(&mut replies, &mut now, 100_000, Duration::from_micros(100), |_| (pod(2), Problem::NoHost));
        assert!(replies.may_send(pod(2), TOO_BIG, now));
        assert!(replies.may_send(pod(3), Problem::NoHost, now));
    }

    #[test]
    fn all_senders_together_have_a_limit() {
        let (mut replies, mut now) = (IcmpErrors::default(), Instant::now());
        let sent =
            granted(&mut replies, &mut now, 100_000, Duration::from_micros(100), |n| (pod(n as u8), TOO_BIG));
        assert!((BURST + 10 * PER_WORKER).abs_diff(sent) <= 1, "{sent}");
    }
}
