//! What rules ask of addresses and ports, each different answer once.

use std::collections::HashMap;

use super::CompileError;
use super::cells::Cells;
use super::ranges::Ranges;
use super::things::{Asked, Things, small};
use crate::dataplane::policy::{PortList, PortRange};
use crate::policy::model::{Peer, Port};
use crate::wire::protocol;

/// Ranges of all sets together, at most: they take 8 bytes each.
const MOST_RANGES: usize = 16 << 20;

/// What a rule can ask of one end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wanted {
    /// Nothing.
    Anybody,
    /// To be in this set.
    Among(u32),
    /// What is never there.
    Nobody,
}

/// The sets, by what they are made of and by what is in them.
pub(super) struct Sets<'a> {
    things: &'a Things<'a>,
    cells: &'a Cells,
    selected: HashMap<Asked<'a>, Ranges>,
    peers: HashMap<&'a [Peer], Wanted>,
    numbers: HashMap<Ranges, u32>,
    sets: Vec<Ranges>,
    ranges: usize,
    port_numbers: HashMap<PortList, u32>,
    port_lists: Vec<PortList>,
}

impl<'a> Sets<'a> {
    /// No sets yet.
    pub(super) fn new(things: &'a Things<'a>, cells: &'a Cells) -> Self {
        Self {
            things,
            cells,
            selected: HashMap::new(),
            peers: HashMap::new(),
            numbers: HashMap::new(),
            sets: Vec::new(),
            ranges: 0,
            port_numbers: HashMap::new(),
            port_lists: Vec::new(),
        }
    }

    /// The sets as cells, and the lists of ports.
    pub(super) fn into_parts(self) -> (Vec<Ranges>, Vec<PortList>) {
        (self.sets, self.port_lists)
    }

    /// The set of these peers.
    pub(super) fn among(&mut self, peers: Option<&'a Vec<Peer>>) -> Result<Wanted, CompileError> {
        let Some(peers) = peers else { return Ok(Wanted::Anybody) };
        if let Some(known) = self.peers.get(peers.as_slice()) {
            return Ok(*known);
        }
        let each: Vec<Ranges> = peers.iter().map(|peer| self.cells_of(peer)).collect();
        let all = Ranges::of(each.iter().flat_map(Ranges::iter));
        let wanted = if all.is_empty() { Wanted::Nobody } else { Wanted::Among(self.number(all)?) };
        self.peers.insert(peers, wanted);
        Ok(wanted)
    }

    /// The list of these ports of a protocol; `None` where there are none.
    pub(super) fn ports(
        &mut self,
        ports: &'a [Port],
        protocol: Option<u8>,
    ) -> Result<Option<u32>, CompileError> {
        if ports.is_empty() {
            return Ok(None);
        }
        let mut list = Vec::new();
        for port in ports {
            match port {
                Port::Range(first, last) => {
                    list.push(PortRange { first: *first, last: *last, protocol: None, at: None });
                }
                Port::Named(name) => {
                    let things = self.things;
                    // Without a protocol a name is the port of whatever protocol an endpoint gives it, as with Calico.
                    let protocols = protocol.map_or(protocol::WITH_PORTS.to_vec(), |protocol| vec![protocol]);
                    for protocol in protocols {
                        let named = things.ports.get(&(name.as_str(), protocol));
                        for (port, kinds) in named.into_iter().flatten() {
                            let kinds = Ranges::of_numbers(kinds.iter().copied());
                            let at = Some(self.number(self.cells.of_things(&kinds))?);
                            list.push(PortRange { first: *port, last: *port, protocol: Some(protocol), at });
                        }
                    }
                }
            }
        }
        list.sort_unstable();
        list.dedup();
        let list = PortList::from(list);
        if let Some(number) = self.port_numbers.get(&list) {
            return Ok(Some(*number));
        }
        let number = small(self.port_lists.len()).unwrap_or(u32::MAX);
        self.port_numbers.insert(list.clone(), number);
        self.port_lists.push(list);
        Ok(Some(number))
    }

    fn cells_of(&mut self, peer: &'a Peer) -> Ranges {
        let mut cells = match Asked::of_peer(peer) {
            Some(asked) => self.selected(asked).clone(),
            None => Ranges::below(self.cells.count()),
        };
        if let Some(selector) = &peer.not_selector {
            cells = cells.without(self.selected(Asked::of_selector(selector)));
        }
        if !peer.nets.is_empty() {
            cells = cells.and(&self.cells.inside(&peer.nets));
        }
        if !peer.not_nets.is_empty() {
            cells = cells.without(&self.cells.inside(&peer.not_nets));
        }
        cells
    }

    fn selected(&mut self, asked: Asked<'a>) -> &Ranges {
        let (things, cells) = (self.things, self.cells);
        self.selected.entry(asked).or_insert_with(|| cells.of_things(&things.select(&asked)))
    }

    /// The number of a set.
    fn number(&mut self, set: Ranges) -> Result<u32, CompileError> {
        if let Some(number) = self.numbers.get(&set) {
            return Ok(*number);
        }
        self.ranges += set.iter().count();
        if self.ranges > MOST_RANGES {
            return Err(CompileError::TooManySets);
        }
        let number = small(self.sets.len()).unwrap_or(u32::MAX);
        self.numbers.insert(set.clone(), number);
        self.sets.push(set);
        Ok(number)
    }
}
