//! What nf_tables does with forwarded packets, as far as its base chains say: read by raw netlink messages
//! (include/uapi/linux/netfilter/nf_tables.h), as no tool of netfilter has to be there.
//!
//! Only a chain is found that drops everything: hooked into `forward`, with the policy `drop` and without a rule.
//! What rules do is not judged, nor are the tables of the older iptables.

use std::io::{self, Read, Write};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

const NETLINK_NETFILTER: i32 = 12;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of `nlmsghdr` and `nfgenmsg`.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

const NFTA_GEN_ID: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
/// The flags in an attribute's type.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The kernel answers while it is asked.
const PATIENCE: Duration = Duration::from_millis(200);
const BUFFER: usize = 64 * 1024;

/// A base chain that drops every forwarded packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Dropping {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

/// What was found last, and of which generation of the rule set.
#[derive(Debug, Default)]
pub(super) struct Netfilter {
    socket: Option<Socket>,
    last: Option<(u32, Vec<Dropping>)>,
}

impl Netfilter {
    /// The chains that drop all forwarded packets; none where that cannot be read: without nf_tables or
    /// CAP_NET_ADMIN. The chains are only read again when the rule set is another one.
    pub(super) fn dropping(&mut self) -> Vec<Dropping> {
        let found = self.look();
        if found.is_err() {
            (self.socket, self.last) = (None, None);
        }
        found.unwrap_or_default()
    }

    fn look(&mut self) -> io::Result<Vec<Dropping>> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect()?,
        };
        let mut generation = 0;
        ask(&mut socket, NFT_MSG_GETGEN, 0, |kind, message| {
            if kind == NFT_MSG_NEWGEN {
                generation = attribute(message, NFTA_GEN_ID).and_then(number).unwrap_or(0);
            }
            // There is one answer, and none that ends it.
            kind == NFT_MSG_NEWGEN
        })?;
        let known = self.last.take().filter(|(of, _)| *of == generation);
        let found = match known {
            Some((_, found)) => found,
            None => {
                let mut found = Vec::new();
                ask(&mut socket, NFT_MSG_GETCHAIN, NLM_F_DUMP, |kind, message| {
                    found.extend((kind == NFT_MSG_NEWCHAIN).then(|| chain(message)).flatten());
                    false
                })?;
                found
            }
        };
        self.socket = Some(socket);
        self.last = Some((generation, found.clone()));
        Ok(found)
    }
}

fn connect() -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Asks and gives each answer to `take`, with its kind, until that says that it was the last one.
fn ask(
    socket: &mut Socket,
    kind: u16,
    flags: u16,
    mut take: impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<()> {
    let mut request = Vec::new();
    request.extend(20_u32.to_ne_bytes());
    request.extend((NFNL_SUBSYS_NFTABLES << 8 | kind).to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; FAMILY_HEADER]);
    socket.write_all(&request)?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = socket.read(&mut buffer)?;
        let mut rest = &buffer[..len];
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_ERROR => return Err(refusal(body)),
                NLMSG_DONE => return Ok(()),
                _ if take(kind & 0xff, body) => return Ok(()),
                _ => rest = next,
            }
        }
    }
}

fn refusal(body: &[u8]) -> io::Error {
    let code = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Kind and body of the first message in `bytes`, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?);
    let len = usize::try_from(len).ok().filter(|len| *len >= HEADER)?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// A chain that drops everything, if the message is about such a one.
fn chain(message: &[u8]) -> Option<Dropping> {
    let family = match i32::from(*message.first()?) {
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        libc::NFPROTO_INET => "inet",
        _ => return None,
    };
    let hook = attribute(message, NFTA_CHAIN_HOOK)?;
    let hooked = find(hook, NFTA_HOOK_HOOKNUM).and_then(number)? == NF_INET_FORWARD;
    let drops = attribute(message, NFTA_CHAIN_POLICY).and_then(number)? == NF_DROP;
    let empty = attribute(message, NFTA_CHAIN_USE).and_then(number)? == 0;
    let text = |kind| {
        Some(String::from_utf8_lossy(attribute(message, kind)?.split(|b| *b == 0).next()?).into_owned())
    };
    let (table, chain) = (text(NFTA_CHAIN_TABLE)?, text(NFTA_CHAIN_NAME)?);
    (hooked && drops && empty).then_some(Dropping { family, table, chain })
}

fn attribute(message: &[u8], kind: u16) -> Option<&[u8]> {
    find(message.get(FAMILY_HEADER..)?, kind)
}

/// The value of the first attribute of this kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let found = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

/// nf_tables has its numbers in network order.
fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{Dropping, chain, find, message, number};

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = 4 + value.len();
        let mut bytes = u16::try_from(len).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(len.next_multiple_of(4), 0);
        bytes
    }

    fn base_chain(family: u8, hook: u32, policy: u32, uses: u32) -> Vec<u8> {
        let hook = attribute(1, &hook.to_be_bytes());
        [
            vec![family, 0, 0, 0],
            attribute(1, b"filter\0"),
            attribute(3, b"FORWARD\0"),
            attribute(4 | 0x8000, &hook),
            attribute(5, &policy.to_be_bytes()),
            attribute(6, &uses.to_be_bytes()),
        ]
        .concat()
    }

    #[test]
    fn a_chain_that_drops_everything_is_told_from_all_others() {
        let expected = Dropping { family: "ip", table: "filter".to_owned(), chain: "FORWARD".to_owned() };
        assert_eq!(chain(&base_chain(2, 2, 0, 0)), Some(expected));
        for (family, hook, policy, uses) in [(7, 2, 0, 0), (2, 1, 0, 0), (2, 2, 1, 0), (2, 2, 0, 3)] {
            assert_eq!(chain(&base_chain(family, hook, policy, uses)), None);
        }
        // A chain that is no base chain has no hook.
        assert_eq!(chain(&[vec![2, 0, 0, 0], attribute(1, b"filter\0")].concat()), None);
    }

    #[test]
    fn cut_messages_are_none() {
        let whole = base_chain(2, 2, 0, 0);
        for len in 0..whole.len() {
            let _ = (chain(&whole[..len]), message(&whole[..len]), find(&whole[..len], 5).and_then(number));
        }
        assert_eq!(message(&[0; 16]), None);
    }
}
