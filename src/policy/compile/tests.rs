//! What compiled rules decide, feature by feature, and how large they become.

use std::sync::Arc;

use super::{Compiled, compile};
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::Tuple;
use crate::policy::Document;
use crate::policy::document::read as read_documents;
use crate::policy::model::{Endpoint, Name};
use crate::policy::trace::Decided;
use crate::policy::world::{Id, Object, World};
use crate::wire::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

/// Nine endpoints: x, y and z in the namespaces a, b and c, at 10.0.{1,2,3}.{1,2,3} and fd00::{1,2,3}:{1,2,3}.
fn endpoints() -> World {
    let mut world = World::default();
    for (number, namespace) in (1..).zip(["a", "b", "c"]) {
        add(
            &mut world,
            &format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{ns: {namespace}}}}}}}"
            ),
        );
        for (place, pod) in (1..).zip(["x", "y", "z"]) {
            add(
                &mut world,
                &format!(
                    "{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, namespace: {namespace}, labels: {{pod: {pod}}}}}, \
                 spec: {{serviceAccountName: sa-{pod}, containers: [{{ports: [{{name: serve, containerPort: 8{place}}}, \
                 {{name: serve, containerPort: 8{place}, protocol: UDP}}]}}]}}, \
                 status: {{podIPs: [{{ip: 10.0.{number}.{place}}}, {{ip: 'fd00::{number}:{place}'}}]}}}}"
                ),
            );
        }
    }
    world
}

fn add(world: &mut World, yaml: &str) {
    let (documents, errors) = read_documents(yaml);
    assert_eq!(errors, [], "{yaml}");
    for document in documents.into_iter().flat_map(Document::unfolded) {
        let object = Object::read(&document.value).unwrap_or_else(|faults| panic!("{yaml}\n{faults:?}"));
        world.set(object);
    }
}

fn compiled(objects: &[String]) -> Compiled {
    let mut world = endpoints();
    objects.iter().for_each(|object| add(&mut world, object));
    let compiled = compile(&world, 1, None).unwrap();
    assert_eq!(compiled.left_out, [] as [String; 0]);
    compiled
}

/// `a/x`, or an address.
fn address(of: &str) -> std::net::IpAddr {
    let Some((namespace, pod)) = of.split_once('/') else { return of.parse().unwrap() };
    let place = |all: &str, one: &str| all.find(one).unwrap() + 1;
    format!("10.0.{}.{}", place("abc", namespace), place("xyz", pod)).parse().unwrap()
}

fn tuple(from: &str, to: &str, protocol: u8, port: u16) -> Tuple {
    let has_ports = [TCP, UDP, SCTP].contains(&protocol);
    Tuple {
        source: address(from),
        destination: address(to),
        protocol,
        ports: has_ports.then_some((40_000, port)),
        icmp: (!has_ports).then_some((8, 0)),
    }
}

/// Whether the rules of both ends let a packet pass. What the trace says must be the same.
fn passes(compiled: &Compiled, tuple: &Tuple) -> bool {
    let by = [Direction::Outbound, Direction::Inbound]
        .map(|direction| compiled.ruleset.decide(direction, tuple, |_| {}));
    let trace = compiled.trace(tuple);
    if trace.egress.decided != Decided::Itself {
        assert_eq!(
            [trace.egress.allowed, trace.ingress.allowed],
            by.map(|decision| decision.allowed),
            "{trace:?}"
        );
    }
    by.iter().all(|decision| decision.allowed)
}

/// Who of the nine reaches `to` at a port, as "ax ay …".
fn sources(compiled: &Compiled, to: &str, protocol: u8, port: u16) -> String {
    let all = ["a", "b", "c"].into_iter().flat_map(|namespace| ["x", "y", "z"].map(|pod| (namespace, pod)));
    let reaching = all.filter(|(namespace, pod)| {
        passes(compiled, &tuple(&format!("{namespace}/{pod}"), to, protocol, port))
    });
    reaching.map(|(namespace, pod)| format!("{namespace}{pod}")).collect::<Vec<_>>().join(" ")
}

const ALL: &str = "ax ay az bx by bz cx cy cz";

