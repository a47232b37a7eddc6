//! A cursor over the spanned parse tree that reports what it does not like and goes on.
//!
//! Everywhere in this module and in [`super::raw`], `None` means "was wrong, and is in the log";
//! an absent key yields its default. So later checks skip what is already reported, and a log that
//! stays empty means that every value is there.

use std::fmt::Display;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Log;
use super::schema::{SECTIONS, Section, unknown_key, unknown_section};
use crate::net::words::{clip, one_of};

/// A value and the byte offset at which it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Offset of its first byte; of its section when it is a default.
    pub(super) at: usize,
}

/// A list, as far as its elements were right.
#[derive(Debug)]
pub(super) struct List<T> {
    /// The elements that were right.
    pub(super) items: Vec<At<T>>,
    /// Whether nothing was wrong with the list.
    pub(super) whole: bool,
}

/// One section of the file.
pub(super) struct Table<'a> {
    section: &'static Section,
    /// Offset of its header, 0 when it is absent.
    pub(super) at: usize,
    entries: Entries<'a>,
}

enum Entries<'a> {
    Present(&'a DeTable<'a>),
    Absent,
    /// Not a table, or absent although required; reported.
    Wrong,
}

/// Reports the keys of the document that are no sections.
pub(super) fn check_sections(root: &DeTable<'_>, log: &mut Log<'_>) {
    for (key, value) in root {
        let inside: Vec<_> = SECTIONS.iter().filter_map(|section| section.inside(key.get_ref())).collect();
        match value.get_ref() {
            _ if SECTIONS.iter().any(|section| section.name == key.get_ref()) => {}
            DeValue::Table(inner) if !inside.is_empty() => {
                for key in inner.keys().filter(|inner| !inside.contains(&inner.get_ref().as_ref())) {
                    log.push(key.span().start, unknown_section(key.get_ref()));
                }
            }
            _ => log.push(key.span().start, unknown_section(key.get_ref())),
        }
    }
}

/// The value under a section's name, which may have dots in it.
fn at_name<'a>(root: &'a DeTable<'a>, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    let (outer, last) = name.rsplit_once('.').map_or((None, name), |(outer, last)| (Some(outer), last));
    match outer {
        Some(outer) => at_name(root, outer)?.get_ref().as_table()?.get(last),
        None => root.get(last),
    }
}

impl<'a> Table<'a> {
    /// The section `[name]`, present or not.
    pub(super) fn single(root: &'a DeTable<'a>, section: &'static Section, log: &mut Log<'_>) -> Self {
        match at_name(root, section.name) {
            Some(value) => Self::open(value, section, log),
            None => Self { section, at: 0, entries: Entries::Absent },
        }
    }

    /// The section `[name]`, reported when it is absent.
    pub(super) fn required(root: &'a DeTable<'a>, section: &'static Section, log: &mut Log<'_>) -> Self {
        let mut table = Self::single(root, section, log);
        if matches!(table.entries, Entries::Absent) {
            log.push(0, format!("missing section {}", section.header()));
            table.entries = Entries::Wrong;
        }
        table
    }

    /// Every section `[[name]]`, in file order.
    pub(super) fn repeated(root: &'a DeTable<'a>, section: &'static Section, log: &mut Log<'_>) -> Vec<Self> {
        match root.get(section.name).map(|value| (value, value.get_ref())) {
            None => Vec::new(),
            Some((_, DeValue::Array(elements))) => {
                elements.iter().map(|element| Self::open(element, section, log)).collect()
            }
            Some((value, _)) => {
                log.push(value.span().start, wrong_form(section, value.get_ref()));
                Vec::new()
            }
        }
    }

    fn open(value: &'a Spanned<DeValue<'a>>, section: &'static Section, log: &mut Log<'_>) -> Self {
        let at = value.span().start;
        let DeValue::Table(entries) = value.get_ref() else {
            log.push(at, wrong_form(section, value.get_ref()));
            return Self { section, at, entries: Entries::Wrong };
        };
        for key in entries.keys().filter(|key| !section.keys.contains(&key.get_ref().as_ref())) {
            log.push(key.span().start, unknown_key(section, key.get_ref()));
        }
        Self { section, at, entries: Entries::Present(entries) }
    }

