//! How super-packets leave towards a peer: whole through the TAP, or cut through sockets. The control plane
//! decides it for each interface; every peer behind that interface shares the answer.

use crate::net::Mode;

/// What leaves how by one interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Way {
    /// Name of the interface.
    pub interface: String,
    /// Super-packets in VXLAN.
    pub vxlan: Choice,
    /// Super-packets in IP-in-IP; IPv4 inside.
    pub ipip: Choice,
}

/// One decision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice {
    /// Whether they go whole to the TAP.
    pub tap: bool,
    /// The reason, in words.
    pub why: String,
}

impl Choice {
    /// The TAP.
    pub fn tap(why: impl Into<String>) -> Self {
        Self { tap: true, why: why.into() }
    }

    /// Sockets.
    pub fn socket(why: impl Into<String>) -> Self {
        Self { tap: false, why: why.into() }
    }
}

impl Way {
    /// The decision for `mode`; `None` for one that does not encapsulate.
    pub fn choice(&self, mode: Mode) -> Option<&Choice> {
        match mode {
            Mode::Vxlan => Some(&self.vxlan),
            Mode::Ipip => Some(&self.ipip),
            Mode::Direct => None,
        }
    }

    /// The same to change.
    pub fn choice_mut(&mut self, mode: Mode) -> Option<&mut Choice> {
        match mode {
            Mode::Vxlan => Some(&mut self.vxlan),
            Mode::Ipip => Some(&mut self.ipip),
            Mode::Direct => None,
        }
    }
}
