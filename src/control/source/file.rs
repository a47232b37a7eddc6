//! The configuration file as a source of routes: our own subnets and each peer's.

use crate::net::Prefix;
use crate::route::{PeerId, Rib, RouteError, Source, Target};

/// Adds this node's own subnets and those of the peers, which are numbered in order.
///
/// # Errors
/// When two owners claim the same prefix; a checked configuration has none.
pub fn load<'a>(
    rib: &mut Rib,
    local: &[Prefix],
    peers: impl IntoIterator<Item = &'a [Prefix]>,
) -> Result<(), RouteError> {
    for subnet in local {
        rib.insert(*subnet, Source::Local, Target::Local)?;
    }
    for (number, subnets) in peers.into_iter().enumerate() {
        for subnet in subnets {
            rib.insert(*subnet, Source::Static, Target::Peer(PeerId(number as u16)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::load;
    use crate::net::Prefix;
    use crate::route::{PeerId, Rib, Target};

    #[test]
    fn local_and_peer_subnets_become_routes() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let (a, b) = ([prefix("10.2.0.0/16")], [prefix("10.3.0.0/16"), prefix("10.2.9.0/24")]);
        let mut rib = Rib::default();
        load(&mut rib, &[prefix("10.1.0.0/16")], [&a[..], &b[..]]).unwrap();
        let owner = |address: &str| rib.lookup(address.parse().unwrap()).map(|route| route.target);
        assert_eq!(owner("10.1.0.1"), Some(Target::Local));
        assert_eq!(owner("10.2.0.1"), Some(Target::Peer(PeerId(0))));
        assert_eq!(owner("10.2.9.1"), Some(Target::Peer(PeerId(1))));
        assert_eq!(owner("10.4.0.1"), None);
    }
}
