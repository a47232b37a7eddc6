//! What nf_tables does with forwarded packets, as far as its base chains say, and whether a table of ours is there:
//! read by raw netlink messages (include/uapi/linux/netfilter/nf_tables.h), as no tool of netfilter has to be there.
//!
//! Only a chain is found that drops everything: hooked into `forward`, with the policy `drop` and without a rule.
//! What rules do is not judged, nor are the tables of the older iptables.

use std::io;
use std::time::Duration;

use rtnetlink::packet_core::NLM_F_DUMP;

use super::raw_netlink::{RawNetlink, find};
use crate::control::engine::port::{Blind, NatView};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
/// Bytes of `nfgenmsg`.
const FAMILY_HEADER: usize = 4;
/// Bytes of `nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

const NFTA_GEN_ID: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_DROP: u32 = 0;
/// The kernel answers while it is asked.
const PATIENCE: Duration = Duration::from_millis(200);

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
    socket: Option<RawNetlink>,
    last: Option<(u32, Vec<Dropping>)>,
    /// A table of the family `inet`, as it was read.
    table: Option<(u32, String, NatView)>,
}

/// What is known of a table without reading it.
#[derive(Debug)]
pub(super) enum Seen {
    /// Everything.
    Known(NatView),
    /// It is there, in this generation of the rule set.
    There(u32),
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

    /// What is known of the table `name`. One that could not be read is looked at again where `again` is set.
    pub(super) fn table(&mut self, name: &str, again: bool) -> Seen {
        let found = self.look_for(name, again);
        found.unwrap_or_else(|error| {
            (self.socket, self.table) = (None, None);
            Seen::Known(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => NatView::Unseen(Blind::Denied),
                _ => NatView::Unseen(Blind::NoNftables),
            })
        })
    }

    /// Keeps what was read of a table.
    pub(super) fn remember(&mut self, name: &str, generation: u32, view: &NatView) {
        self.table = Some((generation, name.to_owned(), view.clone()));
    }

    fn look_for(&mut self, name: &str, again: bool) -> io::Result<Seen> {
        let mut socket = self.connected()?;
        let generation = generation(&mut socket)?;
        let known = self.table.take().filter(|(of, table, view)| {
            *of == generation && table == name && !(again && matches!(view, NatView::Unseen(_)))
        });
        let seen = if let Some((_, _, view)) = &known {
            Seen::Known(view.clone())
        } else if has_table(&mut socket, name)? {
            Seen::There(generation)
        } else {
            Seen::Known(NatView::Absent)
        };
        (self.socket, self.table) = (Some(socket), known);
        Ok(seen)
    }

    fn connected(&mut self) -> io::Result<RawNetlink> {
        match self.socket.take() {
            Some(socket) => Ok(socket),
            None => RawNetlink::connect(libc::NETLINK_NETFILTER, PATIENCE),
        }
    }

    fn look(&mut self) -> io::Result<Vec<Dropping>> {
        let mut socket = self.connected()?;
        let generation = generation(&mut socket)?;
        let known = self.last.take().filter(|(of, _)| *of == generation);
        let found = match known {
            Some((_, found)) => found,
            None => {
                let mut found = Vec::new();
                ask(&mut socket, NFT_MSG_GETCHAIN, NLM_F_DUMP, &[0; FAMILY_HEADER], |kind, message| {
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

/// The number of the rule set, which changes with every change of it.
fn generation(socket: &mut RawNetlink) -> io::Result<u32> {
    let mut generation = 0;
    ask(socket, NFT_MSG_GETGEN, 0, &[0; FAMILY_HEADER], |kind, message| {
        if kind == NFT_MSG_NEWGEN {
            generation = attribute(message, NFTA_GEN_ID).and_then(number).unwrap_or(0);
        }
        // There is one answer, and none that ends it.
        kind == NFT_MSG_NEWGEN
    })?;
    Ok(generation)
}

/// Whether the family `inet` has a table of this name.
fn has_table(socket: &mut RawNetlink, name: &str) -> io::Result<bool> {
    let inet = u8::try_from(libc::NFPROTO_INET).unwrap_or_default();
    let mut body = vec![inet, 0, 0, 0];
    body.extend(named(NFTA_TABLE_NAME, name));
    match ask(socket, NFT_MSG_GETTABLE, 0, &body, |kind, _| kind == NFT_MSG_NEWTABLE) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks and gives each answer to `take`, with its kind, until that says that it was the last one.
fn ask(
    socket: &mut RawNetlink,
    kind: u16,
    flags: u16,
    body: &[u8],
    mut take: impl FnMut(u16, &[u8]) -> bool,
) -> io::Result<()> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
    socket.ask(kind, flags, body, |kind, body| take(kind & 0xff, body))
}

/// An attribute (`nlattr`) with a text and its closing NUL.
fn named(kind: u16, text: &str) -> Vec<u8> {
    let len = ATTRIBUTE_HEADER + text.len() + 1;
    let mut bytes = u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
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

/// nf_tables has its numbers in network order.
fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::{Dropping, chain, number};
    use crate::control::host::raw_netlink::{find, message};

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
