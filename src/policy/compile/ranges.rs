//! Sets of small numbers as ranges: what nests or lies side by side costs as little as one number.

use std::ops::Range;

/// A set of numbers: ranges in ascending order, with gaps between them.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// All numbers below this.
    pub(super) fn below(end: u32) -> Self {
        Self::of(std::iter::once(0..end))
    }

    /// These numbers, which may come in any order and more than once.
    pub(super) fn of_numbers(numbers: impl IntoIterator<Item = u32>) -> Self {
        Self::of(numbers.into_iter().map(|number| number..number + 1))
    }

    /// The numbers in these ranges, which may come in any order and overlap.
    pub(super) fn of(ranges: impl IntoIterator<Item = Range<u32>>) -> Self {
        let mut all: Vec<(u32, u32)> = ranges.into_iter().map(|range| (range.start, range.end)).collect();
        all.retain(|(start, end)| start < end);
        all.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(all.len().min(16));
        for (start, end) in all {
            match joined.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => joined.push((start, end)),
            }
        }
        Self(joined)
    }

    /// The ranges.
    pub(super) fn iter(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// Each number.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter().flatten()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let (mut one, mut two) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some((a, b)), Some((c, d))) = (one.peek(), two.peek()) {
            let (start, end) = (*a.max(c), *b.min(d));
            if start < end {
                both.push((start, end));
            }
            if b < d {
                one.next()
            } else {
                two.next()
            };
        }
        Self(both)
    }

    /// The numbers in this one that are not in the other.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut cuts = other.0.iter().peekable();
        for (start, end) in &self.0 {
            let mut from = *start;
            while let Some((cut, until)) = cuts.peek() {
                if *cut >= *end {
                    break;
                }
                if *cut > from {
                    left.push((from, *cut));
                }
                from = from.max(*until);
                if *until > *end {
                    break;
                }
                cuts.next();
            }
            if from < *end {
                left.push((from, *end));
            }
        }
        Self(left)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ranges;

    fn ranges() -> impl Strategy<Value = Ranges> {
        let range = (0_u32..40, 0_u32..6).prop_map(|(start, len)| start..start + len);
        prop::collection::vec(range, 0..8).prop_map(Ranges::of)
    }

    proptest! {
        #[test]
        fn they_are_sets(one in ranges(), two in ranges()) {
            let set = |ranges: &Ranges| ranges.numbers().collect::<BTreeSet<u32>>();
            let (a, b) = (set(&one), set(&two));
            prop_assert_eq!(set(&one.and(&two)), &a & &b);
            prop_assert_eq!(set(&one.without(&two)), &a - &b);
            prop_assert_eq!(set(&Ranges::of(one.iter().chain(two.iter()))), &a | &b);
            // Equal sets are equal values.
            prop_assert_eq!(Ranges::of_numbers(one.numbers()), one);
        }
    }
}
