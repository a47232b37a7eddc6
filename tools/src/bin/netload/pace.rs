//! Sending at a steady rate.

use std::time::{Duration, Instant};

/// Most packets in one system call.
pub const BATCH: usize = 32;
/// Longest sleep between two looks at the clock.
const NAP: Duration = Duration::from_micros(100);

/// How fast, and how long.
pub struct Pace {
    /// Packets per second; infinite: as fast as it can.
    pub rate: f64,
    /// A sender that was kept from running does not make up for more than this, in seconds.
    pub longest_burst: f64,
    /// When it ends.
    pub duration: Duration,
    /// Packets after which it ends before that.
    pub most: u64,
}

/// Lets `send` send at this pace.
/// It gets the number of the next packet and how many are due, [`BATCH`] at most, and returns how many numbers it has
/// used up. The result is the number of packets, and the seconds that it took.
///
/// # Errors
/// Those of `send`.
pub fn send_for(
    Pace { rate, longest_burst, duration, most }: Pace,
    mut send: impl FnMut(u64, usize) -> anyhow::Result<u64>,
) -> anyhow::Result<(u64, f64)> {
    let (begun, mut sent, mut forgiven) = (Instant::now(), 0, 0.0);
    loop {
        let elapsed = begun.elapsed();
        if (elapsed >= duration && sent > 0) || sent >= most {
            return Ok((sent, elapsed.as_secs_f64()));
        }
        let mut due = rate * elapsed.as_secs_f64() - forgiven - sent as f64;
        let burst = (rate * longest_burst).max(BATCH as f64);
        if rate.is_finite() && due > burst {
            forgiven += due - burst;
            due = burst;
        }
        if due >= 1.0 {
            let count = (due.min(BATCH as f64) as usize).min(usize::try_from(most - sent).unwrap_or(BATCH));
            sent += send(sent, count)?;
        } else if rate.is_finite() {
            std::thread::sleep(NAP.min(Duration::from_secs_f64(1.0 / rate)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BATCH, Pace, send_for};

    fn pace(rate: f64, milliseconds: u64, most: u64) -> Pace {
        Pace { rate, longest_burst: 0.001, duration: Duration::from_millis(milliseconds), most }
    }

    #[test]
    fn no_more_than_asked_for_and_no_faster() {
        let mut numbers = Vec::new();
        let mut send = |first: u64, count: usize| {
            assert!((1..=BATCH).contains(&count));
            numbers.extend(first..first + count as u64);
            Ok(count as u64)
        };
        let (sent, seconds) = send_for(pace(10_000.0, 60_000, 101), &mut send).unwrap();
        assert_eq!(sent, 101);
        // A burst may be ahead.
        assert!(seconds >= 0.006, "{seconds}");
        assert_eq!(numbers, (0..101).collect::<Vec<u64>>());
        let (sent, seconds) = send_for(pace(1000.0, 50, u64::MAX), |_, _| Ok(1)).unwrap();
        assert!((1..=51).contains(&sent), "{sent} in {seconds} s");
    }
}
