//! The other nodes by name and address, and the numbers that routes know them by.
//!
//! A number stays the same for as long as its node is known. The place of a node that went is
//! given to the next one once nothing refers to it: its routes go with it, and the table without
//! them is published before the place is free.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use crate::net::Prefix;
use crate::route::PeerId;

/// Who is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    names: HashMap<Box<str>, PeerId>,
    /// Every node's underlay address; `None` is this node.
    addresses: BTreeMap<IpAddr, Option<PeerId>>,
    /// What each node was given as its own when it was made known; indexed by [`PeerId`].
    subnets: Vec<Box<[Prefix]>>,
    free: Vec<PeerId>,
}

impl Roster {
    /// Only this node, at `own`.
    pub(crate) fn new(own: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { addresses: own.into_iter().map(|address| (address, None)).collect(), ..Self::default() }
    }

    /// The place of the next node; `None` when all are taken.
    pub(crate) fn next(&self) -> Option<PeerId> {
        let fresh = || u16::try_from(self.subnets.len()).ok().map(PeerId);
        self.free.last().copied().or_else(fresh)
    }

    /// Adds a node at the place [`Roster::next`] gave.
    pub(crate) fn add(
        &mut self,
        id: PeerId,
        name: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
        subnets: &[Prefix],
    ) {
        self.free.retain(|free| *free != id);
        self.names.insert(name.into(), id);
        self.addresses.extend(addresses.into_iter().map(|address| (address, Some(id))));
        let place = usize::from(id.0);
        if place >= self.subnets.len() {
            self.subnets.resize(place + 1, Box::default());
        }
        self.subnets[place] = subnets.into();
    }

    /// Removes nodes; their places are not free yet.
    pub(crate) fn remove<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let gone: HashSet<PeerId> = names.into_iter().filter_map(|name| self.names.remove(name)).collect();
        for id in &gone {
            self.subnets[usize::from(id.0)] = Box::default();
        }
        // Once, however many go: a cluster has thousands.
        self.addresses.retain(|_, whose| whose.is_none_or(|id| !gone.contains(&id)));
    }

    /// Says that nothing refers to the place of a removed node any more.
    pub(crate) fn release(&mut self, id: PeerId) {
        self.free.push(id);
    }

    /// The number of a node.
    pub(crate) fn id(&self, name: &str) -> Option<PeerId> {
        self.names.get(name).copied()
    }

    /// The number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// What a node was given as its own when it was made known.
    pub(crate) fn subnets(&self, id: PeerId) -> &[Prefix] {
        self.subnets.get(usize::from(id.0)).map_or(&[], |subnets| subnets)
    }

    /// The node whose underlay address is `address`; `Some(None)` is this node.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Option<PeerId>> {
        self.addresses.get(&address).copied()
    }

    /// The first underlay address in `prefix`, and whose it is.
    pub(crate) fn within(&self, prefix: Prefix) -> Option<(IpAddr, Option<PeerId>)> {
        let range = prefix.address()..=prefix.last();
        self.addresses.range(range).next().map(|(address, id)| (*address, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::Roster;
    use crate::route::PeerId;

    #[test]
    fn places_are_given_again_once_released() {
        let mut roster = Roster::new(["192.0.2.1".parse().unwrap()]);
        for (n, name) in ["b", "c"].iter().enumerate() {
            assert_eq!(roster.next(), Some(PeerId(n as u16)));
            let address = format!("192.0.2.{}", n + 2).parse().unwrap();
            roster.add(PeerId(n as u16), name, [address], &["10.2.0.0/24".parse().unwrap()]);
        }
        assert_eq!(roster.within("192.0.2.0/24".parse().unwrap()).unwrap().1, None);
        assert_eq!(roster.within("192.0.2.2/31".parse().unwrap()).unwrap().1, Some(PeerId(0)));
        assert_eq!(roster.within("192.0.2.8/29".parse().unwrap()), None);
        roster.remove(["b", "unknown"]);
        assert_eq!((roster.id("b"), roster.id("c"), roster.len()), (None, Some(PeerId(1)), 1));
        assert_eq!(roster.next(), Some(PeerId(2)), "not before its release");
        roster.release(PeerId(0));
        assert_eq!(roster.next(), Some(PeerId(0)));
        roster.add(PeerId(0), "d", ["192.0.2.2".parse().unwrap()], &[]);
        assert_eq!((roster.next(), roster.subnets(PeerId(0))), (Some(PeerId(2)), &[][..]));
    }
}
