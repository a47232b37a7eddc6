//! Every field of both models: what it is read as, or in which words it is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Known;
use crate::policy::document::read as read_documents;
use crate::policy::model::{
    Endpoint, Name, NamedPort, Order, Policy, PolicyKind, Port, RuleAction, TierAction,
};
use crate::policy::world::{Id, Object};
use crate::wire::protocol::{ICMP, ICMPV6, SCTP, TCP, UDP};

fn value(yaml: &str) -> Value {
    let (mut documents, errors) = read_documents(yaml);
    assert_eq!(errors, [], "{yaml}");
    documents.remove(0).value
}

fn object(yaml: &str) -> Object {
    Object::read(&value(yaml)).unwrap_or_else(|faults| panic!("{yaml}\n{faults:?}"))
}

fn policy(yaml: &str) -> Policy {
    match object(yaml) {
        Object::Policy(policy) => (*policy).clone(),
        other => panic!("{other:?}"),
    }
}

/// What is wrong, as `PATH: MESSAGE`.
fn faults(yaml: &str, known: Known) -> Vec<String> {
    let faults = Object::read_where(&value(yaml), known).expect_err(yaml);
    faults.into_iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
}

fn kubernetes(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    )
}

fn calico(spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, spec: {spec}}}"
    )
}

fn global(spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
    )
}

/// A rule of Calico in a policy.
fn rule(rule: &str) -> String {
    calico(&format!("{{ingress: [{rule}]}}"))
}

#[test]
fn policies_of_kubernetes() {
    let read = policy(&kubernetes(
        "{podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: In, values: [a, b]},
          {key: x, operator: NotIn, values: [c]}, {key: y, operator: Exists}, {key: z, operator: DoesNotExist}]},
          ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {team: a}}},
            {podSelector: {matchLabels: {app: db}}, namespaceSelector: {}},
            {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}],
            ports: [{port: 80}, {protocol: UDP, port: dns}, {port: 8000, endPort: 8100}, {protocol: SCTP}]}]}",
    ));
    assert_eq!(read.kind, PolicyKind::KubernetesNetworkPolicy);
    assert_eq!(read.name, Name::inside("shop", "knp.default.p"));
    assert_eq!((read.tier.as_str(), read.order), ("default", Order::at(1000.0).unwrap()));
    assert_eq!(
        read.subject.selector.to_string(),
        "app == 'web' && tier in {'a', 'b'} && x not in {'c'} && has(y) && !has(z)"
    );
    assert_eq!(read.egress, None);
    let rules = read.ingress.unwrap();
    let ports: Vec<_> =
        rules.iter().map(|rule| (rule.number, rule.protocol, rule.destination.ports.clone())).collect();
    assert_eq!(
        ports,
        [
            (0, Some(TCP), vec![Port::Range(80, 80), Port::Range(8000, 8100)]),
            (0, Some(UDP), vec![Port::Named("dns".to_owned())]),
            (0, Some(SCTP), vec![]),
        ]
    );
    let peers = rules[0].source.peers.as_ref().unwrap();
    let shown: Vec<_> = peers
        .iter()
        .map(|peer| {
            let text =
                |selector: &Option<crate::policy::Selector>| selector.as_ref().map(ToString::to_string);
            (text(&peer.selector), text(&peer.namespaces), peer.namespace.as_deref(), peer.only_endpoints)
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("all()".to_owned()), None, Some("shop"), true),
            (None, Some("team == 'a'".to_owned()), None, true),
            (Some("app == 'db'".to_owned()), Some("all()".to_owned()), None, true),
            (None, None, None, false),
        ]
    );
    assert_eq!(
        (peers[3].nets[0].to_string(), peers[3].not_nets[0].to_string()),
        ("10.0.0.0/8".into(), "10.1.0.0/16".into())
    );
}

