//! The rule that workers never log, and that everybody else has one way to a stream, as a test of the
//! sources: a worker that waits for a log stops traffic.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src/` that are not the workers'.
const CONTROL_SIDE: [&str; 6] = ["api", "cli", "client", "cni", "config", "control"];
/// The only files that write to stdout or stderr.
const WRITERS: [&str; 3] = ["cli/out.rs", "cni/mod.rs", "control/daemon/log.rs"];
/// What prints or logs.
const LOUD: [&str; 14] = [
    "tracing::",
    "log::",
    "trace!(",
    "debug!(",
    "info!(",
    "warn!(",
    "error!(",
    "println!(",
    "print!(",
    "eprintln!(",
    "eprint!(",
    "dbg!(",
    "stderr()",
    "stdout()",
];
/// What writes to a stream without a word for it in the log.
const STREAMS: [&str; 7] =
    ["println!(", "print!(", "eprintln!(", "eprint!(", "dbg!(", "stderr()", "stdout()"];

#[test]
fn workers_never_log() {
    let files = sources(|folder| !CONTROL_SIDE.contains(&folder));
    for needed in ["underlay/send/mod.rs", "pump/worker.rs", "device/deliver.rs", "device/sys.rs"]
        .map(|name| format!("dataplane/{name}"))
    {
        assert!(files.iter().any(|file| file.0 == needed), "{needed} is not among them");
    }
    assert_silent(&files, &LOUD);
}

#[test]
fn streams_have_one_door() {
    let mut files = sources(|_| true);
    files.retain(|(name, _)| !WRITERS.contains(&name.as_str()));
    assert!(files.len() > 100);
    assert_silent(&files, &STREAMS);
}

/// Name below `src/` and text of every source file in folders that `wanted` accepts.
fn sources(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        for path in entries {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if wanted(&name) {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    files
}

fn assert_silent(files: &[(String, String)], loud: &[&str]) {
    let mut found = Vec::new();
    for (name, text) in files {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if loud.iter().any(|word| has_word(code, word)) {
                found.push(format!("src/{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "these would log or print; count instead:\n{}", found.join("\n"));
}

/// Whether `word` is in the code and not the end of a longer one.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    })
}

#[test]
fn the_search_finds_what_it_is_for() {
    for (code, word, expected) in [
        ("tracing::warn!(%error);", "tracing::", true),
        ("    warn!(\"x\");", "warn!(", true),
        ("eprintln!(\"x\");", "println!(", false),
        ("eprintln!(\"x\");", "eprintln!(", true),
        ("backlog::size()", "log::", false),
    ] {
        assert_eq!(has_word(code, word), expected, "{code} {word}");
    }
}
