//! Words in messages: what a wrong one was meant to be, and as much of it as a line has room for.

/// The candidate that `word` is most likely a slip of: at most a third of its letters wrong,
/// letter case not counted.
fn closest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    const LONGEST: usize = 32; // the distance costs length × length
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Whether the candidate nearest to `word` was meant, as a question, if one is near.
pub fn question<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<String> {
    closest(word, candidates).map(|near| format!("did you mean \"{near}\"?"))
}

/// The same for the end of a sentence; nothing where none is near.
pub fn hint<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    question(word, candidates).map(|question| format!("; {question}")).unwrap_or_default()
}

/// What a word means among those that have a meaning.
///
/// # Errors
/// Which words there are, and which of them is nearest.
pub fn one_of<T: Copy>(given: &str, words: &[(&str, T)]) -> Result<T, String> {
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given) {
        return Ok(*meaning);
    }
    let known: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let hint = hint(given, words.iter().map(|(word, _)| *word));
    Err(format!("\"{}\" is not one of {}{hint}", clip(given), known.join(", ")))
}

/// The one of all that has this name.
///
/// # Errors
/// Which names there are.
pub fn called<T: Copy, const N: usize>(
    given: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    let named = all.into_iter().find(|one| name(*one) == given);
    named.ok_or_else(|| format!("\"{}\" is none of {}", clip(given), all.map(name).join(", ")))
}

/// What to say about a key that is none of those that are known.
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    let advice = question(key, known.iter().copied());
    let advice = advice.unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
    format!("unknown key \"{}\"; {advice}", clip(key))
}

/// The beginning of `text`, short enough for a message.
pub fn clip(text: &str) -> String {
    const LIMIT: usize = 64;
    match text.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
