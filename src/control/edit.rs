//! Editing routes while packets flow.
//!
//! An edit changes the routes at once, where `route get` sees it, and the table of the workers a
//! moment later: whoever edits calls [`State::publish`], which takes everything that is pending.

use super::state::State;
use crate::net::Prefix;
use crate::route::{HopsFull, PeerId, Route, RouteError, Source};

/// One change of a route.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// The addresses.
    pub prefix: Prefix,
    /// The nodes that own them, at equal cost, and the route's own limit of the MTU in bytes; `None`
    /// removes the route.
    pub to: Option<(Vec<PeerId>, Option<u16>)>,
}

/// An edit that was refused; nothing has changed.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum EditError {
    /// The route table cannot hold it.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The forwarding table cannot hold it.
    #[error(transparent)]
    Hops(#[from] HopsFull),
    /// A removal of a route that is not there.
    #[error("{0} has no {name} route; `underpass route list` shows all", name = .1.name())]
    Missing(Prefix, Source),
}

/// What was edited and not yet published.
#[derive(Debug, Default)]
pub enum Pending {
    /// Nothing.
    #[default]
    Nothing,
    /// The routes of these prefixes.
    Some(Vec<Prefix>),
    /// So much that everything is compiled anew.
    Everything,
}

impl Pending {
    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn add(&mut self, prefix: Prefix) {
        match self {
            Self::Nothing => *self = Self::Some(vec![prefix]),
            Self::Some(prefixes) => prefixes.push(prefix),
            Self::Everything => {}
        }
    }
}

impl State {
    /// Applies all of `edits` to the routes of `source`, or none. `now` is the second of the
    /// daemon's life that new routes are dated with.
    ///
    /// # Errors
    /// When one of them is refused; the routes are then as before.
    pub fn edit(&mut self, source: Source, edits: &[Edit], now: u32) -> Result<(), EditError> {
        let mut undo = Vec::with_capacity(edits.len());
        for edit in edits {
            let before = self.rib.get(edit.prefix, source);
            if let Err(error) = self.edit_one(source, edit, now) {
                self.undo(source, undo);
                return Err(error);
            }
            undo.push((edit.prefix, before));
        }
        for edit in edits {
            self.pending.add(edit.prefix);
        }
        Ok(())
    }

    fn edit_one(&mut self, source: Source, edit: &Edit, now: u32) -> Result<(), EditError> {
        let prefix = edit.prefix;
        let target = match &edit.to {
            Some((peers, _)) => self.rib.target(peers)?,
            None => None,
        };
        match target {
            Some(target) => {
                let mtu = edit.to.as_ref().and_then(|(_, mtu)| *mtu);
                self.rib.set(Route { prefix, target, source, mtu, since: now });
            }
            None if self.rib.remove(prefix, source) => {}
            None => return Err(EditError::Missing(prefix, source)),
        }
        Ok(())
    }

    fn undo(&mut self, source: Source, undo: Vec<(Prefix, Option<Route>)>) {
        for (prefix, before) in undo.into_iter().rev() {
            match before {
                Some(route) => self.rib.set(route),
                None => drop(self.rib.remove(prefix, source)),
            }
        }
    }

    /// Replaces all routes of `source`; of equal prefixes the last counts.
    pub fn replace(&mut self, source: Source, routes: impl IntoIterator<Item = Route>) {
        self.rib.replace(source, routes);
        self.pending = Pending::Everything;
    }

    /// Publishes what is pending.
    ///
    /// # Errors
    /// When there are more different next hops than the forwarding table has ids; the packet path
    /// keeps the table it has.
    pub fn publish(&mut self) -> Result<(), HopsFull> {
        let (inputs, compiler, pending, forwarding) = self.parts();
        let compiled = match std::mem::take(pending) {
            Pending::Nothing => return Ok(()),
            // Ids of next hops that nothing uses any more are only free again after compiling anew.
            Pending::Some(changed) => {
                compiler.apply(inputs, &changed).or_else(|HopsFull| compiler.compile(inputs))
            }
            Pending::Everything => compiler.compile(inputs),
        };
        match compiled {
            Ok(compiled) => forwarding.publish(compiled),
            Err(full) => {
                *pending = Pending::Everything;
                return Err(full);
            }
        }
        Ok(())
    }
}
