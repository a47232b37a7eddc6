//! `[source.kubernetes]`: which cluster, and which of its nodes this one is.

use std::path::PathBuf;

use toml::de::DeTable;

use super::diagnostic::Log;
use super::reader::{At, Table, auto_or, parsed, word};
use super::value::absolute;
use super::{GivenVxlan, Style, schema};
use crate::net::NodeName;

/// The words of `style` beside "auto".
const STYLES: [(&str, Style); 3] = [
    (Style::Flannel.name(), Style::Flannel),
    (Style::Calico.name(), Style::Calico),
    (Style::Native.name(), Style::Native),
];
/// The environment variable that manifests fill with the name of the node.
const NODE_NAME: &str = "NODE_NAME";

/// The section. Wherever a value is `None`, what was wrong with it is in the log.
pub(super) struct Kubernetes {
    kubeconfig: Option<At<Option<PathBuf>>>,
    pub(super) node_name: Option<At<NodeName>>,
    style: Option<At<Option<Style>>>,
    state_file: Option<At<PathBuf>>,
    subnet_file: Option<At<PathBuf>>,
    vxlan: GivenVxlan,
}

impl Kubernetes {
    /// The section of the document, if there is one, beside what `vxlan` gives.
    pub(super) fn read(root: &DeTable<'_>, vxlan: GivenVxlan, log: &mut Log<'_>) -> Option<Self> {
        let table = Table::single(root, &schema::KUBERNETES, log);
        if !table.is_there() {
            return None;
        }
        if !cfg!(feature = "kubernetes") {
            let missing =
                "[source.kubernetes]: this program was built without the feature `kubernetes`; build it with";
            log.push(table.at, missing);
        }
        let file = |default: &str| PathBuf::from(default);
        Some(Self {
            kubeconfig: table.value_or(log, "kubeconfig", None, |v| absolute(v).map(Some)),
            node_name: node_name(&table, log),
            style: table.value_or(log, "style", None, |v| auto_or(v, |v| word(v, &STYLES))),
            state_file: table.value_or(log, "state_file", file(super::Kubernetes::STATE_FILE), absolute),
            subnet_file: table.value_or(log, "subnet_file", file(super::Kubernetes::SUBNET_FILE), absolute),
            vxlan,
        })
    }

    /// The checked section; `None` when anything was wrong.
    pub(super) fn build(self) -> Option<super::Kubernetes> {
        Some(super::Kubernetes {
            kubeconfig: self.kubeconfig?.value,
            node_name: self.node_name?.value,
            style: self.style?.value,
            state_file: self.state_file?.value,
            subnet_file: self.subnet_file?.value,
            vxlan: self.vxlan,
        })
    }
}

/// The name that is given, else that of the environment, else the host's.
fn node_name(table: &Table<'_>, log: &mut Log<'_>) -> Option<At<NodeName>> {
    if table.has("node_name") {
        return table.value(log, "node_name", parsed);
    }
    let given = std::env::var(NODE_NAME).ok().filter(|name| !name.is_empty());
    // The kubelet's rule for the default of its own name.
    let host = || rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase();
    let (name, whence) = match given {
        Some(name) => (name, NODE_NAME),
        None => (host(), "the host name"),
    };
    match name.parse() {
        Ok(name) => Some(At { value: name, at: table.at }),
        Err(error) => {
            log.push(table.at, format!("node_name is not given, and {whence} cannot be one: {error}"));
            None
        }
    }
}
