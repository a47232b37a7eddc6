//! What programs ask of the kernel for a packet. An older one may not do all of it (`bpf_skb_adjust_room`).

use std::fmt;

use super::record::Record;
use super::words::format;
use crate::dataplane::packet::{Direction, Family};
use crate::net::Mode;

/// What is done with the headers of packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    mode: Mode,
    /// IPv4 where there are no outer headers.
    outer: Family,
    direction: Direction,
    inner: Family,
}

impl Way {
    /// All that there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let [vxlan, ipip] =
            [Mode::Vxlan, Mode::Ipip].map(|mode| [Family::V4, Family::V6].map(|outer| (mode, outer)));
        let formats = vxlan.into_iter().chain(ipip).chain([(Mode::Direct, Family::V4)]);
        let inside = [Direction::Outbound, Direction::Inbound]
            .map(|direction| [Family::V4, Family::V6].map(|inner| (direction, inner)));
        formats.flat_map(move |(mode, outer)| {
            inside.into_iter().flatten().map(move |(direction, inner)| Self { mode, outer, direction, inner })
        })
    }

    /// That of a flow.
    pub(super) fn of(record: &Record) -> Self {
        let key = &record.key;
        let inner = Family::of(key.source);
        Self { mode: record.mode, outer: record.outer, direction: key.direction, inner }
    }

    /// A bit of its own.
    pub(super) fn bit(self) -> u32 {
        let inner = u32::from(self.inner == Family::V6);
        1 << (format(self.mode, self.outer) as u32 * 4 + self.direction as u32 * 2 + inner)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Outbound => "out",
            Direction::Inbound => "in",
        };
        let over = if self.outer == Family::V6 { " over IPv6" } else { "" };
        write!(f, "{}{over} {direction}, IPv{}", self.mode, self.inner.version())
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
        assert!(names.contains("ipip over IPv6 in, IPv4"), "{names:?}");
    }
}
