//! Routes as text, one a line: what files hold, the API takes and `route list -o lines` prints.
//!
//! ```text
//! # a comment
//! 10.9.0.0/24 via node-b
//! 10.9.1.0/24 via node-b,node-c mtu 1400
//! del 10.8.0.0/24
//! ```

use std::fmt::Write;

use crate::control::engine::edits::batch::{Batch, Places};
use crate::net::Prefix;

/// Bytes of the longest line.
pub const LONGEST_LINE: usize = 4096;
/// Culprits that are named; of the others only the number is.
const NAMED: usize = 20;

/// What is wrong with some changes: the first of them in words, and how many there are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Culprits {
    /// The first ones.
    pub named: Vec<String>,
    /// All of them.
    pub count: usize,
}

impl Culprits {
    /// Notes one more.
    pub fn push(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(text());
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Reads routes from text that arrives in pieces.
#[derive(Debug)]
pub struct Reader {
    batch: Batch,
    culprits: Culprits,
    /// The beginning of a line whose end has not arrived.
    partial: Vec<u8>,
    line: u32,
    kinds: Kinds,
}

/// What a text may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kinds {
    /// Routes to add, and `del`.
    All,
    /// Routes to add only.
    Additions,
    /// Routes to delete: the prefix counts, and what follows it does not.
    Deletions,
}

impl Reader {
    /// A reader at the first line.
    pub fn new(kinds: Kinds) -> Self {
        let batch = Batch::new(Places::Lines);
        Self { batch, culprits: Culprits::default(), partial: Vec::new(), line: 0, kinds }
    }

    /// Reads on. A line that is too long ends the reading: false.
    pub fn push(&mut self, mut piece: &[u8]) -> bool {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.partial.is_empty() {
                self.read(line);
            } else {
                self.partial.extend_from_slice(line);
                let line = std::mem::take(&mut self.partial);
                self.read(&line);
            }
        }
        self.partial.extend_from_slice(piece);
        let too_long = self.partial.len() > LONGEST_LINE;
        if too_long {
            let line = self.line + 1;
            self.culprits.push(|| format!("line {line}: longer than {LONGEST_LINE} bytes"));
        }
        !too_long
    }

    /// The number of changes so far.
    pub fn changes(&self) -> usize {
        self.batch.len()
    }

    /// Ends the text.
    ///
    /// # Errors
    /// Every line that cannot be understood.
    pub fn finish(mut self) -> Result<Batch, Culprits> {
        if !self.partial.is_empty() && self.partial.len() <= LONGEST_LINE {
            let line = std::mem::take(&mut self.partial);
            self.read(&line);
        }
        if self.culprits.is_empty() { Ok(self.batch) } else { Err(self.culprits) }
    }

    fn read(&mut self, line: &[u8]) {
        self.line = self.line.saturating_add(1);
        if let Err(reason) = self.read_line(line) {
            let line = self.line;
            self.culprits.push(|| format!("line {line}: {reason}"));
        }
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.len() > LONGEST_LINE {
            return Err(format!("longer than {LONGEST_LINE} bytes"));
        }
        let text = std::str::from_utf8(line).map_err(|_| "not UTF-8 text".to_owned())?;
        let mut words = text.split_ascii_whitespace();
        let first = match words.next() {
            None => return Ok(()),
            Some(word) if word.starts_with('#') => return Ok(()),
            Some(word) => word,
        };
        if self.kinds == Kinds::Deletions {
            let prefix = if first == "del" { words.next().unwrap_or("") } else { first };
            self.batch.del(parse_prefix(prefix)?, self.line);
            return Ok(());
        }
        if first == "del" {
            return match (self.kinds, words.next(), words.next()) {
                (Kinds::Additions, ..) => Err("`del` means nothing where all routes are replaced".to_owned()),
                (_, Some(prefix), None) => {
                    self.batch.del(parse_prefix(prefix)?, self.line);
                    Ok(())
                }
                _ => Err("write `del PREFIX`".to_owned()),
            };
        }
        let prefix = parse_prefix(first)?;
        let form = || "write `PREFIX via PEER[,PEER…] [mtu N]` or `del PREFIX`".to_owned();
        let (Some("via"), Some(names)) = (words.next(), words.next()) else { return Err(form()) };
        let mtu = match (words.next(), words.next(), words.next()) {
            (None, ..) => None,
            (Some("mtu"), Some(mtu), None) => Some(parse_mtu(mtu)?),
            _ => return Err(form()),
        };
        self.batch.add(prefix, names, mtu, self.line).map_err(|error| error.to_string())
    }
}

