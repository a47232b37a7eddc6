//! Making nodes known and forgetting them while packets flow.
//!
//! Both are published at once, together with everything that is pending: a table never leads to a node
//! whose headers it does not have.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::Ipv4Net;

use crate::api::NewPeer;
use crate::config;
use crate::control::engine::edits::edit::unknown_peer;
use crate::control::engine::edits::lines::{Culprits, parse_prefix};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::State;
use crate::dataplane::forward::Peer;
use crate::dataplane::observe::PeerCounters;
use crate::net::{Mac, NodeName, Prefix};
use crate::route::{PeerId, Route, Source, Target};

impl State {
    /// Makes a node known, with its subnets as control routes of second `now`.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    pub(crate) fn add_peer(&mut self, new: &NewPeer, now: u32) -> Result<(), Refusal> {
        self.seat_new(new, now)?;
        self.follow_peers();
        Ok(())
    }

    /// Makes nodes known, each if nothing speaks against it: what follows from who is known is worked out once. Returns
    /// the addresses of those that are not, and why.
    pub(crate) fn add_peers(&mut self, new: &[NewPeer], now: u32) -> Vec<(IpAddr, Refusal)> {
        let refused =
            new.iter().filter_map(|new| Some((new.address, self.seat_new(new, now).err()?))).collect();
        self.follow_peers();
        refused
    }

    fn seat_new(&mut self, new: &NewPeer, now: u32) -> Result<(), Refusal> {
        let (peer, subnets) = self.judge_peer(new)?;
        let Some(id) = self.roster.next() else {
            return Err(Refusal::new(Kind::Full, "there are 65536 peers already; delete one first"));
        };
        self.seat(id, peer, &subnets);
        for prefix in subnets {
            self.route_to(id, prefix, now);
        }
        Ok(())
    }

    /// Makes a node known as it is given: a new one, or one of that name that is known already, which keeps its
    /// number and its counters. Its subnets are then those that were given; those that it had before stay as they
    /// are, and further ones become control routes of second `now`. Other routes to it are left alone.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    pub(crate) fn replace_peer(&mut self, new: &NewPeer, now: u32) -> Result<(), Refusal> {
        let Some(id) = self.roster.id(&new.name) else { return self.add_peer(new, now) };
        let (rib, roster) = (self.rib.clone(), Arc::clone(&self.roster));
        // What is about to go says nothing against what is to come.
        let before = self.own_routes(id);
        for route in &before {
            self.rib.remove(route.prefix, route.source);
        }
        Arc::make_mut(&mut self.roster).remove([&*new.name]);
        let (mut peer, subnets) = match self.judge_peer(new) {
            Ok(judged) => judged,
            Err(refusal) => {
                (self.rib, self.roster) = (rib, roster);
                return Err(refusal);
            }
        };
        let kept: Vec<Route> =
            before.iter().filter(|route| subnets.contains(&route.prefix)).copied().collect();
        kept.iter().for_each(|route| self.rib.set(*route));
        let known = &self.peers[usize::from(id.0)];
        let moved = !is_reached_alike(known, &peer);
        if !moved
            && is_known_alike(known, &peer)
            && before.len() == kept.len()
            && subnets == roster.subnets(id)
        {
            (self.rib, self.roster) = (rib, roster);
            return Ok(());
        }
        peer.take_over(known);
        self.seat(id, peer, &subnets);
        let mut changed: Vec<Prefix> = before.iter().map(|route| route.prefix).collect();
        changed.retain(|prefix| !subnets.contains(prefix));
        for prefix in subnets {
            if !kept.iter().any(|route| route.prefix == prefix) {
                self.route_to(id, prefix, now);
            }
        }
        if moved {
            // The mode may be another one now.
            let to_it = self.rib.best().filter(|route| self.rib.peers(&route.target).contains(&id));
            changed.extend(to_it.map(|route| route.prefix));
        }
        let routes = self.rib.len();
        self.pending.add_all(changed, routes);
        self.follow_peers();
        Ok(())
    }

    /// The routes that lead to a node alone and are to what it was given as its own, of whatever source.
    fn own_routes(&self, id: PeerId) -> Vec<Route> {
        let subnets = self.roster.subnets(id).iter();
        let candidates = subnets.flat_map(|subnet| self.rib.candidates(*subnet));
        candidates.filter(|route| route.target == Target::Peer(id)).collect()
    }

    fn route_to(&mut self, id: PeerId, prefix: Prefix, now: u32) {
        let target = Target::Peer(id);
        self.rib.set(Route { prefix, target, source: Source::Control, mtu: None, since: now });
        self.pending.add(prefix);
    }

    /// The node that `new` describes and its subnets, where nothing speaks against it.
    fn judge_peer(&self, new: &NewPeer) -> Result<(Peer, Vec<Prefix>), Refusal> {
        let mut culprits = Culprits::default();
        let name = self.new_name(&new.name).map_err(|text| culprits.push(|| text)).ok();
        let addresses = self.new_addresses(new, &mut culprits);
        let mac = self.new_mac(new).map_err(|text| culprits.push(|| text)).ok();
        self.judge_senders(new, &mut culprits);
        let sends_for = self.new_sends_for(&new.sends_for, &mut culprits);
        let subnets = self.new_subnets(&new.subnets, &addresses, &mut culprits);
        let (Some(name), Some(vtep_mac), Some((address, others)), true) =
            (name, mac, addresses.split_first(), culprits.is_empty())
        else {
            return Err(Refusal::of(Kind::Conflict, culprits));
        };
        let second = others.first().map(|address| (*address, None));
        let counters = PeerCounters::new(self.workers);
        let port = new.port.map_or(self.config.vxlan.port, NonZeroU16::get);
        let address = *address;
        let peer = Peer {
            name,
            address,
            port,
            vtep_mac,
            hop: None,
            second,
            also_from: new.also_from.as_slice().into(),
            sends_for: sends_for.into(),
            link_mtus: [None; 2],
            path_mtu: None,
            rumoured: false,
            policed: false,
            way: None,
            counters,
        };
        Ok((peer, subnets))
    }

    /// Forgets a node. Routes that lead to it alone go with it, of whatever source; those it shares
    /// with others stay with the others.
    ///
    /// # Errors
    /// When there is no such node.
    pub(crate) fn delete_peer(&mut self, name: &str) -> Result<PeerId, Refusal> {
        let Some(id) = self.roster.id(name) else {
            return Err(Refusal::new(Kind::Missing, unknown_peer(name)));
        };
        let routes = self.rib.len();
        self.pending.add_all(self.rib.forget(id), routes);
        if self.peers.len() > usize::from(id.0) {
            Arc::make_mut(&mut self.roster).remove([name]);
            self.peer_mut(usize::from(id.0)).retire();
        }
        self.follow_peers();
        Ok(id)
    }

    fn new_name(&self, name: &str) -> Result<NodeName, String> {
        let name: NodeName = name.parse().map_err(|error| format!("name: {error}"))?;
        if name == self.config.node.name {
            return Err(format!("name: \"{name}\" is this node's own name; a node is not its own peer"));
        }
        match self.roster.id(name.as_str()) {
            Some(_) => {
                Err(format!("name: there is a peer \"{name}\" already; `peer add --replace` changes it"))
            }
            None => Ok(name),
        }
    }

    /// The addresses of a new node that this one can reach.
    fn new_addresses(&self, new: &NewPeer, culprits: &mut Culprits) -> Vec<IpAddr> {
        let second = new.address6.map(|address| ("address6", IpAddr::V6(address)));
        let mut usable = Vec::new();
        for (key, address) in [("address", new.address)].into_iter().chain(second) {
            if let Err(reason) = self.new_address(address) {
                culprits.push(|| format!("{key}: {reason}"));
            }
            if usable.first().is_some_and(|first: &IpAddr| first.is_ipv4() == address.is_ipv4()) {
                culprits.push(|| {
                    "address6: the address is an IPv6 one already; give the IPv4 one there".to_owned()
                });
            }
            if self.can_reach(address) {
                usable.push(address);
            }
        }
        if usable.is_empty() {
            let (address, key) = (new.address, if new.address.is_ipv4() { "address" } else { "address6" });
            culprits.push(|| format!("address: this node cannot reach {address}: it has no [node] {key}"));
        }
        usable
    }

    /// The further addresses of a new node; it needs no way to them.
    fn judge_senders(&self, new: &NewPeer, culprits: &mut Culprits) {
        for (place, address) in new.also_from.iter().enumerate() {
            let before = [Some(new.address), new.address6.map(IpAddr::V6)];
            let twice = before.contains(&Some(*address)) || new.also_from[..place].contains(address);
            if twice {
                culprits.push(|| format!("also_from: {address} is given twice; remove one"));
            } else if let Err(reason) = self.new_address(*address) {
                culprits.push(|| format!("also_from: {reason}"));
            }
        }
    }

    /// What a new node may send from where nobody owns it.
    fn new_sends_for(&self, given: &[String], culprits: &mut Culprits) -> Vec<Prefix> {
        let judge = |prefix: Prefix| match self.rib.covering(config::for_senders(prefix)?) {
            Some(route) => Err(format!(
                "{prefix} lies inside the route {}, whose owner alone may send from there",
                route.prefix
            )),
            None => Ok(prefix),
        };
        let mut prefixes = Vec::new();
        for text in given {
            match parse_prefix(text).and_then(judge) {
                Ok(prefix) => prefixes.push(prefix),
                Err(reason) => culprits.push(|| format!("sends_for: {reason}")),
            }
        }
        prefixes
    }

    /// Whether this node has an address of that family.
    fn can_reach(&self, address: IpAddr) -> bool {
        let node = &self.config.node;
        if address.is_ipv4() { node.address.is_some() } else { node.address6.is_some() }
    }

    fn new_address(&self, address: IpAddr) -> Result<(), String> {
        config::unicast(address)?;
        if let Some(id) = self.roster.at(address) {
            let peer = id.and_then(|id| self.peers.get(usize::from(id.0)));
            let whose =
                peer.map_or("this node's own".to_owned(), |peer| format!("that of peer {}", peer.name));
            return Err(format!("{address} is {whose}; each node has its own"));
        }
        let reserved = |own: &Ipv4Net| {
            own.prefix_len() < 31 && [own.network(), own.broadcast()].map(IpAddr::V4).contains(&address)
        };
        if let Some(own) = self.config.node.address.filter(reserved) {
            let subnet = own.trunc();
            return Err(format!(
                "{address} is the network or broadcast address of this node's subnet {subnet}; give a host's"
            ));
        }
        match self.rib.lookup(address) {
            Some(route) => Err(format!(
                "{address} lies inside the route {}; packets to this node would be routed into the tunnel",
                route.prefix
            )),
            None => Ok(()),
        }
    }

    fn new_mac(&self, new: &NewPeer) -> Result<Mac, String> {
        let mac = match &new.vtep_mac {
            Some(text) => text.parse().map_err(|error| format!("vtep_mac: {error}"))?,
            None => Mac::of_vtep(&new.name),
        };
        let known = self.peers.iter().find(|peer| !peer.is_gone() && peer.vtep_mac == mac);
        // The same name has the same address, and is reported as such.
        match known.filter(|peer| peer.name.as_str() != new.name) {
            Some(peer) => {
                Err(format!("vtep_mac: {mac} is that of peer {}; each node has its own", peer.name))
            }
            None if mac == Mac::of_vtep(self.config.node.name.as_str()) && new.vtep_mac.is_some() => {
                Err(format!("vtep_mac: {mac} is this node's own VTEP address; give the peer's"))
            }
            None => Ok(mac),
        }
    }

    fn new_subnets(&self, given: &[String], addresses: &[IpAddr], culprits: &mut Culprits) -> Vec<Prefix> {
        let mut subnets = Vec::new();
        for text in given {
            match parse_prefix(text).and_then(|prefix| self.new_subnet(prefix, addresses, &subnets)) {
                Ok(prefix) => subnets.push(prefix),
                Err(reason) => culprits.push(|| format!("subnets: {reason}")),
            }
        }
        subnets
    }

    fn new_subnet(&self, prefix: Prefix, addresses: &[IpAddr], before: &[Prefix]) -> Result<Prefix, String> {
        self.claimable(prefix)?;
        self.reachable(prefix)?;
        let own_family = addresses.iter().find(|address| address.is_ipv4() == prefix.is_ipv4());
        self.sendable(prefix, own_family.or(addresses.first()).into_iter().copied())?;
        if before.contains(&prefix) {
            return Err(format!("{prefix} is given twice; remove one"));
        }
        if let Some(address) = addresses.iter().find(|address| prefix.contains(**address)) {
            return Err(format!("{prefix} contains the peer's own address {address}"));
        }
        match self.rib.get(prefix, Source::Control) {
            Some(_) => Err(format!("there is a control route {prefix} already; delete it first")),
            None => Ok(prefix),
        }
    }
}

/// Whether packets to both travel alike.
fn is_reached_alike(one: &Peer, other: &Peer) -> bool {
    one.addresses().eq(other.addresses()) && one.port == other.port && one.vtep_mac == other.vtep_mac
}

/// Whether both may send the same.
fn is_known_alike(one: &Peer, other: &Peer) -> bool {
    one.also_from == other.also_from && one.sends_for == other.sends_for
}
