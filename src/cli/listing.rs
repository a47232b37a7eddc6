//! Lists of any length, which are printed while they arrive.

use serde::de::DeserializeOwned;

use super::text::Columns;
use crate::client::{Client, ClientError, Target};

/// Prints the list at `target` as a table: `row` lays out each of its elements, which has a line of its own in the
/// answer.
pub(super) fn table<T: DeserializeOwned, const N: usize>(
    client: &Client,
    target: &Target,
    mut table: Columns,
    row: impl Fn(T) -> [String; N],
) -> Result<(), ClientError> {
    let mut line = Vec::new();
    client.pieces(target, |mut piece| {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&piece[..end]);
            piece = &piece[end + 1..];
            if let Some(element) = element(&line)?
                && !table.add(row(element))?
            {
                return Ok(false);
            }
            line.clear();
        }
        line.extend_from_slice(piece);
        Ok(true)
    })?;
    table.finish().map_err(ClientError::Output)
}

/// What a line holds: one element or a bracket.
fn element<T: DeserializeOwned>(line: &[u8]) -> anyhow::Result<Option<T>> {
    let line = line.strip_suffix(b",").unwrap_or(line);
    if line.len() <= 1 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(line)?))
}
