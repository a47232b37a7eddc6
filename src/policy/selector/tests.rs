//! The grammar, by what its expressions select and by the words in which others are refused.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Expression, Selector};

/// What a selector can ask of an object.
pub(in crate::policy) trait Labelled {
    /// The value of a label, if the object has it.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Selector {
    /// Whether it is true of this, said as plainly as can be: what the compiler does with sets is held against it.
    pub(in crate::policy) fn matches(&self, what: &impl Labelled) -> bool {
        self.expression().matches(what)
    }
}

impl Expression {
    fn matches(&self, what: &impl Labelled) -> bool {
        let has = |key: &str, test: &dyn Fn(&str) -> bool| what.label(key).is_some_and(test);
        match self {
            Self::All => true,
            Self::Global => false,
            Self::Has(key) => what.label(key).is_some(),
            Self::Equal(key, value) => has(key, &|is| is == value),
            Self::NotEqual(key, value) => !has(key, &|is| is == value),
            Self::In(key, values) => has(key, &|is| values.contains(is)),
            Self::NotIn(key, values) => !has(key, &|is| values.contains(is)),
            Self::Contains(key, value) => has(key, &|is| is.contains(value)),
            Self::StartsWith(key, value) => has(key, &|is| is.starts_with(value)),
            Self::EndsWith(key, value) => has(key, &|is| is.ends_with(value)),
            Self::Not(inner) => !inner.matches(what),
            Self::And(parts) => parts.iter().all(|part| part.matches(what)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(what)),
        }
    }
}

impl Labelled for BTreeMap<&str, &str> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).copied()
    }
}

fn selects(selector: &str) -> bool {
    let labels = BTreeMap::from([("a", "one"), ("b.c/d-e_f", "two"), ("empty", "")]);
    let selector: Selector = selector.parse().unwrap_or_else(|error| panic!("{selector}: {error}"));
    let found = selector.matches(&labels);
    let again: Selector = selector.to_string().parse().unwrap();
    assert_eq!(again, selector, "{selector}");
    found
}

#[test]
fn the_whole_grammar() {
    for (selector, expected) in [
        ("", true),
        ("  ", true),
        ("all()", true),
        ("all( )", true),
        ("!all()", false),
        ("!!all()", true),
        ("! ! ! all()", false),
        ("global()", false),
        ("a == 'one'", true),
        ("a=='one'", true),
        ("a == \"one\"", true),
        ("a == 'two'", false),
        ("x == 'one'", false),
        ("a != 'one'", false),
        ("a != 'two'", true),
        ("x != 'one'", true),
        ("a in {'one', 'two'}", true),
        ("a in{'two','one',}", true),
        ("a in {}", false),
        ("x in {'one'}", false),
        ("a not in {'one'}", false),
        ("a not  in {'two'}", true),
        ("a notin {'two'}", true),
        ("x not in {'one'}", true),
        ("x not in {}", true),
        ("has(a)", true),
        ("has( a )", true),
        ("has(x)", false),
        ("!has(x)", true),
        ("has(empty)", true),
        ("empty == ''", true),
        ("a contains 'n'", true),
        ("a contains'ne'", true),
        ("a contains 'x'", false),
        ("x contains ''", false),
        ("a starts with 'on'", true),
        ("a startswith 'on'", true),
        ("a starts with 'ne'", false),
        ("a ends with 'ne'", true),
        ("a ends with 'on'", false),
        ("x ends with ''", false),
        ("b.c/d-e_f == 'two'", true),
        ("a == 'x' || a == 'one'", true),
        ("a == 'one' && has(x)", false),
        ("a == 'one' || has(x) && has(y)", true),
        ("(a == 'one' || has(x)) && has(y)", false),
        ("!(a == 'one' && has(x))", true),
        ("!a == 'one'", false),
        ("((((has(a)))))", true),
        ("has == 'x' || all == 'y' || global != 'z'", true),
        ("a == 'one' &&\n  has(empty)\n", true),
        ("a == '\"quoted\"' || a == \"it's\"", false),
    ] {
        assert_eq!(selects(selector), expected, "{selector}");
    }
}

#[test]
fn what_is_no_selector_is_refused_where_it_is_wrong() {
    for (selector, expected) in [
        (
            "a",
            "a selector has ==, !=, in, not in, contains, starts with or ends with behind a label at character 2",
        ),
        (
            "a = 'b'",
            "a selector has ==, !=, in, not in, contains, starts with or ends with behind a label at character 3",
        ),
        ("a == b", "a selector has a value in quotes at character 6"),
        ("a == 'b", "a selector has a value in quotes at character 6"),
        ("a == 'b' c == 'd'", "a selector has &&, || or its end at character 10"),
        (
            "a == 'b' &&",
            "a selector has a label, has(LABEL), all() or an expression in parentheses at character 12",
        ),
        ("a == 'b' & c == 'd'", "a selector has &&, || or its end at character 10"),
        ("(a == 'b'", "a selector has &&, || or a closing parenthesis at character 10"),
        ("a in 'b'", "a selector has values in braces at character 6"),
        ("a in {b}", "a selector has a value in quotes, a comma or a closing brace at character 7"),
        ("a in {'b'", "a selector has a value in quotes, a comma or a closing brace at character 10"),
        ("has()", "a selector has the name of a label behind has( at character 5"),
        ("has(a b)", "a selector has a closing parenthesis at character 7"),
        (
            "a starts 'b'",
            "a selector has ==, !=, in, not in, contains, starts with or ends with behind a label at character 10",
        ),
        (
            "ä == 'b'",
            "a selector has a label, has(LABEL), all() or an expression in parentheses at character 1",
        ),
    ] {
        assert_eq!(selector.parse::<Selector>().unwrap_err().to_string(), expected, "{selector}");
    }
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = |depth: usize| "(".repeat(depth) + "all()" + &")".repeat(depth);
    assert!(deep(Selector::DEEPEST).parse::<Selector>().is_ok());
    let error = deep(Selector::DEEPEST + 1).parse::<Selector>().unwrap_err();
    assert_eq!(error.to_string(), "a selector has at most 64 parentheses inside of each other");
    assert!("(".repeat(30_000).parse::<Selector>().is_err());
    assert!("!".repeat(30_000).parse::<Selector>().is_err());
    let long = "has(a) || ".repeat(4000) + "all()";
    let error = long.parse::<Selector>().unwrap_err().to_string();
    assert_eq!(error, "a selector has at most 32768 bytes; use labels that need fewer words");
}

proptest! {
    #[test]
    fn never_panics(text in ".{0,200}") {
        let _ = text.parse::<Selector>();
    }

    #[test]
    fn nearly_right_ones_never_panic_and_keep_their_meaning(
        words in prop::collection::vec(prop::sample::select(vec![
            "a", "==", "!=", "'x'", "\"y\"", "in", "not in", "{", "}", ",", "has(", "all()", "global()", "(", ")",
            "&&", "||", "!", "contains", "starts with", "ends with", " ", "\t",
        ]), 0..20),
    ) {
        let text = words.join(" ");
        if let Ok(selector) = text.parse::<Selector>() {
            let printed = selector.to_string();
            prop_assert_eq!(printed.parse::<Selector>().unwrap(), selector, "{} {}", text, printed);
        }
    }
}
