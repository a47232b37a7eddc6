//! The two versions of IP, and what there is one of for each.

use std::net::IpAddr;
use std::ops::{Index, IndexMut};

use crate::wire::ethernet;

/// A version of IP.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[inline]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The number in the first four bits of its packets.
    #[inline]
    pub const fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// The ethertype of its packets.
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => ethernet::IPV4,
            Self::V6 => ethernet::IPV6,
        }
    }
}

/// One value for each family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PerFamily<T>([T; 2]);

impl<T> PerFamily<T> {
    /// What `make` makes for each.
    pub fn from_fn(make: impl FnMut(Family) -> T) -> Self {
        Self([Family::V4, Family::V6].map(make))
    }

    /// What `change` makes of each.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerFamily<U> {
        PerFamily(self.0.map(change))
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    #[inline]
    fn index(&self, family: Family) -> &T {
        &self.0[family as usize]
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    #[inline]
    fn index_mut(&mut self, family: Family) -> &mut T {
        &mut self.0[family as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::{Family, PerFamily};

    #[test]
    fn each_family_has_its_own() {
        let ethertypes = PerFamily::from_fn(Family::ethertype);
        assert_eq!((ethertypes[Family::V4], ethertypes[Family::V6]), (0x0800, 0x86dd));
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert_eq!(addresses.map(Family::of), [Family::V4, Family::V6]);
        assert_eq!(ethertypes.map(|number| number == 0x0800), PerFamily([true, false]));
    }
}