#[test]
fn directions_of_policies_of_kubernetes() {
    for (spec, ingress, egress) in [
        ("{podSelector: {}}", Some(0), None),
        ("{podSelector: {}, ingress: []}", Some(0), None),
        ("{podSelector: {}, egress: []}", Some(0), None),
        ("{podSelector: {}, egress: [{}]}", Some(0), Some(1)),
        ("{podSelector: {}, policyTypes: [Egress]}", None, Some(0)),
        ("{podSelector: {}, policyTypes: [Ingress], egress: [{}]}", Some(0), None),
        ("{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]}", Some(1), Some(0)),
    ] {
        let read = policy(&kubernetes(spec));
        let count = |rules: &Option<Vec<_>>| rules.as_ref().map(Vec::len);
        assert_eq!((count(&read.ingress), read.egress.as_ref().map(Vec::len)), (ingress, egress), "{spec}");
    }
    let read = policy(&kubernetes("{podSelector: {}, ingress: [{from: [], ports: []}]}"));
    let rule = &read.ingress.unwrap()[0];
    assert_eq!((&rule.source.peers, rule.protocol, rule.destination.ports.len()), (&None, None, 0));
}

#[test]
fn what_is_wrong_in_policies_of_kubernetes() {
    for (spec, expected) in [
        (
            "{podSelecter: {}}",
            "/spec/podSelecter: unknown key \"podSelecter\"; did you mean \"podSelector\"?",
        ),
        (
            "{podSelector: {matchLabels: {a: 1}}}",
            "/spec/podSelector/matchLabels/a: a: expected a string, found the number 1; put it in quotes",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Is}]}}",
            "/spec/podSelector/matchExpressions/0/operator: operator: \"Is\" is not one of \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"; did you mean \"In\"?",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "/spec/podSelector/matchExpressions/0: matchExpressions: In and NotIn need values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "/spec/podSelector/matchExpressions/0: matchExpressions: Exists and DoesNotExist have no values",
        ),
        (
            "{podSelector: {}, policyTypes: [ingress]}",
            "/spec/policyTypes/0: policyTypes: \"ingress\" is not one of \"Ingress\", \"Egress\"; did you mean \"Ingress\"?",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "/spec/ingress/0/from/0/ipBlock/except/0: except: 11.0.0.0/16 is no part of 10.0.0.0/8; give a network inside of it, or remove this",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0/8}}]}]}",
            "/spec/ingress/0/from/0/ipBlock/cidr: cidr: \"10.0.0/8\" is not a network; write an address and a length like 10.244.1.0/24",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "/spec/ingress/0/from/0: from: ipBlock stands alone; give podSelector or namespaceSelector as another element",
        ),
        (
            "{podSelector: {}, ingress: [{from: [{}]}]}",
            "/spec/ingress/0/from/0: from: an empty element selects nobody; give podSelector, namespaceSelector or ipBlock",
        ),
        (
            "{podSelector: {}, ingress: [{to: []}]}",
            "/spec/ingress/0/to: unknown key \"to\"; known keys: from, ports",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}",
            "/spec/ingress/0/ports/0: ports: endPort 79 is below port 80; give the last port of the range",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: http, endPort: 79}]}]}",
            "/spec/ingress/0/ports/0: ports: endPort needs a port that is a number, the first of the range",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
            "/spec/ingress/0/ports/0/port: port: expected a number from 1 to 65535, found the number 0",
        ),
        (
            "{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}",
            "/spec/ingress/0/ports/0/protocol: protocol: \"ICMP\" is not one of \"TCP\", \"UDP\", \"SCTP\"",
        ),
    ] {
        assert_eq!(faults(&kubernetes(spec), Known::Directory), [expected], "{spec}");
    }
}