fn kubernetes(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: k, namespace: a}}, spec: {spec}}}"
    )
}

fn calico(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: {name}, namespace: a}}, spec: {spec}}}"
    )
}

fn global(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}

fn tier(name: &str, order: &str, action: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: {name}}}, spec: {{order: {order}, defaultAction: {action}}}}}"
    )
}

fn network_set(name: &str, nets: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {{name: {name}, labels: {{set: {name}}}}}, spec: {{nets: [{nets}]}}}}"
    )
}

#[test]
fn without_policies_everything_passes() {
    let none = compiled(&[]);
    assert_eq!(sources(&none, "a/x", TCP, 80), ALL);
    assert!(none.list().is_empty());
    let trace = none.trace(&tuple("a/x", "192.0.2.1", TCP, 80));
    assert_eq!((trace.egress.decided, trace.ingress.decided), (Decided::NoPolicy, Decided::NoEndpoint));
    assert_eq!(trace.egress.endpoint.map(|endpoint| endpoint.name), Some(Name::inside("a", "x")));
}

#[test]
fn peers_of_kubernetes() {
    for (from, expected) in [
        ("", ALL),
        ("{podSelector: {}}", "ax ay az"),
        ("{podSelector: {matchLabels: {pod: y}}}", "ay"),
        ("{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [x]}]}}", "ay az"),
        ("{podSelector: {matchExpressions: [{key: other, operator: DoesNotExist}]}}", "ax ay az"),
        ("{namespaceSelector: {}}", ALL),
        ("{namespaceSelector: {matchLabels: {ns: b}}}", "bx by bz"),
        ("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: c}}}", "cx cy cz"),
        (
            "{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [b, c]}]}, podSelector: {matchLabels: {pod: z}}}",
            "bz cz",
        ),
        (
            "{podSelector: {matchLabels: {pod: y}}}, {namespaceSelector: {matchLabels: {ns: b}}}",
            "ay bx by bz",
        ),
        ("{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.1.0/24]}}", "bx by bz cx cy cz"),
        ("{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.2.1/32, 10.0.3.0/24]}}", "ax ay az by bz"),
        (
            "{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.2.0/24]}}, {ipBlock: {cidr: 10.0.2.2/32}}",
            "ax ay az by cx cy cz",
        ),
        ("{podSelector: {matchLabels: {pod: nobody}}}", ""),
    ] {
        let policy = kubernetes(&format!(
            "{{podSelector: {{matchLabels: {{pod: x}}}}, ingress: [{{from: [{from}]}}]}}"
        ));
        let compiled = compiled(&[policy]);
        assert_eq!(sources(&compiled, "a/x", TCP, 80), expected, "{from}");
        // The other pods are not selected.
        assert_eq!(sources(&compiled, "a/y", TCP, 80), ALL, "{from}");
        assert_eq!(sources(&compiled, "b/x", TCP, 80), ALL, "{from}");
    }
}

