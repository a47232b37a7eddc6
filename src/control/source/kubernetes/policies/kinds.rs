//! The kinds of objects that network policy is made of, and which of them a cluster has.

use kube::Client;
use kube::api::{ApiResource, GroupVersionKind};
use kube::runtime::watcher;

use super::super::objects::{CALICO_GROUPS, CORE};
use super::super::plain;

/// The API group of Kubernetes' own policies.
const NETWORKING: (&str, &str) = ("networking.k8s.io", "v1");

/// Kinds of objects that are watched for policies.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in super::super) enum Kind {
    NetworkPolicy,
    Pod,
    Namespace,
    /// Those from here on count only where there are policies of Calico.
    ServiceAccount,
    CalicoNetworkPolicy,
    GlobalNetworkPolicy,
    Tier,
    NetworkSet,
    GlobalNetworkSet,
}

impl Kind {
    /// What every cluster has.
    const OF_KUBERNETES: [Self; 3] = [Self::NetworkPolicy, Self::Pod, Self::Namespace];
    /// What a cluster with policies of Calico may have.
    const OF_CALICO: [Self; 5] = [
        Self::CalicoNetworkPolicy,
        Self::GlobalNetworkPolicy,
        Self::Tier,
        Self::NetworkSet,
        Self::GlobalNetworkSet,
    ];

    /// Its name in the API, and that of many.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::NetworkPolicy | Self::CalicoNetworkPolicy => ("NetworkPolicy", "networkpolicies"),
            Self::Pod => ("Pod", "pods"),
            Self::Namespace => ("Namespace", "namespaces"),
            Self::ServiceAccount => ("ServiceAccount", "serviceaccounts"),
            Self::GlobalNetworkPolicy => ("GlobalNetworkPolicy", "globalnetworkpolicies"),
            Self::Tier => ("Tier", "tiers"),
            Self::NetworkSet => ("NetworkSet", "networksets"),
            Self::GlobalNetworkSet => ("GlobalNetworkSet", "globalnetworksets"),
        }
    }

    /// As requests name it in an API group.
    pub(super) fn resource(self, (group, version): (&str, &str)) -> ApiResource {
        let (kind, plural) = self.names();
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// How it is watched: what cannot count is not sent at all.
    pub(in super::super) fn watched_by(self) -> watcher::Config {
        let config = watcher::Config::default();
        match self {
            // Pods that are done have given their addresses back.
            Self::Pod => config.fields("status.phase!=Succeeded,status.phase!=Failed"),
            _ => config,
        }
    }
}

/// What there is to watch. Calico's objects are those of the first API group that has policies.
///
/// # Errors
/// Why the API server cannot be asked.
pub(super) async fn found(client: &Client) -> Result<Vec<(Kind, ApiResource)>, String> {
    let group = |kind| if kind == Kind::NetworkPolicy { NETWORKING } else { CORE };
    let mut found: Vec<_> =
        Kind::OF_KUBERNETES.into_iter().map(|kind| (kind, kind.resource(group(kind)))).collect();
    for group in CALICO_GROUPS {
        let served = served(client, group).await?;
        let has = |kind: &Kind| served.iter().any(|name| name == kind.names().1);
        if has(&Kind::CalicoNetworkPolicy) || has(&Kind::GlobalNetworkPolicy) {
            // Their labels are asked for by no other policies.
            found.push((Kind::ServiceAccount, Kind::ServiceAccount.resource(CORE)));
            let kinds = Kind::OF_CALICO.into_iter().filter(has);
            found.extend(kinds.map(|kind| (kind, kind.resource(group))));
            break;
        }
    }
    Ok(found)
}

/// The names of what an API group has; none where there is no such group, or nobody answers for it.
async fn served(client: &Client, (group, version): (&str, &str)) -> Result<Vec<String>, String> {
    match client.list_api_group_resources(&format!("{group}/{version}")).await {
        Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Err(kube::Error::Api(status)) => {
            if status.code != 404 {
                tracing::debug!("API group {group}/{version} cannot be asked for: {}", status.message);
            }
            Ok(Vec::new())
        }
        Err(error) => Err(format!("API server: {}", plain(&error))),
    }
}