#[test]
fn rules_of_calico() {
    let one = |text: &str| policy(&rule(text)).ingress.unwrap().remove(0);
    assert_eq!(one("{action: Pass}").action, RuleAction::Pass);
    assert_eq!(one("{action: Log, protocol: icmp}").protocol, Some(ICMP));
    assert_eq!(one("{action: Deny, protocol: 89, ipVersion: 6}").protocol, Some(89));
    assert_eq!(one("{action: Deny, protocol: '47'}").protocol, Some(47));
    assert_eq!(one("{action: Deny, notProtocol: UDPLite}").not_protocol, Some(136));
    let icmp = one("{action: Allow, protocol: ICMPv6, icmp: {type: 128}, notICMP: {type: 1, code: 4}}");
    assert_eq!(icmp.protocol, Some(ICMPV6));
    assert_eq!(icmp.icmp.map(|icmp| (icmp.kind, icmp.code)), Some((128, None)));
    assert_eq!(icmp.not_icmp.map(|icmp| (icmp.kind, icmp.code)), Some((1, Some(4))));
    let ports = one(
        "{action: Allow, protocol: TCP, destination: {ports: [80, '81', '90:99', http], notPorts: [95]}}",
    );
    assert_eq!(
        ports.destination.ports,
        [Port::Range(80, 80), Port::Range(81, 81), Port::Range(90, 99), Port::Named("http".to_owned())]
    );
    assert_eq!(ports.destination.not_ports, [Port::Range(95, 95)]);
    // Names alone are of any protocol.
    assert_eq!(one("{action: Allow, destination: {ports: [http]}}").protocol, None);
    // Versions of IP follow from networks.
    for (entity, version) in [
        ("{}", None),
        ("{nets: [10.0.0.0/8]}", Some(4)),
        ("{notNets: ['fd00::/8']}", Some(6)),
        ("{nets: [10.0.0.0/8, 'fd00::/8']}", None),
        ("{nets: [10.0.0.0/8, 'fd00::/8'], notNets: [10.1.0.0/16]}", Some(4)),
    ] {
        assert_eq!(one(&format!("{{action: Allow, source: {entity}}}")).ip_version, version, "{entity}");
    }
    let nets = one("{action: Allow, source: {nets: [10.1.2.3/8, 10.9.9.9]}}");
    let nets: Vec<_> = nets.source.peers.unwrap()[0].nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/8", "10.9.9.9/32"]);
}

/// A policy in a namespace means that, as soon as it selects, and names no others.
#[test]
fn namespaces_of_rules() {
    for (entity, namespace) in [
        ("{}", None),
        ("{selector: all()}", Some("shop")),
        ("{selector: ''}", None),
        ("{notSelector: has(a)}", Some("shop")),
        ("{serviceAccounts: {names: [x]}}", Some("shop")),
        ("{namespaceSelector: all(), selector: all()}", None),
        ("{nets: [10.0.0.0/8]}", None),
    ] {
        let rules = policy(&rule(&format!("{{action: Allow, source: {entity}}}"))).ingress.unwrap();
        let found = rules[0].source.peers.as_ref().and_then(|peers| peers[0].namespace.clone());
        assert_eq!(found.as_deref(), namespace, "{entity}");
    }
    let rules = policy(&global("{ingress: [{action: Allow, source: {selector: all()}}]}")).ingress.unwrap();
    assert_eq!(rules[0].source.peers.as_ref().unwrap()[0].namespace, None);
}

#[test]
fn policies_of_calico() {
    let read = policy(&global(
        "{tier: security, order: 10.5, selector: \"a == 'b'\", namespaceSelector: has(c), serviceAccountSelector: d != 'e',
          types: [Egress], doNotTrack: false, preDNAT: false, applyOnForward: false, performanceHints: [x]}",
    ));
    assert_eq!((read.kind, &read.name), (PolicyKind::GlobalNetworkPolicy, &Name::global("p")));
    assert_eq!((read.tier.as_str(), read.order), ("security", Order::at(10.5).unwrap()));
    assert_eq!(read.subject.selector.to_string(), "a == 'b'");
    assert_eq!(read.subject.namespaces.map(|selector| selector.to_string()).as_deref(), Some("has(c)"));
    assert_eq!(
        read.subject.service_accounts.map(|selector| selector.to_string()).as_deref(),
        Some("d != 'e'")
    );
    assert_eq!((read.ingress, read.egress), (None, Some(vec![])));
    for (spec, ingress, egress) in [
        ("{}", true, false),
        ("{ingress: [{action: Allow}]}", true, false),
        ("{egress: [{action: Allow}]}", false, true),
        ("{ingress: [{action: Allow}], egress: [{action: Allow}]}", true, true),
        ("{types: [Ingress], egress: [{action: Allow}]}", true, false),
    ] {
        let read = policy(&calico(spec));
        assert_eq!((read.ingress.is_some(), read.egress.is_some()), (ingress, egress), "{spec}");
        assert_eq!((read.order, read.tier.as_str()), (Order::LAST, "default"));
    }
}

