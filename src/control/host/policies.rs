//! IPsec policies (xfrm) for packets that leave: which peers they are about.
//!
//! UDP and raw sockets pass them, a packet socket does not, and what a TAP forwards is judged as forwarded. The
//! crates have no messages of NETLINK_XFRM, so these are read by hand (linux/xfrm.h).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rtnetlink::packet_core::NLM_F_DUMP;

use super::raw_netlink::{RawNetlink, find};
use crate::net::Prefix;

/// A policy that has packets encrypted or refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Sources it is about.
    pub source: Prefix,
    /// Destinations it is about.
    pub destination: Prefix,
    /// The protocol number it is about, 0 for all.
    pub protocol: u8,
}

impl Policy {
    /// Whether it is about packets between these addresses, or some of them.
    pub fn applies(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.source.contains(source) && self.destination.contains(destination)
    }
}

/// A connection to the kernel's policies.
pub struct Policies(RawNetlink);

impl Policies {
    /// Connects to those of this network namespace.
    ///
    /// # Errors
    /// The kernel's: it may have none.
    pub fn connect() -> io::Result<Self> {
        RawNetlink::connect(libc::NETLINK_XFRM, PATIENCE).map(Self)
    }

    /// The policies for packets that leave.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN.
    pub fn read(&mut self) -> io::Result<Vec<Policy>> {
        let mut policies = Vec::new();
        self.0.ask(GET_POLICY, NLM_F_DUMP, &[], |kind, body| {
            policies.extend((kind == NEW_POLICY).then(|| policy(body)).flatten());
            false
        })?;
        Ok(policies)
    }
}

/// The policy in the body of a message (`xfrm_userpolicy_info` and attributes), where it is for packets that
/// leave and lets them not pass as they are.
fn policy(body: &[u8]) -> Option<Policy> {
    let fixed = body.get(..POLICY)?;
    let prefix = |at: usize, len: u8| {
        let octets: [u8; 16] = fixed[at..at + 16].try_into().ok()?;
        let family = u16::from_ne_bytes([fixed[FAMILY], fixed[FAMILY + 1]]);
        let address: IpAddr = match i32::from(family) {
            libc::AF_INET => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into(),
            libc::AF_INET6 => Ipv6Addr::from(octets).into(),
            _ => return None,
        };
        Prefix::containing(address, len)
    };
    let treated = fixed[ACTION] == BLOCK || has_templates(&body[POLICY..]);
    let policy = Policy {
        destination: prefix(0, fixed[DESTINATION_LEN])?,
        source: prefix(16, fixed[SOURCE_LEN])?,
        protocol: fixed[PROTOCOL],
    };
    (fixed[DIRECTION] == OUT && treated).then_some(policy)
}

/// Whether there is an attribute that says how to encrypt.
fn has_templates(attributes: &[u8]) -> bool {
    find(attributes, TEMPLATES).is_some_and(|templates| !templates.is_empty())
}

/// How long all policies may take.
const PATIENCE: Duration = Duration::from_secs(1);
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;
/// Places in `xfrm_userpolicy_info`, which begins with an `xfrm_selector`, and its length.
const FAMILY: usize = 40;
const DESTINATION_LEN: usize = 42;
const SOURCE_LEN: usize = 43;
const PROTOCOL: usize = 44;
const DIRECTION: usize = 160;
const ACTION: usize = 161;
const POLICY: usize = 168;
const OUT: u8 = 1;
const BLOCK: u8 = 1;
const TEMPLATES: u16 = 5;

#[cfg(test)]
mod tests {
    use super::{ACTION, DIRECTION, Policy, has_templates, policy};

    /// As the kernel describes `src 192.0.2.1/32 dst 192.0.2.3/32 proto 4 dir out`.
    fn described(action: u8, templates: bool) -> Vec<u8> {
        let mut body = vec![0; 168];
        body[..4].copy_from_slice(&[192, 0, 2, 3]);
        body[16..20].copy_from_slice(&[192, 0, 2, 1]);
        body[40..45].copy_from_slice(&[2, 0, 32, 32, 4]);
        (body[DIRECTION], body[ACTION]) = (1, action);
        body.extend([8, 0, 16, 0, 0, 0, 0, 0]);
        if templates {
            body.extend([8, 0, 5, 0, 1, 2, 3, 4]);
        }
        body
    }

    #[test]
    fn policies_that_encrypt_or_refuse_what_leaves() {
        let prefix = |text: &str| text.parse().unwrap();
        let expected =
            Policy { source: prefix("192.0.2.1/32"), destination: prefix("192.0.2.3/32"), protocol: 4 };
        assert_eq!(policy(&described(0, true)), Some(expected));
        assert_eq!(policy(&described(1, false)), Some(expected));
        assert_eq!(policy(&described(0, false)), None, "passes as it is");
        let mut inward = described(1, false);
        inward[DIRECTION] = 0;
        assert_eq!(policy(&inward), None);
        let address = |text: &str| text.parse().unwrap();
        assert!(expected.applies(address("192.0.2.1"), address("192.0.2.3")));
        assert!(!expected.applies(address("192.0.2.1"), address("192.0.2.4")));
        for len in 0..168 {
            assert_eq!(policy(&described(1, false)[..len]), None);
        }
    }

    #[test]
    fn odd_lengths_end_the_reading() {
        assert!(!has_templates(&[0, 0, 1, 0, 0, 0]));
    }
}
