//! What a refused request is answered with.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every response that is not 200.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What kind of error it is, for a program: the name of an [`ErrorCode`], or a word of a newer
    /// daemon.
    #[serde(default)]
    #[schema(value_type = ErrorCode, required)]
    pub code: String,
    /// What was wrong, for a human.
    pub error: String,
    /// Each culprit, where there are several; of many only the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// Kinds of errors. The words stay as they are; more may come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// A query or body that cannot be understood.
    Malformed,
    /// There is no such path.
    UnknownPath,
    /// No prefix in the forwarding table contains the destination.
    NoRoute,
    /// What is to be deleted is not there.
    NotFound,
    /// The path does not take the method.
    MethodNotAllowed,
    /// A route via a node that is not known.
    UnknownPeer,
    /// The request contradicts what the daemon knows, does or may do.
    Conflict,
    /// A body beyond its limit.
    TooLarge,
    /// The daemon is busy with other large requests.
    Busy,
    /// There is no room for it.
    Full,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::UnknownPath,
        Self::NoRoute,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::UnknownPeer,
        Self::Conflict,
        Self::TooLarge,
        Self::Busy,
        Self::Full,
    ];

    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownPath => "unknown_path",
            Self::NoRoute => "no_route",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnknownPeer => "unknown_peer",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
            Self::Full => "full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ErrorCode;

    #[test]
    fn the_name_of_a_code_is_its_json() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
