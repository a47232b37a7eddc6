use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::SharedMap;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u32),
    Remove(u16),
    Fill(u16, u16),
    Clear(u16, u16),
    Merge(BTreeMap<u16, Option<u32>>),
    Keep,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..4096_u16;
    let pairs = vec((key(), any::<Option<u32>>()), 0..600);
    prop_oneof![
        (key(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
        key().prop_map(Step::Remove),
        (key(), 0..600_u16).prop_map(|(from, count)| Step::Fill(from, count)),
        (key(), 0..600_u16).prop_map(|(from, count)| Step::Clear(from, count)),
        pairs.prop_map(|pairs| Step::Merge(pairs.into_iter().collect())),
        proptest::strategy::Just(Step::Keep),
    ]
}

/// Takes the step in both maps, in an order that is not that of the keys.
fn take(step: &Step, map: &mut SharedMap<u16, u32>, oracle: &mut BTreeMap<u16, u32>) {
    let keys = |from: u16, count: u16| (0..count).map(move |n| from + (n * 7 % count.max(1)));
    match step {
        Step::Insert(key, value) => {
            map.insert(*key, *value);
            oracle.insert(*key, *value);
        }
        Step::Remove(key) => assert_eq!(map.remove(key), oracle.remove(key)),
        Step::Fill(from, count) => keys(*from, *count).for_each(|key| {
            map.insert(key, key.into());
            oracle.insert(key, key.into());
        }),
        Step::Clear(from, count) => {
            keys(*from, *count).for_each(|key| assert_eq!(map.remove(&key), oracle.remove(&key)));
        }
        Step::Merge(changes) => {
            map.merge(changes.iter().map(|(key, value)| (*key, *value)).collect());
            for (key, value) in changes {
                match value {
                    Some(value) => drop(oracle.insert(*key, *value)),
                    None => drop(oracle.remove(key)),
                }
            }
        }
        Step::Keep => {}
    }
}

fn same(map: &SharedMap<u16, u32>, oracle: &BTreeMap<u16, u32>) {
    assert_eq!(map.len(), oracle.len());
    assert!(map.iter().map(|(key, value)| (key, value)).eq(oracle));
    for key in (0..4800).step_by(397) {
        assert_eq!(map.get(&key), oracle.get(&key));
        for start in [Included(key), Excluded(key)] {
            let rest = map.starting(start).map(|(key, value)| (key, value));
            assert!(rest.eq(oracle.range((start, Unbounded))), "from {start:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every step does what it does to a BTreeMap, and nothing to the clones made before.
    #[test]
    fn it_is_a_sorted_map(steps in vec(step(), 1..60)) {
        let (mut map, mut oracle, mut kept) = (SharedMap::default(), BTreeMap::new(), Vec::new());
        for step in &steps {
            take(step, &mut map, &mut oracle);
            if matches!(step, Step::Keep) {
                kept.push((map.clone(), oracle.clone()));
            }
        }
        kept.push((map, oracle));
        for (map, oracle) in &kept {
            same(map, oracle);
        }
    }
}

/// Sizes at which branches split and join, too.
#[test]
fn it_grows_and_shrinks() {
    let (mut map, mut oracle) = (SharedMap::default(), BTreeMap::new());
    let key = |n: u32| n.wrapping_mul(0x9e37_79b1);
    for n in 0..100_000 {
        map.insert(key(n), n);
        oracle.insert(key(n), n);
    }
    assert!(map.branches.len() > 4);
    assert!(map.iter().map(|(key, value)| (key, value)).eq(&oracle));
    for n in 0..99_990 {
        assert_eq!(map.remove(&key(n)), oracle.remove(&key(n)));
    }
    assert!(map.iter().map(|(key, value)| (key, value)).eq(&oracle));
    assert_eq!(map.branches.len(), 1);
    assert!(map.branches[0].items.len() < 4);
}
