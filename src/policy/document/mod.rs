//! YAML and JSON with positions: from the text of a file to values, and from a place in a value to one in the text.
//!
//! JSON is YAML, so one reader does for both.

mod build;
mod scalar;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub use build::read;

/// A place in a text.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

/// Why a text is no YAML, or none that is taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SyntaxError {
    /// Where.
    pub at: Position,
    /// Why.
    pub message: String,
}

/// A document of a file, or an element of a `List` in it.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub value: Value,
    tree: Tree,
}

/// Where a value begins, and where those inside of it do.
#[derive(Clone, Debug)]
struct Tree {
    at: Position,
    inside: Inside,
}

#[derive(Clone, Debug)]
enum Inside {
    Nothing,
    /// Of each key where it is, in the order of the keys.
    Keys(Vec<(Position, Tree)>),
    Places(Vec<Tree>),
}

impl Document {
    /// Where the value at a JSON pointer is: that of the nearest value around it where there is no such one. Of a
    /// value under a key it is where the key is.
    pub fn position(&self, pointer: &str) -> Position {
        let (mut at, mut tree, mut value) = (self.tree.at, &self.tree, &self.value);
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let next = match (&tree.inside, value) {
                (Inside::Keys(trees), Value::Object(map)) => {
                    let found = map.iter().zip(trees).find(|((key, _), _)| **key == step);
                    found.map(|((_, value), (key, tree))| (*key, tree, value))
                }
                (Inside::Places(trees), Value::Array(items)) => {
                    let place = step.parse::<usize>().ok();
                    let found = place.and_then(|place| Some((trees.get(place)?, items.get(place)?)));
                    found.map(|(tree, value)| (tree.at, tree, value))
                }
                _ => None,
            };
            match next {
                Some(next) => (at, tree, value) = next,
                None => break,
            }
        }
        at
    }

    /// What it is made of where it is a `List`, itself where it is not.
    pub fn unfolded(self) -> Vec<Self> {
        let is_list =
            self.value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
        let items = self.value.as_object().and_then(|map| {
            let place = map.keys().position(|key| key == "items")?;
            let Inside::Keys(trees) = &self.tree.inside else { return None };
            match (map.get("items")?, trees.get(place)) {
                (Value::Array(items), Some((_, Tree { inside: Inside::Places(trees), .. }))) => {
                    Some((items, trees))
                }
                _ => None,
            }
        });
        match items.filter(|_| is_list) {
            Some((items, trees)) => {
                let each = items.iter().zip(trees);
                each.map(|(value, tree)| Self { value: value.clone(), tree: tree.clone() }).collect()
            }
            None => vec![self],
        }
    }
}
