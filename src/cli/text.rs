//! How commands lay out their text.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

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

/// Writes to stdout. A reader that has seen enough (`| head`) is not an error.
pub(super) fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| anyhow::anyhow!("cannot write to stdout: {error}")),
    }
}

/// `1 peer`, `2 peers`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
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
