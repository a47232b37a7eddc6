//! Ethernet addresses and the VTEP address rule.

use std::fmt;
use std::str::FromStr;

use sha1::{Digest, Sha1};

/// A 48-bit Ethernet address in wire order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The VTEP address of the node `name`: 0x66 followed by the first five bytes of
    /// sha1(name). Calico's rule (`felix/calc/vxlan_resolver.go`), so no address need be
    /// distributed.
    pub fn of_vtep(name: &str) -> Self {
        let hash = Sha1::digest(name.as_bytes());
        let mut octets = [0x66; 6];
        octets[1..].copy_from_slice(&hash[..5]);
        Self(octets)
    }

    /// Whether this can be the address of one interface: not a group address, not zero.
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Text that is not a unicast Ethernet address.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"{0}\" is not a unicast MAC address; write six hexadecimal bytes like 66:0a:1b:2c:3d:4e")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        let mac = Self(octets);
        if parts.next().is_some() || !mac.is_unicast() {
            return Err(error());
        }
        Ok(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::Mac;

    #[test]
    fn vtep_rule_is_calicos() {
        // `printf node-a | sha1sum` begins with 0702c1cc60.
        let mac = Mac::of_vtep("node-a");
        assert_eq!(mac, Mac([0x66, 0x07, 0x02, 0xc1, 0xcc, 0x60]));
        assert!(mac.is_unicast());
    }

    #[test]
    fn text_round_trip() {
        let mac: Mac = "66:0a:1B:2c:3d:4e".parse().unwrap();
        assert_eq!(mac.to_string(), "66:0a:1b:2c:3d:4e");
        for bad in [
            "",
            "66",
            "66:0a:1b:2c:3d",
            "66:0a:1b:2c:3d:4e:5f",
            "01:00:5e:00:00:01",
            "6:0a:1b:2c:3d:4e",
            "+6:0a:1b:2c:3d:4e",
            "00:00:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
