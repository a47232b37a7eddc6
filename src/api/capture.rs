//! The words of a capture.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where packets are captured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CapturePoint {
    /// At the TUN.
    Device,
    /// At the sockets.
    Underlay,
    /// Where packets are dropped.
    Drop,
    /// Where a rule of a policy wants packets logged.
    Log,
}

impl CapturePoint {
    /// Every point.
    pub const ALL: [Self; 4] = [Self::Device, Self::Underlay, Self::Drop, Self::Log];

    /// The word in a query and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Underlay => "underlay",
            Self::Drop => "drop",
            Self::Log => "log",
        }
    }
}
