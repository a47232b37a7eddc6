//! Which kernel routes lead traffic into the TUN.

use crate::net::Prefix;

/// The prefixes to route into the TUN: every pool, and every peer subnet that no pool and no other
/// peer subnet covers. Sorted, without repetition.
pub fn tun_routes(pools: &[Prefix], peer_subnets: &[Prefix]) -> Vec<Prefix> {
    let mut routes = pools.to_vec();
    let outside = peer_subnets.iter().filter(|subnet| {
        let mut others = pools.iter().chain(peer_subnets.iter().filter(|other| other != subnet));
        !others.any(|other| other.covers(**subnet))
    });
    routes.extend(outside);
    routes.sort_unstable();
    routes.dedup();
    routes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::tun_routes;
    use crate::net::Prefix;

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|p| p.parse().unwrap()).collect()
    }

    fn routes(pools: &[&str], subnets: &[&str]) -> Vec<Prefix> {
        tun_routes(&prefixes(pools), &prefixes(subnets))
    }

    #[test]
    fn a_pool_leads_its_subnets() {
        assert_eq!(
            routes(&["10.244.0.0/16"], &["10.244.2.0/24", "10.244.3.0/24"]),
            prefixes(&["10.244.0.0/16"])
        );
        assert_eq!(routes(&["10.244.0.0/16"], &["10.244.0.0/16"]), prefixes(&["10.244.0.0/16"]));
    }

    #[test]
    fn a_subnet_outside_the_pools_has_its_own_route() {
        assert_eq!(
            routes(&["10.244.0.0/16"], &["172.16.2.0/24", "172.16.2.0/26", "10.244.2.0/24"]),
            prefixes(&["10.244.0.0/16", "172.16.2.0/24"])
        );
    }

    #[test]
    fn a_subnet_that_contains_a_pool_has_its_own_route() {
        assert_eq!(routes(&["10.244.0.0/16"], &["10.0.0.0/8"]), prefixes(&["10.0.0.0/8", "10.244.0.0/16"]));
    }

    #[test]
    fn families_do_not_cover_each_other_and_order_is_fixed() {
        let expected = prefixes(&["10.1.0.0/16", "10.244.0.0/16", "fd00:1::/64", "fd00:10::/48"]);
        assert_eq!(
            routes(
                &["fd00:10::/48", "10.244.0.0/16"],
                &["fd00:1::/64", "10.1.0.0/16", "fd00:10:0:2::/64", "10.1.0.0/16"]
            ),
            expected
        );
        assert_eq!(routes(&[], &[]), []);
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (0_u8..4, 0_u8..4, 8_u8..=24).prop_map(|(a, b, len)| {
            Prefix::containing(std::net::IpAddr::from([10, a * 64, b * 64, 0]), len).unwrap()
        })
    }

    proptest! {
        /// Everything listed is led in, nothing else is, and no subnet's route is redundant.
        #[test]
        fn complete_and_minimal(
            pools in prop::collection::vec(any_prefix(), 0..4),
            subnets in prop::collection::vec(any_prefix(), 0..6),
        ) {
            let routes = tun_routes(&pools, &subnets);
            for wanted in pools.iter().chain(&subnets) {
                prop_assert!(routes.iter().any(|r| r.covers(*wanted)));
            }
            for route in &routes {
                prop_assert!(pools.contains(route) || subnets.contains(route));
                let redundant = routes.iter().any(|r| r != route && r.covers(*route));
                prop_assert!(pools.contains(route) || !redundant);
            }
        }
    }
}
