//! Probes of a path: echo requests with DF, of the size that is in question, which only those on the path see.
//!
//! Whoever quotes one has seen it: identifier, sequence number and a checksum over random bytes are among the eight
//! that each router quotes behind the IP header.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;

use socket2::Socket;

use super::report::{Quote, TRANSPORT};
use crate::dataplane::encap::OUTER_TTL;
use crate::dataplane::underlay::icmp;
use crate::wire::icmp::{ECHO, ECHO6, LEN};
use crate::wire::{checksum, ipv4, ipv6, protocol, put16};

/// Probes that may be answered; of more the oldest is forgotten.
const MOST: usize = 64;
/// Random bytes in a probe.
const RANDOM: usize = 16;

/// A probe that was sent.
struct Sent {
    peer: IpAddr,
    size: u16,
    /// Its first bytes behind the IP header.
    head: [u8; LEN + RANDOM],
}

/// The probes from one address.
pub(super) struct Probes {
    socket: Socket,
    own: IpAddr,
    random: RandomState,
    number: u64,
    sent: VecDeque<Sent>,
}

impl Probes {
    /// Will probe from `own`.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_RAW.
    pub(super) fn new(own: IpAddr) -> io::Result<Self> {
        let (random, sent) = (RandomState::new(), VecDeque::with_capacity(MOST));
        Ok(Self { socket: icmp::send(own)?, own, random, number: 0, sent })
    }

    /// The identifier of all of them.
    pub(super) fn id(&self) -> u16 {
        let [high, low, ..] = self.random.hash_one("identifier").to_be_bytes();
        u16::from_be_bytes([high, low])
    }

    /// Sends one of `size` bytes to `peer`. A refusal is like a probe that is lost: there will be no answer.
    pub(super) fn send(&mut self, peer: IpAddr, size: u16) {
        let Some((sent, packet)) = self.make(peer, size) else { return };
        if self.sent.len() == MOST {
            self.sent.pop_front();
        }
        self.sent.push_back(sent);
        let _ = self.socket.send_to(&packet, &std::net::SocketAddr::new(peer, 0).into());
    }

    /// The peer that has answered with `body` in a packet of `size` bytes.
    pub(super) fn answered(&mut self, size: u16, body: &[u8]) -> Option<IpAddr> {
        self.take(|sent| sent.size == size && body.get(..LEN + RANDOM - 4) == Some(&sent.head[4..]))
    }

    /// The peer that the quoted probe was for.
    pub(super) fn quoted(&mut self, quote: &Quote<'_>) -> Option<IpAddr> {
        let echo = matches!(quote.protocol, protocol::ICMP | protocol::ICMPV6);
        let first = quote.rest.get(..TRANSPORT).filter(|_| echo)?;
        self.take(|sent| sent.peer == quote.to && sent.size == quote.len && sent.head[..TRANSPORT] == *first)
    }

    fn take(&mut self, is_it: impl FnMut(&Sent) -> bool) -> Option<IpAddr> {
        let place = self.sent.iter().position(is_it)?;
        self.sent.remove(place).map(|sent| sent.peer)
    }

    /// Makes one: what to remember, and the packet.
    fn make(&mut self, peer: IpAddr, size: u16) -> Option<(Sent, Vec<u8>)> {
        self.number += 1;
        let [one, two] = [0, 1].map(|half| self.random.hash_one((self.number, half)).to_be_bytes());
        let [high, low, ..] = self.random.hash_one((self.number, 2)).to_be_bytes();
        let mut packet = vec![0; usize::from(size)];
        let (pseudo, header, kind) = match (self.own, peer) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (ttl, flags) = (OUTER_TTL, ipv4::DF);
                let about = (size, protocol::ICMP);
                let (total_len, protocol) = about;
                let header =
                    ipv4::Repr { tos: 0, total_len, id: 0, flags, ttl, protocol, source, destination };
                packet.get_mut(..ipv4::LEN)?.copy_from_slice(&header.emit());
                (0, ipv4::LEN, ECHO)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = ipv6::emit(protocol::ICMPV6, OUTER_TTL, source, destination);
                packet.get_mut(..ipv6::LEN)?.copy_from_slice(&header);
                let len = size - u16::try_from(ipv6::LEN).ok()?;
                ipv6::patch_payload_len(&mut packet, len);
                let pseudo = checksum::pseudo_v6(source, destination, protocol::ICMPV6, len.into());
                (pseudo, ipv6::LEN, ECHO6)
            }
            _ => return None,
        };
        let message = packet.get_mut(header..).filter(|message| message.len() >= LEN + RANDOM)?;
        message[0] = kind;
        put16(message, 4, self.id());
        message[6..LEN].copy_from_slice(&[high, low]);
        message[LEN..LEN + RANDOM].copy_from_slice([one, two].as_flattened());
        let sum = checksum::finish(checksum::sum(message) + pseudo);
        put16(message, 2, sum);
        let head = *message.first_chunk()?;
        Some((Sent { peer, size, head }, packet))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::report::{self, Message, What, samples};
    use super::Probes;
    use crate::wire::{checksum, put16};

    /// Probes without a socket that could send; `None` where raw sockets are not allowed.
    fn probes(own: IpAddr) -> Option<Probes> {
        Probes::new(own).ok()
    }

    #[test]
    fn answers_and_quotes_are_told_from_others() {
        let Some(mut probes) = probes(IpAddr::from([127, 0, 0, 1])) else { return };
        probes.own = samples::US.into();
        let peer = IpAddr::from(samples::PEER);
        let make = |probes: &mut Probes| {
            let (sent, packet) = probes.make(peer, 1400).unwrap();
            probes.sent.push_back(sent);
            packet
        };
        let packet = make(&mut probes);
        assert_eq!((packet.len(), checksum::fold(checksum::sum(&packet[20..]))), (1400, 0xffff));
        // A router that quotes it, and somebody who guesses.
        let read = |packet: &[u8]| samples::too_big(1300, packet);
        for (quoted, expected) in [(&packet[..28], Some(peer)), (&packet[..], Some(peer))] {
            let report = read(quoted);
            let Some(Message::Error { what: What::TooBig(1300), quote }) =
                report::read(&report, samples::US.into())
            else {
                panic!("not read")
            };
            assert_eq!(probes.quoted(&quote), expected);
            assert_eq!(probes.quoted(&quote), None, "once");
            probes.sent.push_back(probes.make_again(&packet));
        }
        for at in [22, 23, 26, 27] {
            let mut guessed = packet.clone();
            guessed[at] ^= 1;
            let report = read(&guessed[..28]);
            let Some(Message::Error { quote, .. }) = report::read(&report, samples::US.into()) else {
                panic!("not read")
            };
            assert_eq!(probes.quoted(&quote), None, "byte {at}");
        }
        // The peer answers.
        let mut reply = packet.clone();
        reply[20] = 0;
        put16(&mut reply, 22, 0);
        let sum = checksum::finish(checksum::sum(&reply[20..]));
        put16(&mut reply, 22, sum);
        let Some(Message::Echo { size, body }) = report::read(&reply, samples::US.into()) else {
            panic!("not read")
        };
        assert_eq!(probes.answered(1399, body), None);
        assert_eq!(probes.answered(size, body), Some(peer));
    }

    impl Probes {
        fn make_again(&self, packet: &[u8]) -> super::Sent {
            let peer = IpAddr::from(samples::PEER);
            super::Sent { peer, size: 1400, head: packet[20..44].try_into().unwrap() }
        }
    }
}
