//! Sets of nodes at equal cost, equal ones sharing one small id.
//!
//! Who counts references to a set would have to do so in every edit of a route; instead the ids of sets that
//! no route has any more are found when ids run out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::entry::{GroupId, RouteError, Target};
use super::fib::PeerId;
use super::shared_map::SharedMap;

/// Most different sets.
const MOST: usize = 65_535;

/// The sets by their ids. A clone shares what neither of the two edits.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    sets: SharedMap<u16, Arc<[PeerId]>>,
    ids: SharedMap<Arc<[PeerId]>, GroupId>,
    /// Ids that were given to sets that are forgotten.
    free: SharedMap<u16, ()>,
}

impl Groups {
    /// The nodes of a set, in order.
    pub(super) fn peers(&self, id: GroupId) -> &[PeerId] {
        self.sets.get(&id.0).map_or(&[], |peers| peers)
    }

    /// The targets of routes to these sets of nodes, each in order and without repetition. `used` gives the
    /// ids that routes have, and is only asked when there are not enough others.
    ///
    /// # Errors
    /// When there are more different sets than ids; no set is known that was not known before.
    pub(super) fn targets(
        &mut self,
        sets: &[Vec<PeerId>],
        used: impl FnOnce() -> HashSet<GroupId>,
    ) -> Result<Vec<Target>, RouteError> {
        let groups: HashSet<Arc<[PeerId]>> =
            sets.iter().filter(|set| set.len() > 1).map(|set| set.as_slice().into()).collect();
        let (known, new): (Vec<_>, Vec<_>) = groups.into_iter().partition(|set| self.ids.get(set).is_some());
        if self.ids.len() + new.len() > MOST {
            let mut used = used();
            used.extend(known.iter().filter_map(|set| self.ids.get(set).copied()));
            if used.len() + new.len() > MOST {
                return Err(RouteError::GroupsFull);
            }
            self.keep(&used);
        }
        for set in new {
            self.add(set);
        }
        Ok(sets.iter().filter_map(|set| self.target(set)).collect())
    }

    /// Takes `peer` out of every set. What each set that had it is now: the set of the same id, unless that
    /// is another one's already or a single node.
    pub(super) fn forget(&mut self, peer: PeerId) -> HashMap<GroupId, Target> {
        let with: Vec<(GroupId, Arc<[PeerId]>)> = self
            .sets
            .iter()
            .filter(|(_, set)| set.binary_search(&peer).is_ok())
            .map(|(id, set)| (GroupId(*id), Arc::clone(set)))
            .collect();
        let mut targets = HashMap::with_capacity(with.len());
        for (id, set) in with {
            let rest: Arc<[PeerId]> = set.iter().copied().filter(|other| *other != peer).collect();
            self.ids.remove(&set);
            let Some(target) = self.target(&rest) else {
                self.ids.insert(Arc::clone(&rest), id);
                self.sets.insert(id.0, rest);
                targets.insert(id, Target::Group(id));
                continue;
            };
            self.sets.remove(&id.0);
            self.free.insert(id.0, ());
            targets.insert(id, target);
        }
        targets
    }

    /// The target of routes to a set that is known, or to one node.
    fn target(&self, set: &[PeerId]) -> Option<Target> {
        match *set {
            [] => None,
            [peer] => Some(Target::Peer(peer)),
            _ => Some(Target::Group(*self.ids.get(&set.into())?)),
        }
    }

    fn add(&mut self, set: Arc<[PeerId]>) {
        let hole = self.free.iter().next().map(|(id, ())| *id);
        // Without a hole the ids are those below the number of sets.
        let Some(id) = hole.or_else(|| u16::try_from(self.sets.len()).ok()) else { return };
        self.free.remove(&id);
        self.sets.insert(id, Arc::clone(&set));
        self.ids.insert(set, GroupId(id));
    }

    /// Forgets all sets but `used`.
    fn keep(&mut self, used: &HashSet<GroupId>) {
        let unused: Vec<(u16, Arc<[PeerId]>)> = self
            .sets
            .iter()
            .filter(|(id, _)| !used.contains(&GroupId(*id)))
            .map(|(id, set)| (*id, Arc::clone(set)))
            .collect();
        for (id, set) in unused {
            self.sets.remove(&id);
            self.ids.remove(&set);
            self.free.insert(id, ());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{GroupId, Groups, MOST, PeerId, RouteError, Target};

    fn set(peers: &[u16]) -> Vec<PeerId> {
        peers.iter().map(|peer| PeerId(*peer)).collect()
    }

    /// Different pairs of nodes.
    fn pairs(range: std::ops::Range<usize>) -> Vec<Vec<PeerId>> {
        range.map(|n| set(&[(n / 300) as u16, 1000 + (n % 300) as u16])).collect()
    }

    fn id(target: Target) -> GroupId {
        let Target::Group(id) = target else { panic!("{target:?}") };
        id
    }

    #[test]
    fn ids_come_back_when_no_route_has_them() {
        let mut groups = Groups::default();
        let all = groups.targets(&pairs(0..MOST), || panic!("there is room")).unwrap();
        let ids: HashSet<GroupId> = all.into_iter().map(id).collect();
        assert_eq!(ids.len(), MOST);
        let more = pairs(MOST..MOST + 2);
        assert_eq!(groups.targets(&more, || ids.clone()), Err(RouteError::GroupsFull));
        assert_eq!(groups.targets(&pairs(0..1), || panic!("it is known")).unwrap().len(), 1);
        // One route is left; a request that names its set keeps it too.
        let kept = groups.targets(&pairs(7..8), || panic!("it is known")).unwrap()[0];
        let mut wanted = pairs(5..6);
        wanted.extend(more);
        let new = groups.targets(&wanted, || HashSet::from([id(kept)])).unwrap();
        assert_eq!(groups.peers(id(kept)), pairs(7..8)[0]);
        for (target, set) in new.iter().zip(&wanted) {
            assert_eq!(groups.peers(id(*target)), set);
        }
        assert_eq!(groups.sets.len(), 4);
        // All the others are given out again.
        let rest = pairs(200_000..200_000 + MOST - 4);
        let again = groups.targets(&rest, || panic!("there is room")).unwrap();
        assert_eq!(again.into_iter().map(id).collect::<HashSet<_>>().len(), MOST - 4);
        assert_eq!((groups.free.len(), groups.sets.len()), (0, MOST));
    }

    #[test]
    fn a_node_leaves_its_sets_without_another_id() {
        let mut groups = Groups::default();
        let sets = [set(&[1, 2, 3]), set(&[1, 2]), set(&[2, 3]), set(&[3, 4, 5])];
        let before = groups.targets(&sets, HashSet::new).unwrap();
        let now = groups.forget(PeerId(3));
        assert_eq!(now.len(), 3);
        assert_eq!(now[&id(before[0])], before[1], "there is such a set already");
        assert_eq!(now[&id(before[2])], Target::Peer(PeerId(2)));
        assert_eq!(now[&id(before[3])], before[3]);
        assert_eq!(groups.peers(id(before[3])), set(&[4, 5]));
        assert_eq!(groups.targets(&[set(&[4, 5])], HashSet::new).unwrap(), [before[3]]);
        assert_eq!((groups.sets.len(), groups.ids.len(), groups.free.len()), (2, 2, 2));
    }
}
