//! The search for the highest rate that a path carries with little loss.
//!
//! 1. Unlimited: what the sender can do, and a first idea of what arrives.
//! 2. Down, guided by what arrived, until a rate passes.
//! 3. Bisection between the last rate that passed and the last that did not.
//! 4. A longer run at the rate found, whose figures are the result; lower where it does not pass.
//!
//! A little more loss than allowed may be a hiccup of the machine, so such a step gets a second chance.

use crate::trial::Trial;

/// Packets per second below which a path counts as broken.
const LOWEST_RATE: f64 = 100.0;
/// Bisection ends when the two rates are this close.
const PRECISION: f64 = 1.05;
/// Loss above which a second attempt is pointless.
const HOPELESS_LOSS: f64 = 0.02;
/// How much lower each further confirmation goes, and how many there are.
const RETREAT: f64 = 0.9;
const RETREATS: usize = 10;

/// What an attempt is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// One more point of the search.
    Probe,
    /// The figures that count.
    Confirm,
}

/// Finds the highest rate, in packets per second, at which `attempt` loses at most `max_loss` (a
/// share). An attempt is given an infinite rate to send as fast as it can.
///
/// # Errors
/// Those of `attempt`; and when no rate passes.
pub fn highest_rate(
    max_loss: f64,
    attempt: impl FnMut(f64, Step) -> anyhow::Result<Trial>,
) -> anyhow::Result<Trial> {
    let mut search = Search { max_loss, attempt };
    let unlimited = search.passes(f64::INFINITY, Step::Probe)?;
    let mut rate = match unlimited {
        Ok(_) => f64::INFINITY,
        Err(trial) => search.bracket(trial)?,
    };
    for _ in 0..RETREATS {
        match search.passes(rate, Step::Confirm)? {
            Ok(trial) => return Ok(trial),
            Err(trial) => rate = rate.min(trial.sent_rate()) * RETREAT,
        }
    }
    anyhow::bail!("no rate down to {rate:.0} packets/s stays under a loss of {max_loss}")
}

struct Search<F> {
    max_loss: f64,
    attempt: F,
}

impl<F: FnMut(f64, Step) -> anyhow::Result<Trial>> Search<F> {
    /// `Ok` with the trial that passed, `Err` with the one that did not.
    fn passes(&mut self, rate: f64, step: Step) -> anyhow::Result<Result<Trial, Trial>> {
        let first = (self.attempt)(rate, step)?;
        if first.loss() <= self.max_loss {
            return Ok(Ok(first));
        }
        if first.loss() > HOPELESS_LOSS {
            return Ok(Err(first));
        }
        let second = (self.attempt)(rate, step)?;
        Ok(if second.loss() <= self.max_loss { Ok(second) } else { Err(second) })
    }

    /// The highest passing rate, to within the precision, below that of `failed`.
    fn bracket(&mut self, mut failed: Trial) -> anyhow::Result<f64> {
        let mut high = failed.sent_rate();
        let mut low = loop {
            let rate = below(&failed);
            anyhow::ensure!(rate > LOWEST_RATE, "even {rate:.0} packets/s lose more than {}", self.max_loss);
            match self.passes(rate, Step::Probe)? {
                Ok(_) => break rate,
                Err(trial) => (failed, high) = (trial, rate),
            }
        };
        while high / low > PRECISION {
            let middle = (low * high).sqrt();
            match self.passes(middle, Step::Probe)? {
                Ok(_) => low = middle,
                Err(_) => high = middle,
            }
        }
        Ok(low)
    }
}

/// The next lower rate to try: under overload, what arrives is close to what the path can carry.
fn below(failed: &Trial) -> f64 {
    let sent = failed.sent_rate();
    failed.delivered_rate().clamp(sent * 0.3, sent * 0.85)
}

#[cfg(test)]
mod tests {
    use super::{Step, Trial, highest_rate};

    /// A path that carries `capacity` packets/s, behind a sender that does a million.
    fn path(capacity: f64) -> impl FnMut(f64, Step) -> anyhow::Result<Trial> {
        move |rate, _| {
            let sent = rate.min(1e6);
            Ok(Trial {
                sent: sent as u64,
                received: sent.min(capacity) as u64,
                reordered: 0,
                seconds: 1.0,
                cpu_seconds: 0.0,
            })
        }
    }

    #[test]
    fn finds_the_capacity_of_slow_and_fast_paths() {
        for capacity in [900.0, 20_000.0, 437_000.0, 990_000.0] {
            let found = highest_rate(0.001, path(capacity)).unwrap().delivered_rate();
            assert!((0.93 * capacity..=capacity).contains(&found), "{found} of {capacity}");
        }
    }

    #[test]
    fn a_path_faster_than_the_sender_gives_the_senders_rate() {
        assert_eq!(highest_rate(0.001, path(5e6)).unwrap().received, 1_000_000);
    }

    #[test]
    fn a_path_that_always_loses_is_an_error() {
        let leaky = |rate: f64, _| {
            let sent = rate.min(1e6) as u64;
            Ok(Trial { sent, received: sent / 2, reordered: 0, seconds: 1.0, cpu_seconds: 0.0 })
        };
        assert!(highest_rate(0.001, leaky).is_err());
    }

    #[test]
    fn one_hiccup_does_not_halve_the_result() {
        let (mut path, mut attempts) = (path(400_000.0), 0);
        let hiccup = |rate, step| {
            attempts += 1;
            let mut trial: Trial = path(rate, step)?;
            if attempts == 2 {
                trial.received = trial.received * 99 / 100;
            }
            Ok(trial)
        };
        assert!(highest_rate(0.001, hiccup).unwrap().delivered_rate() > 0.93 * 400_000.0);
    }
}
