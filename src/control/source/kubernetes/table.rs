//! What a watch has told of one kind of object so far.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;

/// Most objects of a kind that are kept: there cannot be more peers.
const MOST: usize = 1 << 17;

/// What an object is called among those of its kind: its name, behind its namespace where it lies in one.
pub(super) fn key(object: &DynamicObject) -> String {
    match &object.metadata.namespace {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// The facts of all objects of a kind, by [`key`]. A list replaces them at its end, so that nothing is missing meanwhile.
pub(super) struct Table<F> {
    /// Those of a list that has begun.
    coming: BTreeMap<String, F>,
    /// Whether a list has ended.
    pub(super) is_synced: bool,
    /// Objects that are too many to be kept.
    pub(super) too_many: usize,
}

impl<F: PartialEq> Table<F> {
    /// Nothing told yet.
    pub(super) fn new() -> Self {
        Self { coming: BTreeMap::new(), is_synced: false, too_many: 0 }
    }

    /// Takes an event into `live`; `read` takes the facts out of an object, none for one that does not count.
    /// Returns whether something is other than before.
    pub(super) fn take(
        &mut self,
        live: &mut BTreeMap<String, F>,
        event: Event<DynamicObject>,
        read: impl Fn(DynamicObject) -> Option<F>,
    ) -> bool {
        match event {
            Event::Init => {
                self.coming.clear();
                self.too_many = 0;
                false
            }
            Event::InitApply(object) => {
                let name = key(&object);
                match read(object) {
                    Some(facts) if self.coming.len() < MOST => drop(self.coming.insert(name, facts)),
                    Some(_) => self.too_many += 1,
                    None => {}
                }
                false
            }
            Event::InitDone => {
                let first = !std::mem::replace(&mut self.is_synced, true);
                let coming = std::mem::take(&mut self.coming);
                let changed = *live != coming;
                *live = coming;
                changed || first
            }
            Event::Apply(object) => {
                let name = key(&object);
                match read(object) {
                    Some(facts) if live.get(&name) == Some(&facts) => false,
                    Some(_) if live.len() >= MOST && !live.contains_key(&name) => {
                        self.too_many += 1;
                        true
                    }
                    Some(facts) => {
                        live.insert(name, facts);
                        true
                    }
                    None => live.remove(&name).is_some(),
                }
            }
            Event::Delete(object) => live.remove(&key(&object)).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::DynamicObject;
    use kube::runtime::watcher::Event;

    use super::Table;
    use crate::control::source::kubernetes::objects;

    fn object(name: &str) -> DynamicObject {
        DynamicObject::new(name, &objects::nodes())
    }

    #[test]
    fn a_list_replaces_what_was_there_at_its_end() {
        let (mut table, mut live) = (Table::new(), BTreeMap::new());
        let mut take = |event| {
            let changed = table.take(&mut live, event, |_| Some(()));
            (changed, table.is_synced, live.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        let told = |changed, synced, names: &str| (changed, synced, names.to_owned());
        assert_eq!(take(Event::Init), told(false, false, ""));
        assert_eq!(take(Event::InitApply(object("a"))), told(false, false, ""));
        assert_eq!(take(Event::InitApply(object("b"))), told(false, false, ""));
        assert_eq!(take(Event::InitDone), told(true, true, "a b"));
        assert_eq!(take(Event::Apply(object("b"))), told(false, true, "a b"), "the same again");
        assert_eq!(take(Event::Delete(object("b"))), told(true, true, "a"));
        assert_eq!(take(Event::Delete(object("b"))), told(false, true, "a"));
        // Deleted while nobody watched: the next list does not have it.
        assert_eq!(take(Event::Init), told(false, true, "a"));
        assert_eq!(take(Event::InitApply(object("c"))), told(false, true, "a"));
        assert_eq!(take(Event::InitDone), told(true, true, "c"));
    }
}
