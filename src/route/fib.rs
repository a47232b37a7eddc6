//! The forwarding table: immutable, longest prefix match for IPv4 and IPv6.
//!
//! Prefixes nest or are disjoint, so the longest match is constant between neighbouring prefix
//! borders. The table stores these borders sorted; a lookup is one binary search.

use std::net::IpAddr;

use crate::net::{Mode, Prefix};

/// Index of a peer in the published peer list.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub u16);

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NextHop {
    /// This node's own pods: the kernel's business.
    Local,
    /// Another node.
    Peer(Via),
}

/// The way to a peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Via {
    /// The peer.
    pub peer: PeerId,
    /// How packets travel.
    pub mode: Mode,
    /// Bytes of the largest inner packet that fits the path.
    pub mtu: u16,
}

/// Longest-prefix-match table over both families.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    v4: Borders<u32>,
    v6: Borders<u128>,
    next_hops: Vec<NextHop>,
}

impl Fib {
    /// Builds the table. Of equal prefixes the last one wins.
    pub fn build(routes: impl IntoIterator<Item = (Prefix, NextHop)>) -> Self {
        let mut next_hops = NextHops::default();
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, next_hop) in routes {
            let id = next_hops.id(next_hop);
            if let Some((address, len)) = prefix.as_ipv4() {
                let first = u32::from(address);
                v4.push(Range { first, last: first | u32::MAX.checked_shr(len.into()).unwrap_or(0), id });
            } else if let Some((address, len)) = prefix.as_ipv6() {
                let first = u128::from(address);
                v6.push(Range { first, last: first | u128::MAX.checked_shr(len.into()).unwrap_or(0), id });
            }
        }
        Self { v4: Borders::build(v4), v6: Borders::build(v6), next_hops: next_hops.list }
    }

    /// The next hop of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<NextHop> {
        let id = match address {
            IpAddr::V4(a) => self.v4.lookup(a.into()),
            IpAddr::V6(a) => self.v6.lookup(a.into()),
        };
        self.next_hops.get(id as usize).copied()
    }
}

/// No next hop.
const NONE: u32 = u32::MAX;

/// Next hops with a small id each, equal ones sharing one.
#[derive(Default)]
struct NextHops {
    list: Vec<NextHop>,
    ids: std::collections::HashMap<NextHop, u32>,
}

impl NextHops {
    fn id(&mut self, next_hop: NextHop) -> u32 {
        *self.ids.entry(next_hop).or_insert_with(|| {
            self.list.push(next_hop);
            (self.list.len() - 1) as u32
        })
    }
}

/// One prefix as the inclusive range of its addresses.
struct Range<A> {
    first: A,
    last: A,
    id: u32,
}

/// An address as a number.
trait Address: Copy + Ord {
    fn successor(self) -> Option<Self>;
}