#[test]
fn ports_of_kubernetes() {
    for (ports, tcp, udp, sctp) in [
        ("{}", "80 81 82 90", "", ""),
        ("{port: 80}", "80", "", ""),
        ("{port: 80, endPort: 81}", "80 81", "", ""),
        ("{protocol: UDP, port: 81}", "", "81", ""),
        ("{protocol: SCTP}", "", "", "80 81 82 90"),
        ("{port: serve}", "81", "", ""),
        ("{port: serve, protocol: UDP}", "", "81", ""),
        ("{port: other}", "", "", ""),
        ("{port: 80}, {protocol: UDP, port: 90}, {port: serve}", "80 81", "90", ""),
        ("{port: 80}, {}", "80 81 82 90", "", ""),
    ] {
        let policy = kubernetes(&format!("{{podSelector: {{}}, ingress: [{{ports: [{ports}]}}]}}"));
        let compiled = compiled(&[policy]);
        let open = |protocol| {
            let ports = [80, 81, 82, 90]
                .into_iter()
                .filter(|port| passes(&compiled, &tuple("b/y", "a/x", protocol, *port)));
            ports.map(|port| port.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([open(TCP), open(UDP), open(SCTP)], [tcp, udp, sctp], "{ports}");
        assert!(!passes(&compiled, &tuple("b/y", "a/x", ICMP, 0)), "{ports}");
    }
}

/// A named port is another number at every endpoint, which egress rules see as well.
#[test]
fn named_ports_belong_to_their_endpoint() {
    let policy = kubernetes("{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: serve}]}]}");
    let compiled = compiled(&[policy]);
    for (to, port, expected) in [
        ("b/x", 81, true),
        ("b/x", 82, false),
        ("b/y", 82, true),
        ("c/z", 83, true),
        ("192.0.2.1", 81, false),
    ] {
        assert_eq!(passes(&compiled, &tuple("a/x", to, TCP, port)), expected, "{to} {port}");
    }
}

#[test]
fn both_directions_of_kubernetes() {
    let egress = kubernetes(
        "{podSelector: {matchLabels: {pod: x}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: b}}}]}]}",
    );
    let compiled = compiled(&[egress]);
    assert_eq!(sources(&compiled, "b/x", TCP, 80), ALL);
    assert_eq!(sources(&compiled, "c/x", TCP, 80), ALL.replacen("ax ", "", 1));
    assert_eq!(sources(&compiled, "a/x", TCP, 80), ALL.replacen("ax ", "", 1));
    assert!(!passes(&compiled, &tuple("a/x", "192.0.2.1", TCP, 80)));
    let deny = kubernetes("{podSelector: {}, policyTypes: [Ingress, Egress]}");
    let compiled = super::tests::compiled(&[deny]);
    assert_eq!(sources(&compiled, "a/x", TCP, 80), "");
    assert_eq!(sources(&compiled, "b/x", TCP, 80), "bx by bz cx cy cz");
    // Policies add up.
    let more = kubernetes("{podSelector: {matchLabels: {pod: x}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: b}}}]}]}")
        .replace("name: k", "name: more");
    let deny = kubernetes("{podSelector: {}}");
    let compiled = super::tests::compiled(&[deny, more]);
    assert_eq!(sources(&compiled, "a/x", TCP, 80), "bx by bz");
    assert_eq!(sources(&compiled, "a/y", TCP, 80), "");
}

#[test]
fn entities_of_calico() {
    let sets = [network_set("net", "10.0.2.0/24, 192.0.2.0/24"), network_set("part", "10.0.2.3/32")];
    for (entity, in_namespace, in_global) in [
        ("{}", ALL, ALL),
        ("{selector: all()}", "ax ay az", ALL),
        ("{selector: pod == 'y'}", "ay", "ay by cy"),
        ("{selector: pod != 'y'}", "ax az", "ax az bx by bz cx cz"),
        ("{selector: \"pod in {'x', 'z'}\"}", "ax az", "ax az bx bz cx cz"),
        ("{selector: \"projectcalico.org/namespace == 'c'\"}", "", "cx cy cz"),
        ("{selector: set == 'net'}", "", "bx by bz"),
        ("{selector: set starts with 'p'}", "", "bz"),
        ("{notSelector: pod == 'y'}", "ax az", "ax az bx bz cx cz"),
        ("{notSelector: set == 'net'}", "ax ay az", "ax ay az cx cy cz"),
        ("{selector: pod == 'y' || pod == 'z', notSelector: pod == 'z'}", "ay", "ay by cy"),
        ("{namespaceSelector: ns == 'b'}", "bx by bz", "bx by bz"),
        ("{namespaceSelector: all()}", ALL, ALL),
        ("{namespaceSelector: global()}", "bx by bz", "bx by bz"),
        ("{namespaceSelector: global(), selector: set == 'part'}", "bz", "bz"),
        ("{namespaceSelector: \"projectcalico.org/name == 'c'\", selector: pod == 'x'}", "cx", "cx"),
        ("{namespaceSelector: \"ns != 'a'\", selector: has(pod)}", "bx by bz cx cy cz", "bx by bz cx cy cz"),
        ("{namespaceSelector: ns == 'b', notSelector: pod == 'x'}", "by bz", "by bz"),
        ("{nets: [10.0.1.0/24, 10.0.3.1/32]}", "ax ay az cx", "ax ay az cx"),
        ("{notNets: [10.0.1.0/24, 10.0.3.1/32]}", "bx by bz cy cz", "bx by bz cy cz"),
        ("{nets: [10.0.0.0/16], notNets: [10.0.2.0/24]}", "ax ay az cx cy cz", "ax ay az cx cy cz"),
        ("{selector: pod == 'x', nets: [10.0.1.0/24]}", "ax", "ax"),
        ("{nets: ['fd00::/8']}", "", ""),
        ("{notNets: ['fd00::/16']}", "", ""),
        ("{serviceAccounts: {names: [sa-x, sa-z]}}", "ax az", "ax az bx bz cx cz"),
        ("{serviceAccounts: {names: [sa-x]}, selector: pod == 'y'}", "", ""),
    ] {
        for (is_global, expected) in [(false, in_namespace), (true, in_global)] {
            let spec = format!("{{selector: pod == 'x', ingress: [{{action: Allow, source: {entity}}}]}}");
            let policy = if is_global { global("g", &spec) } else { calico("n", &spec) };
            let compiled = compiled(&[sets.to_vec(), vec![policy]].concat());
            assert_eq!(sources(&compiled, "a/x", TCP, 80), expected, "{entity} global {is_global}");
            assert_eq!(
                sources(&compiled, "b/x", TCP, 80),
                if is_global { expected } else { ALL },
                "{entity}"
            );
            assert_eq!(sources(&compiled, "a/y", TCP, 80), ALL);
        }
    }
}

/// What a selector says of a namespace is also true of no namespace, where it says "not".
#[test]
fn namespace_selectors_see_global_network_sets() {
    let spec = "{ingress: [{action: Allow, source: {namespaceSelector: \"!has(secret)\"}}]}";
    let compiled = compiled(&[network_set("net", "192.0.2.0/24"), global("g", spec)]);
    assert!(passes(&compiled, &tuple("192.0.2.7", "a/x", TCP, 80)));
    assert!(!passes(&compiled, &tuple("198.51.100.7", "a/x", TCP, 80)));
}

#[test]
fn subjects_of_calico() {
    for (spec, selected) in [
        ("{}", "ax ay az bx by bz cx cy cz"),
        ("{selector: pod == 'x'}", "ax bx cx"),
        ("{namespaceSelector: ns == 'b'}", "bx by bz"),
        ("{namespaceSelector: all(), selector: pod == 'z'}", "az bz cz"),
        ("{selector: \"pcns.ns == 'c'\"}", "cx cy cz"),
        ("{serviceAccountSelector: role == 'db'}", "ay"),
        ("{selector: \"pcsa.role == 'db'\"}", "ay"),
        ("{serviceAccountSelector: all()}", ALL),
        (
            "{selector: \"projectcalico.org/orchestrator == 'k8s' && projectcalico.org/serviceaccount == 'sa-z'\"}",
            "az bz cz",
        ),
    ] {
        let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: sa-y, namespace: a, labels: {role: db}}}";
        let compiled = compiled(&[account.to_owned(), global("g", spec)]);
        let all =
            ["a", "b", "c"].into_iter().flat_map(|namespace| ["x", "y", "z"].map(|pod| (namespace, pod)));
        let closed = all.filter(|(namespace, pod)| {
            !passes(&compiled, &tuple("192.0.2.1", &format!("{namespace}/{pod}"), TCP, 80))
        });
        assert_eq!(
            closed.map(|(namespace, pod)| format!("{namespace}{pod}")).collect::<Vec<_>>().join(" "),
            selected,
            "{spec}"
        );
        assert_eq!(compiled.list()[0].ingress_endpoints, selected.split_whitespace().count(), "{spec}");
    }
}

