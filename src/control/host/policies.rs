//! IPsec policies (xfrm) for packets that leave: which peers they are about.
//!
//! UDP and raw sockets pass them, a packet socket does not, and what a TAP forwards is judged as forwarded. The
//! crates have no messages of NETLINK_XFRM, so these are read by hand (linux/xfrm.h).

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

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
pub struct Policies(File);

impl Policies {
    /// Connects to those of this network namespace.
    ///
    /// # Errors
    /// The kernel's: it may have none.
    pub fn connect() -> io::Result<Self> {
        let socket =
            Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_XFRM)))?;
        // The kernel answers at once; this only guards against one that does not.
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self(OwnedFd::from(socket).into()))
    }

    /// The policies for packets that leave.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN.
    pub fn read(&mut self) -> io::Result<Vec<Policy>> {
        let mut request = [0; HEADER];
        request[..4].copy_from_slice(&16_u32.to_ne_bytes());
        request[4..6].copy_from_slice(&GET_POLICY.to_ne_bytes());
        request[6..8].copy_from_slice(&DUMP_REQUEST.to_ne_bytes());
        self.0.write_all(&request)?;
        let (mut policies, mut buffer) = (Vec::new(), vec![0; BUFFER]);
        loop {
            let len = self.0.read(&mut buffer)?;
            let mut rest = &buffer[..len];
            while let Some((kind, body, later)) = message(rest) {
                match kind {
                    DONE => return Ok(policies),
                    ERROR => return Err(refused(body)),
                    NEW_POLICY => policies.extend(policy(body)),
                    _ => {}
                }
                rest = later;
            }
            if len == 0 {
                return Ok(policies);
            }
        }
    }
}

/// The error in the body of an error message; 0 says that there is none, which is none of the answers to a dump.
fn refused(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// The first message in `bytes`: its type, its body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
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
fn has_templates(mut attributes: &[u8]) -> bool {
    while let Some((len, kind)) = attributes
        .first_chunk()
        .map(|[a, b, c, d]| (usize::from(u16::from_ne_bytes([*a, *b])), u16::from_ne_bytes([*c, *d])))
    {
        if kind == TEMPLATES && len > 4 {
            return true;
        }
        attributes = attributes.get(len.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Bytes of a message's header, and of what is read at once.
const HEADER: usize = 16;
const BUFFER: usize = 64 * 1024;
/// NLM_F_REQUEST and NLM_F_DUMP.
const DUMP_REQUEST: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
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
    use super::{ACTION, DIRECTION, Policy, has_templates, message, policy};

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
        assert_eq!(message(&[0; 16]), None);
        assert_eq!(message(&[255; 16]), None);
        let mut one = [0; 20];
        one[0] = 18;
        one[4] = 3;
        assert_eq!(message(&one), Some((3, &[0, 0][..], &[][..])));
    }
}
