//! Events of the API server, and the world that comes of them.

use std::path::Path;

use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::kinds::Kind;
use super::{Policies, Watched};
use crate::control::source::cluster::{Policies as Told, PolicyEnds};
use crate::control::source::kubernetes::objects::{CALICO_GROUPS, CORE};
use crate::control::source::kubernetes::table::Table;
use crate::policy::{Name, Policy, World};

const KUBERNETES: [(Kind, (&str, &str)); 3] =
    [(Kind::NetworkPolicy, ("networking.k8s.io", "v1")), (Kind::Pod, CORE), (Kind::Namespace, CORE)];
const CALICO: [(Kind, (&str, &str)); 3] = [
    (Kind::ServiceAccount, CORE),
    (Kind::CalicoNetworkPolicy, CALICO_GROUPS[0]),
    (Kind::GlobalNetworkPolicy, CALICO_GROUPS[0]),
];

/// A source that watches, and the ends of those who want to know.
struct Source {
    policies: Policies,
    told: watch::Receiver<Told>,
    want: watch::Sender<bool>,
}

impl Source {
    fn watching(kinds: &[(Kind, (&str, &str))], file: &Path) -> Self {
        let (tell, told) = watch::channel(None);
        let (want, wanted) = watch::channel(true);
        let mut policies = Policies::new(PolicyEnds { tell, wanted }, file, "n1");
        for (kind, group) in kinds {
            let resource = kind.resource(*group);
            policies.watched.insert(*kind, Watched { resource, table: Table::new(), lost: None });
        }
        Self { policies, told, want }
    }

    /// A list of all there is of a kind.
    fn list(&mut self, kind: Kind, objects: &[Value]) {
        self.policies.take(kind, Event::Init);
        for object in objects {
            self.policies.take(kind, Event::InitApply(dynamic(object)));
        }
        self.policies.take(kind, Event::InitDone);
        self.policies.say();
    }

    fn apply(&mut self, kind: Kind, object: &Value) -> bool {
        let changed = self.policies.take(kind, Event::Apply(dynamic(object)));
        self.policies.say();
        changed
    }

    fn delete(&mut self, kind: Kind, object: &Value) {
        self.policies.take(kind, Event::Delete(dynamic(object)));
        self.policies.say();
    }

    fn world(&self) -> World {
        self.told.borrow().as_deref().cloned().expect("nothing was told")
    }

    fn problems(&self) -> Vec<String> {
        self.policies.problems().collect()
    }
}

/// Without kind, as the elements of a list of the API server are.
fn dynamic(object: &Value) -> DynamicObject {
    serde_json::from_value(object.clone()).unwrap()
}

fn pod(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "metadata": {
            "namespace": namespace, "name": name, "labels": {"app": name}, "uid": "x",
            "managedFields": [{"manager": "kubelet", "operation": "Update", "time": "2026-11-29T12:00:00Z"}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "ports": [{"name": "web", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn namespace(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"team": name}}, "spec": {}, "status": {}})
}

fn deny(name: &str) -> Value {
    json!({"metadata": {"namespace": "a", "name": name}, "spec": {"podSelector": {}}})
}

fn endpoints(world: &World) -> Vec<String> {
    let address =
        |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    world
        .endpoints()
        .iter()
        .map(|(name, one)| format!("{name} {}", address(&one.addresses).join(" ")))
        .collect()
}

fn policies(world: &World) -> Vec<String> {
    world.policies().keys().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_told_before_every_kind_has_been_listed() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&KUBERNETES, &directory.path().join("state.json"));
    source.list(Kind::NetworkPolicy, &[deny("all")]);
    source.list(Kind::Pod, &[pod("a", "x", "10.244.1.2"), pod("b", "x", "10.244.1.3")]);
    assert_eq!(*source.told.borrow(), None);
    source.list(Kind::Namespace, &[namespace("a"), namespace("b")]);
    let world = source.world();
    assert_eq!(endpoints(&world), ["a/x 10.244.1.2", "b/x 10.244.1.3"]);
    assert_eq!(policies(&world), ["a/knp.default.all"]);
    assert_eq!(world.namespaces().len(), 2);
    assert_eq!(source.problems(), [""; 0]);
}

