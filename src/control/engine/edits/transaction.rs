//! An edit as a whole: made and compiled, or as if it had not been asked for.
//!
//! Nearly every edit is known to fit the forwarding table, because there are more ids left than it can use; it
//! is compiled when it is published. Any other is compiled at once, and put back when it does not fit.

use std::sync::Arc;

use crate::config::Config;
use crate::control::engine::edits::pending::{Pending, Publication};
use crate::control::engine::edits::roster::Roster;
use crate::control::engine::from_config::scope;
use crate::control::engine::reached::Reached;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::State;
use crate::dataplane::forward::{Inputs, Peer, Underlay};
use crate::net::{Mode, Prefix};
use crate::route::{EncapPolicy, HopsFull, Rib};

/// Everything that an edit may change.
#[derive(Clone)]
pub(crate) struct Before {
    config: Arc<Config>,
    policy: Arc<EncapPolicy>,
    peers: Arc<Vec<Peer>>,
    roster: Arc<Roster>,
    rib: Rib,
    underlay: Underlay,
    wanted_mtu: u16,
    new_pools: Option<Vec<Prefix>>,
    peers_changed: bool,
    urgent: bool,
    /// How many prefixes were pending; `None` is everything.
    pending: Option<usize>,
}

impl Before {
    /// The number of prefixes.
    pub(crate) fn routes(&self) -> usize {
        self.rib.len()
    }
}

impl State {
    /// What [`State::put_back`] takes. It costs microseconds: everything large is shared.
    pub(in crate::control::engine) fn before(&self) -> Before {
        Before {
            config: Arc::clone(&self.config),
            policy: Arc::clone(&self.policy),
            peers: Arc::clone(&self.peers),
            roster: Arc::clone(&self.roster),
            rib: self.rib.clone(),
            underlay: self.underlay,
            wanted_mtu: self.wanted_mtu,
            new_pools: self.new_pools.clone(),
            peers_changed: self.peers_changed,
            urgent: self.urgent,
            pending: self.pending.prefixes(),
        }
    }

    /// Takes back everything since `before`.
    pub(in crate::control::engine) fn put_back(&mut self, before: Before) {
        self.set_scope(scope(&before.config));
        self.config = before.config;
        self.policy = before.policy;
        self.peers = before.peers;
        self.roster = before.roster;
        self.rib = before.rib;
        self.underlay = before.underlay;
        self.wanted_mtu = before.wanted_mtu;
        self.new_pools = before.new_pools;
        self.peers_changed = before.peers_changed;
        self.urgent = before.urgent;
        self.pending.cut(before.pending);
        self.kernel_pools = self.foreign_pools();
    }

    /// Why there are too many routes for what a request has led to since `before`.
    pub(in crate::control::engine) fn too_many(&self, before: &Before) -> Option<Refusal> {
        let (most, now) = (self.config.control.max_routes, self.rib.len());
        (now > most && now > before.routes()).then(|| {
            let text = format!(
                "there would be {now} routes, nothing has changed; `max_routes` under [control] allows {most}"
            );
            Refusal::new(Kind::Full, text)
        })
    }

    /// Whether the forwarding table has ids enough for everything that is pending, whatever it is.
    pub(in crate::control::engine) fn fits(&self) -> bool {
        match &self.pending {
            Pending::Nothing => true,
            Pending::Some(changed) => self.compiler.has_room_for(changed.len() + self.policy.pools().count()),
            Pending::Everything => false,
        }
    }

    /// Whether packets do not see everything yet.
    pub(in crate::control::engine) fn has_pending(&self) -> bool {
        self.peers_changed || self.ready.is_some() || !matches!(self.pending, Pending::Nothing)
    }

    /// Compiles what is pending; it is published next.
    ///
    /// # Errors
    /// When there are more different next hops than the forwarding table has ids. Everything is still pending
    /// then.
    pub(in crate::control::engine) fn compile(&mut self) -> Result<(), HopsFull> {
        let Self { underlay, peers, policy, rib, compiler, pending, peers_changed, .. } = self;
        let (inputs, peers_changed) = (Inputs { underlay: *underlay, peers, policy, rib }, *peers_changed);
        let forwarding = match pending {
            Pending::Nothing if peers_changed => compiler.set_peers(inputs),
            Pending::Nothing => return Ok(()),
            // Ids of next hops that nothing uses any more are only free again after compiling anew.
            Pending::Some(some) => match compiler.apply(inputs, some) {
                Ok(_) if peers_changed => compiler.set_peers(inputs),
                Ok(forwarding) => forwarding,
                Err(HopsFull) => compiler.compile(inputs)?,
            },
            Pending::Everything => compiler.compile(inputs)?,
        };
        self.peers_changed = false;
        let changed = std::mem::take(&mut self.pending);
        let [ipip, vxlan, direct] =
            [Mode::Ipip, Mode::Vxlan, Mode::Direct].map(|mode| self.addresses_by(mode));
        self.reached = Arc::new(Reached { ipip, vxlan, direct });
        let earlier = self.ready.take().map_or(Pending::Nothing, |ready| ready.changed);
        self.ready = Some(Publication { forwarding, changed: earlier.and(changed) });
        self.urgent = true;
        Ok(())
    }

    /// The table with everything that is pending; `None` when nothing is.
    ///
    /// # Errors
    /// See [`State::compile`].
    pub(crate) fn publish(&mut self) -> Result<Option<Publication>, HopsFull> {
        let compiled = self.compile();
        self.urgent = false;
        compiled.map(|()| self.ready.take())
    }
}
