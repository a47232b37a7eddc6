//! Computes the minimal set of kernel routes that must point at the TUN, and the ordered changes to
//! get there.
//!
//! The pools are always among them. Outside of the pools a route needs a kernel route of its own, unless a
//! wider route to another node covers it already. So does, wherever it is, what a routing daemon has written to
//! the main table: its route would take the packets.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::Prefix;
use crate::route::{Rib, Route, Target};

/// The kernel routes that must point at the TUN.
#[derive(Debug)]
pub(crate) struct KernelCover {
    pools: Vec<Prefix>,
    routes: BTreeSet<Prefix>,
    /// Prefixes with a route of their own in the main table, so that there has to be a better one.
    pinned: BTreeSet<Prefix>,
}

/// What to change, in this order, so that nothing is without a route in between.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Steps {
    /// Routes to add.
    pub add: Vec<Prefix>,
    /// Routes to remove.
    pub remove: Vec<Prefix>,
}

impl Steps {
    fn between(before: &BTreeSet<Prefix>, now: &BTreeSet<Prefix>) -> Self {
        Self {
            add: now.difference(before).copied().collect(),
            remove: before.difference(now).copied().collect(),
        }
    }
}

impl KernelCover {
    /// Only `pools` so far.
    pub(crate) fn new(pools: Vec<Prefix>) -> Self {
        Self { pools, routes: BTreeSet::new(), pinned: BTreeSet::new() }
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> BTreeSet<Prefix> {
        self.pools.iter().chain(&self.routes).chain(&self.pinned).copied().collect()
    }

    /// Follows the change of some prefixes. `outdo`: whether one needs a route of its own, whatever covers it.
    pub(crate) fn update(&mut self, rib: &Rib, changed: &[Prefix], outdo: impl Fn(Prefix) -> bool) -> Steps {
        let mut before = Change::default();
        for prefix in changed {
            self.pin(*prefix, outdo(*prefix), &mut before);
            if self.in_pool(*prefix) {
                continue;
            }
            let covered = is_covered(rib, *prefix);
            if is_others(rib, *prefix) && !covered {
                self.add(*prefix, &mut before);
            } else if self.routes.contains(prefix) {
                self.remove(*prefix, &mut before);
                let inner = if covered { Vec::new() } else { needed_within(rib, *prefix, &self.pools) };
                for inner in inner {
                    self.add(inner, &mut before);
                }
            }
        }
        before.steps(self)
    }

    /// Computes everything again.
    pub(crate) fn renew(&mut self, rib: &Rib, outdo: impl Fn(Prefix) -> bool) -> Steps {
        let before = self.all();
        self.compute(rib, outdo);
        Steps::between(&before, &self.all())
    }

    /// Computes everything again for other pools.
    pub(crate) fn follow_pools(
        &mut self,
        pools: Vec<Prefix>,
        rib: &Rib,
        outdo: impl Fn(Prefix) -> bool,
    ) -> Steps {
        let before = self.all();
        self.pools = pools;
        self.compute(rib, outdo);
        Steps::between(&before, &self.all())
    }

    fn compute(&mut self, rib: &Rib, outdo: impl Fn(Prefix) -> bool) {
        let mut widest: Option<Prefix> = None;
        self.routes.clear();
        self.pinned.clear();
        for route in rib.best().filter(to_others) {
            let prefix = route.prefix;
            if outdo(prefix) {
                self.pinned.insert(prefix);
            }
            if widest.is_some_and(|widest| widest.covers(prefix)) || self.in_pool(prefix) {
                continue;
            }
            widest = Some(prefix);
            self.routes.insert(prefix);
        }
    }

    fn in_pool(&self, prefix: Prefix) -> bool {
        self.pools.iter().any(|pool| pool.covers(prefix))
    }

    fn has(&self, prefix: Prefix) -> bool {
        self.routes.contains(&prefix) || self.pinned.contains(&prefix) || self.pools.contains(&prefix)
    }

    fn pin(&mut self, prefix: Prefix, wanted: bool, change: &mut Change) {
        if wanted != self.pinned.contains(&prefix) {
            change.note(self, prefix);
            if wanted {
                self.pinned.insert(prefix)
            } else {
                self.pinned.remove(&prefix)
            };
        }
    }

    /// Adds `prefix`, and removes what it covers.
    fn add(&mut self, prefix: Prefix, change: &mut Change) {
        let inside: Vec<Prefix> =
            self.routes.range(prefix..).take_while(|routes| prefix.covers(**routes)).copied().collect();
        for inner in inside.into_iter().filter(|inner| *inner != prefix) {
            self.remove(inner, change);
        }
        change.note(self, prefix);
        self.routes.insert(prefix);
    }

    fn remove(&mut self, prefix: Prefix, change: &mut Change) {
        change.note(self, prefix);
        self.routes.remove(&prefix);
    }
}

/// What was touched so far, and whether it was there before.
#[derive(Default)]
struct Change(BTreeMap<Prefix, bool>);

impl Change {
    fn note(&mut self, cover: &KernelCover, prefix: Prefix) {
        self.0.entry(prefix).or_insert_with(|| cover.has(prefix));
    }