#[test]
fn what_changes_is_told_and_what_does_not_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&KUBERNETES, &directory.path().join("state.json"));
    source.list(Kind::NetworkPolicy, &[]);
    source.list(Kind::Namespace, &[namespace("a")]);
    source.list(Kind::Pod, &[pod("a", "x", "10.244.1.2")]);
    source.told.borrow_and_update();
    // A heartbeat of the kubelet, and what else does not count.
    let mut same = pod("a", "x", "10.244.1.2");
    same["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    same["metadata"]["annotations"] = json!({"x": "y"});
    assert!(!source.apply(Kind::Pod, &same));
    assert!(!source.told.has_changed().unwrap());
    // One that has no address yet, one of the host, and one that is done.
    let (mut early, mut host, mut done) =
        (pod("a", "e", ""), pod("a", "h", "192.0.2.1"), pod("a", "d", "10.244.1.9"));
    early["status"] = json!({"phase": "Pending"});
    host["spec"]["hostNetwork"] = json!(true);
    done["status"]["phase"] = json!("Succeeded");
    for object in [&early, &host, &done] {
        source.apply(Kind::Pod, object);
    }
    assert!(!source.told.has_changed().unwrap());
    source.apply(Kind::Pod, &pod("a", "e", "10.244.1.5"));
    assert_eq!(endpoints(&source.world()), ["a/e 10.244.1.5", "a/x 10.244.1.2"]);
    let mut done = pod("a", "x", "10.244.1.2");
    done["status"]["phase"] = json!("Failed");
    source.apply(Kind::Pod, &done);
    assert_eq!(endpoints(&source.world()), ["a/e 10.244.1.5"]);
    source.delete(Kind::Pod, &pod("a", "e", "10.244.1.5"));
    source.apply(Kind::NetworkPolicy, &deny("one"));
    assert_eq!(
        (endpoints(&source.world()).len(), policies(&source.world())),
        (0, vec!["a/knp.default.one".to_owned()])
    );
    // Deleted and made while nobody watched.
    source.list(Kind::NetworkPolicy, &[deny("two")]);
    assert_eq!(policies(&source.world()), ["a/knp.default.two"]);
    source.delete(Kind::NetworkPolicy, &deny("two"));
    source.delete(Kind::Namespace, &namespace("a"));
    assert!(source.world().is_empty());
}

#[test]
fn a_policy_that_cannot_be_read_counts_as_one_without_rules() {
    let directory = tempfile::tempdir().unwrap();
    let mut source =
        Source::watching(&[KUBERNETES.as_slice(), &CALICO].concat(), &directory.path().join("s.json"));
    source.list(Kind::Namespace, &[]);
    source.list(Kind::Pod, &[]);
    source.list(
        Kind::ServiceAccount,
        &[json!({"metadata": {"namespace": "a", "name": "robot", "labels": {"k": "v"}}})],
    );
    let rule = json!({"from": [{"podSelector": {}, "unheardOf": {}}]});
    source.list(
        Kind::NetworkPolicy,
        &[
            json!({"metadata": {"namespace": "a", "name": "in"}, "spec": {"podSelector": {}, "ingress": [rule]}}),
            json!({"metadata": {"namespace": "a", "name": "both"}, "spec": {"podSelector": {}, "ingress": [rule], "egress": [{}]}}),
            json!({"metadata": {"namespace": "a", "name": "out"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "ingress": [rule]}}),
            json!({"metadata": {"namespace": "a", "name": "gone"}, "spec": {"podSelector": 7}}),
        ],
    );
    source.list(Kind::CalicoNetworkPolicy, &[]);
    let http = json!({"action": "Allow", "http": {"methods": ["GET"]}});
    source.list(
        Kind::GlobalNetworkPolicy,
        &[
            json!({"metadata": {"name": "out"}, "spec": {"selector": "all()", "egress": [http]}}),
            json!({"metadata": {"name": "both"}, "spec": {"selector": "all()", "egress": [http], "ingress": [{"action": "Allow"}]}}),
            json!({"metadata": {"name": "typed"}, "spec": {"selector": "all()", "types": ["Ingress"], "egress": [http]}}),
            json!({"metadata": {"name": "gone"}, "spec": {"selector": "all("}}),
        ],
    );
    let world = source.world();
    let directions = |policy: &Policy| {
        let rules = [policy.ingress.as_deref(), policy.egress.as_deref()];
        assert!(rules.iter().flatten().all(|rules| rules.is_empty()));
        format!("{} {} {}", policy.name, rules[0].is_some(), rules[1].is_some())
    };
    let mut found: Vec<_> = world.policies().values().map(|policy| directions(policy)).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "a/knp.default.both true true",
            "a/knp.default.in true false",
            "a/knp.default.out false true",
            "both true true",
            "out false true",
            "typed true false",
        ]
    );
    assert!(world.service_accounts().contains_key(&Name::inside("a", "robot")));
    let problems = source.problems();
    assert_eq!(problems.len(), 8, "{problems:#?}");
    let said = |start: &str, parts: &[&str]| {
        let one = problems.iter().find(|problem| problem.starts_with(start)).expect(start);
        assert!(parts.iter().all(|part| one.contains(part)), "{one}");
    };
    said("NetworkPolicy a/in ", &["counts as one without rules", "/spec/ingress/0/from/0", "unheardOf"]);
    said("NetworkPolicy a/gone ", &["is left out", "/spec/podSelector"]);
    said("GlobalNetworkPolicy out ", &["counts as one without rules", "/spec/egress/0/http"]);
    said("GlobalNetworkPolicy gone ", &["is left out", "/spec/selector"]);
    // One that is mended is as it says.
    source.apply(
        Kind::NetworkPolicy,
        &json!({"metadata": {"namespace": "a", "name": "in"}, "spec": {"podSelector": {}, "ingress": [{}]}}),
    );
    let world = source.world();
    let mended = &world.policies()[&Name::inside("a", "knp.default.in")];
    assert_eq!(mended.ingress.as_ref().map(Vec::len), Some(1));
    assert_eq!(source.problems().len(), 7);
}

