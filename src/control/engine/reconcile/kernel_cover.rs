//! Computes the minimal set of kernel routes that must be there, and the ordered changes to get there.
//!
//! The pools lead into the TUN. Outside of the pools a route needs a kernel route of its own, unless a
//! wider route to another node covers it already. So does, wherever it is, what the kernel sends to its node by itself,
//! and what is for the TUN beside a route that leads elsewhere (`engine/leads.rs`).

use std::collections::{BTreeMap, BTreeSet};

use crate::control::engine::leads::{Lead, Own};
use crate::control::engine::port::OwnKind;
use crate::net::Prefix;
use crate::route::{Rib, Route, Target};

/// The kernel routes that must be there.
#[derive(Debug)]
pub(crate) struct KernelCover {
    pools: Vec<Prefix>,
    routes: BTreeSet<Prefix>,
    /// Destinations that have a route of their own, whatever covers them.
    own: BTreeMap<Prefix, Lead>,
    /// How many of them lead to other nodes.
    direct: usize,
    /// Those of these that lie in no pool.
    outside: BTreeSet<Prefix>,
    /// Destinations of bare packets that the kernel should send and cannot.
    cannot: BTreeSet<Prefix>,
}

/// What to change, in this order, so that nothing is without a route in between.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::control::engine) struct Steps {
    /// Routes to add; each takes the place of another one of ours.
    pub add: Vec<(Prefix, Lead)>,
    /// Routes to remove.
    pub remove: Vec<(Prefix, OwnKind)>,
}

impl Steps {
    fn between(before: BTreeMap<Prefix, Lead>, now: &BTreeMap<Prefix, Lead>) -> Self {
        let add = now.iter().filter(|(prefix, lead)| before.get(prefix) != Some(lead));
        let add = add.map(|(prefix, lead)| (*prefix, lead.clone())).collect();
        let gone = before.into_iter().filter(|(prefix, _)| !now.contains_key(prefix));
        Self { add, remove: gone.map(|(prefix, lead)| (prefix, lead.kind())).collect() }
    }
}

impl Lead {
    /// The kind of the route.
    pub(in crate::control::engine) fn kind(&self) -> OwnKind {
        match self {
            Self::Tun => OwnKind::Tun,
            Self::Direct(_) => OwnKind::Direct,
        }
    }
}

impl KernelCover {
    /// Only `pools` so far.
    pub(in crate::control::engine) fn new(pools: Vec<Prefix>) -> Self {
        Self {
            pools,
            routes: BTreeSet::new(),
            own: BTreeMap::new(),
            direct: 0,
            outside: BTreeSet::new(),
            cannot: BTreeSet::new(),
        }
    }

    /// All of them, in order.
    pub(in crate::control::engine) fn all(&self) -> BTreeMap<Prefix, Lead> {
        let tun = self.pools.iter().chain(&self.routes).map(|prefix| (*prefix, Lead::Tun));
        tun.chain(self.own.iter().map(|(prefix, lead)| (*prefix, lead.clone()))).collect()
    }

    /// The number of destinations that the kernel sends to their nodes by itself.
    pub(in crate::control::engine) fn direct(&self) -> usize {
        self.direct
    }

    /// Destinations that the kernel sends to their nodes by itself and that lie in no pool.
    pub(in crate::control::engine) fn direct_outside(&self) -> &BTreeSet<Prefix> {
        &self.outside
    }

    /// Destinations of bare packets that the kernel should send and cannot, so that the pump does.
    pub(in crate::control::engine) fn cannot(&self) -> &BTreeSet<Prefix> {
        &self.cannot
    }

