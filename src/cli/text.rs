//! How commands lay out their text.

use std::fmt::Display;

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::out;

/// A table without lines, so that `awk` and eyes both read it. No header when `header` is empty.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Aligns columns of numbers.
pub(super) fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table's lines, flush left, without trailing blanks.
pub(super) fn lines(table: &Table) -> String {
    let mut out = String::new();
    for line in table.lines() {
        out.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        out.push('\n');
    }
    out
}

/// Rows that decide how wide columns are.
const SAMPLE: usize = 1000;

/// A table of any length: the first thousand rows decide how wide its columns are, and those
/// behind them are written as they come.
pub(super) struct Columns {
    head: Table,
    right: std::ops::Range<usize>,
    waiting: usize,
    /// Once the first rows are written.
    widths: Option<Vec<usize>>,
    out: String,
}

impl Columns {
    /// An empty table; the columns of `right` hold numbers.
    pub(super) fn new(header: &[&str], right: std::ops::Range<usize>) -> Self {
        let mut head = table(header);
        align_right(&mut head, right.clone());
        Self { head, right, waiting: 0, widths: None, out: String::new() }
    }

    /// Adds a row; false when nobody reads on.
    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) -> anyhow::Result<bool> {
        let Some(widths) = &self.widths else {
            self.head.add_row(row);
            self.waiting += 1;
            return if self.waiting == SAMPLE { self.write_head() } else { Ok(true) };
        };
        let begin = self.out.len();
        for (index, (cell, width)) in row.into_iter().zip(widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(cell.len()));
            let (before, behind) = if self.right.contains(&index) { (&*gap, "") } else { ("", &*gap) };
            self.out.extend([before, &cell, behind, "  "]);
        }
        self.out.truncate(begin + self.out[begin..].trim_end().len());
        self.out.push('\n');
        if self.out.len() < SAMPLE * 64 { Ok(true) } else { self.flush() }
    }

    fn write_head(&mut self) -> anyhow::Result<bool> {
        self.widths =
            Some(self.head.column_max_content_widths().iter().map(|width| usize::from(*width)).collect());
        self.out = lines(&self.head);
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<bool> {
        let more = out::write_piece(self.out.as_bytes());
        self.out.clear();
        more
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        let done = if self.widths.is_none() { self.write_head() } else { self.flush() };
        done.map(drop)
    }
}

/// The help of an argument that is one of several words.
pub(super) fn choice<T: ValueEnum>(what: &str, default: Option<&T>) -> String {
    let name = |value: &T| value.to_possible_value().map(|value| value.get_name().to_owned());
    let names: Vec<String> = T::value_variants().iter().filter_map(name).collect();
    let default = default.and_then(name).map(|name| format!("[default: {name}] ")).unwrap_or_default();
    format!("{what}\n{default}[possible values: {}]", names.join(", "))
}

/// `1 peer`, `2 peers`.
pub(super) fn plural(count: impl Display, noun: &str) -> String {
    let count = count.to_string();
    let s = if count == "1" { "" } else { "s" };
    format!("{count} {noun}{s}")
}

/// Bytes with a binary unit and one decimal.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10).min(6);
    let tenths = u128::from(count) * 10 / (1 << (10 * power));
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize - 1])
}

/// Seconds in the two largest units that matter.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::{align_right, bytes, duration, lines, plural, table};

    #[test]
    fn tables_are_aligned_and_bare() {
        let mut numbers = table(&["NAME", "N"]);
        align_right(&mut numbers, 1..2);
        numbers.add_row(["a", "1"]);
        numbers.add_row(["longer", "1000"]);
        assert_eq!(lines(&numbers), "NAME       N\na          1\nlonger  1000\n");
    }

    #[test]
    fn quantities_read_well() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (u64::from(u32::MAX), "3.9 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (seconds, expected) in
            [(0, "0s"), (61, "1m 1s"), (3600, "1h 0m"), (90_000, "1d 1h"), (u64::MAX, "213503982334601d 7h")]
        {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!([plural(0, "peer"), plural(1, "peer")], ["0 peers", "1 peer"]);
    }
}
