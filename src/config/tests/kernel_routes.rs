//! Routes of the kernel that are followed: defaults, names and numbers, and what is refused.

use super::{errors, good};

/// A file with the section and `keys`.
fn file(keys: &str) -> String {
    format!(
        "[source.kernel]\n{keys}\n[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n"
    )
}

#[test]
fn an_empty_section_follows_the_usual() {
    let section = good(&file("")).kernel_routes.unwrap();
    assert_eq!((section.tables.clone(), section.protocols.clone()), (vec![254], vec![12, 11, 186]));
    assert!(section.prefixes.is_empty() && section.implicit_peers.is_empty() && section.has_main());
    let none = file("").replace("[source.kernel]", "");
    assert_eq!(good(&none).kernel_routes, None);
}

#[test]
fn names_and_numbers_mean_the_same() {
    let keys = "tables = [100, \"main\"]\nprotocols = [\"ospf\", 12]\nprefixes = [\"10.244.0.0/16\"]\n\
                implicit_peers = [\"192.0.2.0/24\"]";
    let section = good(&file(keys)).kernel_routes.unwrap();
    assert_eq!((section.tables, section.protocols), (vec![100, 254], vec![188, 12]));
    assert_eq!(section.prefixes, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(section.implicit_peers, ["192.0.2.0/24".parse().unwrap()]);
    assert!(!good(&file("tables = [100]")).kernel_routes.unwrap().has_main());
}

#[test]
fn what_cannot_be_followed_is_refused() {
    for (keys, expected) in [
        ("tables = [0]", "f:2:11: tables: 0 is out of range; use 1 to 4294967295"),
        (
            "tables = [\"man\"]",
            "f:2:11: tables: \"man\" is not one of \"main\"; did you mean \"main\"?; or write a number",
        ),
        ("protocols = [117]", "f:2:14: protocols: 117 is that of this daemon's own routes"),
        ("protocols = [118]", "f:2:14: protocols: 118 is that of this daemon's own routes"),
        ("protocols = [300]", "f:2:14: protocols: 300 is out of range; use 1 to 255"),
        ("table = [1]", "f:2:1: unknown key \"table\" in [source.kernel]; did you mean \"tables\"?"),
    ] {
        assert_eq!(errors(&file(keys)), expected);
    }
    assert!(errors(&file("implicit_peers = [\"0.0.0.0/0\"]")).contains("from everybody"));
    assert!(errors(&file("protocols = [\"bgpp\"]")).contains("did you mean \"bgp\"?"));
}