#[test]
fn protocols_ports_and_icmp_of_calico() {
    let icmp = |kind, code| Tuple { icmp: Some((kind, code)), ..tuple("b/y", "a/x", ICMP, 0) };
    let v6 = |protocol, icmp| Tuple {
        source: "fd00::2:2".parse().unwrap(),
        destination: "fd00::1:1".parse().unwrap(),
        protocol,
        ports: icmp_free(protocol),
        icmp,
    };
    fn icmp_free(protocol: u8) -> Option<(u16, u16)> {
        (protocol == TCP).then_some((40_000, 80))
    }
    let all = [
        ("tcp80", tuple("b/y", "a/x", TCP, 80)),
        ("tcp81", tuple("b/y", "a/x", TCP, 81)),
        ("tcp95", tuple("b/y", "a/x", TCP, 95)),
        ("udp80", tuple("b/y", "a/x", UDP, 80)),
        ("gre", tuple("b/y", "a/x", 47, 0)),
        ("echo", icmp(8, 0)),
        ("unreach", icmp(3, 4)),
        ("v6tcp", v6(TCP, None)),
        ("v6echo", v6(ICMPV6, Some((128, 0)))),
    ];
    for (rule, expected) in [
        ("{action: Allow}", "tcp80 tcp81 tcp95 udp80 gre echo unreach v6tcp v6echo"),
        ("{action: Allow, ipVersion: 6}", "v6tcp v6echo"),
        ("{action: Allow, ipVersion: 4, protocol: TCP}", "tcp80 tcp81 tcp95"),
        ("{action: Allow, notProtocol: TCP}", "udp80 gre echo unreach v6echo"),
        ("{action: Allow, protocol: 47}", "gre"),
        ("{action: Allow, protocol: ICMP}", "echo unreach"),
        ("{action: Allow, protocol: ICMP, icmp: {type: 8}}", "echo"),
        ("{action: Allow, protocol: ICMP, icmp: {type: 3, code: 4}}", "unreach"),
        ("{action: Allow, protocol: ICMP, icmp: {type: 3, code: 5}}", ""),
        ("{action: Allow, protocol: ICMP, notICMP: {type: 8}}", "unreach"),
        ("{action: Allow, protocol: ICMPv6, icmp: {type: 128}}", "v6echo"),
        ("{action: Allow, protocol: TCP, destination: {ports: [80, '90:99']}}", "tcp80 tcp95 v6tcp"),
        ("{action: Allow, protocol: TCP, destination: {notPorts: [80, '90:99']}}", "tcp81"),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['80:99'], notPorts: [81]}}",
            "tcp80 tcp95 v6tcp",
        ),
        ("{action: Allow, protocol: TCP, destination: {ports: [serve]}}", "tcp81"),
        ("{action: Allow, destination: {ports: [serve]}}", "tcp81"),
        ("{action: Allow, protocol: TCP, destination: {notPorts: [serve]}}", "tcp80 tcp95 v6tcp"),
        ("{action: Allow, protocol: UDP, destination: {ports: [80]}}", "udp80"),
        ("{action: Allow, protocol: TCP, source: {ports: [40000]}}", "tcp80 tcp81 tcp95 v6tcp"),
        ("{action: Allow, protocol: TCP, source: {ports: [1]}}", ""),
        (
            "{action: Allow, notProtocol: UDP, source: {nets: [10.0.0.0/8]}}",
            "tcp80 tcp81 tcp95 gre echo unreach",
        ),
    ] {
        let compiled = compiled(&[calico("n", &format!("{{ingress: [{rule}]}}"))]);
        let passing = all
            .iter()
            .filter(|(_, tuple)| passes(&compiled, tuple))
            .map(|(name, _)| *name)
            .collect::<Vec<_>>();
        assert_eq!(passing.join(" "), expected, "{rule}");
    }
}

