//! Changes of routes as they are handed in: checked one by one, kept compactly, applied together.
//!
//! A million changes take 16 MB: nodes are named once for each different set of them, and an entry
//! refers to that set.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::Prefix;

/// Changes of routes, each prefix at most once.
#[derive(Debug)]
pub struct Batch {
    v4: Vec<Entry<u32>>,
    v6: Vec<Entry<u128>>,
    nodes: Vec<Nodes>,
    ids: HashMap<Box<str>, u16>,
    places: Places,
}

/// How the place of a change is named to whoever wrote it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Places {
    /// Lines of a text.
    Lines,
    /// Elements of the lists `add` and `del`.
    Lists,
    /// There is one change only.
    Alone,
}

/// Several nodes that own a prefix together, as written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nodes {
    /// Their names, separated by commas.
    pub names: Box<str>,
    /// Where they were first written.
    pub place: u32,
}

/// One change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// The addresses.
    pub prefix: Prefix,
    /// What becomes of them.
    pub to: Option<To>,
    /// Where it was written.
    pub place: u32,
}

/// What a route becomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct To {
    /// Index into [`Batch::nodes`].
    pub nodes: u16,
    /// The route's own limit of the MTU in bytes.
    pub mtu: Option<u16>,
}

/// [`Change`] of one family, 16 bytes in IPv4.
#[derive(Clone, Copy, Debug)]
struct Entry<A> {
    address: A,
    place: u32,
    /// Index of its nodes; [`DELETE`] for none.
    nodes: u16,
    /// 0: no limit.
    mtu: u16,
    len: u8,
}

const DELETE: u16 = u16::MAX;

/// More different sets of nodes than can be numbered.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("more than 65535 different sets of nodes; use fewer combinations")]
pub struct TooManySets;

impl Batch {
    /// No changes yet.
    pub fn new(places: Places) -> Self {
        Self { v4: Vec::new(), v6: Vec::new(), nodes: Vec::new(), ids: HashMap::new(), places }
    }

    /// Adds a route to `names`, node names separated by commas.
    ///
    /// # Errors
    /// [`TooManySets`].
    pub fn add(
        &mut self,
        prefix: Prefix,
        names: &str,
        mtu: Option<u16>,
        place: u32,
    ) -> Result<(), TooManySets> {
        let nodes = match self.ids.get(names) {
            Some(id) => *id,
            None => self.name(names, place)?,
        };
        self.push(prefix, nodes, mtu.unwrap_or(0), place);
        Ok(())
    }

    /// Adds the removal of a route.
    pub fn del(&mut self, prefix: Prefix, place: u32) {
        self.push(prefix, DELETE, 0, place);
    }

    fn name(&mut self, names: &str, place: u32) -> Result<u16, TooManySets> {
        let id = u16::try_from(self.nodes.len()).ok().filter(|id| *id != DELETE).ok_or(TooManySets)?;
        self.nodes.push(Nodes { names: names.into(), place });
        self.ids.insert(names.into(), id);
        Ok(id)
    }

    fn push(&mut self, prefix: Prefix, nodes: u16, mtu: u16, place: u32) {
        let len = prefix.len();
        match prefix.address() {
            IpAddr::V4(address) => {
                self.v4.push(Entry { address: address.to_bits(), place, nodes, mtu, len });
            }
            IpAddr::V6(address) => {
                self.v6.push(Entry { address: address.to_bits(), place, nodes, mtu, len });
            }
        }
    }

    /// Puts the changes in the order of their prefixes.
    pub fn sort(&mut self) {
        self.v4.sort_unstable_by_key(|entry| (entry.address, entry.len, entry.place));
        self.v6.sort_unstable_by_key(|entry| (entry.address, entry.len, entry.place));
    }

    /// Leaves out the changes that `keep` says no to.
    pub fn retain(&mut self, mut keep: impl FnMut(Change) -> bool) {
        let v4 = |entry: &Entry<u32>| entry.change(Ipv4Addr::from_bits(entry.address).into());
        let v6 = |entry: &Entry<u128>| entry.change(Ipv6Addr::from_bits(entry.address).into());
        self.v4.retain(|entry| v4(entry).is_some_and(&mut keep));
        self.v6.retain(|entry| v6(entry).is_some_and(&mut keep));
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The different sets of nodes.
    pub fn nodes(&self) -> &[Nodes] {
        &self.nodes
    }

    /// The changes; after [`Batch::sort`] in the order of their prefixes, IPv4 first.
    pub fn changes(&self) -> impl Iterator<Item = Change> + '_ {
        let v4 = self.v4.iter().filter_map(|entry| entry.change(Ipv4Addr::from_bits(entry.address).into()));
        let v6 = self.v6.iter().filter_map(|entry| entry.change(Ipv6Addr::from_bits(entry.address).into()));
        v4.chain(v6)
    }

    /// A place in words.
    pub fn place(&self, place: u32, delete: bool) -> String {
        match (self.places, delete) {
            (Places::Lines, _) => format!("line {place}"),
            (Places::Lists, false) => format!("add[{place}]"),
            (Places::Lists, true) => format!("del[{place}]"),
            (Places::Alone, _) => "the only change".to_owned(),
        }
    }

    /// A place as it precedes what is wrong there.
    pub fn lead(&self, place: u32, delete: bool) -> String {
        if self.places == Places::Alone { String::new() } else { self.place(place, delete) + ": " }
    }
}

impl<A: Copy> Entry<A> {
    fn change(&self, address: IpAddr) -> Option<Change> {
        let to = (self.nodes != DELETE)
            .then_some(To { nodes: self.nodes, mtu: (self.mtu > 0).then_some(self.mtu) });
        Some(Change { prefix: Prefix::containing(address, self.len)?, to, place: self.place })
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Entry, Places};

    #[test]
    fn changes_come_in_the_order_of_their_prefixes() {
        let mut batch = Batch::new(Places::Lines);
        batch.add("fd00::/16".parse().unwrap(), "a", None, 1).unwrap();
        batch.del("10.2.0.0/16".parse().unwrap(), 2);
        batch.add("10.0.0.0/8".parse().unwrap(), "a,b", Some(1400), 3).unwrap();
        batch.add("10.0.0.0/16".parse().unwrap(), "a", None, 4).unwrap();
        batch.sort();
        let changes: Vec<_> = batch.changes().map(|change| change.place).collect();
        assert_eq!(changes, [3, 4, 2, 1]);
        let names: Vec<_> = batch.nodes().iter().map(|nodes| (&*nodes.names, nodes.place)).collect();
        assert_eq!(names, [("a", 1), ("a,b", 3)]);
        assert_eq!(batch.changes().next().unwrap().to.unwrap().mtu, Some(1400));
    }

    #[test]
    fn a_million_changes_fit() {
        assert_eq!(size_of::<Entry<u32>>(), 16);
    }
}
