//! The kernel's routes that count, by prefix.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::control::engine::port::KernelRoute;
use crate::net::Prefix;

/// What the kernel's tables hold of the prefixes that count. Two hundred thousand routes take some twenty megabytes: a
/// set of next hops is kept once, however many routes have it.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Numbers of tables, that which counts first at the beginning.
    tables: Vec<u32>,
    /// Inside of which prefixes routes count.
    within: Vec<Prefix>,
    routes: BTreeMap<Prefix, Vec<Entry>>,
    sets: HashSet<Arc<[IpAddr]>>,
}

#[derive(Clone, Debug)]
struct Entry {
    table: u32,
    metric: u32,
    protocol: u8,
    next_hops: Arc<[IpAddr]>,
}

impl Entry {
    fn is_of(&self, route: &KernelRoute) -> bool {
        (self.table, self.metric, self.protocol) == (route.table, route.metric, route.protocol)
    }
}

impl RouteTable {
    /// An empty one for routes of `tables` to what lies in `within`.
    pub fn new(tables: Vec<u32>, within: Vec<Prefix>) -> Self {
        Self { tables, within, ..Self::default() }
    }

    /// Takes `routes` for all that there are.
    pub fn replace(&mut self, routes: Vec<KernelRoute>) {
        self.routes.clear();
        self.sets.clear();
        for route in routes {
            self.add(&route);
        }
    }

    /// Takes a route that is there from now on. Returns whether it counts.
    pub fn add(&mut self, route: &KernelRoute) -> bool {
        if !self.within.iter().any(|within| within.covers(route.prefix)) {
            return false;
        }
        let next_hops = self.set(&route.next_hops);
        let entries = self.routes.entry(route.prefix).or_default();
        let (table, metric, protocol) = (route.table, route.metric, route.protocol);
        match entries.iter_mut().find(|entry| entry.is_of(route)) {
            Some(entry) => entry.next_hops = next_hops,
            None => entries.push(Entry { table, metric, protocol, next_hops }),
        }
        true
    }

    /// Takes away what has this place: another route is there now. Returns whether that was known.
    pub fn clear(&mut self, table: u32, prefix: Prefix, metric: u32) -> bool {
        let Some(entries) = self.routes.get_mut(&prefix) else { return false };
        let before = entries.len();
        entries.retain(|entry| (entry.table, entry.metric) != (table, metric));
        let changed = entries.len() != before;
        if entries.is_empty() {
            self.routes.remove(&prefix);
        }
        changed
    }

    /// Takes next hops of a route away, and the route with the last of them. Returns whether that was known.
    pub fn remove(&mut self, route: &KernelRoute) -> bool {
        let Some(entries) = self.routes.get_mut(&route.prefix) else { return false };
        let Some(place) = entries.iter().position(|entry| entry.is_of(route)) else { return false };
        // IPv6 says goodbye to each next hop by itself, IPv4 to all of them.
        let left: Vec<IpAddr> =
            entries[place].next_hops.iter().filter(|hop| !route.next_hops.contains(hop)).copied().collect();
        if left.is_empty() {
            entries.remove(place);
            if entries.is_empty() {
                self.routes.remove(&route.prefix);
            }
        } else {
            let next_hops = self.set(&left);
            if let Some(entry) = self.routes.get_mut(&route.prefix).and_then(|entries| entries.get_mut(place))
            {
                entry.next_hops = next_hops;
            }
        }
        true
    }

    /// The next hops of the route that counts for exactly `prefix`: of the first table, and there of the least metric.
    pub fn next_hops(&self, prefix: Prefix) -> Option<&[IpAddr]> {
        let rank = |entry: &Entry| {
            let place = self.tables.iter().position(|table| *table == entry.table);
            (place.unwrap_or(usize::MAX), entry.metric, entry.protocol)
        };
        let best = self.routes.get(&prefix)?.iter().min_by_key(|entry| rank(entry))?;
        Some(&best.next_hops)
    }