#[test]
fn orders_and_tiers() {
    let allow = "{ingress: [{action: Allow}]}";
    let of = |order: &str, action: &str| format!("{{order: {order}, ingress: [{{action: {action}}}]}}");
    let first = [tier("first", "1", "Deny"), tier("second", "2", "Deny"), tier("loose", "3", "Pass")];
    let in_tier = |tier: &str, action: &str| format!("{{tier: {tier}, ingress: [{{action: {action}}}]}}");
    for (policies, expected) in [
        // Order, then name; none comes last.
        (vec![global("b", &of("1", "Allow")), global("a", &of("2", "Deny"))], true),
        (vec![global("b", &of("2", "Allow")), global("a", &of("1", "Deny"))], false),
        (vec![global("b", &of("5", "Allow")), global("a", &of("5", "Deny"))], false),
        (vec![global("a", &of("5", "Allow")), global("b", &of("5", "Deny"))], true),
        (vec![global("a", "{ingress: [{action: Deny}]}"), global("b", &of("9", "Allow"))], true),
        // Those of Kubernetes have 1000.
        (vec![kubernetes("{podSelector: {}}"), global("a", &of("1001", "Allow"))], true),
        (vec![kubernetes("{podSelector: {}, ingress: [{}]}"), global("a", &of("999", "Deny"))], false),
        (vec![kubernetes("{podSelector: {}, ingress: [{}]}"), global("a", &of("1001", "Deny"))], true),
        // Nothing matched: the tier's default action.
        (vec![global("a", "{ingress: []}")], false),
        (vec![global("a", "{tier: loose, ingress: []}")], true),
        (vec![global("a", "{tier: loose, ingress: []}"), calico("n", "{}")], false),
        (vec![global("a", "{tier: loose, selector: nobody == 'x'}"), calico("n", allow)], true),
        // An earlier tier decides, or passes.
        (vec![global("a", &in_tier("first", "Allow")), calico("n", "{}")], true),
        (vec![global("a", &in_tier("first", "Deny")), calico("n", allow)], false),
        (vec![global("a", &in_tier("first", "Pass")), calico("n", allow)], true),
        (vec![global("a", &in_tier("first", "Pass")), calico("n", "{}")], false),
        (vec![global("a", &in_tier("first", "Pass"))], true),
        (
            vec![
                global("a", &in_tier("first", "Pass")),
                global("b", &in_tier("second", "Deny")),
                calico("n", allow),
            ],
            false,
        ),
        (
            vec![global("a", "{tier: first, ingress: [{action: Pass, protocol: UDP}]}"), calico("n", allow)],
            false,
        ),
        // A pass leaves out the rest of its tier.
        (
            vec![
                global("a", "{tier: first, order: 1, ingress: [{action: Pass}, {action: Deny}]}"),
                global("b", "{tier: first, order: 2, ingress: [{action: Deny}]}"),
                calico("n", allow),
            ],
            true,
        ),
        (vec![global("a", "{ingress: [{action: Pass}]}")], true),
        // To log is not to decide.
        (vec![global("a", "{ingress: [{action: Log}]}")], false),
        (vec![global("a", "{ingress: [{action: Log}, {action: Allow}]}")], true),
        (vec![global("a", "{ingress: [{action: Deny, protocol: UDP}, {action: Allow}]}")], true),
        // Another direction.
        (vec![global("a", "{types: [Egress], selector: pod == 'x'}")], true),
        (vec![global("a", "{types: [Egress], selector: pod == 'y'}")], false),
    ] {
        let compiled = compiled(&[first.to_vec(), policies.clone()].concat());
        assert_eq!(passes(&compiled, &tuple("b/y", "a/x", TCP, 80)), expected, "{policies:?}");
    }
}