    /// Follows the change of some prefixes. `own`: what each needs, whatever covers it.
    pub(in crate::control::engine) fn update(
        &mut self,
        rib: &Rib,
        changed: &[Prefix],
        own: impl Fn(Prefix) -> Own,
    ) -> Steps {
        let mut before = Change::default();
        for prefix in changed {
            before.note(self, *prefix);
            self.set_own(*prefix, own(*prefix));
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

    /// Computes everything again. `inside`: the pools, which are destinations of their own inside of routes.
    pub(in crate::control::engine) fn renew(
        &mut self,
        rib: &Rib,
        inside: impl IntoIterator<Item = Prefix>,
        own: impl Fn(Prefix) -> Own,
    ) -> Steps {
        let pools = self.pools.clone();
        self.follow_pools(pools, rib, inside, own)
    }

    /// Computes everything again for other pools.
    pub(in crate::control::engine) fn follow_pools(
        &mut self,
        pools: Vec<Prefix>,
        rib: &Rib,
        inside: impl IntoIterator<Item = Prefix>,
        own: impl Fn(Prefix) -> Own,
    ) -> Steps {
        let before = self.all();
        *self = Self::new(pools);
        let mut widest: Option<Prefix> = None;
        for prefix in rib.best().filter(to_others).map(|route| route.prefix) {
            self.set_own(prefix, own(prefix));
            if widest.is_some_and(|widest| widest.covers(prefix)) || self.in_pool(prefix) {
                continue;
            }
            widest = Some(prefix);
            self.routes.insert(prefix);
        }
        for prefix in inside {
            self.set_own(prefix, own(prefix));
        }
        Steps::between(before, &self.all())
    }

    fn in_pool(&self, prefix: Prefix) -> bool {
        self.pools.iter().any(|pool| pool.covers(prefix))
    }

    /// The route that there has to be to exactly `prefix`.
    fn lead(&self, prefix: Prefix) -> Option<Lead> {
        let tun = || self.routes.contains(&prefix) || self.pools.contains(&prefix);
        self.own.get(&prefix).cloned().or_else(|| tun().then_some(Lead::Tun))
    }

    fn set_own(&mut self, prefix: Prefix, Own { lead, cannot }: Own) {
        let direct = |lead: Option<&Lead>| usize::from(matches!(lead, Some(Lead::Direct(_))));
        self.direct = self.direct + direct(lead.as_ref()) - direct(self.own.get(&prefix));
        if direct(lead.as_ref()) > 0 && !self.in_pool(prefix) {
            self.outside.insert(prefix);
        } else {
            self.outside.remove(&prefix);
        }
        if cannot {
            self.cannot.insert(prefix);
        } else {
            self.cannot.remove(&prefix);
        }
        match lead {
            Some(lead) => self.own.insert(prefix, lead),
            None => self.own.remove(&prefix),
        };
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

/// What was touched so far, and what there was before.
#[derive(Default)]
struct Change(BTreeMap<Prefix, Option<Lead>>);

impl Change {
    fn note(&mut self, cover: &KernelCover, prefix: Prefix) {
        self.0.entry(prefix).or_insert_with(|| cover.lead(prefix));
    }

    /// What became of it, without what was taken back.
    fn steps(self, cover: &KernelCover) -> Steps {
        let mut steps = Steps::default();
        for (prefix, before) in self.0 {
            match (before, cover.lead(prefix)) {
                (before, Some(now)) if before.as_ref() != Some(&now) => steps.add.push((prefix, now)),
                (Some(before), None) => steps.remove.push((prefix, before.kind())),
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

    use super::{KernelCover, Lead, Own, OwnKind, Steps};
    use crate::control::engine::port::DirectRoute;
    use crate::net::Prefix;
    use crate::route::{PeerId, Rib, Route, Source, Target};

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn add(rib: &mut Rib, prefix: Prefix) {
        rib.set(Route::new(prefix, Source::Control, Target::Peer(PeerId(0))));
    }

    fn nothing(_: Prefix) -> Own {
        Own::default()
    }

    fn pinned(wanted: bool) -> Own {
        Own { lead: wanted.then_some(Lead::Tun), cannot: false }
    }

    fn renewed(cover: &mut KernelCover, rib: &Rib, own: impl Fn(Prefix) -> Own) -> Steps {
        cover.renew(rib, [], own)
    }

    /// The destinations of a step, without what leads where.
    fn added(steps: &Steps) -> Vec<Prefix> {
        steps.add.iter().map(|(prefix, _)| *prefix).collect()
    }

    fn removed(steps: &Steps) -> Vec<Prefix> {
        steps.remove.iter().map(|(prefix, _)| *prefix).collect()
    }

    /// As if all routes of the kernel were in its main table.
    fn in_main(rib: &Rib) -> impl Fn(Prefix) -> Own {
        |prefix| {
            let others = rib.exact(prefix).is_some_and(|route| route.target != Target::Local);
            pinned(others && rib.get(prefix, Source::Kernel).is_some())
        }
    }

    /// What a start cover into the TUN.
    fn started(pools: &[Prefix], subnets: &[Prefix]) -> Vec<Prefix> {
        let mut rib = Rib::default();
        subnets.iter().for_each(|subnet| add(&mut rib, *subnet));
        let mut cover = KernelCover::new(pools.to_vec());
        renewed(&mut cover, &rib, nothing);
        cover.all().into_keys().collect()
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
        renewed(&mut cover, &rib, nothing);
        let steps = cover.follow_pools(prefixes(&["10.8.0.0/15"]), &rib, [], nothing);
        assert_eq!(added(&steps), prefixes(&["10.8.0.0/15", "10.244.2.0/24"]));
        assert_eq!(removed(&steps), prefixes(&["10.9.0.0/16", "10.244.0.0/16"]));
        assert_eq!(cover.follow_pools(prefixes(&["10.8.0.0/15"]), &rib, [], nothing), Steps::default());
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
        assert_eq!(renewed(&mut cover, &rib, nothing), Steps::default());
    }

    #[test]
    fn a_wider_route_takes_over_and_gives_back() {
        let (wide, narrow) = (prefix("172.16.0.0/16"), prefix("172.16.5.0/24"));
        let mut cover = KernelCover::new(vec![]);
        let mut rib = Rib::default();
        add(&mut rib, narrow);
        assert_eq!(added(&cover.update(&rib, &[narrow], nothing)), [narrow]);
        add(&mut rib, wide);
        let steps = cover.update(&rib, &[wide], nothing);
        assert_eq!((added(&steps), removed(&steps)), (vec![wide], vec![narrow]));
        rib.remove(wide, Source::Control);
        let steps = cover.update(&rib, &[wide], nothing);
        assert_eq!((added(&steps), removed(&steps)), (vec![narrow], vec![wide]));
        rib.remove(narrow, Source::Control);
        assert_eq!(removed(&cover.update(&rib, &[narrow, narrow], nothing)), [narrow]);
    }

    #[test]
    fn what_a_routing_daemon_wrote_to_the_main_table_is_outdone() {
        let block = prefix("10.1.0.0/26");
        let mut rib = Rib::default();
        let mut cover = KernelCover::new(vec![prefix("10.1.0.0/16")]);
        assert_eq!(renewed(&mut cover, &rib, in_main(&rib)), Steps::default());
        rib.set(Route::new(block, Source::Kernel, Target::Peer(PeerId(0))));
        assert_eq!(added(&cover.update(&rib, &[block], in_main(&rib))), [block]);
        assert_eq!(renewed(&mut cover, &rib, in_main(&rib)), Steps::default());
        // Whoever else owns it for good: the kernel's route is still there.
        add(&mut rib, block);
        assert_eq!(cover.update(&rib, &[block], in_main(&rib)), Steps::default());
        rib.set(Route::new(block, Source::Local, Target::Local));
        assert_eq!(removed(&cover.update(&rib, &[block], in_main(&rib))), [block]);
        rib.remove(block, Source::Local);
        assert_eq!(added(&renewed(&mut cover, &rib, in_main(&rib))), [block]);
        rib.remove(block, Source::Kernel);
        assert_eq!(removed(&cover.update(&rib, &[block, block], in_main(&rib))), [block]);
        // From other tables it is in nobody's way.
        rib.set(Route::new(block, Source::Kernel, Target::Peer(PeerId(0))));
        assert_eq!(cover.follow_pools(prefixes(&["10.1.0.0/16"]), &rib, [], nothing), Steps::default());
    }

    fn direct(prefix: Prefix) -> Lead {
        Lead::Direct(DirectRoute::new(prefix, [], None, None).into())
    }

    #[test]
    fn what_the_kernel_sends_by_itself_takes_the_place_of_what_leads_into_the_tun() {
        let (pool, wide, narrow) = (prefix("10.1.0.0/16"), prefix("172.16.0.0/16"), prefix("172.16.5.0/24"));
        let mut rib = Rib::default();
        [pool, wide, narrow].into_iter().for_each(|prefix| add(&mut rib, prefix));
        let mut cover = KernelCover::new(vec![pool]);
        renewed(&mut cover, &rib, nothing);
        let own = |prefix: Prefix| match prefix {
            // Inside of what the kernel sends, a tunnel needs a route of its own.
            _ if prefix == narrow => pinned(true),
            _ => Own { lead: Some(direct(prefix)), cannot: false },
        };
        let steps = cover.update(&rib, &[pool, wide, narrow], own);
        assert_eq!(steps.add, [(pool, direct(pool)), (wide, direct(wide)), (narrow, Lead::Tun)]);
        assert_eq!(steps.remove, []);
        assert_eq!(cover.direct_outside().iter().copied().collect::<Vec<_>>(), [wide]);
        assert_eq!(renewed(&mut cover, &rib, own), Steps::default());
        assert_eq!(cover.renew(&rib, [pool], own), Steps::default());
        rib.remove(wide, Source::Control);
        let gone = |prefix| if prefix == pool { own(prefix) } else { nothing(prefix) };
        let steps = cover.update(&rib, &[wide, narrow], gone);
        assert_eq!((steps.add, steps.remove), (vec![], vec![(wide, OwnKind::Direct)]));
        let steps = renewed(&mut cover, &rib, nothing);
        assert_eq!((steps.add, steps.remove), (vec![(pool, Lead::Tun)], vec![]));
        assert!(cover.direct_outside().is_empty());
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
                for prefix in &added(&steps) { prop_assert!(kernel.insert(*prefix)); }
                for prefix in &removed(&steps) { prop_assert!(kernel.remove(prefix)); }
                let subnets: Vec<Prefix> = rib.best().map(|route| route.prefix).collect();
                let expected: BTreeSet<Prefix> =
                    tun_routes(&pools, &subnets).into_iter().filter(|route| !pools.contains(route)).collect();
                prop_assert_eq!(&kernel, &expected);
                prop_assert_eq!(started(&pools, &subnets), tun_routes(&pools, &subnets));
                prop_assert_eq!(renewed(&mut cover, &rib, nothing), Steps::default());
            }
        }
    }
}
