//! Packets for the device, in pieces of the buffers they lie in.

use crate::wire::VnetHdr;

/// A run of bytes in the batch's arena, or, flagged by [`Piece::SLAB`], in its header slab.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Piece {
    /// Offset of the first byte, with the slab flag in the top bit.
    pub at: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Piece {
    /// Set in `at` when the bytes are in the header slab.
    pub const SLAB: u32 = 1 << 31;

    /// Bytes `at..at + len` of the arena.
    #[expect(clippy::cast_possible_truncation, reason = "buffers are far smaller than 2 GiB")]
    pub fn arena(at: usize, len: usize) -> Self {
        Self { at: at as u32, len: len as u32 }
    }

    /// Bytes `at..at + len` of the header slab.
    #[expect(clippy::cast_possible_truncation, reason = "buffers are far smaller than 2 GiB")]
    pub fn slab(at: usize, len: usize) -> Self {
        Self { at: at as u32 | Self::SLAB, len: len as u32 }
    }

    /// The bytes, given the two buffers the piece may point into.
    pub fn resolve<'a>(self, slab: &'a [u8], arena: &'a [u8]) -> &'a [u8] {
        let from = (self.at & !Self::SLAB) as usize;
        let buffer = if self.at & Self::SLAB == 0 { arena } else { slab };
        &buffer[from..from + self.len as usize]
    }
}

/// Most pieces of one delivery: as many as a device writes at once.
pub const MAX_PIECES: usize = 64;

/// One packet or super-packet for the device.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// What is left to do to it.
    pub vnet: VnetHdr,
    /// Its first bytes.
    pub head: &'a [u8],
    /// The rest, in `arena`; at most [`MAX_PIECES`].
    pub pieces: &'a [Piece],
    /// The buffer `pieces` point into.
    pub arena: &'a [u8],
    /// The number of packets it stands for.
    pub packets: u32,
    /// Their bytes on the wire, each with its own headers.
    pub bytes: u64,
}

impl<'a> Delivery<'a> {
    /// A packet in one piece with nothing left to do to it.
    pub fn plain(packet: &'a [u8]) -> Self {
        Self {
            vnet: VnetHdr::default(),
            head: packet,
            pieces: &[],
            arena: &[],
            packets: 1,
            bytes: packet.len() as u64,
        }
    }
}

impl Delivery<'_> {
    /// Bytes of the one packet that is written.
    pub fn len(&self) -> usize {
        self.head.len() + self.pieces.iter().map(|piece| piece.len as usize).sum::<usize>()
    }

    /// Whether there is nothing to write; never true of a packet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packet's pieces, in order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let pieces = self.pieces.iter().map(|piece| piece.resolve(&[], self.arena));
        std::iter::once(self.head).chain(pieces)
    }

    /// Copies the packet to the start of `out` and returns its length, or `None` when it does not
    /// fit. For slow paths only.
    pub fn gather(&self, out: &mut [u8]) -> Option<usize> {
        out.get_mut(..self.head.len())?.copy_from_slice(self.head);
        let mut at = self.head.len();
        for piece in self.pieces {
            let bytes = piece.resolve(&[], self.arena);
            out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            at += bytes.len();
        }
        Some(at)
    }
}

/// Where finished inner packets go.
pub trait Sink {
    /// Takes one packet or super-packet.
    fn deliver(&mut self, delivery: &Delivery<'_>);
}
