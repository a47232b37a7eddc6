//! The ring between workers and reader, and the file.

use std::sync::Arc;

use super::{Hub, Point, Seen, Wanted, pcapng};
use crate::dataplane::packet::Direction;
use crate::net::DropReason;

fn wanted(points: &[Point], snaplen: usize) -> Wanted {
    Wanted { points: points.to_vec(), filter: None, snaplen, vxlan_ports: vec![4789] }
}

fn seen(point: Point) -> Seen {
    Seen::at(point, Direction::Inbound)
}

#[test]
fn nothing_is_kept_unless_asked_for() {
    let hub = Arc::new(Hub::default());
    hub.record(seen(Point::Device), [&b"before"[..]].into_iter());
    let capture = hub.start(wanted(&[Point::Device], 100)).unwrap();
    assert!(hub.wants(Point::Device) && !hub.wants(Point::Drop));
    assert!(hub.start(wanted(&[], 100)).is_none(), "one at a time");
    hub.record(seen(Point::Underlay), [&b"elsewhere"[..]].into_iter());
    hub.record(seen(Point::Device), [&b"in "[..], b"two parts"].into_iter());
    let mut packets = Vec::new();
    assert_eq!(capture.drain(9, |record| packets.push((record.len, record.bytes.clone()))), 1);
    assert_eq!(packets, [(12, b"in two parts".to_vec())]);
    drop(capture);
    assert!(Point::ALL.iter().all(|point| !hub.wants(*point)));
    assert!(hub.start(wanted(&[], 100)).is_some());
}

#[test]
fn what_finds_no_buffer_is_counted() {
    let hub = Arc::new(Hub::default());
    let capture = hub.start(wanted(&[], 65535)).unwrap();
    for _ in 0..200 {
        hub.record(seen(Point::Drop), [&[7; 100][..]].into_iter());
    }
    let kept = capture.drain(1000, |_| {}) as u64;
    assert_eq!((kept, capture.lost()), (128, [0, 0, 72, 0]));
    hub.record(seen(Point::Drop), [&[7; 100][..]].into_iter());
    assert_eq!(capture.drain(1000, |_| {}), 1, "buffers come back");
}

#[test]
fn workers_and_reader_do_not_wait_for_each_other() {
    let hub = Arc::new(Hub::default());
    let capture = hub.start(wanted(&[], 64)).unwrap();
    let workers: Vec<_> = (0..3u8)
        .map(|worker| {
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    hub.record(seen(Point::Device), [&[worker; 40][..]].into_iter());
                }
            })
        })
        .collect();
    let mut read = 0;
    let whole = |record: &super::Record| assert!(record.bytes.iter().all(|byte| *byte == record.bytes[0]));
    while workers.iter().any(|worker| !worker.is_finished()) {
        read += capture.drain(100, whole);
    }
    read += capture.drain(usize::MAX, whole);
    assert_eq!(read as u64 + capture.lost()[0], 60_000);
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_file_is_whole_blocks_with_reasons() {
    let hub = Arc::new(Hub::default());
    let capture = hub.start(wanted(&[], 7)).unwrap();
    let drop = Seen { reason: Some(DropReason::NoRoute), ..Seen::at(Point::Drop, Direction::Outbound) };
    hub.record(drop, [&b"0123456789"[..]].into_iter());
    let mut file = Vec::new();
    pcapng::begin(&mut file, capture.snaplen());
    capture.drain(9, |record| pcapng::packet(&mut file, record));
    pcapng::statistics(&mut file, [0, 5, 6, 0]);
    assert_eq!(file.len() % 4, 0);
    assert!(file.windows(8).any(|window| window == b"no_route"));
    let holds = |bytes: &[u8]| file.windows(bytes.len()).any(|window| window == bytes);
    assert!(holds(b"0123456") && !holds(b"01234567"));
    let mut kinds = Vec::new();
    let mut rest = &file[..];
    while let [a, b, c, d, e, f, g, h, ..] = *rest {
        kinds.push(u32::from_le_bytes([a, b, c, d]));
        let len = u32::from_le_bytes([e, f, g, h]) as usize;
        assert_eq!(rest[len - 4..len], rest[4..8], "the length is at both ends");
        rest = &rest[len..];
    }
    let interfaces = [pcapng::INTERFACE; 4];
    let statistics = [pcapng::STATISTICS; 4];
    assert_eq!(kinds, [&[pcapng::SECTION][..], &interfaces, &[pcapng::PACKET], &statistics].concat());
    assert!(rest.is_empty());
    assert!(holds(&5_u64.to_le_bytes()) && holds(&6_u64.to_le_bytes()));
}
