//! A state with its published table, for tests.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::port::Capabilities;
use super::snapshot::{Beside, Direct, Snapshot};
use super::state::{Setup, State};
use crate::api::PeerStatus;
use crate::config::Config;
use crate::dataplane::forward::Forwarding;
use crate::dataplane::packet::Offloaded;
use crate::route::HopsFull;
use crate::sync::Published;

/// A state that publishes into a table of its own.
pub(super) struct Node {
    state: State,
    published: Published<Forwarding>,
}

impl Node {
    /// A node with all rights on an ordinary uplink.
    pub(super) fn new(config: Config) -> Self {
        Self::with(config, true)
    }

    /// The same, with raw sockets or without.
    pub(super) fn with(config: Config, net_raw: bool) -> Self {
        let capabilities = Capabilities { net_admin: true, net_raw };
        let mut state = State::new(config, Setup { capabilities, ..Setup::sample() }).unwrap();
        let table = state.publish().unwrap().unwrap().forwarding;
        Self { state, published: Published::new(table) }
    }

    pub(super) fn publish(&mut self) -> Result<(), HopsFull> {
        if let Some(table) = self.state.publish()? {
            self.published.publish(table.forwarding);
        }
        Ok(())
    }

    pub(super) fn forwarding(&self) -> &Published<Forwarding> {
        &self.published
    }

    pub(super) fn peer_list(&self) -> Vec<PeerStatus> {
        self.snapshot().peer_list()
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let beside = Beside {
            sources: Vec::new(),
            requirements: Arc::default(),
            tap_state: Offloaded::Active,
            reloaded: true,
            uplink: "eth0".into(),
            direct: Direct::default(),
            started: Instant::now(),
        };
        Snapshot::of(&self.state, beside)
    }
}

impl Deref for Node {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}
