//! The filter of a capture, and the packets it judges.
//!
//! ```text
//! | filter … | newline | packet … |
//! ```

use underpass::dataplane::observe::capture::Filter;

/// A filter's text and the beginning of a packet.
pub fn capture_filter(data: &[u8]) {
    let (text, packet) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &[][..]),
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    match text.parse::<Filter>() {
        Ok(filter) => {
            let opposite: Filter = format!("not ({text})").parse().unwrap_or_else(|_| filter.clone());
            for len in [packet.len(), packet.len() / 2] {
                let head = &packet[..len];
                let (this, other) = (filter.matches(head, &[4789]), opposite.matches(head, &[4789]));
                assert!(this != other || opposite == filter, "neither {text:?} nor its opposite holds");
            }
        }
        Err(error) => assert!(error.to_string().starts_with("filter: ")),
    }
}