#[test]
fn names_of_policies_are_the_same_in_both_groups() {
    let named = |group: &str, name: &str, tier: &str| {
        let text = format!(
            "{{apiVersion: {group}, kind: NetworkPolicy, metadata: {{name: {name}, namespace: n}}, spec: {{tier: '{tier}'}}}}"
        );
        let read = object(&text);
        assert_eq!(Some(read.id()), Object::identify(&value(&text)));
        read.id().to_string()
    };
    assert_eq!(named("projectcalico.org/v3", "a", ""), "policy n/a");
    assert_eq!(named("crd.projectcalico.org/v1", "default.a", "default"), "policy n/a");
    assert_eq!(named("crd.projectcalico.org/v1", "security.a", "security"), "policy n/security.a");
    assert_eq!(named("crd.projectcalico.org/v1", "default.a", "security"), "policy n/default.a");
}

#[test]
fn what_is_wrong_in_policies_of_calico() {
    let of_rule = |text: &str| faults(&rule(text), Known::Directory);
    for (text, expected) in [
        ("{}", "/spec/ingress/0: missing key \"action\""),
        (
            "{action: allow}",
            "/spec/ingress/0/action: action: \"allow\" is not one of \"Allow\", \"Deny\", \"Log\", \"Pass\"; did you mean \"Allow\"?",
        ),
        (
            "{action: Allow, http: {methods: [GET]}}",
            "/spec/ingress/0/http: http: rules for HTTP are not supported, because the pump does not look into connections; use ports",
        ),
        (
            "{action: Allow, source: {services: {name: a}}}",
            "/spec/ingress/0/source/services: services: services are not supported, because the pump sees the addresses of pods; use a selector",
        ),
        (
            "{action: Allow, source: {serviceAccounts: {names: [a]}}}",
            "/spec/ingress/0/source/serviceAccounts: serviceAccounts: there are no service accounts without [source.kubernetes]; use labels and a selector",
        ),
        (
            "{action: Allow, source: {domains: [a.example]}}",
            "/spec/ingress/0/source/domains: domains: names of domains are not supported; use nets",
        ),
        (
            "{action: Allow, source: {selectr: all()}}",
            "/spec/ingress/0/source/selectr: unknown key \"selectr\"; did you mean \"selector\"?",
        ),
        (
            "{action: Allow, source: {selector: 'a = b'}}",
            "/spec/ingress/0/source/selector: selector: a selector has ==, !=, in, not in, contains, starts with or ends with behind a label at character 3",
        ),
        (
            "{action: Allow, source: {selector: global()}}",
            "/spec/ingress/0/source/selector: selector: global() can only be the namespaceSelector of a rule's source or destination",
        ),
        (
            "{action: Allow, source: {namespaceSelector: global() || has(a)}}",
            "/spec/ingress/0/source/namespaceSelector: namespaceSelector: global() cannot be combined with other selectors; write a rule for each",
        ),
        (
            "{action: Allow, source: {notNets: [0.0.0.0/0]}}",
            "/spec/ingress/0/source/notNets/0: notNets: outside of 0.0.0.0/0 there is nothing, so the rule would match nothing; remove it",
        ),
        (
            "{action: Allow, ipVersion: 5}",
            "/spec/ingress/0/ipVersion: ipVersion: expected 4 or 6, found the number 5",
        ),
        (
            "{action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}}",
            "/spec/ingress/0: ingress: no packet has networks of both versions of IP at its ends; give those of one version in each rule",
        ),
        (
            "{action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}",
            "/spec/ingress/0: ingress: no packet has networks of both versions of IP at its ends; give those of one version in each rule",
        ),
        (
            "{action: Allow, destination: {ports: [80]}}",
            "/spec/ingress/0/destination: destination: a rule that asks for ports needs protocol \"TCP\", \"UDP\" or \"SCTP\"",
        ),
        (
            "{action: Allow, protocol: ICMP, destination: {notPorts: [80]}}",
            "/spec/ingress/0/destination: destination: a rule that asks for ports needs protocol \"TCP\", \"UDP\" or \"SCTP\"",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}",
            "/spec/ingress/0/destination/ports/0: ports: \"90:80\" ends before it begins; write \"80:90\"",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [70000]}}",
            "/spec/ingress/0/destination/ports/0: ports: expected a number from 0 to 65535, found the number 70000",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['70000']}}",
            "/spec/ingress/0/destination/ports/0: ports: \"70000\" is no port; use 0 to 65535",
        ),
        (
            "{action: Allow, protocol: TCP, destination: {ports: ['a b']}}",
            "/spec/ingress/0/destination/ports/0: ports: \"a b\" is no name of a port; use letters, digits, '-', '_' and '.', or a number",
        ),
        (
            "{action: Allow, protocol: TCPP}",
            "/spec/ingress/0/protocol: protocol: \"TCPP\" is not TCP, UDP, SCTP, ICMP, ICMPv6, UDPLite or a number from 1 to 255; did you mean \"TCP\"?",
        ),
        (
            "{action: Allow, protocol: 256}",
            "/spec/ingress/0/protocol: protocol: expected a number from 1 to 255, found the number 256",
        ),
        (
            "{action: Allow, icmp: {type: 8}}",
            "/spec/ingress/0/icmp: icmp: a rule that asks for ICMP needs protocol \"ICMP\" or \"ICMPv6\"",
        ),
        (
            "{action: Allow, protocol: ICMP, icmp: {code: 8}}",
            "/spec/ingress/0/icmp: icmp: a code needs a type; give both",
        ),
        (
            "{action: Allow, protocol: ICMP, icmp: {type: 255}}",
            "/spec/ingress/0/icmp/type: type: expected a number from 0 to 254, found the number 255",
        ),
    ] {
        assert_eq!(of_rule(text), [expected], "{text}");
    }
    for (text, expected) in [
        (
            global("{preDNAT: true}"),
            "/spec/preDNAT: preDNAT: policies of hosts before address translation are not supported; remove this",
        ),
        (
            global("{doNotTrack: true}"),
            "/spec/doNotTrack: doNotTrack: policies of hosts without connection tracking are not supported; remove this",
        ),
        (
            global("{applyOnForward: true}"),
            "/spec/applyOnForward: applyOnForward: policies of hosts are not supported, and to those of pods this adds nothing; remove this",
        ),
        (
            global("{serviceAccountSelector: all()}"),
            "/spec/serviceAccountSelector: serviceAccountSelector: there are no service accounts without [source.kubernetes]; use labels and a selector",
        ),
        (global("{order: x}"), "/spec/order: order: expected a number, found the string \"x\""),
        (
            global("{selector: global()}"),
            "/spec/selector: selector: global() can only be the namespaceSelector of a rule's source or destination",
        ),
        (calico("{preDNAT: true}"), "/spec/preDNAT: preDNAT: only a GlobalNetworkPolicy has this"),
        (
            calico("{namespaceSelector: all()}"),
            "/spec/namespaceSelector: namespaceSelector: only a GlobalNetworkPolicy has this; a NetworkPolicy is about its own namespace",
        ),
        (
            calico("{stagedAction: Set}"),
            "/spec/stagedAction: unknown key \"stagedAction\"; known keys: tier, order, selector, types, ingress, egress, serviceAccountSelector, performanceHints",
        ),
        (
            calico("{}").replace("name: p", "name: knp.default.p"),
            ": shop/knp.default.p would be a NetworkPolicy of Kubernetes, which is read where it comes from; give the policy another name",
        ),
        (
            calico("{}").replace("name: p", "name: P"),
            "/metadata/name: name: \"P\" is no name; use lower case letters, digits, '-' and '.', at most 253",
        ),
        (
            global("{}").replace("name: p", "name: p, namespace: x"),
            "/metadata/namespace: namespace: an object of this kind lies in no namespace; remove this",
        ),
        (
            calico("{}").replace("NetworkPolicy", "StagedNetworkPolicy"),
            "/kind: kind: StagedNetworkPolicy: policies that are only tried out are not supported; write a NetworkPolicy",
        ),
        (
            calico("{}").replace("NetworkPolicy", "HostEndpoint"),
            "/kind: kind: HostEndpoint: the interfaces of hosts are not policed here, only pods are",
        ),
        (
            calico("{}").replace("NetworkPolicy", "Deployment"),
            "/kind: kind: \"Deployment\" is no kind that is known here; there are Namespace, Pod, ServiceAccount, NetworkPolicy, GlobalNetworkPolicy, Tier, NetworkSet, GlobalNetworkSet, WorkloadEndpoint",
        ),
        (
            calico("{}").replace("projectcalico.org/v3", "v1"),
            "/apiVersion: apiVersion: \"v1\" has no NetworkPolicy; write networking.k8s.io/v1 or projectcalico.org/v3 or crd.projectcalico.org/v1",
        ),
        ("{kind: NetworkPolicy}".to_owned(), ": missing key \"apiVersion\""),
        ("[]".to_owned(), ": expected a mapping, found a list"),
    ] {
        assert_eq!(faults(&text, Known::Directory), [expected], "{text}");
    }
    let many = format!("{{ingress: [{}]}}", vec!["{action: Allow}"; 1025].join(", "));
    assert_eq!(
        faults(&calico(&many), Known::Directory),
        ["/spec/ingress: ingress: 1025 rules; Calico allows 1024 in a direction, split the policy"]
    );
}

