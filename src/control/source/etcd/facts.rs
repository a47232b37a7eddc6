//! What is kept of etcd: values as they are written there. They are judged when something is made of them, so that a file
//! of them can be read by another version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most records that are kept: there cannot be more peers.
const MOST: usize = 1 << 17;
/// Bytes of the longest key and value that are kept. flannel's have some hundred.
const LONGEST: usize = 4096;

/// Everything that is known of the network.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Facts {
    /// flannel's configuration.
    pub(super) config: Option<String>,
    /// What is below `subnets/`, by the rest of the key.
    pub(super) records: BTreeMap<String, Record>,
    /// The key, below `subnets/`, of the subnet that this node has claimed.
    pub(super) own: Option<String>,
    /// Records that are too many to be kept, or of keys that are too long, since all was read last.
    #[serde(skip)]
    pub(super) passed_over: usize,
}

/// What a key holds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct Record {
    /// Its value; empty where that is no text, or too long.
    pub(super) value: String,
    /// Revision of etcd at which it was made.
    pub(super) created: i64,
    /// Revision of its last change.
    pub(super) modified: i64,
    /// The lease that it ends with; 0 is none: a reservation.
    pub(super) lease: i64,
}

/// Where a key is below the prefix.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Place<'a> {
    /// `config`
    Config,
    /// `subnets/` and this.
    Record(&'a str),
    /// Elsewhere.
    Other,
}

/// Where `key` is below `prefix`.
pub(super) fn place<'a>(prefix: &str, key: &'a [u8]) -> Place<'a> {
    let below = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(prefix));
    match below.and_then(|below| below.strip_prefix('/')) {
        Some("config") => Place::Config,
        Some(below) => below.strip_prefix("subnets/").map_or(Place::Other, Place::Record),
        None => Place::Other,
    }
}

impl Record {
    /// Whether it is of an etcd that was there before.
    pub(super) fn is_remembered(&self) -> bool {
        self.modified == 0
    }
}

impl Facts {
    /// Takes a record. Returns whether something is other than before.
    pub(super) fn put(&mut self, key: &str, mut record: Record) -> bool {
        let is_known = self.records.contains_key(key);
        if key.len() > LONGEST || (!is_known && self.records.len() >= MOST) {
            self.passed_over += 1;
            return self.passed_over == 1;
        }
        if record.value.len() > LONGEST {
            record.value.clear();
        }
        let changed = self.records.get(key) != Some(&record);
        self.records.insert(key.to_owned(), record);
        changed
    }

    /// Has the records of this node's peers as those of an etcd that was there before: each is believed until something
    /// newer is known, and none is older than what the etcd that is there now has.
    pub(super) fn remember(&mut self, is_peers: impl Fn(&str, &Record) -> bool) {
        self.records.retain(|key, record| is_peers(key, record));
        for record in self.records.values_mut() {
            (record.created, record.modified) = (i64::MAX, 0);
        }
    }

    /// Forgets records of an etcd that was there before, if `is_out_of_date`.
    pub(super) fn forget(&mut self, is_out_of_date: impl Fn(&Record) -> bool) {
        self.records.retain(|_, record| !(record.is_remembered() && is_out_of_date(record)));
    }

    /// Takes the configuration, `None` where there is none any more. Returns whether it is another one.
    pub(super) fn configure(&mut self, config: Option<String>) -> bool {
        let changed = self.config != config;
        self.config = config;
        changed
    }

    /// The records, the oldest first.
    pub(super) fn by_age(&self) -> Vec<(&str, &Record)> {
        let mut all: Vec<_> = self.records.iter().map(|(key, record)| (key.as_str(), record)).collect();
        all.sort_by_key(|(key, record)| (record.created, *key));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, LONGEST, Place, Record, place};

    #[test]
    fn keys_have_a_place() {
        let at = |key: &'static str| place("/coreos.com/network", key.as_bytes());
        assert_eq!(at("/coreos.com/network/config"), Place::Config);
        assert_eq!(at("/coreos.com/network/subnets/10.1.0.0-24"), Place::Record("10.1.0.0-24"));
        for other in ["/coreos.com/networks/config", "/coreos.com/network", "/coreos.com/network/x", "", "/x"]
        {
            assert_eq!(at(other), Place::Other, "{other}");
        }
        assert_eq!(place("/p", b"/p/subnets/\xff"), Place::Other);
    }

    #[test]
    fn what_another_etcd_has_said_is_believed_until_there_is_something_newer() {
        let mut facts = Facts::default();
        let record =
            |value: &str, at| Record { value: value.to_owned(), created: at, modified: at, lease: 7 };
        for (key, value) in [("a", "own"), ("b", "theirs"), ("c", "theirs too")] {
            facts.put(key, record(value, 900));
        }
        facts.remember(|key, _| key != "a");
        assert_eq!(facts.records.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert!(facts.records.values().all(Record::is_remembered));
        // A new etcd begins to count at one.
        assert!(facts.put("b", record("theirs", 3)));
        facts.put("d", record("new", 4));
        let oldest_first: Vec<_> = facts.by_age().into_iter().map(|(key, _)| key).collect();
        assert_eq!(oldest_first, ["b", "d", "c"]);
        facts.forget(|record| record.value == "new");
        assert_eq!(facts.records.len(), 3, "what is there is not forgotten");
        facts.forget(|_| true);
        assert_eq!(facts.records.keys().collect::<Vec<_>>(), ["b", "d"]);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let mut facts = Facts::default();
        let record = |len| Record { value: "x".repeat(len), ..Record::default() };
        assert!(facts.put("a", record(3)));
        assert!(!facts.put("a", record(3)), "the same again");
        assert!(facts.put("a", record(LONGEST + 1)));
        assert_eq!(facts.records["a"].value, "", "the key is a claim all the same");
        facts.put(&"k".repeat(LONGEST + 1), record(1));
        assert_eq!((facts.records.len(), facts.passed_over), (1, 1));
    }
}