#[test]
fn a_trace_says_what_decided() {
    let compiled = compiled(&[
        tier("first", "1", "Pass"),
        global("first.look", "{tier: first, ingress: [{action: Log}, {action: Pass, protocol: TCP}]}"),
        global("first.more", "{tier: first, order: 9, ingress: [{action: Deny, protocol: UDP}]}"),
        calico(
            "web",
            "{order: 1, selector: pod == 'x', ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}]}",
        ),
        kubernetes("{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 81}]}]}"),
        network_set("net", "10.0.1.0/24"),
    ]);
    let names: Vec<String> =
        compiled.list().iter().map(|listed| format!("{} {}", listed.tier, listed.name)).collect();
    assert_eq!(names, ["first first.more", "first first.look", "default a/web", "default a/knp.default.k"]);
    let listed = &compiled.list()[3];
    assert_eq!((listed.ingress_endpoints, listed.egress_endpoints), (3, 3));
    assert_eq!((listed.ingress_rules, listed.egress_rules), (1, 0));
    let entries: Vec<&str> = compiled.ruleset.policies().iter().map(|entry| &*entry.name).collect();
    assert_eq!(entries, ["first.more", "first.look", "a/web", "a/knp.default.k"]);

    let looked = |trace: &crate::policy::SideTrace| {
        let tiers = trace.looked.iter().map(|looked| {
            let policies =
                looked.policies.iter().map(|policy| format!("{}{:?}", policy.name, policy.matched));
            format!("{}: {}", looked.tier, policies.collect::<Vec<_>>().join(" "))
        });
        tiers.collect::<Vec<_>>()
    };
    let trace = compiled.trace(&tuple("b/y", "a/x", TCP, 80));
    assert!(trace.allowed);
    assert_eq!(trace.egress.decided, Decided::NoPolicy);
    assert_eq!(
        looked(&trace.ingress),
        ["first: first.more[] first.look[(0, Log), (1, Pass)]", "default: a/web[(0, Allow)]"]
    );
    assert_eq!(
        format!("{:?}", trace.ingress.decided),
        "Rule { tier: \"default\", policy: Name { namespace: Some(\"a\"), name: \"web\" }, rule: 0, action: Allow }"
    );
    assert_eq!(trace.ingress.network_sets, [Name::global("net")]);

    let trace = compiled.trace(&tuple("b/y", "a/x", TCP, 82));
    assert!(!trace.allowed);
    assert_eq!(trace.ingress.decided, Decided::TierEnd { tier: "default".to_owned() });
    assert_eq!(looked(&trace.ingress)[1], "default: a/web[] a/knp.default.k[]");

    let trace = compiled.trace(&tuple("b/y", "b/x", UDP, 82));
    assert_eq!(looked(&trace.ingress), ["first: first.more[(0, Deny)]"]);
    let trace = compiled.trace(&tuple("b/y", "b/x", ICMP, 0));
    assert_eq!((trace.ingress.decided, trace.allowed), (Decided::AllPassed, true));
    let trace = compiled.trace(&tuple("a/x", "a/x", TCP, 82));
    assert_eq!(
        (trace.egress.decided, trace.ingress.decided, trace.allowed),
        (Decided::Itself, Decided::Itself, true)
    );
}