/// A prefix without host bits.
///
/// # Errors
/// Why it is none.
pub fn parse_prefix(text: &str) -> Result<Prefix, String> {
    // What a client wrote comes back in the answer, so it is cut to size.
    let clipped = || text.chars().take(64).collect::<String>();
    if text.len() > 64 {
        return Err(format!("\"{}…\" is not an IP prefix", clipped()));
    }
    text.parse::<Prefix>().map_err(|error| error.to_string())
}

fn parse_mtu(text: &str) -> Result<u16, String> {
    let clipped = || text.chars().take(16).collect::<String>();
    text.parse().map_err(|_| format!("\"{}\" is not an MTU; give bytes, 576 to 65535", clipped()))
}

/// Appends the line of a route.
pub fn render<'a>(
    out: &mut String,
    prefix: Prefix,
    nodes: impl IntoIterator<Item = &'a str>,
    mtu: Option<u16>,
) {
    // Writing to a string does not fail.
    let _ = write!(out, "{prefix}");
    let mut separator = " via ";
    for node in nodes {
        out.push_str(separator);
        out.push_str(node);
        separator = ",";
    }
    if let Some(mtu) = mtu {
        let _ = write!(out, " mtu {mtu}");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::{Kinds, LONGEST_LINE, Reader, render};

    const TEXT: &str =
        "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-b,node-c mtu 1400\nfd00::/48 via node-c\n";

    fn culprits(text: &[u8]) -> Vec<String> {
        let mut reader = Reader::new(Kinds::All);
        reader.push(text);
        reader.finish().unwrap_err().named
    }

    #[test]
    fn what_is_rendered_is_read_however_it_is_cut() {
        for size in 1..=TEXT.len() {
            let mut reader = Reader::new(Kinds::Additions);
            assert!(TEXT.as_bytes().chunks(size).all(|piece| reader.push(piece)));
            let batch = reader.finish().unwrap();
            let mut out = String::new();
            for change in batch.changes() {
                let to = change.to.unwrap();
                let names = &batch.nodes()[usize::from(to.nodes)].names;
                render(&mut out, change.prefix, names.split(','), to.mtu);
            }
            assert_eq!(out, TEXT, "pieces of {size}");
        }
    }

    #[test]
    fn comments_blank_lines_and_a_missing_last_end() {
        let mut reader = Reader::new(Kinds::All);
        assert!(reader.push(b"# hello\n\n  \t\r\n  10.0.0.0/8   via  b  \r\ndel 10.1.0.0/16"));
        let batch = reader.finish().unwrap();
        let places: Vec<_> = batch.changes().map(|change| (change.place, change.to.is_some())).collect();
        assert_eq!(places, [(4, true), (5, false)]);
    }

    #[test]
    fn every_culprit_has_its_line_and_a_way_out() {
        let text = b"10.0.0.1/8 via b\n10.0.0.0/8 b\n10.0.0.0/8 via b mtu x\n\xff\xfe\ndel\n10.0.0.0/8 via b mtu 1400 x\nx via b\n";
        let named = culprits(text);
        assert_eq!(named[0], "line 1: \"10.0.0.1/8\" has host bits set; did you mean 10.0.0.0/8?");
        assert_eq!(named[1], "line 2: write `PREFIX via PEER[,PEER…] [mtu N]` or `del PREFIX`");
        assert_eq!(named[2], "line 3: \"x\" is not an MTU; give bytes, 576 to 65535");
        assert_eq!(named[3], "line 4: not UTF-8 text");
        assert_eq!(named[4], "line 5: write `del PREFIX`");
        assert!(named[5].starts_with("line 6: write") && named[6].starts_with("line 7: \"x\" is not"));
        let mut deleting = Reader::new(Kinds::Deletions);
        assert!(deleting.push(b"10.0.0.0/8 via b\ndel 10.1.0.0/16\n10.2.0.0/16\n"));
        assert!(deleting.finish().unwrap().changes().all(|change| change.to.is_none()));
        let mut replacing = Reader::new(Kinds::Additions);
        replacing.push(b"del 10.0.0.0/8\n");
        assert!(replacing.finish().unwrap_err().named[0].contains("all routes are replaced"));
    }

    #[test]
    fn memory_is_bounded_whatever_arrives() {
        let mut reader = Reader::new(Kinds::All);
        assert!(!reader.push(&vec![b'1'; 100 << 10]));
        assert_eq!(reader.finish().unwrap_err().named, [format!("line 1: longer than {LONGEST_LINE} bytes")]);
        let mut long = vec![b'9'; LONGEST_LINE];
        long.extend(b"\n");
        let named = culprits(&long);
        assert!(named[0].len() < 200, "{named:?}");
        let mut reader = Reader::new(Kinds::All);
        (0..1000).for_each(|_| assert!(reader.push(b"x\n")));
        let culprits = reader.finish().unwrap_err();
        assert_eq!((culprits.count, culprits.named.len()), (1000, 20));
    }
}
