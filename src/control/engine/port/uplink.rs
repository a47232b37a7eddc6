//! The interface to the network between the nodes.

use crate::net::Mac;

/// The interface that owns the node address, or where that one is `lo` or a dummy, one that leads to the peers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Uplink {
    /// Interface name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Prefix length of the node address as the kernel has it.
    pub prefix_len: u8,
    /// Its link address, when it has an Ethernet one.
    pub mac: Option<Mac>,
    /// Whether the node address is on an interface that no packet leaves by.
    pub dead_end: bool,
}

impl Uplink {
    /// Its MTU as IP packets can use it, in bytes.
    pub fn packet_mtu(&self) -> u16 {
        u16::try_from(self.mtu).unwrap_or(u16::MAX)
    }

    /// A warning when the configured prefix length is another one than the kernel's: CrossSubnet
    /// goes by the configured one.
    pub fn prefix_warning(&self, configured: u8) -> Option<String> {
        (self.prefix_len != configured).then(|| {
            format!(
                "the node address has prefix length {} on {}, but the configuration says {configured}; CrossSubnet goes by /{configured}, correct `address` under [node] if that is not meant",
                self.prefix_len, self.name
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Uplink;

    #[test]
    fn prefix_warning_only_when_they_differ() {
        let uplink =
            Uplink { name: "eth0".to_owned(), index: 2, mtu: 1500, prefix_len: 24, ..Uplink::default() };
        assert_eq!(uplink.prefix_warning(24), None);
        let text = uplink.prefix_warning(16).unwrap();
        assert!(
            text.contains("prefix length 24 on eth0") && text.contains("CrossSubnet goes by /16"),
            "{text}"
        );
        assert_eq!(Uplink { mtu: 70_000, ..uplink }.packet_mtu(), u16::MAX);
    }
}