impl Address for u32 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn successor(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// `ids[i]` holds from `starts[i]` up to the next start.
#[derive(Clone, Debug)]
struct Borders<A> {
    starts: Vec<A>,
    ids: Vec<u32>,
}

impl<A> Default for Borders<A> {
    fn default() -> Self {
        Self { starts: Vec::new(), ids: Vec::new() }
    }
}

impl<A: Address> Borders<A> {
    fn build(mut ranges: Vec<Range<A>>) -> Self {
        // Outer before inner; stable, so of equal prefixes the last one is innermost.
        ranges.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        let mut borders = Self::default();
        let mut open: Vec<Range<A>> = Vec::new();
        for range in ranges {
            borders.close_before(&mut open, Some(range.first));
            borders.push(range.first, range.id);
            open.push(range);
        }
        borders.close_before(&mut open, None);
        borders
    }

    /// Ends every open range that lies before `next`; the one around it takes over again.
    fn close_before(&mut self, open: &mut Vec<Range<A>>, next: Option<A>) {
        while let Some(range) = open.pop_if(|range| next.is_none_or(|next| range.last < next)) {
            if let Some(after) = range.last.successor() {
                self.push(after, open.last().map_or(NONE, |outer| outer.id));
            }
        }
    }

    fn push(&mut self, start: A, id: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.ids.pop();
        }
        if self.ids.last() != Some(&id) {
            self.starts.push(start);
            self.ids.push(id);
        }
    }

    #[inline]
    fn lookup(&self, address: A) -> u32 {
        match self.starts.partition_point(|start| *start <= address) {
            0 => NONE,
            index => self.ids[index - 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::{Fib, NextHop, PeerId, Via};
    use crate::net::{Mode, Prefix};

    fn via(peer: u16) -> NextHop {
        NextHop::Peer(Via { peer: PeerId(peer), mode: Mode::Ipip, mtu: 1480 })
    }

    /// The oracle: look at every route, keep the longest, the later of equal ones.
    fn slow(routes: &[(Prefix, NextHop)], address: IpAddr) -> Option<NextHop> {
        let mut best: Option<(u8, NextHop)> = None;
        for (prefix, next_hop) in routes {
            if prefix.contains(address) && best.is_none_or(|(len, _)| prefix.len() >= len) {
                best = Some((prefix.len(), *next_hop));
            }
        }
        best.map(|(_, next_hop)| next_hop)
    }

    #[test]
    fn longest_prefix_wins_at_every_edge() {
        let routes: Vec<(Prefix, NextHop)> = [
            ("0.0.0.0/0", 9),
            ("10.0.0.0/8", 1),
            ("10.1.0.0/16", 2),
            ("10.1.2.64/26", 3),
            ("10.1.2.127/32", 4),
            ("255.255.255.255/32", 5),
            ("fd00::/8", 6),
            ("fd00:1::/32", 7),
        ]
        .map(|(prefix, peer)| (prefix.parse().unwrap(), via(peer)))
        .into();
        let fib = Fib::build(routes.clone());
        for address in [
            "0.0.0.0",
            "9.255.255.255",
            "10.0.0.0",
            "10.0.255.255",
            "10.1.0.0",
            "10.1.2.63",
            "10.1.2.64",
            "10.1.2.126",
            "10.1.2.127",
            "10.1.2.128",
            "10.1.255.255",
            "10.2.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "fc00::",
            "fd00::1",
            "fd00:1::1",
            "fd00:2::",
            "fe00::",
            "::",
        ] {
            let address = address.parse().unwrap();
            assert_eq!(fib.lookup(address), slow(&routes, address), "{address}");
        }
    }

    #[test]
    fn empty_table_has_no_route() {
        assert_eq!(Fib::default().lookup("10.0.0.1".parse().unwrap()), None);
        assert_eq!(Fib::default().lookup("::1".parse().unwrap()), None);
    }

    /// Prefixes and addresses from a small corner of the space, so that they nest and collide.
    fn address4() -> impl Strategy<Value = IpAddr> {
        (0u32..0x1ff).prop_map(|low| IpAddr::from((0x0a00_0000 | low << 20 | low).to_be_bytes()))
    }

    fn address6() -> impl Strategy<Value = IpAddr> {
        (0u128..0x1ff).prop_map(|low| IpAddr::from((0xfd << 120 | low << 90 | low).to_be_bytes()))
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(
            v4 in proptest::collection::vec((address4(), 0u8..=32, 0u16..6), 0..60),
            v6 in proptest::collection::vec((address6(), 0u8..=128, 0u16..6), 0..60),
            probes in proptest::collection::vec(prop_oneof![address4(), address6()], 200),
        ) {
            let routes: Vec<(Prefix, NextHop)> = v4.into_iter().chain(v6)
                .map(|(address, len, peer)| (Prefix::containing(address, len).unwrap(), via(peer)))
                .collect();
            let fib = Fib::build(routes.clone());
            for probe in probes {
                prop_assert_eq!(fib.lookup(probe), slow(&routes, probe));
            }
        }
    }
}
