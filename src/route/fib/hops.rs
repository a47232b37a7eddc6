//! Next hops, equal ones sharing one small id.

use std::collections::HashMap;
use std::sync::Arc;

use super::hop_id::{HopId, NONE};
use crate::net::Mode;

/// Index of a peer in the published peer list.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PeerId(pub u16);

impl PeerId {
    /// That of the peer at `place` of the list, which has at most 65536 peers.
    pub const fn at(place: usize) -> Self {
        Self(place as u16)
    }
}

/// The way to a peer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Via {
    /// The peer.
    pub peer: PeerId,
    /// How packets travel.
    pub mode: Mode,
    /// Bytes of the largest inner packet that fits the path.
    pub mtu: u16,
}

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextHop {
    /// This node's own pods: the kernel's business.
    Local,
    /// Another node.
    Peer(Via),
    /// One of several nodes, by flow: see [`Fib::members`](super::lookup::Fib::members).
    Group(Group),
}

/// Several ways of equal cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Group {
    first: u32,
    len: u16,
}

/// What a route says about its next hop; the MTU of a path is added when the table is taken.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Ways {
    /// This node.
    Local,
    /// One or more nodes, each by its mode.
    Peers {
        /// The nodes, at least one.
        peers: Box<[(PeerId, Mode)]>,
        /// The route's own limit of the MTU, in bytes.
        mtu: Option<u16>,
    },
}

/// Most different next hops.
pub(super) const MOST: usize = NONE as usize;

/// More different next hops than ids.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("more than 65535 different next hops; use fewer combinations of nodes, modes and MTUs")]
pub struct HopsFull;

/// The next hops of a table by their ids.
#[derive(Clone)]
pub(super) struct HopTable {
    hops: Arc<[NextHop]>,
    members: Arc<[Via]>,
}

impl Default for HopTable {
    fn default() -> Self {
        Self { hops: Arc::new([]), members: Arc::new([]) }
    }
}

impl HopTable {
    #[inline]
    pub(super) fn get(&self, id: HopId) -> Option<NextHop> {
        self.hops.get(usize::from(id)).copied()
    }

    #[inline]
    pub(super) fn members(&self, group: Group) -> &[Via] {
        self.members.get(group.first as usize..).and_then(|tail| tail.get(..group.len.into())).unwrap_or(&[])
    }
}

/// Ids of ways, given out as they appear.
#[derive(Default)]
pub(super) struct Hops {
    ids: HashMap<Ways, HopId>,
    ways: Vec<Ways>,
}

impl Hops {
    /// The id of `ways`.
    ///
    /// # Errors
    /// When it is new and no id is left.
    pub(super) fn id(&mut self, ways: Ways) -> Result<HopId, HopsFull> {
        if let Some(id) = self.ids.get(&ways) {
            return Ok(*id);
        }
        let id =
            HopId::try_from(self.ways.len()).ok().filter(|id| usize::from(*id) < MOST).ok_or(HopsFull)?;
        self.ways.push(ways.clone());
        self.ids.insert(ways, id);
        Ok(id)
    }

    /// The number of ids given out.
    pub(super) fn len(&self) -> usize {
        self.ways.len()
    }

    /// The peers that packets go to by `mode`.
    pub(super) fn reached(&self, mode: Mode) -> impl Iterator<Item = PeerId> + '_ {
        let peers = self.ways.iter().flat_map(|ways| match ways {
            Ways::Local => &[][..],
            Ways::Peers { peers, .. } => peers,
        });
        peers.filter(move |(_, by)| *by == mode).map(|(peer, _)| *peer)
    }

    /// The next hops with the MTUs that `mtu` gives for a peer and mode now.
    pub(super) fn table(&self, mtu: impl Fn(PeerId, Mode) -> u16) -> HopTable {
        let mut members = Vec::new();
        let hops = self.ways.iter().map(|ways| match ways {
            Ways::Local => NextHop::Local,
            Ways::Peers { peers, mtu: limit } => {
                let via = |&(peer, mode)| {
                    let path = mtu(peer, mode);
                    Via { peer, mode, mtu: limit.map_or(path, |limit| limit.min(path)) }
                };
                match peers.as_ref() {
                    [peer] => NextHop::Peer(via(peer)),
                    peers => {
                        let first = members.len() as u32;
                        members.extend(peers.iter().map(via));
                        NextHop::Group(Group { first, len: peers.len() as u16 })
                    }
                }
            }
        });
        let hops = hops.collect();
        HopTable { hops, members: members.into() }
    }
}