    /// The value of `key`, or `default` at the section's position when the key is absent.
    pub(super) fn value_or<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        default: T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        match self.find(key) {
            Some(value) => read_at(log, key, value, read),
            None => self.usable().then_some(At { value: default, at: self.at }),
        }
    }

    /// The value of `key`, which must be present.
    pub(super) fn value<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<At<T>> {
        match self.find(key) {
            Some(value) => read_at(log, key, value, read),
            None => {
                self.report_missing(log, key);
                None
            }
        }
    }

    /// The list under `key`, each element read by `read`; empty when the key is absent.
    pub(super) fn list_or_empty<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> List<T> {
        let nothing = List { items: Vec::new(), whole: false };
        match self.find(key).map(|value| (value, value.get_ref())) {
            None => List { whole: self.usable(), ..nothing },
            Some((_, DeValue::Array(elements))) => {
                let read = |element| read_at(log, key, element, &read);
                let items: Vec<_> = elements.iter().filter_map(read).collect();
                List { whole: items.len() == elements.len(), items }
            }
            Some((value, other)) => {
                log.push(value.span().start, format!("{key}: expected a list, found {}", describe(other)));
                nothing
            }
        }
    }

    /// The list under `key`, which must be present.
    pub(super) fn list<T>(
        &self,
        log: &mut Log<'_>,
        key: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, String>,
    ) -> List<T> {
        if self.find(key).is_none() {
            self.report_missing(log, key);
        }
        self.list_or_empty(log, key, read)
    }

    /// Whether the section was given, right or wrong.
    pub(super) fn is_there(&self) -> bool {
        !matches!(self.entries, Entries::Absent)
    }

    /// Whether `key` was given, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The value of `key`, if it is right; what is wrong is left to others to report.
    pub(super) fn quietly<T>(
        &self,
        key: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.find(key).and_then(|value| read(value.get_ref()).ok())
    }

    fn find(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        match self.entries {
            Entries::Present(entries) => entries.get(key),
            Entries::Absent | Entries::Wrong => None,
        }
    }

    fn usable(&self) -> bool {
        !matches!(self.entries, Entries::Wrong)
    }

    fn report_missing(&self, log: &mut Log<'_>, key: &str) {
        if self.usable() {
            log.push(self.at, format!("missing key \"{key}\" in {}", self.section.header()));
        }
    }
}

fn read_at<T>(
    log: &mut Log<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
) -> Option<At<T>> {
    let at = value.span().start;
    match read(value.get_ref()) {
        Ok(value) => Some(At { value, at }),
        Err(reason) => {
            log.push(at, format!("{key}: {reason}"));
            None
        }
    }
}

fn wrong_form(section: &Section, found: &DeValue<'_>) -> String {
    let header = section.header();
    match found {
        DeValue::Table(_) | DeValue::Array(_) if section.repeats => {
            format!("{} is a list of sections; write {header} above each", section.name)
        }
        DeValue::Array(_) => format!("{} is a single section; write {header}, once", section.name),
        other => format!("{}: expected a section {header}, found {}", section.name, describe(other)),
    }
}

/// A string.
pub(super) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("expected a string, found {}", describe(value)))
}

/// A string in the syntax of `T`.
pub(super) fn parsed<T: FromStr<Err: Display>>(value: &DeValue<'_>) -> Result<T, String> {
    text(value)?.parse().map_err(|error: T::Err| error.to_string())
}

/// A truth value.
pub(super) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| match value.as_str() {
        Some(word @ ("true" | "false")) => format!("expected a boolean; write {word} without quotes"),
        _ => format!("expected true or false, found {}", describe(value)),
    })
}

/// An integer.
pub(super) fn integer(value: &DeValue<'_>) -> Result<i64, String> {
    let number = value.as_integer().ok_or_else(|| match value.as_str().map(str::parse::<i64>) {
        Some(Ok(number)) => format!("expected an integer; write {number} without quotes"),
        _ => format!("expected an integer, found {}", describe(value)),
    })?;
    i64::from_str_radix(number.as_str(), number.radix())
        .map_err(|_| format!("{} is out of range", clip(&number.to_string())))
}

/// An integer from `low` to `high`.
pub(super) fn integer_in<N>(value: &DeValue<'_>, low: N, high: N) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + Display,
{
    let number = integer(value)?;
    let fits = N::try_from(number).ok().filter(|number| (&low..=&high).contains(&number));
    fits.ok_or_else(|| format!("{number} is out of range; use {low} to {high}"))
}

/// The word "auto", or what `read` takes.
pub(super) fn auto_or<T>(
    value: &DeValue<'_>,
    read: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match value.as_str() {
        Some("auto") => Ok(None),
        _ => read(value).map(Some).map_err(|reason| format!("{reason}; or write \"auto\"")),
    }
}

/// One of `words`.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, String> {
    one_of(text(value)?, words)
}

/// A found value in a few words.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string \"{}\"", clip(text)),
        DeValue::Integer(number) => format!("the integer {}", clip(&number.to_string())),
        DeValue::Float(number) => format!("the float {}", clip(&number.to_string())),
        DeValue::Boolean(truth) => format!("the boolean {truth}"),
        DeValue::Datetime(time) => format!("the date {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
