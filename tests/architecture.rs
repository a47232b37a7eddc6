//! The architecture as a test: which room of `src/` may use which, as the table in docs/architecture.md has it;
//! no circles of files; no file and no room that is too large; and that docs/reliability.md names tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Every room, and the rooms that it uses. A room uses only those above it.
const ROOMS: [(&str, &[&str]); 28] = [
    ("net", &[]),
    ("sync", &[]),
    ("files", &[]),
    ("wire", &["net"]),
    ("route", &["net"]),
    ("dataplane/packet", &["wire"]),
    ("dataplane/segment", &["dataplane/packet", "wire"]),
    ("dataplane/encap", &["dataplane/packet", "net", "wire"]),
    ("dataplane/observe", &["dataplane/encap", "dataplane/packet", "net", "sync", "wire"]),
    (
        "dataplane/policy",
        &["dataplane/observe", "dataplane/packet", "dataplane/segment", "net", "route", "wire"],
    ),
    ("dataplane/ebpf", &["wire"]),
    ("dataplane/steering", &["dataplane/ebpf", "wire"]),
    (
        "dataplane/kernel_path",
        &[
            "dataplane/ebpf",
            "dataplane/encap",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/segment",
            "dataplane/steering",
            "net",
            "wire",
        ],
    ),
    (
        "dataplane/device",
        &["dataplane/observe", "dataplane/packet", "dataplane/segment", "dataplane/steering", "net", "wire"],
    ),
    (
        "dataplane/forward",
        &[
            "dataplane/encap",
            "dataplane/kernel_path",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/policy",
            "dataplane/segment",
            "net",
            "route",
            "wire",
        ],
    ),
    (
        "dataplane/underlay",
        &[
            "dataplane/device",
            "dataplane/ebpf",
            "dataplane/encap",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/segment",
            "dataplane/steering",
            "net",
            "wire",
        ],
    ),
    (
        "dataplane/pump",
        &[
            "dataplane/device",
            "dataplane/forward",
            "dataplane/kernel_path",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/policy",
            "dataplane/segment",
            "dataplane/underlay",
            "net",
            "sync",
        ],
    ),
    ("api", &["net"]),
    ("client", &["api"]),
    ("cni", &["api", "client", "files"]),
    ("policy", &["api", "dataplane/observe", "dataplane/packet", "dataplane/policy", "net", "wire"]),
    ("config", &["net", "policy", "route", "wire"]),
    (
        "control/engine",
        &[
            "api",
            "config",
            "dataplane/device",
            "dataplane/encap",
            "dataplane/forward",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/policy",
            "dataplane/underlay",
            "net",
            "policy",
            "route",
            "wire",
        ],
    ),
    (
        "control/host",
        &["control/engine", "dataplane/device", "dataplane/packet", "dataplane/underlay", "net"],
    ),
    ("control/source", &["config", "control/engine", "files", "net", "policy", "route"]),
    (
        "control/server",
        &["api", "control/engine", "dataplane/observe", "dataplane/policy", "net", "policy", "route"],
    ),
    (
        "control/daemon",
        &[
            "api",
            "cni",
            "config",
            "control/engine",
            "control/host",
            "control/server",
            "control/source",
            "dataplane/device",
            "dataplane/encap",
            "dataplane/forward",
            "dataplane/kernel_path",
            "dataplane/observe",
            "dataplane/packet",
            "dataplane/policy",
            "dataplane/pump",
            "dataplane/segment",
            "dataplane/underlay",
            "files",
            "net",
            "policy",
            "route",
            "sync",
            "wire",
        ],
    ),
    ("cli", &["api", "client", "config", "control/daemon", "net", "policy"]),
];
/// The one circle: the halves of one recursive data structure.
const CIRCLE: [&str; 2] = ["route/fib/block.rs", "route/fib/slot.rs"];
/// Lines of a file without its tests, at most.
const MOST_LINES: usize = 400;

/// A source file without its tests.
struct File {
    /// Below `src/`.
    name: String,
    /// Without comments, strings and tests.
    code: String,
    lines: usize,
    /// Paths from the root of the crate that it names.
    uses: BTreeSet<Vec<String>>,
}