    /// What became of it, without what was taken back.
    fn steps(self, cover: &KernelCover) -> Steps {
        let mut steps = Steps::default();
        for (prefix, before) in self.0 {
            match (before, cover.has(prefix)) {
                (false, true) => steps.add.push(prefix),
                (true, false) => steps.remove.push(prefix),
                _ => {}
            }
        }
        steps
    }
}

fn to_others(route: &Route) -> bool {
    route.target != Target::Local
}

fn is_others(rib: &Rib, prefix: Prefix) -> bool {
    rib.exact(prefix).as_ref().is_some_and(to_others)
}

/// Whether a wider prefix is another node's.
fn is_covered(rib: &Rib, prefix: Prefix) -> bool {
    prefix.and_wider().skip(1).any(|wider| is_others(rib, wider))
}

/// The widest routes to other nodes inside `prefix` and outside the pools.
fn needed_within(rib: &Rib, prefix: Prefix, pools: &[Prefix]) -> Vec<Prefix> {
    let mut needed: Vec<Prefix> = Vec::new();
    let inside = rib.after(Some(prefix)).take_while(|route| prefix.covers(route.prefix));
    for route in inside.filter(to_others) {
        let covered = needed.last().is_some_and(|widest| widest.covers(route.prefix));
        if !covered && !pools.iter().any(|pool| pool.covers(route.prefix)) {
            needed.push(route.prefix);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{KernelCover, Steps};
    use crate::net::Prefix;
    use crate::route::{PeerId, Rib, Route, Source, Target};

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn add(rib: &mut Rib, prefix: Prefix) {
        rib.set(Route::new(prefix, Source::Control, Target::Peer(PeerId(0))));
    }

    fn nothing(_: Prefix) -> bool {
        false
    }

    /// As if all routes of the kernel were in its main table.
    fn in_main(rib: &Rib) -> impl Fn(Prefix) -> bool {
        |prefix| {
            let others = rib.exact(prefix).is_some_and(|route| route.target != Target::Local);
            others && rib.get(prefix, Source::Kernel).is_some()
        }
    }

    /// What a start cover into the TUN.
    fn started(pools: &[Prefix], subnets: &[Prefix]) -> Vec<Prefix> {
        let mut rib = Rib::default();
        subnets.iter().for_each(|subnet| add(&mut rib, *subnet));
        let mut cover = KernelCover::new(pools.to_vec());
        cover.renew(&rib, nothing);
        cover.all().into_iter().collect()
    }

    /// The slow truth: every pool, and every peer subnet that no pool and no other
    /// peer subnet covers. Sorted, without repetition.
    fn tun_routes(pools: &[Prefix], peer_subnets: &[Prefix]) -> Vec<Prefix> {
        let mut routes = pools.to_vec();
        let outside = peer_subnets.iter().filter(|subnet| {
            let mut others = pools.iter().chain(peer_subnets.iter().filter(|other| other != subnet));
            !others.any(|other| other.covers(**subnet))
        });
        routes.extend(outside);
        routes.sort_unstable();
        routes.dedup();
        routes
    }

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    fn routes(pools: &[&str], subnets: &[&str]) -> Vec<Prefix> {
        started(&prefixes(pools), &prefixes(subnets))
    }

    #[test]
    fn pools_come_and_go() {
        let mut rib = Rib::default();
        for subnet in ["10.244.2.0/24", "10.9.0.0/16"] {
            add(&mut rib, prefix(subnet));
        }
        let mut cover = KernelCover::new(vec![prefix("10.244.0.0/16")]);
        cover.renew(&rib, nothing);
        let steps = cover.follow_pools(prefixes(&["10.8.0.0/15"]), &rib, nothing);
        assert_eq!(steps.add, prefixes(&["10.8.0.0/15", "10.244.2.0/24"]));
        assert_eq!(steps.remove, prefixes(&["10.9.0.0/16", "10.244.0.0/16"]));
        assert_eq!(cover.follow_pools(prefixes(&["10.8.0.0/15"]), &rib, nothing), Steps::default());
    }

    #[test]
    fn a_pool_leads_its_subnets() {
        assert_eq!(
            routes(&["10.244.0.0/16"], &["10.244.2.0/24", "10.244.3.0/24"]),
            prefixes(&["10.244.0.0/16"])
        );
        assert_eq!(routes(&["10.244.0.0/16"], &["10.244.0.0/16"]), prefixes(&["10.244.0.0/16"]));
    }

    #[test]
    fn a_subnet_outside_the_pools_has_its_own_route() {
        assert_eq!(
            routes(&["10.244.0.0/16"], &["172.16.2.0/24", "172.16.2.0/26", "10.244.2.0/24"]),
            prefixes(&["10.244.0.0/16", "172.16.2.0/24"])
        );
    }

    #[test]
    fn a_subnet_that_contains_a_pool_has_its_own_route() {
        assert_eq!(routes(&["10.244.0.0/16"], &["10.0.0.0/8"]), prefixes(&["10.0.0.0/8", "10.244.0.0/16"]));
    }

    #[test]
    fn families_do_not_cover_each_other_and_order_is_fixed() {
        let expected = prefixes(&["10.1.0.0/16", "10.244.0.0/16", "fd00:1::/64", "fd00:10::/48"]);
        assert_eq!(
            routes(
                &["fd00:10::/48", "10.244.0.0/16"],
                &["fd00:1::/64", "10.1.0.0/16", "fd00:10:0:2::/64", "10.1.0.0/16"]
            ),
            expected
        );
        assert_eq!(routes(&[], &[]), []);
    }

    #[test]
    fn inside_a_pool_nothing_is_needed() {
        let mut cover = KernelCover::new(vec![prefix("10.0.0.0/8")]);
        let mut rib = Rib::default();
        add(&mut rib, prefix("10.1.0.0/16"));
        assert_eq!(cover.update(&rib, &[prefix("10.1.0.0/16")], nothing), Steps::default());
        assert_eq!(cover.renew(&rib, nothing), Steps::default());
    }

    #[test]
    fn a_wider_route_takes_over_and_gives_back() {
        let (wide, narrow) = (prefix("172.16.0.0/16"), prefix("172.16.5.0/24"));
        let mut cover = KernelCover::new(vec![]);
        let mut rib = Rib::default();
        add(&mut rib, narrow);
        assert_eq!(cover.update(&rib, &[narrow], nothing).add, [narrow]);
        add(&mut rib, wide);
        assert_eq!(cover.update(&rib, &[wide], nothing), Steps { add: vec![wide], remove: vec![narrow] });
        rib.remove(wide, Source::Control);
        assert_eq!(cover.update(&rib, &[wide], nothing), Steps { add: vec![narrow], remove: vec![wide] });
        rib.remove(narrow, Source::Control);
        assert_eq!(cover.update(&rib, &[narrow, narrow], nothing).remove, [narrow]);
    }

    #[test]
    fn what_a_routing_daemon_wrote_to_the_main_table_is_outdone() {
        let block = prefix("10.1.0.0/26");
        let mut rib = Rib::default();
        let mut cover = KernelCover::new(vec![prefix("10.1.0.0/16")]);
        assert_eq!(cover.renew(&rib, in_main(&rib)), Steps::default());
        rib.set(Route::new(block, Source::Kernel, Target::Peer(PeerId(0))));
        assert_eq!(cover.update(&rib, &[block], in_main(&rib)).add, [block]);
        assert_eq!(cover.renew(&rib, in_main(&rib)), Steps::default());
        // Whoever else owns it for good: the kernel's route is still there.
        add(&mut rib, block);
        assert_eq!(cover.update(&rib, &[block], in_main(&rib)), Steps::default());
        rib.set(Route::new(block, Source::Local, Target::Local));
        assert_eq!(cover.update(&rib, &[block], in_main(&rib)).remove, [block]);
        rib.remove(block, Source::Local);
        assert_eq!(cover.renew(&rib, in_main(&rib)).add, [block]);
        rib.remove(block, Source::Kernel);
        assert_eq!(cover.update(&rib, &[block, block], in_main(&rib)).remove, [block]);
        // From other tables it is in nobody's way.
        rib.set(Route::new(block, Source::Kernel, Target::Peer(PeerId(0))));
        assert_eq!(cover.follow_pools(prefixes(&["10.1.0.0/16"]), &rib, nothing), Steps::default());
    }

    fn any_prefix(blocks: u8) -> impl Strategy<Value = Prefix> {
        (0..blocks, 0_u8..4, 8_u8..=24).prop_map(|(a, b, len)| {
            Prefix::containing(std::net::IpAddr::from([10, a * 64, b * 64, 0]), len).unwrap()
        })
    }

    proptest! {
        /// Everything listed is routes in, nothing else is, and no subnet's route is redundant.
        #[test]
        fn complete_and_minimal(
            pools in prop::collection::vec(any_prefix(4), 0..4),
            subnets in prop::collection::vec(any_prefix(4), 0..6),
        ) {
            let routes = started(&pools, &subnets);
            for wanted in pools.iter().chain(&subnets) {
                prop_assert!(routes.iter().any(|r| r.covers(*wanted)));
            }
            for route in &routes {
                prop_assert!(pools.contains(route) || subnets.contains(route));
                let redundant = routes.iter().any(|r| r != route && r.covers(*route));
                prop_assert!(pools.contains(route) || !redundant);
            }
        }

        /// However routes come and go, the kernel has what would be worked out anew.
        #[test]
        fn following_is_as_good_as_starting_anew(
            pools in prop::collection::vec(any_prefix(3), 0..3),
            rounds in prop::collection::vec(prop::collection::vec((any_prefix(3), any::<bool>()), 1..5), 1..12),
        ) {
            let mut rib = Rib::default();
            let mut cover = KernelCover::new(pools.clone());
            let mut kernel = BTreeSet::new();
            for round in rounds {
                for (prefix, present) in &round {
                    if *present { add(&mut rib, *prefix) } else { rib.remove(*prefix, Source::Control); }
                }
                let changed: Vec<Prefix> = round.iter().map(|(prefix, _)| *prefix).collect();
                let steps = cover.update(&rib, &changed, nothing);
                for prefix in &steps.add { prop_assert!(kernel.insert(*prefix)); }
                for prefix in &steps.remove { prop_assert!(kernel.remove(prefix)); }
                let subnets: Vec<Prefix> = rib.best().map(|route| route.prefix).collect();
                let expected: BTreeSet<Prefix> =
                    tun_routes(&pools, &subnets).into_iter().filter(|route| !pools.contains(route)).collect();
                prop_assert_eq!(&kernel, &expected);
                prop_assert_eq!(started(&pools, &subnets), tun_routes(&pools, &subnets));
                prop_assert_eq!(cover.renew(&rib, nothing), Steps::default());
            }
        }
    }
}
