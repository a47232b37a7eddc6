//! Masquerading: the table of nftables by which what leaves the cluster from pods gets this node's address.

use std::collections::BTreeSet;

use crate::net::Prefix;

/// What the table does, in whatever words. Prefixes of a set have no address in common.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NatRules {
    /// Name of the TUN: what the kernel leads into it stays in the cluster.
    pub device: String,
    /// Sources that are masqueraded, of either family.
    pub pods: BTreeSet<Prefix>,
    /// Destinations that pods reach with their own addresses, of the families of `pods`.
    pub cluster: BTreeSet<Prefix>,
    /// UDP ports on which nodes take tunnel packets: one that a pod makes must not come from a node's address.
    pub tunnel_ports: BTreeSet<u16>,
    /// Whether packets of pods come out of the TUN again before they leave. The kernel knows their connections by
    /// then, and as ones without masquerading: they get a zone of their own where they come out.
    pub by_tun: bool,
}

impl NatRules {
    /// Protocols of tunnels, which pass as they are as well: IP-in-IP, IPv6-in-IP, GRE.
    pub const TUNNELS: [u32; 3] = [4, 41, 47];
    /// The zone of connections that leave by the TUN, in their first direction: answers belong to no zone.
    pub const ZONE: u16 = 117;
}

/// What there is in the table's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NatView {
    /// No table.
    Absent,
    /// The table that makes these rules, as the daemon writes it.
    Rules(NatRules),
    /// A table that somebody has changed.
    Other,
    /// That cannot be seen.
    Unseen(Blind),
}

impl NatView {
    /// Whether there is a table.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::Rules(_) | Self::Other)
    }
}

/// Why the table cannot be seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Blind {
    /// Without CAP_NET_ADMIN the kernel shows none.
    Denied,
    /// The kernel has no nf_tables.
    NoNftables,
    /// `nft` did not say, and why.
    Nft(String),
}

/// The table of the daemon whose TUN is configured as `device`, in the family `inet`: each daemon of a host has its
/// own.
pub fn nat_table(device: &str) -> String {
    // What nft takes as a name without quotes, so that commands can be copied.
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
    format!("underpass-{}", device.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::nat_table;

    #[test]
    fn a_table_has_a_name_that_needs_no_quotes() {
        for (device, table) in [("up0", "underpass-up0"), ("a;b{é", "underpass-a_b__")] {
            assert_eq!(nat_table(device), table);
        }
    }
}
