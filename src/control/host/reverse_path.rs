//! Strict reverse path filtering (RFC 3704), and what it has dropped.

use std::fs;

use super::{Host, sysctl};
use crate::control::engine::port::Sysctl;

/// The filter as it is now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReversePath {
    /// Whether it is strict on the interface: the kernel uses the larger of two values; 1 is strict.
    pub strict: bool,
    /// Packets it has dropped on all interfaces (`IPReversePathFilter`).
    pub dropped: u64,
}

impl Host {
    /// Looks at the filter of the interface `name`.
    pub fn reverse_path(&self, name: &str) -> ReversePath {
        let strict = sysctl::effective(Sysctl::ReversePath, name) == Some(1);
        // One that is not strict drops nothing of interest, and the file is long.
        let text = if strict { fs::read_to_string(COUNTERS).unwrap_or_default() } else { String::new() };
        ReversePath { strict, dropped: dropped(&text).unwrap_or(0) }
    }
}

/// The counter in lines of names and values.
fn dropped(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "IPReversePathFilter").and_then(|(_, value)| value.parse().ok())
}

const COUNTERS: &str = "/proc/net/netstat";

#[cfg(test)]
mod tests {
    use super::dropped;

    #[test]
    fn the_counter_is_found_by_its_name() {
        let text =
            "TcpExt: SyncookiesSent IPReversePathFilter X\nTcpExt: 1 23 4\nIpExt: InNoRoutes\nIpExt: 5\n";
        assert_eq!(dropped(text), Some(23));
        assert_eq!(dropped("TcpExt: A\nTcpExt: 1\n"), None);
        assert_eq!(dropped(""), None);
    }
}