#[test]
fn rooms_use_only_what_the_table_says() {
    let table: BTreeMap<&str, BTreeSet<&str>> =
        ROOMS.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let mut found: BTreeMap<&str, BTreeSet<&str>> =
        ROOMS.iter().map(|(room, _)| (*room, BTreeSet::new())).collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(from) = room_of(&file.name) else { continue };
        for to in file.uses.iter().filter_map(|path| room_of(&path.join("/"))).filter(|to| *to != from) {
            if !table[from].contains(to) {
                wrong.push(format!("src/{}: {from} must not use {to}", file.name));
            }
            found.entry(from).or_default().insert(to);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(found, table, "the table has arrows that the code does not need any more");
}

#[test]
fn the_table_has_one_direction() {
    for (place, (room, uses)) in ROOMS.iter().enumerate() {
        let above: Vec<&str> = ROOMS[..place].iter().map(|(room, _)| *room).collect();
        for used in *uses {
            assert!(above.contains(used), "{room} uses {used}, which is not above it");
        }
        if room.starts_with("dataplane/") {
            assert!(uses.iter().all(|used| !used.starts_with("control/")), "{room}");
        }
    }
}

#[test]
fn every_folder_is_in_the_table_and_so_is_the_document() {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for (room, uses) in ROOMS {
        let uses = if uses.is_empty() { "nothing".to_owned() } else { uses.join(", ") };
        let row = document.lines().find(|line| line.starts_with(&format!("| `{room}/` |")));
        let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row of {room}"));
        assert!(row.ends_with(&format!("| {uses} |")), "docs/architecture.md says of {room}: {row}");
    }
    for file in sources() {
        let alone = ["lib.rs", "main.rs", "bin/underpass-cni.rs", "control/mod.rs", "dataplane/mod.rs"]
            .contains(&file.name.as_str());
        assert!(alone || room_of(&file.name).is_some(), "src/{} is in no room", file.name);
    }
}

#[test]
fn files_are_small_and_use_each_other_in_one_direction() {
    let files = sources();
    for file in &files {
        assert!(file.lines <= MOST_LINES, "src/{} has {} lines without its tests", file.name, file.lines);
    }
    let names: BTreeSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let arrows: BTreeMap<&str, BTreeSet<&str>> = files
        .iter()
        .filter(|file| !file.name.ends_with("mod.rs"))
        .map(|file| {
            let to = file.uses.iter().filter_map(|path| file_of(path, &names));
            // An index of a folder names its parts, and they what it defines for all of them.
            (file.name.as_str(), to.filter(|to| *to != file.name && !to.ends_with("mod.rs")).collect())
        })
        .collect();
    let mut circles = BTreeSet::new();
    for start in arrows.keys() {
        if reaches(&arrows, start) {
            circles.insert(*start);
        }
    }
    assert_eq!(circles, BTreeSet::from(CIRCLE), "files that use themselves through others");
}

#[test]
fn no_room_is_above_a_tenth_of_the_code() {
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for file in sources() {
        let folder = file.name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        *lines.entry(folder).or_default() += file.lines;
    }
    let all: usize = lines.values().sum();
    for (folder, lines) in lines {
        assert!(10 * lines <= all, "the files of src/{folder} have {lines} of {all} lines");
    }
}

#[test]
fn the_tests_that_reliability_names_exist() {
    let document = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| ") && !line.contains("| Test |"));
    let tests: Vec<&str> =
        rows.map(|row| row.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default()).collect();
    assert!(tests.len() > 50, "{}", tests.len());
    for test in tests.iter().flat_map(|cell| cell.split(", ")) {
        let name = test.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
        let found = name.is_some_and(|name| match name.starts_with("test_") {
            true => python_test_exists(name),
            false => rust_test_exists(name),
        });
        assert!(found, "docs/reliability.md names a test that is not there: {test}");
    }
}

/// Whether there is `test_file.Class.test_name`, or as much of it as is given.
fn python_test_exists(name: &str) -> bool {
    let mut parts = name.split('.');
    let file = parts.next().unwrap_or_default();
    let Ok(text) = fs::read_to_string(root().join(format!("tests/netns/{file}.py"))) else { return false };
    let mut classes = text.split("\nclass ").skip(1);
    let class = match parts.next() {
        Some(class) => classes.find(|text| text.split(['(', ':']).next() == Some(class)),
        None => Some(text.as_str()),
    };
    class.is_some_and(|class| parts.all(|test| class.contains(&format!("    def {test}("))))
}

/// Whether there is `path::test`, or a test in the file at `path`: below `src/`, but for paths in `tests/`.
fn rust_test_exists(name: &str) -> bool {
    let (path, test) = name.split_once("::").unwrap_or((name, ""));
    let folder = if path.starts_with("tests/") { "" } else { "src/" };
    let Ok(text) = fs::read_to_string(root().join(format!("{folder}{path}"))) else { return false };
    match test {
        "" => ["#[test]", "#[tokio::test"].iter().any(|mark| text.contains(mark)),
        test => text.contains(&format!("fn {test}(")),
    }
}

/// Whether some way along the arrows leads from `start` back to it.
fn reaches<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = arrows[start].iter().copied().collect();
    while let Some(file) = next.pop() {
        if file == start {
            return true;
        }
        if seen.insert(file) {
            next.extend(arrows.get(file).into_iter().flatten());
        }
    }
    false
}