#[test]
fn counters_go_on_with_their_policy() {
    let mut world = endpoints();
    add(&mut world, &calico("one", "{}"));
    let first = compile(&world, 2, None).unwrap();
    first.ruleset.policies()[0].counters.worker(1).unwrap().denied.add(5);
    add(&mut world, &calico("another", "{}"));
    let second = compile(&world, 2, Some(&first)).unwrap();
    let totals: Vec<_> =
        second.ruleset.policies().iter().map(|entry| (&*entry.name, entry.counters.totals())).collect();
    assert_eq!(totals, [("a/another", (0, 0)), ("a/one", (0, 5))]);
}

#[test]
fn what_has_no_part_is_told() {
    let mut world = endpoints();
    add(&mut world, &calico("one", "{tier: nowhere}"));
    add(
        &mut world,
        "{apiVersion: v1, kind: Pod, metadata: {name: zz, namespace: a}, status: {podIP: 10.0.1.1}}",
    );
    let compiled = compile(&world, 1, None).unwrap();
    assert_eq!(
        compiled.left_out,
        [
            "policy a/one is in the tier nowhere, which is not there; add the tier",
            "endpoint a/zz has the address 10.0.1.1, which endpoint a/x has, too; each needs its own",
        ]
    );
    assert!(compiled.list().is_empty());
    assert_eq!(
        compiled.trace(&tuple("a/x", "b/x", TCP, 1)).egress.endpoint.unwrap().name,
        Name::inside("a", "x")
    );
}

