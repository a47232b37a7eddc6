//! Names that a resolver looks up.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A host name: labels of 1 to 63 characters `a-z 0-9 - _` with dots between them, 1 to 253 characters in all, in
/// lower case and without a dot at the end (RFC 1123 §2.1; underscores because names in use have them). The last
/// label is no number, so that a slip in an address is no name. Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostName(Arc<str>);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no host name.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"{0}\" is not a host name")]
pub struct HostNameError(String);

impl FromStr for HostName {
    type Err = HostNameError;

    fn from_str(text: &str) -> Result<Self, HostNameError> {
        let error = || HostNameError(text.chars().take(64).collect());
        let name = text.strip_suffix('.').unwrap_or(text);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let last = name.rsplit('.').next().unwrap_or(name);
        if name.len() > 253 || !name.split('.').all(is_label) || is_number(last) {
            return Err(error());
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::HostName;

    #[test]
    fn names_and_what_only_looks_like_one() {
        for (text, name) in [
            ("node-b.example", "node-b.example"),
            ("Node-B.Example.", "node-b.example"),
            ("b", "b"),
            ("_x.b2", "_x.b2"),
            ("1.b", "1.b"),
        ] {
            assert_eq!(text.parse::<HostName>().unwrap().as_str(), name);
        }
        let (long, most) = ("x".repeat(64), vec!["x".repeat(63); 4].join("."));
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "ü", "192.0.2.300", "7", "a/24", "::1", &long, &most]
        {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
    }
}
