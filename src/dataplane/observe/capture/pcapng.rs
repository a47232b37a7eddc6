//! Capture files: the blocks of pcapng that are needed (draft-ietf-opsawg-pcapng §4), little endian.
//!
//! ```text
//! | block type (4) | block length (4) | body, padded to 4 … | block length (4) |
//! ```
//!
//! One section; an interface for each [`Point`], in their order, of raw IP packets with times in
//! nanoseconds; enhanced packet blocks with direction and, as comments, the reason of a drop and the policy that
//! denied a packet or wants it logged;
//! interface statistics with what was lost whenever that changes.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of packets and of options, and halves of a time"
)]

use std::time::{SystemTime, UNIX_EPOCH};

use super::{Point, Record};
use crate::dataplane::packet::Direction;

/// Block type of a section header.
pub const SECTION: u32 = 0x0a0d_0d0a;
/// Block type of an interface description.
pub const INTERFACE: u32 = 1;
/// Block type of interface statistics.
pub const STATISTICS: u32 = 5;
/// Block type of an enhanced packet.
pub const PACKET: u32 = 6;

/// Packets begin with their IP header (LINKTYPE_RAW).
const LINKTYPE_RAW: u16 = 101;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const ISB_IFDROP: u16 = 5;

/// The section header and the interfaces, for packets cut to `snaplen` bytes.
pub fn begin(out: &mut Vec<u8>, snaplen: usize) {
    block(out, SECTION, |out| {
        out.extend(0x1a2b_3c4d_u32.to_le_bytes());
        out.extend([1, 0, 0, 0]);
        // Length of the section: not known.
        out.extend([0xff; 8]);
        option(out, SHB_USERAPPL, concat!("underpass ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_of_options(out);
    });
    for point in Point::ALL {
        block(out, INTERFACE, |out| {
            out.extend(LINKTYPE_RAW.to_le_bytes());
            out.extend([0, 0]);
            out.extend((snaplen as u32).to_le_bytes());
            option(out, IF_NAME, point.name().as_bytes());
            option(out, IF_TSRESOL, &[9]);
            end_of_options(out);
        });
    }
}

/// One packet.
pub fn packet(out: &mut Vec<u8>, record: &Record) {
    block(out, PACKET, |out| {
        out.extend((record.seen.point as u32).to_le_bytes());
        time(out, record.time);
        out.extend((record.bytes.len() as u32).to_le_bytes());
        out.extend((record.len as u32).to_le_bytes());
        out.extend_from_slice(&record.bytes);
        pad(out);
        let direction: u32 = match record.seen.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        option(out, EPB_FLAGS, &direction.to_le_bytes());
        if let Some(reason) = record.seen.reason {
            option(out, OPT_COMMENT, reason.name().as_bytes());
        }
        if let Some(policy) = &record.seen.policy {
            option(out, OPT_COMMENT, format!("policy {policy}").as_bytes());
        }
        end_of_options(out);
    });
}

/// What was lost at each point so far.
pub fn statistics(out: &mut Vec<u8>, lost: [u64; Point::ALL.len()]) {
    for (point, lost) in lost.into_iter().enumerate() {
        block(out, STATISTICS, |out| {
            out.extend((point as u32).to_le_bytes());
            time(out, SystemTime::now());
            option(out, ISB_IFDROP, &lost.to_le_bytes());
            end_of_options(out);
        });
    }
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let from = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    pad(out);
    let len = (out.len() + 4 - from) as u32;
    out[from + 4..from + 8].copy_from_slice(&len.to_le_bytes());
    out.extend(len.to_le_bytes());
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// Every block begins at a multiple of 4 of the stream, so its length is the place to pad by.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn time(out: &mut Vec<u8>, time: SystemTime) {
    let nanoseconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    out.extend(((nanoseconds >> 32) as u32).to_le_bytes());
    out.extend((nanoseconds as u32).to_le_bytes());
}