#[test]
fn all_faults_are_told_at_once() {
    let text = calico("{order: x, selector: '(', ingress: [{action: No}, {action: Allow, protocol: X}]}");
    assert_eq!(faults(&text, Known::Directory).len(), 4);
}

#[test]
fn tiers_and_network_sets() {
    let of = |kind: &str, spec: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: {kind}, metadata: {{name: x, labels: {{a: b}}}}, spec: {spec}}}"
        )
    };
    match object(&of("Tier", "{order: 5, defaultAction: Pass}")) {
        Object::Tier(tier) => {
            assert_eq!((tier.order.number(), tier.default_action), (Some(5.0), TierAction::Pass));
        }
        other => panic!("{other:?}"),
    }
    match object(&of("Tier", "{}").replace("name: x", "name: default")) {
        Object::Tier(tier) => {
            assert_eq!((tier.order.number(), tier.default_action), (Some(1e6), TierAction::Deny));
        }
        other => panic!("{other:?}"),
    }
    let wrong = of("Tier", "{defaultAction: Pass}").replace("name: x", "name: default");
    assert_eq!(
        faults(&wrong, Known::Directory),
        [": the tier default has the order 1000000 and the defaultAction Deny; use another tier"]
    );
    match object(&of("GlobalNetworkSet", "{nets: [10.0.0.0/8, 10.0.0.0/8, 192.0.2.1]}")) {
        Object::NetworkSet(set) => {
            assert_eq!(
                set.nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["10.0.0.0/8", "192.0.2.1/32"]
            );
            assert_eq!((&set.name, set.labels.len()), (&Name::global("x"), 1));
        }
        other => panic!("{other:?}"),
    }
    match object(&of("NetworkSet", "{nets: []}")) {
        Object::NetworkSet(set) => {
            assert_eq!(set.name, Name::inside("default", "x"));
            assert_eq!(set.labels["projectcalico.org/namespace"], "default");
        }
        other => panic!("{other:?}"),
    }
    let domains = of("GlobalNetworkSet", "{allowedEgressDomains: [a.example]}");
    assert_eq!(
        faults(&domains, Known::Directory),
        [
            "/spec/allowedEgressDomains: allowedEgressDomains: networks by name of a domain are not supported; give nets"
        ]
    );
}

