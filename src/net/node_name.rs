//! Names of nodes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A node's name: 1 to 253 characters of `a-z A-Z 0-9 . - _`, as Kubernetes and hostnames allow.
/// Cheap to clone.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that cannot name a node.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("\"{0}\" is not a node name; use 1 to 253 letters, digits, dots, dashes or underscores")]
pub struct NodeNameError(String);

impl FromStr for NodeName {
    type Err = NodeNameError;

    fn from_str(text: &str) -> Result<Self, NodeNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if text.is_empty() || text.len() > 253 || !text.chars().all(allowed) {
            return Err(NodeNameError(text.chars().take(64).collect()));
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::NodeName;

    #[test]
    fn accepts_hostnames_only() {
        for good in ["node-a", "ip-10-0-0-1.ec2.internal", "n", "Node_1"] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "ü", &"x".repeat(254)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }
}
