//! A node of a cluster: what may be left out, and what is wrong there.

use super::{errors, good};
use crate::config::{Cluster, Config, GivenVxlan, Kubernetes, Style};

fn section(config: &Config) -> Kubernetes {
    match &config.cluster {
        Some(Cluster::Kubernetes(section)) => section.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_but_the_section_is_needed() {
    let config = good("[source.kubernetes]\nnode_name = \"n1\"\n");
    assert_eq!(config.node.name.as_str(), "n1");
    assert_eq!((config.node.address, config.node.address6), (None, None));
    assert!(config.local_subnets.is_empty() && config.pools.is_empty() && config.peers.is_empty());
    let section = section(&config);
    assert_eq!((section.kubeconfig, section.style), (None, None));
    assert_eq!(section.state_file.to_str(), Some(Kubernetes::STATE_FILE));
    assert_eq!(section.subnet_file.to_str(), Some(Kubernetes::SUBNET_FILE));
    assert_eq!(section.vxlan, GivenVxlan::default());
}

#[test]
fn what_is_given_is_kept() {
    let config = good(
        "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[vxlan]\nport = 8472\nvni = 1\n\
         [source.kubernetes]\nnode_name = \"n1\"\nkubeconfig = \"/k\"\nstyle = \"flannel\"\n\
         [[peer]]\nname = \"b\"\naddress = \"2001:db8::2\"\nsubnets = [\"10.2.0.0/24\"]\n",
    );
    assert_eq!((config.node.name.as_str(), config.node.address.is_some()), ("a", true));
    let section = section(&config);
    assert_eq!((section.vxlan.port, section.vxlan.vni.map(|vni| vni.get())), (Some(8472), Some(1)));
    assert_eq!(section.style, Some(Style::Flannel));
}

#[test]
fn the_name_is_the_environments_or_the_hosts() {
    // Whatever the host is called, there is a name or a reason.
    match crate::config::parse("[source.kubernetes]\n", "f") {
        Ok(config) => assert_eq!(config.node.name, section(&config).node_name),
        Err(errors) => assert!(errors.to_string().contains("node_name is not given"), "{errors}"),
    }
}

#[test]
fn wrong_values_have_a_place() {
    assert_eq!(
        errors(
            "[source.kubernetes]\nkubeconfig = \"k\"\nnode_name = \"a b\"\nstyle = \"Calico\"\nnode = 1\n"
        ),
        "f:2:14: kubeconfig: \"k\" is not an absolute path\n\
         f:3:13: node_name: \"a b\" is not a node name; use 1 to 253 letters, digits, dots, dashes or underscores\n\
         f:4:9: style: \"Calico\" is not one of \"flannel\", \"calico\", \"native\"; did you mean \"calico\"?; or write \"auto\"\n\
         f:5:1: unknown key \"node\" in [source.kubernetes]; known keys: kubeconfig, node_name, style, state_file, \
         subnet_file"
    );
    for (text, expected) in [
        ("source = 1\n", "f:1:1: unknown section or key \"source\"; "),
        ("[source.kuber]\n", "f:1:9: unknown section or key \"kuber\"; "),
        (
            "[[source.kubernetes]]\n",
            "f:1:1: source.kubernetes is a single section; write [source.kubernetes], once",
        ),
        (
            "[source]\nkubernetes = 1\n",
            "f:2:14: source.kubernetes: expected a section [source.kubernetes], found the integer 1",
        ),
    ] {
        let errors = errors(text);
        assert!(errors.lines().any(|line| line.starts_with(expected)), "{text} gives\n{errors}");
    }
}
