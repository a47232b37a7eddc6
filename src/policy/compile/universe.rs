//! Who has which labels, and so whom a selector selects.
//!
//! A selector is not asked of each object: each of its parts is a set, and what joins them joins sets. A part that
//! says "not" is as small as what it leaves out.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use super::ranges::Ranges;
use crate::policy::model::Labels;
use crate::policy::selector::Expression;

/// Objects by their labels.
pub(super) struct Universe {
    /// All of them.
    everything: Ranges,
    /// Those of which `all()` is true, and those of which `global()` is.
    all: Ranges,
    global: Ranges,
    keys: HashMap<String, Values>,
}

/// Who has a label.
#[derive(Clone, Default)]
pub(super) struct Values {
    /// With any value.
    any: Ranges,
    /// With each value.
    each: HashMap<String, Ranges>,
}

/// A part of a selector that is about one label.
type Test<'t> = &'t dyn Fn(&str) -> bool;

impl Universe {
    /// These objects by their places, all of which are among `all()`.
    pub(super) fn of<'l>(labelled: impl Iterator<Item = &'l Labels>) -> Self {
        let mut numbers: HashMap<&str, HashMap<&str, Vec<u32>>> = HashMap::new();
        let mut count = 0;
        for labels in labelled {
            for (key, value) in labels {
                numbers.entry(key).or_default().entry(value).or_default().push(count);
            }
            count += 1;
        }
        let values = |values: HashMap<&str, Vec<u32>>| {
            let each: HashMap<String, Ranges> = values
                .into_iter()
                .map(|(value, numbers)| (value.to_owned(), Ranges::of_numbers(numbers)))
                .collect();
            Values { any: Ranges::of(each.values().flat_map(Ranges::iter)), each }
        };
        let keys = numbers.into_iter().map(|(key, numbers)| (key.to_owned(), values(numbers))).collect();
        let everything = Ranges::below(count);
        Self { all: everything.clone(), everything, global: Ranges::default(), keys }
    }

    /// The same with one object more behind all others, which has no labels: `all()` is not true of it, and
    /// `global()` is.
    pub(super) fn and_nothing(self, count: u32) -> Self {
        Self { everything: Ranges::below(count + 1), global: Ranges::of_numbers([count]), ..self }
    }

    /// Who has the label.
    pub(super) fn values(&self, key: &str) -> Option<Cow<'_, Values>> {
        self.keys.get(key).map(Cow::Borrowed)
    }

    /// Those that an expression selects, where `values` knows who has a label. As deep as the expression is, which
    /// its reader bounds.
    pub(super) fn select<'v>(
        &self,
        expression: &Expression,
        values: &impl Fn(&str) -> Option<Cow<'v, Values>>,
    ) -> Ranges {
        let with =
            |key: &str, test: Test<'_>| values(key).map_or_else(Ranges::default, |values| values.with(test));
        let equal = |key: &str, value: &str| {
            values(key).and_then(|values| values.each.get(value).cloned()).unwrap_or_default()
        };
        let among = |key: &str, among: &BTreeSet<String>| {
            let Some(values) = values(key) else { return Ranges::default() };
            Ranges::of(among.iter().filter_map(|value| values.each.get(value)).flat_map(Ranges::iter))
        };
        match expression {
            Expression::All => self.all.clone(),
            Expression::Global => self.global.clone(),
            Expression::Has(key) => values(key).map(|values| values.any.clone()).unwrap_or_default(),
            Expression::Equal(key, value) => equal(key, value),
            Expression::NotEqual(key, value) => self.everything.without(&equal(key, value)),
            Expression::In(key, values) => among(key, values),
            Expression::NotIn(key, values) => self.everything.without(&among(key, values)),
            Expression::Contains(key, value) => with(key, &|is| is.contains(value)),
            Expression::StartsWith(key, value) => with(key, &|is| is.starts_with(value)),
            Expression::EndsWith(key, value) => with(key, &|is| is.ends_with(value)),
            Expression::Not(inner) => self.everything.without(&self.select(inner, values)),
            Expression::And(parts) => {
                let parts = parts.iter().map(|part| self.select(part, values));
                parts.reduce(|all, part| all.and(&part)).unwrap_or_else(|| self.everything.clone())
            }
            Expression::Or(parts) => {
                let parts: Vec<Ranges> = parts.iter().map(|part| self.select(part, values)).collect();
                Ranges::of(parts.iter().flat_map(Ranges::iter))
            }
        }
    }
}

impl Values {
    /// Those with a value of which `test` is true.
    fn with(&self, test: Test<'_>) -> Ranges {
        let fit = self.each.iter().filter(|(value, _)| test(value));
        Ranges::of(fit.flat_map(|(_, numbers)| numbers.iter()))
    }

    /// The same of what belongs to these.
    pub(super) fn lifted(&self, lift: &impl Fn(&Ranges) -> Ranges) -> Self {
        let each = self.each.iter().map(|(value, numbers)| (value.clone(), lift(numbers)));
        Self { any: lift(&self.any), each: each.collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Universe;
    use crate::policy::model::Labels;
    use crate::policy::selector::{Labelled, Selector};

    impl Labelled for Labels {
        fn label(&self, key: &str) -> Option<&str> {
            self.get(key).map(String::as_str)
        }
    }

    proptest! {
        /// Sets say what asking each object says.
        #[test]
        fn selectors_select_those_of_which_they_are_true(
            objects in prop::collection::vec(
                prop::collection::btree_map("[abc]", "[xy]{0,2}", 0..3), 0..12,
            ),
            words in prop::collection::vec(prop::sample::select(vec![
                "has(a)", "all()", "a == 'x'", "b != 'xy'", "c in {'x', ''}", "a not in {'y', 'xx'}", "b contains 'y'",
                "c starts with 'x'", "a ends with 'y'", "has(z)", "z != 'x'",
            ]), 1..5),
            joins in prop::collection::vec(prop::sample::select(vec![" && ", " || ", " && !", " || !("]), 5),
        ) {
            let mut text = String::new();
            for (word, join) in words.iter().zip(&joins) {
                if !text.is_empty() {
                    text += join;
                }
                text += word;
            }
            text += &")".repeat(text.matches("!(").count());
            let selector: Selector = text.parse().unwrap();
            let universe = Universe::of(objects.iter());
            let found: Vec<u32> =
                universe.select(selector.expression(), &|key| universe.values(key)).numbers().collect();
            let expected: Vec<u32> =
                (0..).zip(&objects).filter(|(_, labels)| selector.matches(*labels)).map(|(number, _)| number).collect();
            prop_assert_eq!(found, expected, "{}", selector);
        }
    }
}
