//! VXLAN network identifiers.

use std::fmt;

/// A 24-bit VXLAN Network Identifier (RFC 7348 §5).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vni(u32);

impl Vni {
    /// Calico's default.
    pub const CALICO: Self = Self(4096);

    /// The identifier as a number below 2^24.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number that does not fit in 24 bits.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("VNI {0} is out of range; a VXLAN network identifier has 24 bits (0 to 16777215)")]
pub struct VniError(i64);

impl TryFrom<i64> for Vni {
    type Error = VniError;

    fn try_from(number: i64) -> Result<Self, VniError> {
        match u32::try_from(number) {
            Ok(vni) if vni < 1 << 24 => Ok(Self(vni)),
            _ => Err(VniError(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Vni;

    #[test]
    fn has_24_bits() {
        assert_eq!(Vni::try_from(0xff_ffff).unwrap().get(), 0xff_ffff);
        assert!(Vni::try_from(1 << 24).is_err());
        assert!(Vni::try_from(-1).is_err());
    }
}
