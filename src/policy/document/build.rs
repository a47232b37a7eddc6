//! From the parser's events to values with positions, without recursion and with bounds on all that grows.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, StrInput, Tag, options};
use serde_json::Value;

use super::scalar::plain;
use super::{Document, Inside, Position, SyntaxError, Tree};
use crate::net::words::clip;

/// Values of a file, at most, with those that aliases repeat.
const MOST_VALUES: usize = 1 << 20;
/// Bytes of strings that aliases repeat, at most.
const MOST_REPEATED: usize = 16 << 20;
/// Values inside of each other, at most.
const DEEPEST: usize = 64;
/// The key under which other mappings are taken over (YAML 1.1's merge keys, which `kubectl` knows).
const MERGE: &str = "<<";

/// A finished value.
#[derive(Clone)]
struct Node {
    value: Value,
    tree: Tree,
    /// Values in it, itself among them, and bytes of its strings.
    size: usize,
    bytes: usize,
    /// Values inside of each other.
    depth: usize,
}

/// A collection that is not finished.
enum Open {
    List {
        at: Position,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        at: Position,
        anchor: usize,
        entries: Entries,
        key: Option<(String, bool, Position)>,
        merged: Vec<Node>,
    },
}

type Entries = BTreeMap<String, (Position, Node)>;

/// What ends the reading of a document, or of the whole file.
enum Stop {
    Document(SyntaxError),
    File(SyntaxError),
}

/// Reads a text: its documents, but for empty ones, and what is wrong with it, up to what keeps the rest from being
/// read.
pub fn read(text: &str) -> (Vec<Document>, Vec<SyntaxError>) {
    let options: Options = options! {
        emit_comments: false,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
    };
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        open: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
        repeated: 0,
        documents: Vec::new(),
        errors: Vec::new(),
    };
    reader.run();
    (reader.documents, reader.errors)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: usize,
    repeated: usize,
    documents: Vec<Document>,
    errors: Vec<SyntaxError>,
}

impl Reader<'_> {
    fn run(&mut self) {
        while let Some(next) = self.parser.next_event() {
            let taken = match next {
                Ok((Event::StreamEnd, _)) => return,
                Ok((event, span)) => self.take(event, position(span.start)),
                Err(error) => {
                    Err(Stop::Document(SyntaxError { at: position(*error.marker()), message: error.info() }))
                }
            };
            let error = match taken {
                Ok(()) => continue,
                Err(Stop::File(error)) => return self.errors.push(error),
                Err(Stop::Document(error)) => error,
            };
            self.errors.push(error);
            self.open.clear();
            self.anchors.clear();
            if !matches!(self.parser.proceed_next_document(), Ok(true)) {
                return;
            }
        }
    }

    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), Stop> {
        match event {
            Event::DocumentStart(..) => {
                self.open.clear();
                self.anchors.clear();
            }
            Event::SequenceStart(_, anchor, tag) => {
                core_tag(tag.as_deref(), &["seq"], at)?;
                self.begin(Open::List { at, anchor, items: Vec::new() }, at)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                core_tag(tag.as_deref(), &["map"], at)?;
                let (entries, key, merged) = (Entries::new(), None, Vec::new());
                self.begin(Open::Map { at, anchor, entries, key, merged }, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((node, anchor)) = self.open.pop().map(close) {
                    self.finish(node, anchor, false)?;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, at)?;
                let is_plain = style == ScalarStyle::Plain;
                let known = core_tag(tag.as_deref(), &["str", "int", "float", "bool", "null"], at)?;
                let value = match known {
                    Some("str") => Value::String(text.clone().into_owned()),
                    Some(_) => plain(&text),
                    None if is_plain => plain(&text),
                    None => Value::String(text.clone().into_owned()),
                };
                let bytes = text.len();
                // Keys are text, whatever they look like.
                if self.awaits_key() {
                    return self.key(text.into_owned(), is_plain, at);
                }
                let tree = Tree { at, inside: Inside::Nothing };
                self.finish(Node { value, tree, size: 1, bytes, depth: 1 }, anchor, is_plain)?;
            }
            Event::Alias(anchor) => {
                let Some(mut node) = self.repeat(anchor, at)? else {
                    return stop(at, "an alias inside of what it stands for; write the value out");
                };
                node.tree.at = at;
                if self.awaits_key() {
                    return match node.value {
                        Value::String(key) => self.key(key, false, at),
                        _ => stop(at, "a key must be a word; write it out"),
                    };
                }
                self.finish(node, 0, false)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, open: Open, at: Position) -> Result<(), Stop> {
        self.count(1, at)?;
        if self.awaits_key() {
            return stop(at, "a key must be a word, not a list or mapping");
        }
        if self.open.len() >= DEEPEST {
            return too_deep(at);
        }
        self.open.push(open);
        Ok(())
    }

    /// Counts values that are about to be there.
    fn count(&mut self, values: usize, at: Position) -> Result<(), Stop> {
        self.values = self.values.saturating_add(values);
        if self.values > MOST_VALUES { too_large(at) } else { Ok(()) }
    }

    /// Once more what an anchor stands for, if that is finished.
    fn repeat(&mut self, anchor: usize, at: Position) -> Result<Option<Node>, Stop> {
        let Some(node) = self.anchors.get(&anchor) else { return Ok(None) };
        let (size, bytes) = (node.size, node.bytes);
        self.count_again(size, bytes, at)?;
        Ok(self.anchors.get(&anchor).cloned())
    }

    /// Counts what is about to be there once more.
    fn count_again(&mut self, size: usize, bytes: usize, at: Position) -> Result<(), Stop> {
        self.count(size, at)?;
        self.repeated = self.repeated.saturating_add(bytes);
        if self.repeated > MOST_REPEATED { too_large(at) } else { Ok(()) }
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open::Map { key: None, .. }))
    }

    /// The next key of the mapping that is open.
    fn key(&mut self, text: String, is_plain: bool, at: Position) -> Result<(), Stop> {
        let Some(Open::Map { entries, key, .. }) = self.open.last_mut() else { return Ok(()) };
        if let Some((before, _)) = entries.get(&text) {
            let line = before.line;
            let message =
                format!("the key \"{}\" is there already, in line {line}; remove one of them", clip(&text));
            return stop(at, &message);
        }
        *key = Some((text, is_plain, at));
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, is_plain: bool) -> Result<(), Stop> {
        let at = node.tree.at;
        if node.depth > DEEPEST {
            return too_deep(at);
        }
        if anchor != 0 {
            self.count_again(node.size, node.bytes, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None if node.value.is_null() && is_plain => {}
            None => self.documents.push(Document { value: node.value, tree: node.tree }),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, merged, .. }) => match key.take() {
                Some((key, true, at)) if key == MERGE => match &node.value {
                    Value::Object(_) => merged.push(node),
                    Value::Array(items) if items.iter().all(Value::is_object) => merged.push(node),
                    _ => return stop(at, "<< takes over mappings; give an alias of one, or a list of them"),
                },
                Some((key, _, at)) => drop(entries.insert(key, (at, node))),
                None => {}
            },
        }
        Ok(())
    }
}

