//! The table of routes used for something else: a small number for each prefix.

use std::fmt;
use std::net::IpAddr;

use super::hop_id::NONE;
use super::table::{Snapshot, Table};
use crate::net::Prefix;

/// Longest-prefix match to numbers below [`PrefixTable::LIMIT`]; immutable, cheap to clone.
#[derive(Clone, Default)]
pub struct PrefixTable {
    v4: Snapshot,
    v6: Snapshot,
}

impl PrefixTable {
    /// Numbers are below this.
    pub const LIMIT: usize = NONE as usize;

    /// The table of these prefixes; of equal ones the last counts.
    pub fn new(numbers: impl IntoIterator<Item = (Prefix, u16)>) -> Self {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (prefix, number) in numbers {
            match prefix.address() {
                IpAddr::V4(address) => first.push(((address.to_bits(), prefix.len()), number)),
                IpAddr::V6(address) => second.push(((address.to_bits(), prefix.len()), number)),
            }
        }
        let (mut v4, mut v6) = (Table::<u32>::default(), Table::<u128>::default());
        v4.replace(first);
        v6.replace(second);
        Self { v4: v4.snapshot(), v6: v6.snapshot() }
    }

    /// The number of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<u16> {
        let number = match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        };
        (number != NONE).then_some(number)
    }
}

impl fmt::Debug for PrefixTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrefixTable").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::PrefixTable;

    #[test]
    fn the_longest_prefix_has_the_number() {
        let numbers =
            [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3), ("fd00::/8", 4), ("fd00::7/128", 5)];
        let table = PrefixTable::new(numbers.map(|(prefix, number)| (prefix.parse().unwrap(), number)));
        for (address, expected) in [
            ("10.2.0.1", Some(1)),
            ("10.1.2.2", Some(2)),
            ("10.1.2.3", Some(3)),
            ("11.0.0.1", None),
            ("fd00::1", Some(4)),
            ("fd00::7", Some(5)),
            ("fe00::", None),
        ] {
            assert_eq!(table.lookup(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(PrefixTable::default().lookup("10.0.0.1".parse().unwrap()), None);
    }
}
