//! A batch as the bytes a wire would carry.

use crate::dataplane::packet::{Channel, Message, Outbox};

/// One outer packet: its message's way and its bytes (VXLAN: the UDP payload).
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The socket it would leave through.
    pub channel: Channel,
    /// The next hop.
    pub to: std::net::IpAddr,
    /// The outer TOS byte of the message.
    pub tos: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Copies every outer packet of `outbox`, in order.
pub fn flatten(outbox: &Outbox, arena: &[u8]) -> Vec<Sent> {
    outbox.messages().iter().flat_map(|message| packets(outbox, message, arena)).collect()
}

fn packets(outbox: &Outbox, message: &Message, arena: &[u8]) -> Vec<Sent> {
    outbox
        .datagrams(message)
        .iter()
        .map(|datagram| {
            let mut bytes = datagram.head.resolve(outbox.slab(), arena).to_vec();
            bytes.extend_from_slice(datagram.body.resolve(outbox.slab(), arena));
            Sent { channel: message.channel, to: message.to.ip(), tos: message.tos, bytes }
        })
        .collect()
}
