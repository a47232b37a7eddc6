//! Calico's grammar of selectors.
//!
//! ```text
//! or        = and *( "||" and )
//! and       = operation *( "&&" operation )
//! operation = *"!" ( "all()" / "global()" / "has(" KEY ")" / "(" or ")" / KEY comparison )
//! comparison = ( "==" / "!=" / "contains" / "starts with" / "ends with" ) VALUE
//!            / ( "in" / "not in" ) "{" [ VALUE *( "," VALUE ) [ "," ] ] "}"
//! KEY       = 1*( letter / digit / "_" / "." / "/" / "-" )
//! VALUE     = "'" … "'" / DQUOTE … DQUOTE, without escapes
//! ```

use std::collections::BTreeSet;

use winnow::Parser;
use winnow::combinator::{alt, opt, separated};
use winnow::error::ParserError;
use winnow::stream::Stream;
use winnow::token::take_while;

use super::Selector;
use super::expression::Expression;

/// Characters of a key, at most: Calico's limit.
const LONGEST_KEY: usize = 512;
const VALUE: &str = "a value in quotes";
const OPERATOR: &str = "==, !=, in, not in, contains, starts with or ends with behind a label";
const OPERATION: &str = "a label, has(LABEL), all() or an expression in parentheses";

/// Why a text is no selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// The grammar has nothing of that kind there.
    #[error("a selector has {expected} at character {at}")]
    Syntax {
        /// What there could be.
        expected: &'static str,
        /// Which character, counted from 1.
        at: usize,
    },
    /// It is too long.
    #[error("a selector has at most {} bytes; use labels that need fewer words", Selector::LONGEST)]
    Long,
    /// It is too deep.
    #[error("a selector has at most {} parentheses inside of each other", Selector::DEEPEST)]
    Deep,
}

/// What the parser noticed, and how many bytes there were behind it.
#[derive(Debug)]
enum Fault {
    Expected(&'static str, usize),
    Deep,
}

impl<'t> ParserError<&'t str> for Fault {
    type Inner = Self;

    fn from_input(input: &&'t str) -> Self {
        Self::Expected(OPERATION, input.len())
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

type Parsed<T> = Result<T, Fault>;

/// Reads a selector; an empty one is that of everything.
pub(super) fn parse(text: &str) -> Result<Expression, SelectorError> {
    if text.len() > Selector::LONGEST {
        return Err(SelectorError::Long);
    }
    let mut rest = text;
    let syntax = |expected, left: usize| {
        let before = text.get(..text.len().saturating_sub(left)).unwrap_or_default();
        SelectorError::Syntax { expected, at: before.chars().count() + 1 }
    };
    space(&mut rest);
    if rest.is_empty() {
        return Ok(Expression::All);
    }
    match disjunction(&mut rest, 0) {
        Ok(expression) if rest.is_empty() => Ok(expression),
        Ok(_) => Err(syntax("&&, || or its end", rest.len())),
        Err(Fault::Expected(expected, left)) => Err(syntax(expected, left)),
        Err(Fault::Deep) => Err(SelectorError::Deep),
    }
}

/// Passes over what separates words.
fn space(input: &mut &str) {
    *input = input.trim_start_matches([' ', '\t', '\n', '\r']);
}

/// Whether the next token is `word`, which is passed over then.
fn token(input: &mut &str, word: &'static str) -> bool {
    let found: Parsed<_> = opt(word).parse_next(input);
    let found = matches!(found, Ok(Some(_)));
    if found {
        space(input);
    }
    found
}

fn expect(input: &mut &str, word: &'static str, expected: &'static str) -> Parsed<()> {
    if token(input, word) { Ok(()) } else { Err(Fault::Expected(expected, input.len())) }
}

fn disjunction(input: &mut &str, depth: usize) -> Parsed<Expression> {
    let mut parts = vec![conjunction(input, depth)?];
    while token(input, "||") {
        parts.push(conjunction(input, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Or(parts) })
}

fn conjunction(input: &mut &str, depth: usize) -> Parsed<Expression> {
    let mut parts = vec![operation(input, depth)?];
    while token(input, "&&") {
        parts.push(operation(input, depth)?);
    }
    Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::And(parts) })
}

fn operation(input: &mut &str, depth: usize) -> Parsed<Expression> {
    let mut negated = false;
    while token(input, "!") {
        negated = !negated;
    }
    let plain = if token(input, "(") {
        if depth == Selector::DEEPEST {
            return Err(Fault::Deep);
        }
        let inner = disjunction(input, depth + 1)?;
        expect(input, ")", "&&, || or a closing parenthesis")?;
        inner
    } else if token(input, "has(") {
        let key = key(input, "the name of a label behind has(")?;
        expect(input, ")", "a closing parenthesis")?;
        Expression::Has(key)
    } else if token(input, "all(") {
        expect(input, ")", "a closing parenthesis")?;
        Expression::All
    } else if token(input, "global(") {
        expect(input, ")", "a closing parenthesis")?;
        Expression::Global
    } else {
        let key = key(input, OPERATION)?;
        comparison(input, key)?
    };
    Ok(if negated { Expression::Not(Box::new(plain)) } else { plain })
}

/// The name of a label.
fn key(input: &mut &str, expected: &'static str) -> Parsed<String> {
    let start = input.len();
    let letter = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let found: Parsed<&str> = take_while(1..=LONGEST_KEY, letter).parse_next(input);
    let key = found.map_err(|_| Fault::Expected(expected, start))?;
    space(input);
    Ok(key.to_owned())
}

/// What a label is compared with.
fn comparison(input: &mut &str, key: String) -> Parsed<Expression> {
    if token(input, "==") {
        return Ok(Expression::Equal(key, value(input)?));
    }
    if token(input, "!=") {
        return Ok(Expression::NotEqual(key, value(input)?));
    }
    if token(input, "contains") {
        return Ok(Expression::Contains(key, value(input)?));
    }
    if token(input, "starts") {
        expect(input, "with", OPERATOR)?;
        return Ok(Expression::StartsWith(key, value(input)?));
    }
    if token(input, "ends") {
        expect(input, "with", OPERATOR)?;
        return Ok(Expression::EndsWith(key, value(input)?));
    }
    if token(input, "not") {
        expect(input, "in", OPERATOR)?;
        return Ok(Expression::NotIn(key, values(input)?));
    }
    if token(input, "in") {
        return Ok(Expression::In(key, values(input)?));
    }
    Err(Fault::Expected(OPERATOR, input.len()))
}

/// A string in quotes of either kind.
fn value(input: &mut &str) -> Parsed<String> {
    let start = input.len();
    let single = ('\'', take_while(0.., |c| c != '\''), '\'');
    let double = ('"', take_while(0.., |c| c != '"'), '"');
    let found: Parsed<(char, &str, char)> = alt((single, double)).parse_next(input);
    let (_, value, _) = found.map_err(|_| Fault::Expected(VALUE, start))?;
    space(input);
    Ok(value.to_owned())
}

/// Strings in braces.
fn values(input: &mut &str) -> Parsed<BTreeSet<String>> {
    expect(input, "{", "values in braces")?;
    let comma = |input: &mut &str| expect(input, ",", "a comma");
    let begin = input.checkpoint();
    let listed: Parsed<Vec<String>> = separated(0.., value, comma).parse_next(input);
    let Ok(listed) = listed else {
        input.reset(&begin);
        return Err(Fault::Expected(VALUE, input.len()));
    };
    token(input, ",");
    expect(input, "}", "a value in quotes, a comma or a closing brace")?;
    Ok(listed.into_iter().collect())
}