#[test]
fn problems_are_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&KUBERNETES, &directory.path().join("state.json"));
    let wrong = |number: usize| json!({"metadata": {"namespace": "a", "name": format!("p{number}")}, "spec": {"podSelector": 7}});
    source.list(Kind::NetworkPolicy, &(0..100).map(wrong).collect::<Vec<_>>());
    let problems = source.problems();
    assert_eq!(problems.len(), super::MOST_PROBLEMS + 1);
    assert_eq!(problems.last().unwrap(), "80 more objects of network policy cannot be read");
}

#[test]
fn policies_of_kubernetes_are_not_taken_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&CALICO, &directory.path().join("state.json"));
    source.list(Kind::ServiceAccount, &[]);
    source.list(Kind::GlobalNetworkPolicy, &[]);
    let calico =
        |name: &str| json!({"metadata": {"namespace": "a", "name": name}, "spec": {"selector": "all()"}});
    source.list(Kind::CalicoNetworkPolicy, &[calico("knp.default.one"), calico("two")]);
    assert_eq!(policies(&source.world()), ["a/two"]);
    assert_eq!(source.problems(), [""; 0]);
}

#[test]
fn a_kind_that_cannot_be_followed_is_said_and_the_last_state_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&KUBERNETES, &directory.path().join("state.json"));
    source.list(Kind::NetworkPolicy, &[deny("all")]);
    source.list(Kind::Namespace, &[]);
    source.list(Kind::Pod, &[]);
    assert!(source.policies.lose(Kind::Pod, "pods is forbidden".to_owned()));
    assert!(!source.policies.lose(Kind::Pod, "pods is forbidden".to_owned()), "said already");
    assert!(
        !source.policies.lose(Kind::Namespace, "pods is forbidden".to_owned()),
        "one reason is said once"
    );
    source.policies.take(Kind::Namespace, Event::InitDone);
    let problems = source.problems();
    assert_eq!(problems, ["network policy is not followed for now, the last state stays: pods is forbidden"]);
    assert_eq!(policies(&source.world()), ["a/knp.default.all"]);
    source.policies.take(Kind::Pod, Event::Init);
    assert_eq!(source.problems().len(), 1, "a list that has begun is none");
    assert!(source.policies.take(Kind::Pod, Event::InitDone), "that it is well again is to be told");
    assert_eq!(source.problems(), [""; 0]);
}

#[test]
fn what_was_told_is_there_after_a_restart_for_who_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.json");
    let mut source = Source::watching(&KUBERNETES, &file);
    source.list(Kind::NetworkPolicy, &[deny("all")]);
    source.list(Kind::Namespace, &[namespace("a")]);
    source.list(Kind::Pod, &[pod("a", "x", "10.244.1.2")]);
    assert!(source.policies.write_at().is_some());
    source.policies.write();
    assert!(directory.path().join("state.policy.json").exists());
    let world = source.world();

    let mut again = Source::watching(&[], &file);
    again.policies.recall();
    assert_eq!(again.world(), world);
    again.want.send(false).unwrap();
    again.policies.recall();
    assert_eq!(*again.told.borrow(), None);
    again.want.send(true).unwrap();
    again.policies.recall();
    assert_eq!(again.world(), world);

    // That of another node is none of ours.
    let (tell, told) = watch::channel(None);
    let mut other = Policies::new(PolicyEnds { tell, wanted: watch::channel(true).1 }, &file, "n2");
    other.recall();
    assert_eq!(*told.borrow(), None);
}

#[test]
fn what_cannot_be_kept_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::watching(&KUBERNETES, Path::new("/proc/none/state.json"));
    for (kind, _) in KUBERNETES {
        source.list(kind, &[]);
    }
    // An empty world is one, too.
    assert!(source.world().is_empty());
    source.policies.write();
    let problems = source.problems();
    assert!(
        problems[0].contains("the policies are not kept") && problems[0].contains("state_file"),
        "{problems:?}"
    );
    drop(directory);
}