/// The file that defines what `path` names, as far as the path's modules say.
fn file_of<'a>(path: &[String], names: &BTreeSet<&'a str>) -> Option<&'a str> {
    (1..=path.len()).rev().find_map(|len| {
        let stem = path[..len].join("/");
        [format!("{stem}.rs"), format!("{stem}/mod.rs")]
            .iter()
            .find_map(|name| names.get(name.as_str()).copied())
    })
}

/// The room that a path from `src/` on lies in.
fn room_of(path: &str) -> Option<&'static str> {
    let path = path.trim_end_matches(".rs");
    let inside =
        |room: &str| path == room || path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'));
    ROOMS.iter().map(|(room, _)| *room).find(|room| inside(room))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of `src/` that are no tests.
fn sources() -> Vec<File> {
    let src = root().join("src");
    let (mut files, mut folders) = (Vec::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !is_test(&name) {
                files.push(File::read(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 150, "{}", files.len());
    files
}

/// Whether a file is only there for tests.
fn is_test(name: &str) -> bool {
    name.split('/').any(|part| {
        let part = part.trim_end_matches(".rs");
        ["tests", "testing", "sample", "memory"].contains(&part) || part.ends_with("_tests")
    })
}

impl File {
    fn read(name: String, text: &str) -> Self {
        // Inline tests are the end of a file.
        let text = match text
            .find("#[cfg(test)]\nmod tests {")
            .or_else(|| text.find("#[cfg(test)]\npub mod samples {"))
        {
            Some(end) => &text[..end],
            None => text,
        };
        let lines = text.lines().count();
        let code: String =
            text.lines().map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n").collect();
        let mut file = Self { name, code, lines, uses: BTreeSet::new() };
        file.find_uses();
        file
    }

    /// The module of this file, from the root of the crate on.
    fn module(&self) -> Vec<String> {
        let path = self.name.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    }

    fn find_uses(&mut self) {
        let code = self.code.clone();
        for start in ["crate::", "super::"] {
            for (at, _) in code.match_indices(start) {
                let before = code[..at].chars().next_back();
                if before.is_some_and(|letter| letter.is_alphanumeric() || "_:".contains(letter)) {
                    continue;
                }
                self.add_tree(Vec::new(), &code[at..]);
            }
        }
    }

    /// Adds the paths of a use tree, which begins at the start of `text`.
    fn add_tree(&mut self, mut path: Vec<String>, text: &str) {
        let end =
            text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_')).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        match word {
            "" => {}
            "crate" => path.clear(),
            "super" => {
                if path.is_empty() {
                    path = self.module();
                }
                path.pop();
            }
            _ => path.push(word.to_owned()),
        }
        match rest.strip_prefix("::") {
            Some(rest) if rest.starts_with('{') => self.add_group(&path, &rest[1..]),
            Some(rest) => self.add_tree(path, rest),
            None => drop(self.uses.insert(path)),
        }
    }

    fn add_group(&mut self, path: &[String], text: &str) {
        let (mut depth, mut begin) = (0, 0);
        for (at, letter) in text.char_indices() {
            match letter {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    self.add_tree(path.to_vec(), text[begin..at].trim());
                    begin = at + 1;
                }
                '}' if depth == 0 => return self.add_tree(path.to_vec(), text[begin..at].trim()),
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
}

#[test]
fn paths_are_found() {
    let text = "use crate::route::{Rib, fib::{Fib, slot}};\nuse super::a::B;\nfn f() { crate::net::mac::x(super::y) }\n// crate::wire\n#[cfg(test)]\nmod tests {\n    use crate::cli::Z;\n}\n";
    let file = File::read("control/host/open.rs".to_owned(), text);
    let found: Vec<String> = file.uses.iter().map(|path| path.join("::")).collect();
    let expected = [
        "control::host::a::B",
        "control::host::y",
        "net::mac::x",
        "route::Rib",
        "route::fib::Fib",
        "route::fib::slot",
    ];
    assert_eq!(found, expected);
    assert_eq!(file.lines, 4);
}
