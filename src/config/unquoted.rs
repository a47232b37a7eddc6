//! Strings whose quotes were forgotten, which TOML's parser takes for broken numbers.

use toml::de::DeTable;

/// The word around the fault at the offset `at` that would be a value if it had quotes: where it begins, and
/// what to say.
pub(super) fn unquoted(text: &str, at: usize) -> Option<(usize, String)> {
    let begin = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let end = text.get(at..)?.find('\n').map_or(text.len(), |len| at + len);
    let line = text.get(begin..end)?;
    let (place, word) = words(line).find(|(place, word)| {
        let from = begin + place;
        (from..=from + word.len()).contains(&at)
    })?;
    let before = line.get(..place)?;
    let quoted = before.matches('"').count() % 2 == 1 || before.matches('\'').count() % 2 == 1;
    // A line that begins with it may be one of a list; a key has neither of these characters.
    let in_list = before.trim().is_empty() || before.trim_end().ends_with(',');
    let is_value = before.contains('=') || in_list && word.contains(['/', ':']);
    let is_key = line.get(place + word.len()..)?.trim_start().starts_with('=');
    if quoted || !is_value || is_key || before.contains('#') || is_fine(word) {
        return None;
    }
    let word: String = word.chars().take(64).collect();
    Some((begin + place, format!("{word} is a string, which needs quotes; write \"{word}\"")))
}

/// The words of a line, with their offsets.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let ends = |c: char| c.is_whitespace() || "\"'[]{},=#".contains(c);
    let mut place = 0;
    line.split_inclusive(ends).filter_map(move |piece| {
        let begin = place;
        place += piece.len();
        let word = piece.trim_end_matches(ends);
        (!word.is_empty()).then_some((begin, word))
    })
}

/// Whether TOML has such a value.
fn is_fine(word: &str) -> bool {
    DeTable::parse_recoverable(&format!("x = {word}")).1.is_empty()
}
