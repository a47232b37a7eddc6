//! The state of an offload.

use std::fmt;

/// Whether an offload works.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Offloaded {
    /// It does.
    Active,
    /// It does for some packets; the words follow "active" in the text form, as in " for vxlan".
    Partly(String),
    /// It does not, and why.
    Off(String),
}

impl Offloaded {
    /// One that does not work, for this reason.
    pub fn off(why: impl Into<String>) -> Self {
        Self::Off(why.into())
    }

    /// Whether it works for any packet.
    pub const fn is_active(&self) -> bool {
        matches!(self, Self::Active | Self::Partly(_))
    }
}

/// The text of `status`: `active`, `active` with an exception, or `off: ` and why.
impl fmt::Display for Offloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Partly(except) => write!(f, "active{except}"),
            Self::Off(why) => write!(f, "off: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Offloaded;

    #[test]
    fn the_texts_of_status() {
        let states = [
            (Offloaded::Active, "active", true),
            (Offloaded::Partly(" for vxlan".to_owned()), "active for vxlan", true),
            (Offloaded::off("configured"), "off: configured", false),
        ];
        for (state, text, active) in states {
            assert_eq!((state.to_string().as_str(), state.is_active()), (text, active));
        }
    }
}
