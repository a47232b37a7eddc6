//! Prefixes in files that are kept: as text.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

use crate::net::Prefix;

/// Writes them.
pub(super) fn serialize<S: Serializer>(prefixes: &[Prefix], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(prefixes.iter().map(Prefix::to_string))
}

/// Reads them.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Prefix>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}
