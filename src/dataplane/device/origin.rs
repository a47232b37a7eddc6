//! Where a device comes from.

/// Where a device comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// We make it; there must be none of its name.
    New,
    /// An administrator has made it for us, or we did a moment ago.
    Prepared,
}
