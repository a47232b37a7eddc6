//! Many kernel routes at once: requests are under way together, so that the kernel is never waited
//! for one by one.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::{StreamExt, stream};
use rtnetlink::packet_route::AddressFamily;

use super::error::errno;
use super::route::{TunRoute, default_metric, message};
use super::{Host, HostError};
use crate::net::Prefix;

/// Requests under way together.
const TOGETHER: usize = 64;
/// Refusals that are explained.
const EXPLAINED: usize = 100;

impl Host {
    /// Adds routes into the device `index`. Routes that are there already are taken over when they
    /// are ours and kept when they lead into this device anyway. Returns what was refused, but for what
    /// is left to an administrator.
    pub async fn add_many(&self, index: u32, routes: Vec<TunRoute>) -> Vec<(Prefix, HostError)> {
        let add = |route: TunRoute| {
            let (prefix, request) = (route.prefix, self.handle.route().add(message(index, &route)));
            async move { (prefix, request.execute().await) }
        };
        let answers = stream::iter(routes.into_iter().map(add)).buffer_unordered(TOGETHER);
        let failed: Vec<_> =
            answers.filter_map(async |(prefix, done)| Some((prefix, done.err()?))).collect().await;
        let denied = failed.iter().any(|(_, error)| errno(error) == Some(libc::EPERM));
        if denied {
            self.denied.store(true, Relaxed);
        }
        let failed = failed.into_iter().filter(|(_, error)| errno(error) != Some(libc::EPERM));
        let (existing, other): (Vec<_>, Vec<_>) =
            failed.partition(|(_, error)| errno(error) == Some(libc::EEXIST));
        let mut refused: Vec<_> = other
            .into_iter()
            .map(|(prefix, error)| (prefix, HostError::netlink(format!("add the route {prefix}"), &error)))
            .collect();
        if !existing.is_empty() {
            let existing: Vec<Prefix> = existing.into_iter().map(|(prefix, _)| prefix).collect();
            refused.extend(self.conflicts(index, &existing).await);
        }
        refused
    }

    /// Removes routes of ours into the device `index`, by prefix and metric; those that are gone
    /// already are no error.
    ///
    /// # Errors
    /// The first [`HostError::Netlink`]; the others are still removed. Not being allowed to is none.
    pub async fn remove_many(&self, index: u32, routes: Vec<(Prefix, u32)>) -> Result<(), HostError> {
        let removals = routes.into_iter().map(|(prefix, metric)| self.remove_route(index, prefix, metric));
        let removed = stream::iter(removals).buffer_unordered(TOGETHER);
        removed.fold(Ok(()), async |all, one| Result::and(all, self.unless_denied(one))).await
    }

    /// Which of `prefixes` are routed elsewhere.
    pub(in crate::control) async fn conflicts(
        &self,
        index: u32,
        prefixes: &[Prefix],
    ) -> Vec<(Prefix, HostError)> {
        let mut there = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for found in self.routes(family).await.unwrap_or_default() {
                if found.metric == default_metric(found.prefix) {
                    there.insert(found.prefix, found);
                }
            }
        }
        let mut conflicts = Vec::new();
        let elsewhere = prefixes.iter().filter_map(|prefix| there.get(prefix));
        for found in elsewhere.filter(|found| found.device != Some(index)).take(EXPLAINED) {
            if let Ok(error) = self.conflict(index, found).await {
                conflicts.push((found.prefix, error));
            }
        }
        conflicts
    }
}