/// A collection that is complete, and its anchor.
fn close(open: Open) -> (Node, usize) {
    match open {
        Open::List { at, anchor, items } => {
            let (size, bytes, depth) = sums(items.iter());
            let (values, trees) = items.into_iter().map(|node| (node.value, node.tree)).unzip();
            let tree = Tree { at, inside: Inside::Places(trees) };
            (Node { value: Value::Array(values), tree, size, bytes, depth }, anchor)
        }
        Open::Map { at, anchor, mut entries, merged, .. } => {
            // What is taken over gives way to what is there, and to what was taken over before.
            for (key, place, value, tree) in merged.into_iter().flat_map(mappings) {
                entries.entry(key).or_insert_with(|| (place, measured(value, tree)));
            }
            let (size, bytes, depth) = sums(entries.values().map(|(_, node)| node));
            let bytes = bytes + entries.keys().map(String::len).sum::<usize>();
            let mut trees = Vec::with_capacity(entries.len());
            let mut values = serde_json::Map::new();
            for (key, (place, node)) in entries {
                trees.push((place, node.tree));
                values.insert(key, node.value);
            }
            let tree = Tree { at, inside: Inside::Keys(trees) };
            (Node { value: Value::Object(values), tree, size, bytes, depth }, anchor)
        }
    }
}

fn sums<'n>(nodes: impl Iterator<Item = &'n Node>) -> (usize, usize, usize) {
    nodes.fold((1, 0, 1), |(size, bytes, depth), node| {
        (size.saturating_add(node.size), bytes.saturating_add(node.bytes), depth.max(node.depth + 1))
    })
}

/// The entries of a mapping, or of a list of mappings.
fn mappings(node: Node) -> Vec<(String, Position, Value, Tree)> {
    match (node.value, node.tree.inside) {
        (Value::Object(map), Inside::Keys(trees)) => map
            .into_iter()
            .zip(trees)
            .map(|((key, value), (place, tree))| (key, place, value, tree))
            .collect(),
        (Value::Array(items), Inside::Places(trees)) => {
            let each = items.into_iter().zip(trees);
            each.flat_map(|(value, tree)| mappings(Node { value, tree, size: 0, bytes: 0, depth: 0 }))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// A value with its measures.
fn measured(value: Value, tree: Tree) -> Node {
    fn measure(value: &Value) -> (usize, usize, usize) {
        let each = |values: &mut dyn Iterator<Item = &Value>| {
            values.map(measure).fold((1, 0, 1), |all: (usize, usize, usize), one| {
                (all.0 + one.0, all.1 + one.1, all.2.max(one.2 + 1))
            })
        };
        match value {
            Value::String(text) => (1, text.len(), 1),
            Value::Array(items) => each(&mut items.iter()),
            Value::Object(map) => each(&mut map.values()),
            _ => (1, 0, 1),
        }
    }
    let (size, bytes, depth) = measure(&value);
    Node { value, tree, size, bytes, depth }
}

/// Which of these core tags there is, if there is one.
fn core_tag(tag: Option<&Tag>, known: &[&'static str], at: Position) -> Result<Option<&'static str>, Stop> {
    let Some(tag) = tag else { return Ok(None) };
    match known.iter().find(|name| tag.is_yaml_core_schema_tag(name)) {
        Some(found) => Ok(Some(found)),
        None => {
            let message = format!("the tag \"{}\" means nothing here; remove it", clip(&tag.to_string()));
            Err(Stop::Document(SyntaxError { at, message }))
        }
    }
}

fn stop<T>(at: Position, message: &str) -> Result<T, Stop> {
    Err(Stop::Document(SyntaxError { at, message: message.to_owned() }))
}

fn too_deep<T>(at: Position) -> Result<T, Stop> {
    stop(at, &format!("values lie more than {DEEPEST} deep inside of each other, which no manifest needs"))
}

fn too_large<T>(at: Position) -> Result<T, Stop> {
    let message =
        format!("the file has more than {MOST_VALUES} values with those that aliases repeat; split it");
    Err(Stop::File(SyntaxError { at, message }))
}

fn position(mark: Marker) -> Position {
    Position { line: mark.line().max(1), column: mark.col() + 1 }
}