fn endpoint(object: Object) -> Endpoint {
    match object {
        Object::Endpoint(endpoint) => (*endpoint).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pods() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: shop, labels: {app: web}, uid: x},
        spec: {nodeName: n1, serviceAccountName: sa, containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080},
        {containerPort: 9}, {name: dns, containerPort: 53, protocol: UDP}]}]},
        status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}";
    let pod = endpoint(object(text));
    assert_eq!(pod.name, Name::inside("shop", "web-1"));
    assert_eq!(pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
    let named = |name: &str, protocol, port| NamedPort { name: name.to_owned(), protocol, port };
    assert_eq!(pod.ports, [named("dns", UDP, 53), named("http", TCP, 8080)]);
    assert_eq!((pod.node.as_deref(), pod.service_account.as_deref()), (Some("n1"), Some("sa")));
    let labels: Vec<_> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        labels,
        [
            "app=web",
            "projectcalico.org/namespace=shop",
            "projectcalico.org/orchestrator=k8s",
            "projectcalico.org/serviceaccount=sa"
        ]
    );
    for (from, to) in [
        ("phase: Running", "phase: Succeeded"),
        ("phase: Running", "phase: Failed"),
        ("nodeName: n1", "hostNetwork: true"),
        ("podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]", "hostIP: 192.0.2.1"),
    ] {
        let text = text.replace(from, to);
        assert_eq!(object(&text), Object::Absent(Id::Endpoint(Name::inside("shop", "web-1"))), "{to}");
        assert!(
            faults(&text, Known::Directory)[0]
                .starts_with(": pod shop/web-1 is nothing that policies select: "),
            "{to}"
        );
    }
    let one = text.replace("podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]", "podIPs: []");
    assert_eq!(endpoint(object(&one)).addresses.len(), 1);
    let wrong = text.replace("podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}", "podIPs: [{ip: 224.0.0.1}");
    assert_eq!(
        faults(&wrong, Known::Cluster),
        ["/status/podIPs/0/ip: ip: 224.0.0.1 is no address of an endpoint; give one that it sends from"]
    );
}