    /// The prefixes that have a route.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.routes.keys().copied()
    }

    /// The number of these.
    pub fn count(&self) -> usize {
        self.routes.len()
    }

    /// All next hops in use.
    pub fn all_next_hops(&self) -> HashSet<IpAddr> {
        let used = self.sets.iter().filter(|set| Arc::strong_count(set) > 1);
        used.flat_map(|set| set.iter().copied()).collect()
    }

    /// The one copy of a set.
    fn set(&mut self, next_hops: &[IpAddr]) -> Arc<[IpAddr]> {
        let mut sorted = next_hops.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        if let Some(known) = self.sets.get(&sorted[..]) {
            return Arc::clone(known);
        }
        // Those that nobody uses any more go when their number has doubled.
        if self.sets.len() >= 64 && self.sets.len().is_power_of_two() {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
        }
        let set: Arc<[IpAddr]> = sorted.into();
        self.sets.insert(Arc::clone(&set));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::{KernelRoute, RouteTable};

    fn route(prefix: &str, table: u32, metric: u32, next_hops: &[&str]) -> KernelRoute {
        let next_hops = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
        KernelRoute { table, prefix: prefix.parse().unwrap(), metric, protocol: 12, next_hops }
    }

    fn table() -> RouteTable {
        RouteTable::new(vec![100, 254], vec!["10.244.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()])
    }

    fn hops(table: &RouteTable, prefix: &str) -> String {
        let hops = table.next_hops(prefix.parse().unwrap());
        hops.map_or_else(|| "none".to_owned(), |hops| format!("{hops:?}"))
    }

    #[test]
    fn the_first_table_and_the_least_metric_count() {
        let mut table = table();
        let block = "10.244.1.0/26";
        assert!(!table.add(&route("10.9.0.0/16", 100, 0, &["192.0.2.2"])), "it is in no prefix that counts");
        assert!(table.add(&route(block, 254, 0, &["192.0.2.4"])));
        assert_eq!(hops(&table, block), "[192.0.2.4]");
        table.add(&route(block, 100, 32, &["192.0.2.3", "192.0.2.2", "192.0.2.3"]));
        assert_eq!(hops(&table, block), "[192.0.2.2, 192.0.2.3]");
        table.add(&route(block, 100, 20, &["192.0.2.5"]));
        assert_eq!(hops(&table, block), "[192.0.2.5]");
        // The same route with another next hop.
        table.add(&route(block, 100, 20, &["192.0.2.6"]));
        assert_eq!(hops(&table, block), "[192.0.2.6]");
        assert_eq!(table.count(), 1);
        assert!(table.remove(&route(block, 100, 20, &["192.0.2.6"])));
        assert_eq!(hops(&table, block), "[192.0.2.2, 192.0.2.3]");
        assert!(!table.remove(&route(block, 100, 7, &[])));
        let prefix = block.parse().unwrap();
        assert!(table.clear(100, prefix, 32) && !table.clear(100, prefix, 32));
        assert_eq!(hops(&table, block), "[192.0.2.4]");
        table.add(&route(block, 100, 32, &["192.0.2.2", "192.0.2.3"]));
        assert_eq!(table.all_next_hops().len(), 3);
    }

    #[test]
    fn next_hops_go_one_by_one_or_together() {
        let mut table = table();
        for prefix in ["fd00:1::/64", "10.244.1.0/26"] {
            table.add(&route(prefix, 100, 32, &["2001:db8::2", "2001:db8::3"]));
        }
        assert!(table.remove(&route("fd00:1::/64", 100, 32, &["2001:db8::2"])));
        assert_eq!(hops(&table, "fd00:1::/64"), "[2001:db8::3]");
        assert!(table.remove(&route("fd00:1::/64", 100, 32, &["2001:db8::3"])));
        assert!(table.remove(&route("10.244.1.0/26", 100, 32, &["2001:db8::3", "2001:db8::2"])));
        assert_eq!((table.count(), table.prefixes().count()), (0, 0));
        assert_eq!(table.all_next_hops().len(), 0);
    }

    #[test]
    fn sets_are_kept_once_and_not_for_ever() {
        let mut table = table();
        for number in 0..1000_u32 {
            let hop = format!("192.0.{}.{}", number / 250, number % 250);
            table.add(&route("10.244.1.0/26", 100, 32, &[&hop]));
        }
        assert!(table.sets.len() < 128, "{}", table.sets.len());
        table
            .replace((0..100).map(|n| route(&format!("10.244.{n}.0/24"), 100, 32, &["192.0.2.2"])).collect());
        assert_eq!((table.count(), table.sets.len()), (100, 1));
    }
}
