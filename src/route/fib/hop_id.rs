//! What the parts of the table have in common: a prefix and the id of its next hop.

/// Small id of a next hop, so that it fits a word beside 48 bits of an address.
pub(super) type HopId = u16;
/// No next hop.
pub(super) const NONE: HopId = HopId::MAX;

/// One route of a family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<A> {
    pub(super) address: A,
    pub(super) len: u8,
    pub(super) hop: HopId,
}
