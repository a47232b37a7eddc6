//! A cursor over a value, which knows where it is and reports what it does not like.
//!
//! Everywhere in this folder, `None` of something that was there means "was wrong, and is in the log".

use std::fmt::Display;

use serde_json::{Map, Value};

use super::Fault;
use crate::net::words::{clip, one_of, unknown_key};

/// The faults found so far.
pub(super) type Log = Vec<Fault>;

/// A value inside of another one.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    above: Option<&'a Node<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// A key of an object that cannot be done, and why.
pub(super) type Refused = (&'static str, &'static str);

impl<'a> Node<'a> {
    /// The whole.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, above: None, step: Step::Key("") }
    }

    /// Where it is, as a JSON pointer.
    pub(super) fn path(&self) -> String {
        let Some(above) = self.above else { return String::new() };
        let step = match self.step {
            Step::Key(key) => key.replace('~', "~0").replace('/', "~1"),
            Step::Index(index) => index.to_string(),
        };
        above.path() + "/" + &step
    }

    /// The key that it is under, if need be that of the list that it is in.
    fn name(&self) -> &'a str {
        match (self.step, self.above) {
            (Step::Key(key), _) => key,
            (Step::Index(_), Some(above)) => above.name(),
            (Step::Index(_), None) => "",
        }
    }

    /// Notes that it is wrong.
    pub(super) fn fault(&self, log: &mut Log, reason: impl Display) {
        let message = match self.name() {
            "" => reason.to_string(),
            name => format!("{}: {reason}", clip(name)),
        };
        log.push(Fault { path: self.path(), message });
    }

    /// What is under a key, unless it is nothing.
    pub(super) fn get<'b>(&'b self, key: &'b str) -> Option<Node<'b>> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Node { value, above: Some(self), step: Step::Key(key) })
    }

    /// What is under a key, which must be there.
    pub(super) fn need<'b>(&'b self, key: &'b str, log: &mut Log) -> Option<Node<'b>> {
        let found = self.get(key);
        if found.is_none() {
            log.push(Fault { path: self.path(), message: format!("missing key \"{key}\"") });
        }
        found
    }

    /// As an object of which these keys are known and those refused.
    pub(super) fn object(&self, known: &[&str], refused: &[Refused], log: &mut Log) -> Option<()> {
        for (key, value) in self.map(log)?.iter().filter(|(key, _)| !known.contains(&key.as_str())) {
            let child = Node { value, above: Some(self), step: Step::Key(key) };
            match refused.iter().find(|(refused, _)| refused == key) {
                Some((_, reason)) => child.fault(log, reason),
                None => log.push(Fault { path: child.path(), message: unknown_key(key, known) }),
            }
        }
        Some(())
    }

    /// As an object with any keys.
    pub(super) fn map(&self, log: &mut Log) -> Option<&'a Map<String, Value>> {
        let map = self.value.as_object();
        if map.is_none() {
            self.fault(log, format!("expected a mapping, found {}", describe(self.value)));
        }
        map
    }

    /// Its elements, if it is a list.
    pub(super) fn items<'b>(&'b self, log: &mut Log) -> Option<impl Iterator<Item = Node<'b>> + use<'b>> {
        let Some(items) = self.value.as_array() else {
            self.fault(log, format!("expected a list, found {}", describe(self.value)));
            return None;
        };
        let above = Some(self);
        Some(items.iter().enumerate().map(move |(index, value)| Node {
            value,
            above,
            step: Step::Index(index),
        }))
    }

    /// The elements of the list under a key, each as `read` has it; none where there is no such key.
    pub(super) fn list<T>(
        &self,
        key: &str,
        log: &mut Log,
        mut read: impl FnMut(&Node<'_>, &mut Log) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(list) = self.get(key) else { return Some(Vec::new()) };
        let mut all = Some(Vec::new());
        for item in list.items(log)? {
            match (read(&item, log), &mut all) {
                (Some(value), Some(values)) => values.push(value),
                (None, _) => all = None,
                (Some(_), None) => {}
            }
        }
        all
    }

    /// What is under a key, as `read` has it; `Some(None)` where there is nothing.
    #[expect(clippy::option_option, reason = "the outer one is this folder's: whether nothing was wrong")]
    pub(super) fn optional<T>(
        &self,
        key: &str,
        log: &mut Log,
        read: impl FnOnce(&Node<'_>, &mut Log) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.get(key) {
            Some(node) => read(&node, log).map(Some),
            None => Some(None),
        }
    }

    /// As a string.
    pub(super) fn text(&self, log: &mut Log) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            let quotes = match self.value {
                Value::Bool(_) | Value::Number(_) => "; put it in quotes",
                _ => "",
            };
            self.fault(log, format!("expected a string, found {}{quotes}", describe(self.value)));
        }
        text
    }

    /// As a string that `read` takes.
    pub(super) fn parsed<T, E: Display>(
        &self,
        log: &mut Log,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        read(self.text(log)?).map_err(|reason| self.fault(log, reason)).ok()
    }

    /// As one of these words.
    pub(super) fn word<T: Copy>(&self, log: &mut Log, words: &[(&str, T)]) -> Option<T> {
        self.parsed(log, |given| one_of(given, words))
    }

    /// As a whole number from `low` to `high`.
    pub(super) fn integer<N>(&self, log: &mut Log, low: N, high: N) -> Option<N>
    where
        N: TryFrom<u64> + PartialOrd + Display,
    {
        let number = self.value.as_u64().and_then(|number| N::try_from(number).ok());
        let number = number.filter(|number| (&low..=&high).contains(&number));
        if number.is_none() {
            self.fault(
                log,
                format!("expected a number from {low} to {high}, found {}", describe(self.value)),
            );
        }
        number
    }

    /// Whether a key that this program cannot do is set to something else than "no".
    pub(super) fn refuse_unless_false(&self, key: &str, reason: &str, log: &mut Log) {
        if let Some(flag) = self.get(key)
            && flag.value != &Value::Bool(false)
        {
            flag.fault(log, reason);
        }
    }
}

/// A found value in a few words.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(truth) => format!("the boolean {truth}"),
        Value::Number(number) => format!("the number {}", clip(&number.to_string())),
        Value::String(text) => format!("the string \"{}\"", clip(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}
