//! IP prefixes without host bits.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IPv4 or IPv6 prefix whose host bits are zero.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix of `len` bits that contains `address`; host bits are cleared.
    /// `None` when `len` exceeds the family's width.
    pub fn containing(address: IpAddr, len: u8) -> Option<Self> {
        IpNet::new(address, len).ok().map(|net| Self(net.trunc()))
    }

    /// The prefix that holds exactly `address`.
    pub fn host(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(a) => Self(IpNet::V4(Ipv4Net::from(a))),
            IpAddr::V6(a) => Self(IpNet::V6(Ipv6Net::from(a))),
        }
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.0.addr()
    }

    /// The last address.
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// The length in bits.
    #[expect(clippy::len_without_is_empty, reason = "a prefix always holds an address")]
    pub fn len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is a default route, 0.0.0.0/0 or ::/0.
    pub fn is_default(self) -> bool {
        self.len() == 0
    }

    /// Whether this is an IPv4 prefix.
    pub fn is_ipv4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether `address` lies in this prefix; never across families.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether `other` equals this prefix or is more specific; never across families.
    pub fn covers(self, other: Self) -> bool {
        self.0.contains(&other.0)
    }

    /// This prefix and those that cover it, the longest first.
    pub fn and_wider(self) -> impl Iterator<Item = Self> {
        (0..=self.len()).rev().filter_map(move |len| Self::containing(self.address(), len))
    }

    /// The prefixes that together hold the addresses of this one without those of `inner`; all of it where `inner`
    /// is not inside.
    pub fn without(self, inner: Self) -> impl Iterator<Item = Self> {
        let outside = (!self.covers(inner)).then_some(self);
        // At each step from this prefix towards the inner one, the half that is left behind.
        let steps = if self.covers(inner) { self.len()..inner.len() } else { 0..0 };
        let halves = steps.filter_map(move |len| Some((Self::containing(inner.address(), len)?, len + 1)));
        let halves = halves.flat_map(|(around, len)| around.0.subnets(len).into_iter().flatten().map(Self));
        outside.into_iter().chain(halves.filter(move |half| !half.covers(inner)))
    }

    /// The fewest prefixes that hold the same addresses.
    pub fn aggregate(prefixes: impl IntoIterator<Item = Self>) -> BTreeSet<Self> {
        let nets: Vec<IpNet> = prefixes.into_iter().map(|prefix| prefix.0).collect();
        IpNet::aggregate(&nets).into_iter().map(Self).collect()
    }

    /// First address and length when this is an IPv4 prefix.
    pub fn as_ipv4(self) -> Option<(Ipv4Addr, u8)> {
        match self.0 {
            IpNet::V4(net) => Some((net.addr(), net.prefix_len())),
            IpNet::V6(_) => None,
        }
    }

    /// First address and length when this is an IPv6 prefix.
    pub fn as_ipv6(self) -> Option<(Ipv6Addr, u8)> {
        match self.0 {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some((net.addr(), net.prefix_len())),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that is not a prefix, or one with host bits set.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum PrefixError {
    /// Not an address, a slash and a length the family allows.
    #[error(
        "\"{0}\" is not an IP prefix; write an address and a length like 10.244.1.0/24 (at most /32 for IPv4, /128 for IPv6)"
    )]
    Syntax(String),
    /// Bits behind the prefix length are set.
    #[error("\"{text}\" has host bits set; did you mean {masked}?")]
    HostBits {
        /// What was written.
        text: String,
        /// The same prefix with its host bits cleared.
        masked: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let net: IpNet = text.parse().map_err(|_| PrefixError::Syntax(text.to_owned()))?;
        let masked = Self(net.trunc());
        if net != masked.0 {
            return Err(PrefixError::HostBits { text: text.to_owned(), masked });
        }
        Ok(masked)
    }
}

#[cfg(test)]
mod tests {
    use super::{Prefix, PrefixError};

    #[test]
    fn text_must_be_a_masked_prefix() {
        let prefix: Prefix = "10.244.1.0/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.244.1.0/24");
        assert!(
            matches!("10.244.1.1/24".parse::<Prefix>(), Err(PrefixError::HostBits { masked, .. }) if masked == prefix)
        );
        for bad in ["10.0.0.0/33", "10.0.0.0", "::/129", "x/8", ""] {
            assert!(matches!(bad.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn a_part_is_taken_out_and_put_in_again() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let shown = |prefixes: &mut dyn Iterator<Item = Prefix>| {
            prefixes.map(|prefix| prefix.to_string()).collect::<Vec<_>>()
        };
        let (whole, part) = (prefix("10.244.0.0/16"), prefix("10.244.64.0/19"));
        let rest = ["10.244.128.0/17", "10.244.0.0/18", "10.244.96.0/19"];
        assert_eq!(shown(&mut whole.without(part)), rest);
        assert_eq!(Prefix::aggregate(whole.without(part).chain([part, part])), [whole].into());
        assert_eq!(whole.without(whole).count(), 0);
        for other in ["10.0.0.0/8", "10.245.0.0/24", "fd00::/64"] {
            assert_eq!(shown(&mut whole.without(prefix(other))), ["10.244.0.0/16"], "{other}");
        }
        let (all, one) = (prefix("::/0"), prefix("fd00::1/128"));
        assert_eq!(all.without(one).count(), 128);
        assert_eq!(Prefix::aggregate(all.without(one).chain([one])), [all].into());
    }

    #[test]
    fn containment_never_crosses_families() {
        let v4: Prefix = "0.0.0.0/0".parse().unwrap();
        let v6: Prefix = "::/0".parse().unwrap();
        assert!(!v4.covers(v6) && !v6.covers(v4));
        assert!(v4.contains("1.2.3.4".parse().unwrap()));
        assert!(!v4.contains("::1".parse().unwrap()));
        let a: Prefix = "10.0.0.0/8".parse().unwrap();
        let b: Prefix = "10.1.0.0/16".parse().unwrap();
        assert!(a.covers(b) && !b.covers(a) && a.covers(a));
    }
}
