//! What programs ask of the kernel for a packet. An older one may not do all of it (`bpf_skb_adjust_room`).

use std::fmt;

use super::slot::{Record, format};
use crate::dataplane::packet::Direction;
use crate::net::Mode;

/// What is done with the headers of packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    mode: Mode,
    direction: Direction,
    is_ipv6: bool,
}

impl Way {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let modes = [Mode::Vxlan, Mode::Ipip, Mode::Direct].into_iter();
        let directed =
            modes.flat_map(|mode| [Direction::Outbound, Direction::Inbound].map(|way| (mode, way)));
        directed.flat_map(|(mode, direction)| [false, true].map(|is_ipv6| Self { mode, direction, is_ipv6 }))
    }

    /// That of a flow.
    pub(super) fn of(record: &Record) -> Self {
        let key = &record.key;
        Self { mode: record.mode, direction: key.direction, is_ipv6: key.source.is_ipv6() }
    }

    /// A bit of its own.
    pub(super) fn bit(self) -> u32 {
        1 << (format(self.mode) as u32 * 4 + self.direction as u32 * 2 + u32::from(self.is_ipv6))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Outbound => "out",
            Direction::Inbound => "in",
        };
        write!(f, "{} {direction}, IPv{}", self.mode, if self.is_ipv6 { 6 } else { 4 })
    }
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn each_has_a_bit_and_a_name_of_its_own() {
        let all: Vec<Way> = Way::all().collect();
        assert_eq!(all.iter().fold(0, |bits, way| bits | way.bit()).count_ones() as usize, all.len());
        let names: std::collections::HashSet<String> = all.iter().map(Way::to_string).collect();
        assert!(names.len() == all.len() && names.contains("vxlan out, IPv4"), "{names:?}");
    }
}
