//! A node that etcd knows: what may be left out, and what is wrong there.

use super::{errors, good};
use crate::config::{Cluster, Config, Etcd, EtcdIdentity, GivenVxlan, Kubernetes};

const NODE: &str = "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n";

fn section(config: &Config) -> Etcd {
    match &config.cluster {
        Some(Cluster::Etcd(section)) => section.clone(),
        other => panic!("{other:?}"),
    }
}

fn given(keys: &str) -> Etcd {
    section(&good(&format!("{NODE}[source.etcd]\n{keys}\n")))
}

fn wrong(keys: &str) -> String {
    errors(&format!("{NODE}[source.etcd]\n{keys}\n"))
}

#[test]
fn nothing_but_the_endpoints_is_needed() {
    let config = good(&format!("{NODE}[source.etcd]\nendpoints = [\"http://192.0.2.10:2379\"]\n"));
    assert!(config.local_subnets.is_empty() && config.pools.is_empty() && config.peers.is_empty());
    let section = section(&config);
    assert_eq!(section.endpoints, ["http://192.0.2.10:2379"]);
    assert_eq!((section.prefix.as_str(), section.lease_ttl), ("/coreos.com/network", 86_400));
    assert_eq!((section.subnet, section.subnet6), (None, None));
    assert_eq!((section.tls, section.user, section.vxlan), (None, None, GivenVxlan::default()));
    assert_eq!(section.state_file.to_str(), Some(Etcd::STATE_FILE));
    assert_eq!(section.subnet_file.to_str(), Some(Kubernetes::SUBNET_FILE));
}

#[test]
fn what_is_given_is_kept() {
    let section = given(
        "endpoints = [\"https://etcd-1.example:2379\", \"https://[2001:db8::1]/\"]\nprefix = \"/x/\"\n\
         subnet = \"10.244.7.0/24\"\nsubnet6 = \"fd00:7::/64\"\nlease_ttl = 60\n\
         tls = { ca = \"/ca\", cert = \"/c\", key = \"/k\" }\n\
         user = { name = \"u\", password_file = \"/p\" }",
    );
    assert_eq!(section.endpoints, ["https://etcd-1.example:2379", "https://[2001:db8::1]"]);
    assert_eq!((section.prefix.as_str(), section.lease_ttl), ("/x", 60));
    assert_eq!(section.subnet.unwrap().to_string(), "10.244.7.0/24");
    assert_eq!(section.subnet6.unwrap().to_string(), "fd00:7::/64");
    let tls = section.tls.unwrap();
    assert_eq!(tls.ca.to_str(), Some("/ca"));
    assert_eq!(tls.identity, Some(EtcdIdentity { cert: "/c".into(), key: "/k".into() }));
    assert_eq!(section.user.unwrap().name, "u");
    // Sections of their own say the same.
    let tables = given("endpoints = [\"https://a\"]\n[source.etcd.tls]\nca = \"/ca\"");
    assert_eq!(tables.tls.unwrap().identity, None);
}

#[test]
fn wrong_values_have_a_place() {
    let good = "endpoints = [\"http://a:1\"]";
    for (keys, expected) in [
        ("", "f:4:1: missing key \"endpoints\" in [source.etcd]"),
        ("endpoints = []", "f:4:1: endpoints: there is none; "),
        ("endpoints = [\"a:2379\"]", "f:5:14: endpoints: \"a:2379\" is no endpoint; write one like "),
        ("endpoints = [\"http://\"]", "f:5:14: endpoints: \"http://\" is no endpoint; "),
        ("endpoints = [\"http://a:0\"]", "f:5:14: endpoints: \"http://a:0\" is no endpoint; "),
        ("endpoints = [\"http://a/b\"]", "f:5:14: endpoints: \"http://a/b\" is no endpoint; "),
        ("endpoints = [\"http://a@b\"]", "f:5:14: endpoints: \"http://a@b\" is no endpoint; "),
        ("endpoints = [\"https://a\"]", "f:5:14: endpoints: https needs the certificate of "),
        (
            "endpoints = [\"http://a\"]\ntls = { ca = \"/a\" }",
            "f:5:14: endpoints: [source.etcd.tls] is given, ",
        ),
        ("endpoints = [\"http://a\", \"https://b\"]", "f:5:26: endpoints: some are http and some https; "),
        ("GOOD\nprefix = \"x\"", "f:6:10: prefix: \"x\" is no prefix; "),
        ("GOOD\nprefix = \"/\"", "f:6:10: prefix: \"/\" is no prefix; "),
        ("GOOD\nsubnet = \"fd00::/64\"", "f:6:10: subnet: fd00::/64 is IPv6; it belongs in subnet6"),
        ("GOOD\nsubnet6 = \"10.1.0.0/24\"", "f:6:11: subnet6: 10.1.0.0/24 is IPv4; it belongs in subnet"),
        ("GOOD\nsubnet = \"10.1.0.1/24\"", "f:6:10: subnet: \"10.1.0.1/24\" has host bits set"),
        ("GOOD\nlease_ttl = 9", "f:6:13: lease_ttl: 9 is out of range; use 10 to 2592000"),
        ("GOOD\ntls = { cert = \"/c\" }", "f:6:7: missing key \"ca\" in [source.etcd.tls]"),
        ("GOOD\ntls = { ca = \"/a\", cert = \"/c\" }", "f:6:7: cert without key; give both, or neither"),
        ("GOOD\ntls = { ca = \"a\" }", "f:6:14: ca: \"a\" is not an absolute path"),
        (
            "GOOD\nuser = \"u\"",
            "f:6:8: source.etcd.user: expected a section [source.etcd.user], found the string \"u\"",
        ),
        (
            "GOOD\nuser = { name = \"u\", password = \"p\" }",
            "f:6:22: unknown key \"password\" in [source.etcd.user]; ",
        ),
        (
            "GOOD\nendpoint = 1",
            "f:6:1: unknown key \"endpoint\" in [source.etcd]; did you mean \"endpoints\"?",
        ),
    ] {
        let errors = wrong(&keys.replace("GOOD", good));
        assert!(errors.lines().any(|line| line.starts_with(expected)), "{keys} gives\n{errors}");
    }
}

#[test]
fn there_is_one_cluster() {
    let both =
        format!("{NODE}[source.kubernetes]\nnode_name = \"a\"\n[source.etcd]\nendpoints = [\"http://a\"]\n");
    assert_eq!(
        errors(&both),
        "f:6:1: [source.etcd] beside [source.kubernetes]: two would say what this node is; remove one of them"
    );
}
