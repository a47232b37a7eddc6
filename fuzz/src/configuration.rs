//! The configuration file: any text gets an answer, and what is accepted can be run.

use underpass::config::{self, Config};
use underpass::route::{PeerId, Rib, Source, Target};

/// The text of a configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse(text, "fuzz.toml") {
        Ok(config) => check_accepted(&config),
        Err(errors) => {
            assert!(!errors.errors.is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for error in &errors.errors {
                assert!((1..=lines).contains(&error.line), "line {} of {lines}", error.line);
                assert!(error.column >= 1);
                assert!(!error.message.is_empty());
                assert!(!error.message.chars().any(char::is_control), "{:?}", error.message);
            }
        }
    }
}

/// What the daemon relies on.
fn check_accepted(config: &Config) {
    let mut rib = Rib::default();
    for subnet in &config.local_subnets {
        rib.insert(*subnet, Source::Local, Target::Local).expect("a local subnet is given once");
    }
    for (place, peer) in config.peers.iter().enumerate() {
        for subnet in &peer.subnets {
            let target = Target::Peer(PeerId(place as u16));
            rib.insert(*subnet, Source::Static, target).expect("a prefix has one owner");
        }
    }
    let own =
        [config.node.address.map(|own| own.addr().into()), config.node.address6.map(|own| own.addr().into())];
    let peers = config.peers.iter().flat_map(|peer| peer.addresses(&config.node));
    for node in peers.chain(own.into_iter().flatten()) {
        let route = rib.lookup(node);
        assert!(route.is_none(), "{node} would be routed into the tunnel");
        assert!(!config.pools.iter().any(|pool| pool.cidr.contains(node)), "{node} is in a pool");
    }
    let address = config.tunnel.address.or(config.local_subnets.first().map(|subnet| subnet.address()));
    let address = address.expect("an address for the TUN");
    assert!(!matches!(rib.lookup(address).map(|route| route.target), Some(Target::Peer(_))));
}