#[test]
fn workload_endpoints() {
    let text = "{apiVersion: projectcalico.org/v3, kind: WorkloadEndpoint, metadata: {name: n1-k8s-web-eth0, namespace: shop},
        spec: {node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, profiles: [kns.shop],
        ipNetworks: [10.0.0.1/32], ports: [{name: http, port: 80, protocol: tcp}, {name: s, port: 5, protocol: 132}]}}";
    let found = endpoint(Object::read_where(&value(text), Known::Directory).unwrap());
    assert_eq!(
        (found.name.to_string().as_str(), found.node.as_deref()),
        ("shop/n1-k8s-web-eth0", Some("n1"))
    );
    assert_eq!(
        found.ports.iter().map(|port| (port.protocol, port.port)).collect::<Vec<_>>(),
        [(TCP, 80), (SCTP, 5)]
    );
    for (from, to, expected) in [
        (
            "10.0.0.1/32",
            "10.0.0.0/24",
            "/spec/ipNetworks/0: ipNetworks: 10.0.0.0/24 is more than one address; give each as /32 or /128",
        ),
        ("[10.0.0.1/32]", "[]", "/spec: spec: an endpoint needs an address; give ipNetworks"),
        (
            "kns.shop",
            "mine",
            "/spec/profiles/0: profiles: only the profiles of namespaces (kns.…) and service accounts (ksa.…) are there; write a policy",
        ),
        (
            "pod: web",
            "ipNATs: [{}]",
            "/spec/ipNATs: ipNATs: other addresses that are translated are not supported; remove this",
        ),
        (
            "pod: web",
            "serviceAccountName: x",
            "/spec/serviceAccountName: serviceAccountName: there are no service accounts without [source.kubernetes]; use labels and a selector",
        ),
        (
            "protocol: 132",
            "protocol: 1",
            "/spec/ports/1/protocol: protocol: \"1\" is not one of \"TCP\", \"UDP\", \"SCTP\"",
        ),
        ("pod: web", "pods: web", "/spec/pods: unknown key \"pods\"; did you mean \"pod\"?"),
    ] {
        assert_eq!(faults(&text.replace(from, to), Known::Directory), [expected], "{to}");
    }
}

