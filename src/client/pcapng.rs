//! Reading the stream of a capture (draft-ietf-opsawg-pcapng §4, little endian) as far as counting
//! takes: packets, and what the daemon could not keep.

use crate::api::CapturePoint;

/// Block type of interface statistics.
const STATISTICS: u32 = 5;
/// Block type of an enhanced packet.
const PACKET: u32 = 6;

/// Counts what is in a stream of blocks that arrives in pieces.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    rest: Vec<u8>,
    /// Packets so far.
    pub packets: u64,
    lost: [u64; CapturePoint::ALL.len()],
}

impl Tally {
    /// Takes the next piece of the stream.
    pub fn take(&mut self, piece: &[u8]) {
        self.rest.extend_from_slice(piece);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 8) {
            let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let (kind, len) = (word(0), word(4) as usize);
            let Some(block) = self.rest.get(at..at + len.max(12)) else { break };
            match kind {
                PACKET => self.packets += 1,
                STATISTICS => note_lost(&mut self.lost, block),
                _ => {}
            }
            at += block.len();
        }
        self.rest.drain(..at);
    }

    /// Packets that the daemon could not keep.
    pub fn lost(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Whether the stream ends with a whole block.
    pub fn is_whole(&self) -> bool {
        self.rest.is_empty()
    }
}

fn note_lost(lost: &mut [u64; CapturePoint::ALL.len()], block: &[u8]) {
    // Type, length, interface, time, then one option of eight bytes.
    let count = block.get(24..32).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let point = block.get(8).map(|byte| usize::from(*byte));
    if let (Some(count), Some(slot)) = (count, point.and_then(|point| lost.get_mut(point))) {
        *slot = count;
    }
}

#[cfg(test)]
mod tests {
    use super::{PACKET, STATISTICS, Tally};

    /// A block with this body.
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes(), &len, body, &len].concat()
    }

    /// What was lost at an interface.
    fn statistics(interface: u32, lost: u64) -> Vec<u8> {
        let option = [&5_u16.to_le_bytes()[..], &8_u16.to_le_bytes(), &lost.to_le_bytes(), &[0; 4]].concat();
        block(STATISTICS, &[&interface.to_le_bytes()[..], &[0; 8], &option].concat())
    }

    #[test]
    fn packets_and_the_last_statistics_are_counted() {
        let packet = block(PACKET, &[7; 24]);
        let blocks =
            [block(1, &[]), packet.clone(), statistics(1, 3), statistics(2, 6), packet, statistics(1, 5)];
        let file = blocks.concat();
        let mut tally = Tally::default();
        for piece in file.chunks(5) {
            tally.take(piece);
        }
        assert_eq!((tally.packets, tally.lost(), tally.is_whole()), (2, 11, true));
        tally.take(&file[..9]);
        assert!(!tally.is_whole());
    }
}
