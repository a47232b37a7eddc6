//! The kernel's main table as of one look: where packets go that need no rule of ours.

use std::collections::HashMap;

use rtnetlink::packet_route::AddressFamily;

use super::{Host, HostError};
use crate::net::Prefix;

/// For each prefix its best metric and the device of that route, where it has a single one.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: HashMap<Prefix, (u32, Option<u32>)>,
}

impl Host {
    /// Reads the main table, both families.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub async fn table(&self) -> Result<Table, HostError> {
        let mut found = self.routes(AddressFamily::Inet).await?;
        found.extend(self.routes(AddressFamily::Inet6).await?);
        Ok(Table::of(found.into_iter().map(|route| (route.prefix, route.metric, route.device))))
    }
}

impl Table {
    /// The table of these routes: prefix, metric, device.
    pub(in crate::control) fn of(all: impl Iterator<Item = (Prefix, u32, Option<u32>)>) -> Self {
        let mut routes = HashMap::new();
        for (prefix, metric, device) in all {
            let best = routes.entry(prefix).or_insert((metric, device));
            if metric < best.0 {
                *best = (metric, device);
            }
        }
        Self { routes }
    }

    /// Whether packets for `prefix` go into `device`, but for what has more precise routes.
    pub fn leads(&self, prefix: Prefix, device: u32) -> bool {
        prefix
            .and_wider()
            .find_map(|wider| self.routes.get(&wider))
            .is_some_and(|(_, found)| *found == Some(device))
    }

    /// Whether there is a route of exactly `prefix`.
    pub fn has(&self, prefix: Prefix) -> bool {
        self.routes.contains_key(&prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::Table;
    use crate::net::Prefix;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn the_most_precise_route_with_the_best_metric_decides() {
        let table = Table::of(
            [
                (prefix("0.0.0.0/0"), 100, Some(2)),
                (prefix("10.244.0.0/16"), 50, Some(2)),
                (prefix("10.244.0.0/16"), 0, Some(7)),
                (prefix("10.244.0.0/16"), 20, Some(2)),
                (prefix("10.9.0.0/16"), 0, None),
                (prefix("fd00::/8"), 1024, Some(7)),
            ]
            .into_iter(),
        );
        for (which, leads) in [
            ("10.244.0.0/16", true),
            ("10.244.2.0/24", true),
            ("10.0.0.0/8", false),
            ("10.9.1.0/24", false),
            ("fd00:1::/32", true),
            ("fe00::/8", false),
        ] {
            assert_eq!(table.leads(prefix(which), 7), leads, "{which}");
        }
        assert!(table.has(prefix("0.0.0.0/0")) && !table.has(prefix("10.244.2.0/24")));
    }
}
