//! Making forwarding tables.

use super::hops::{HopTable, Hops, HopsFull, MOST, PeerId, Ways};
use super::lookup::Fib;
use super::table::Table;
use crate::net::{Mode, Prefix};

/// A forwarding table that is edited; [`FibEditor::fib`] takes an immutable one from it.
#[derive(Default)]
pub struct FibEditor {
    v4: Table<u32>,
    v6: Table<u128>,
    hops: Hops,
    /// The next hops, unless they changed since.
    table: Option<HopTable>,
}

/// Routes of one family, as its table takes them.
type Routes<A, T> = Vec<((A, u8), T)>;
/// Those of both families.
type Split<T> = (Routes<u32, T>, Routes<u128, T>);

impl FibEditor {
    /// Sets (`Some`) or removes (`None`) the routes of some prefixes; of equal ones the last counts.
    ///
    /// # Errors
    /// When there are more different next hops than ids; nothing has changed then.
    pub fn apply(
        &mut self,
        changes: impl IntoIterator<Item = (Prefix, Option<Ways>)>,
    ) -> Result<(), HopsFull> {
        let known = self.hops.len();
        let mut id = |ways: Option<Ways>| ways.map(|ways| self.hops.id(ways)).transpose();
        let (v4, v6) = split(changes.into_iter().map(|(prefix, ways)| Ok((prefix, id(ways)?))))?;
        if self.hops.len() != known {
            self.table = None;
        }
        self.v4.apply(&v4);
        self.v6.apply(&v6);
        Ok(())
    }

    /// Replaces all routes, and forgets next hops that none of them uses.
    ///
    /// # Errors
    /// When there are more different next hops than ids; nothing has changed then.
    pub fn replace(&mut self, routes: impl IntoIterator<Item = (Prefix, Ways)>) -> Result<(), HopsFull> {
        let mut hops = Hops::default();
        let (v4, v6) = split(routes.into_iter().map(|(prefix, ways)| Ok((prefix, hops.id(ways)?))))?;
        (self.hops, self.table) = (hops, None);
        self.v4.replace(v4);
        self.v6.replace(v6);
        Ok(())
    }

    /// Whether ids are left for so many more different next hops.
    pub fn has_room_for(&self, more: usize) -> bool {
        self.hops.len() + more <= MOST
    }

    /// The peers that packets go to by `mode`, at least; some may be of routes that are gone.
    pub fn reached(&self, mode: Mode) -> impl Iterator<Item = PeerId> + '_ {
        self.hops.reached(mode)
    }

    /// The number of routes.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that MTUs changed.
    pub fn forget_mtus(&mut self) {
        self.table = None;
    }

    /// The table as it is now; `mtu` gives the largest inner packet, in bytes, for a peer and mode.
    pub fn fib(&mut self, mtu: impl Fn(PeerId, Mode) -> u16) -> Fib {
        let hops = self.table.get_or_insert_with(|| self.hops.table(mtu)).clone();
        Fib { v4: self.v4.snapshot(), v6: self.v6.snapshot(), hops }
    }
}

/// Sorts routes by family.
fn split<T>(routes: impl Iterator<Item = Result<(Prefix, T), HopsFull>>) -> Result<Split<T>, HopsFull> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for route in routes {
        let (prefix, route) = route?;
        match (prefix.as_ipv4(), prefix.as_ipv6()) {
            (Some((address, len)), _) => v4.push(((address.to_bits(), len), route)),
            (_, Some((address, len))) => v6.push(((address.to_bits(), len), route)),
            (None, None) => {}
        }
    }
    Ok((v4, v6))
}
