//! The values every other module speaks in: prefixes, identifiers, names and drop reasons.
//!
//! Nothing here does I/O and nothing here knows about packets. Each type is checked once, when
//! it is made from text or numbers, so that no later layer has to check it again.

mod drop_reason;
mod host_name;
mod mac;
mod mode;
mod node_name;
mod prefix;
mod vni;
pub mod words;

pub use drop_reason::DropReason;
pub use host_name::{HostName, HostNameError};
pub use mac::{Mac, MacError};
pub use mode::{EncapMode, Mode};
pub use node_name::{NodeName, NodeNameError};
pub use prefix::{Prefix, PrefixError};
pub use vni::{Vni, VniError};