#[test]
fn namespaces_and_service_accounts() {
    match object(
        "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}, spec: {finalizers: [x]}, status: {}}",
    ) {
        Object::Namespace(namespace) => {
            let labels: Vec<_> =
                namespace.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            assert_eq!(labels, ["kubernetes.io/metadata.name=shop", "projectcalico.org/name=shop", "team=a"]);
        }
        other => panic!("{other:?}"),
    }
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: shop, labels: {b: c}}, secrets: []}";
    assert_eq!(object(account).id(), Id::ServiceAccount(Name::inside("shop", "a")));
    assert_eq!(faults(account, Known::Directory).len(), 1);
}

/// JSON of any shape.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "name",
        "namespace",
        "labels",
        "NetworkPolicy",
        "GlobalNetworkPolicy",
        "Pod",
        "Tier",
        "NetworkSet",
        "WorkloadEndpoint",
        "Namespace",
        "projectcalico.org/v3",
        "networking.k8s.io/v1",
        "v1",
        "ingress",
        "egress",
        "from",
        "to",
        "ports",
        "port",
        "endPort",
        "protocol",
        "action",
        "Allow",
        "source",
        "destination",
        "selector",
        "nets",
        "notNets",
        "10.0.0.0/8",
        "all()",
        "podSelector",
        "matchLabels",
        "matchExpressions",
        "ipBlock",
        "cidr",
        "except",
        "types",
        "order",
        "status",
        "podIPs",
        "ip",
        "10.0.0.1",
        "icmp",
        "type",
        "code",
        "80:90",
        "a",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|entries| entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Value>()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn never_panics(value in any_json()) {
        let _ = Object::identify(&value);
        if let Err(faults) = Object::read(&value) {
            prop_assert!(!faults.is_empty());
        }
    }

    /// The same under the heads of objects, so that what is inside is looked at.
    #[test]
    fn specs_never_panic(spec in any_json(), status in any_json(), kind in 0_usize..9) {
        let (group, kind) = [
            ("networking.k8s.io/v1", "NetworkPolicy"), ("projectcalico.org/v3", "NetworkPolicy"),
            ("projectcalico.org/v3", "GlobalNetworkPolicy"), ("projectcalico.org/v3", "Tier"),
            ("projectcalico.org/v3", "NetworkSet"), ("projectcalico.org/v3", "GlobalNetworkSet"),
            ("projectcalico.org/v3", "WorkloadEndpoint"), ("v1", "Pod"), ("v1", "Namespace"),
        ][kind];
        let value = json!({"apiVersion": group, "kind": kind, "metadata": {"name": "x"}, "spec": spec, "status": status});
        match Object::read(&value) {
            Ok(object) => prop_assert_eq!(Some(object.id()), Object::identify(&value)),
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                for fault in faults {
                    prop_assert!(fault.path.is_empty() || fault.path.starts_with('/'), "{:?}", fault);
                }
            }
        }
    }
}