#[test]
fn a_world_is_kept_and_edited() {
    let mut world = endpoints();
    for object in [
        calico(
            "one",
            "{order: 5, ingress: [{action: Allow, source: {selector: \"a == 'b' && !has(c)\", nets: [10.0.0.0/8]}}]}",
        ),
        kubernetes(
            "{podSelector: {matchLabels: {a: b}}, egress: [{to: [{namespaceSelector: {}}], ports: [{port: 80}]}]}",
        ),
        tier("t", "7", "Pass"),
        network_set("net", "10.0.0.0/8"),
    ] {
        add(&mut world, &object);
    }
    let kept = serde_json::to_string(&world).unwrap();
    let again: World = serde_json::from_str(&kept).unwrap();
    assert_eq!(again, world);
    let mut edited = world.clone();
    let id = Id::Endpoint(Name::inside("a", "x"));
    assert!(edited.contains(&id) && edited.remove(&id) && !edited.remove(&id));
    assert_ne!(edited, world);
    let pod = |address: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: new, namespace: a}}, status: {{podIP: {address}}}}}"
        )
    };
    let mut over = World::default();
    add(&mut over, &pod("10.9.9.9"));
    assert_eq!(world.merge(&over), []);
    assert_eq!(world.merge(&over), []);
    add(&mut over, &pod("10.9.9.8"));
    assert_eq!(world.merge(&over), [Id::Endpoint(Name::inside("a", "new"))]);
    let gone = Object::Absent(Id::Endpoint(Name::inside("a", "new")));
    assert!(world.set(gone.clone()) && !world.set(gone));
}

/// Ten thousand policies of ten thousand endpoints: what comes out is as large as what was said, and no product.
#[test]
fn many_policies_and_endpoints_stay_small() {
    const MANY: usize = 10_000;
    let mut world = World::default();
    for number in 0..MANY {
        let (a, b) = (number / 250, number % 250);
        let namespace = format!("ns{}", number % 100);
        let labels = [("app", format!("app{}", number % 1000)), ("pod", format!("pod{number}"))];
        world.set(Object::Endpoint(Arc::new(Endpoint {
            labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
            addresses: vec![
                format!("10.1.{a}.{b}").parse().unwrap(),
                format!("fd00::{a:x}:{b:x}").parse().unwrap(),
            ],
            name: Name::inside(namespace.clone(), format!("pod{number}")),
            ports: Vec::new(),
            service_account: None,
            node: None,
        })));
        add(
            &mut world,
            &format!(
                "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: p{number}, namespace: {namespace}}}, \
             spec: {{selector: pod == 'pod{number}', ingress: [{{action: Allow, protocol: TCP, source: {{selector: app == 'app{}'}}, \
             destination: {{ports: [{}]}}}}]}}}}",
                (number * 7) % 1000,
                1 + number % 5000,
            ),
        );
    }
    let compiled = compile(&world, 2, None).unwrap();
    assert_eq!(compiled.list().len(), MANY);
    assert!(compiled.list().iter().all(|listed| listed.ingress_endpoints == 1));
    assert_eq!(compiled.chains.len(), MANY);
    assert!(compiled.chains.iter().all(|policies| policies.len() == 1));
    let (classes, sets) = (compiled.classes, compiled.sets);
    assert!(classes <= MANY + 2, "{classes} classes");
    assert!(sets <= 1000 * 100, "{sets} sets");

    // Policies of everybody, each with another rule: one chain, and few classes.
    let mut world = World::default();
    for number in 0..MANY {
        let (a, b) = (number / 250, number % 250);
        world.set(Object::Endpoint(Arc::new(Endpoint {
            labels: [("pod".to_owned(), format!("pod{number}"))].into(),
            addresses: vec![format!("10.1.{a}.{b}").parse().unwrap()],
            name: Name::inside("n", format!("pod{number}")),
            ports: Vec::new(),
            service_account: None,
            node: None,
        })));
        add(
            &mut world,
            &format!(
                "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: p{number}}}, spec: {{ingress: \
             [{{action: Allow, protocol: TCP, source: {{nets: [10.2.{a}.{b}/32]}}, destination: {{ports: [80]}}}}]}}}}"
            ),
        );
    }
    let compiled = compile(&world, 2, None).unwrap();
    assert_eq!(compiled.chains.len(), 1);
    let (classes, sets) = (compiled.classes, compiled.sets);
    assert_eq!((classes, sets), (MANY + 2, MANY));
}
