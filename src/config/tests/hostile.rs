//! Files that are none, and text made to do harm.

use std::path::Path;

use proptest::prelude::*;

use super::{EXAMPLE, errors_when, errors_with};
use crate::config::{load, load_again, parse};

#[test]
fn hostile_text_stays_on_one_printable_line() {
    let printed = errors_with("[tunnel]\ndevice = \"\\u001b[2J\\nf:1:1: \\u202e\"");
    assert_eq!(
        printed,
        "f:14:10: device: \"\\u{1b}[2J\\nf:1:1: \\u{202e}\" contains a slash, colon, percent sign or white space; \
         use an interface name like up0"
    );
    let long = errors_when("10.2.0.0/24", &"9".repeat(10_000));
    assert_eq!(long.chars().count(), "f:11:12: ".len() + 501);
    assert!(long.ends_with("9…"));
}

#[test]
fn more_peers_than_have_numbers_are_refused() {
    let peers = |count: u32| -> String {
        let peer = |n| {
            let address = std::net::Ipv4Addr::from(0xc633_6400 + n);
            format!("[[peer]]\nname=\"p{n}\"\naddress=\"{address}\"\nsubnets=[]\n")
        };
        let own = "[node]\nname=\"a\"\naddress=\"192.0.2.1/24\"\n[local]\nsubnets=[\"10.1.0.0/24\"]\n";
        std::iter::once(own.to_owned()).chain((0..count).map(peer)).collect()
    };
    assert_eq!(parse(&peers(65536), "f").unwrap().peers.len(), 65536);
    assert_eq!(
        parse(&peers(65537), "f").unwrap_err().to_string(),
        "f:262150:1: more than 65536 peers; remove those from here on"
    );
}

#[test]
fn unreadable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let error = load(&missing).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: cannot read the configuration file: No such file or directory (os error 2)",
            missing.display()
        )
    );
    assert_eq!((error.errors[0].line, error.errors[0].column), (0, 0));
    let binary = dir.path().join("binary.toml");
    std::fs::write(&binary, b"# \xc3\xa9\nx = \"\xff\"").unwrap();
    assert_eq!(
        load(&binary).unwrap_err().to_string(),
        format!("{}:2:6: not UTF-8, which TOML must be; save the file as UTF-8", binary.display())
    );
    let endless = load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(endless, "/dev/zero: cannot read the configuration file: larger than 16 MiB");
}

#[test]
fn what_is_read_again_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, EXAMPLE).unwrap();
    assert_eq!(load_again(&file).unwrap(), load(&file).unwrap());
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, what) in [
        (pipe.as_path(), "it is a pipe, which cannot be read again; give a file"),
        (Path::new("/dev/zero"), "it is a device, which cannot be read again; give a file"),
        (dir.path(), "is a directory"),
        (&socket, "No such device or address"),
    ] {
        let error = load_again(path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// Whatever comes in, the answer is a configuration or errors with positions inside the text.
fn judge(text: &str) {
    let Err(found) = parse(text, "f") else { return };
    assert!(!found.errors.is_empty());
    let lines = text.split('\n').count();
    assert!(found.errors.iter().all(|e| (1..=lines).contains(&e.line) && e.column >= 1));
    assert!(found.errors.is_sorted_by_key(|e| (e.line, e.column)));
    assert_eq!(found.to_string().lines().count(), found.errors.len());
}

proptest! {
    #[test]
    fn never_panics_on_text(text in ".*") {
        judge(&text);
    }

    #[test]
    fn never_panics_on_tokens(tokens in prop::collection::vec(prop::sample::select(TOKENS), 0..40)) {
        judge(&tokens.concat());
    }

    #[test]
    fn never_panics_on_mutations(cuts in prop::collection::vec((0..EXAMPLE.len(), 0..40_usize, ".{0,6}"), 1..6)) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, len, new) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, new.chars());
        }
        judge(&text.into_iter().collect::<String>());
    }

    #[test]
    fn never_panics_on_other_values(
        line in 0..EXAMPLE.lines().count(),
        value in prop::sample::select(TOKENS),
    ) {
        let swap = |(index, text): (usize, &str)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        };
        judge(&EXAMPLE.lines().enumerate().map(swap).collect::<String>());
    }
}

const TOKENS: &[&str] = &[
    "\n",
    " = ",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    ",",
    ".",
    "\"",
    "'",
    "\"\"\"",
    "#",
    "-1",
    "0",
    "1e9",
    "nan",
    "true",
    "\"0.0.0.0/0\"",
    "\"::/0\"",
    "\"10.0.0.0/8\"",
    "\"ff02::1\"",
    "99999999999999999999",
    "0x",
    "[]",
    "{}",
    "[\"10.0.0.0/8\", 1]",
    "1979-05-27",
    "\"\\u0000\"",
    "\"auto\"",
    "[node]\n",
    "[[peer]]\n",
    "[[pool]]\n",
    "[peer]\n",
    "node.name",
    "tunnel.mtu",
    "name",
    "address",
    "subnets",
    "cidr",
    "vtep_mac",
    "port",
    "é",
    "\u{feff}",
    "\r",
];
