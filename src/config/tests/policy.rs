//! `[policy]`, `[[endpoint]]`, and the manifests in a directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::super::{Config, Fragments, Policy, PolicyScope, PolicyTimeouts, load, load_again};
use super::{BASE, errors_with, with};
use crate::dataplane::packet::Direction;
use crate::dataplane::policy::Tuple;
use crate::policy::{Id, Name, compile};

fn policy(more: &str) -> Policy {
    with(more).policy.unwrap()
}

#[test]
fn the_section_turns_it_on() {
    assert_eq!(with("").policy, None);
    let policy = policy("[policy]\n");
    assert_eq!((policy.directory, policy.scope, policy.connections), (None, PolicyScope::Overlay, 262_144));
    assert_eq!((policy.fail_open, policy.default_deny_unknown), (false, false));
    assert_eq!((policy.fragments, policy.timeouts), (Fragments::Judge, PolicyTimeouts::default()));
    assert!(policy.world.is_empty());
}

#[test]
fn given_keys_are_taken() {
    let policy = policy(
        "[policy]\ndirectory='/etc/underpass/policy.d'\nscope='all'\nconnections=1024\nfail_open=true\n\
         default_deny_unknown=true\nfragments='pass'\n[policy.timeouts]\ntcp_established=1\ntcp_syn=2\ntcp_fin=3\n\
         tcp_time_wait=4\ntcp_close=5\nudp=6\nudp_stream=7\nicmp=8\nother=9\npick_up=0\n",
    );
    assert_eq!(policy.directory.as_deref(), Some(Path::new("/etc/underpass/policy.d")));
    assert_eq!(
        (policy.scope, policy.connections, policy.fragments),
        (PolicyScope::All, 1024, Fragments::Pass)
    );
    assert!(policy.fail_open && policy.default_deny_unknown);
    let seconds = Duration::from_secs;
    let expected = PolicyTimeouts {
        tcp_established: seconds(1),
        tcp_syn: seconds(2),
        tcp_fin: seconds(3),
        tcp_time_wait: seconds(4),
        tcp_close: seconds(5),
        udp: seconds(6),
        udp_stream: seconds(7),
        icmp: seconds(8),
        other: seconds(9),
        pick_up: seconds(0),
    };
    assert_eq!(policy.timeouts, expected);
}

#[test]
fn wrong_values_are_refused() {
    for (more, expected) in [
        ("[policy]\ndirectory='policy.d'", "f:14:11: directory: \"policy.d\" is not an absolute path"),
        ("[policy]\nscope='tunnel'", "f:14:7: scope: \"tunnel\" is not one of \"overlay\", \"all\""),
        ("[policy]\nconnections=5", "f:14:13: connections: 5 is out of range; use 1024 to 67108864"),
        ("[policy]\nfail_open='true'", "f:14:11: fail_open: expected a boolean; write true without quotes"),
        ("[policy]\nfragments='drop'", "f:14:11: fragments: \"drop\" is not one of \"judge\", \"pass\""),
        (
            "[policy]\ndirektory='/x'",
            "f:14:1: unknown key \"direktory\" in [policy]; did you mean \"directory\"?",
        ),
        (
            "[policy]\ntimeouts=5",
            "f:14:10: policy.timeouts: expected a section [policy.timeouts], found the integer 5",
        ),
        ("[policy]\n[policy.timeouts]\nudp=0", "f:15:5: udp: 0 is out of range; use 1 to 31536000"),
        (
            "[policy]\n[policy.timeouts]\nudp_steam=1",
            "f:15:1: unknown key \"udp_steam\" in [policy.timeouts]; did you mean \"udp_stream\"?",
        ),
        ("[[policy]]\n", "f:13:1: policy is a single section; write [policy], once"),
    ] {
        assert_eq!(errors_with(more), expected, "{more}");
    }
}

const ENDPOINT: &str = "[policy]\n[[endpoint]]\nname='web'\naddresses=['10.1.0.5','fd00::5']\n\
    labels={app='web'}\nports=[{name='http',port=80},{name='dns',port=53,protocol='UDP'}]\n";

#[test]
fn endpoints_are_known() {
    let policy = policy(ENDPOINT);
    let endpoint = &policy.world.endpoints()[&Name::inside("default", "web")];
    let labels: Vec<_> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["app=web", "projectcalico.org/namespace=default"]);
    assert_eq!(endpoint.addresses.len(), 2);
    let ports: Vec<_> =
        endpoint.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port)).collect();
    assert_eq!(ports, [("dns", 17, 53), ("http", 6, 80)]);
    let more = ENDPOINT.replace("[[endpoint]]", "[[endpoint]]\nnamespace='shop'");
    assert!(with(&more).policy.unwrap().world.contains(&Id::Endpoint(Name::inside("shop", "web"))));
}

#[test]
fn wrong_endpoints_are_refused() {
    for (from, to, expected) in [
        (
            "[policy]\n",
            "#\n",
            "f:14:1: [[endpoint]] without [policy], so no policy would be about it; write [policy] as well",
        ),
        ("name='web'\n", "#\n", "f:14:1: missing key \"name\" in [[endpoint]]"),
        (
            "'web'\na",
            "'Web'\na",
            "f:15:6: name: \"Web\" is no name; use lower case letters, digits, '-' and '.', at most 253",
        ),
        (
            "['10.1.0.5','fd00::5']",
            "[]",
            "f:14:1: addresses: an endpoint needs an address; give at least one",
        ),
        (
            "'10.1.0.5'",
            "'10.1.0.0/24'",
            "f:16:12: addresses: \"10.1.0.0/24\" is not an IP address; write one like 10.244.1.7",
        ),
        (
            "'10.1.0.5'",
            "'fd00::5'",
            "f:16:22: addresses: fd00::5 is also an address of the endpoint in line 16; each has its own",
        ),
        ("{app='web'}", "{app=5}", "f:17:8: labels: app: expected a string, found the integer 5"),
        (
            "{app='web'}",
            "{'a b'='c'}",
            "f:17:8: labels: \"a b\" is no name of a label; use letters, digits, '-', '_', '.' and '/', at most 317",
        ),
        ("{app='web'}", "'app'", "f:17:8: labels: expected a table like { app = \"web\" }"),
        ("port=80", "prot=80", "f:18:8: ports: unknown key \"prot\"; did you mean \"port\"?"),
        (",port=80", "", "f:18:8: ports: missing key \"port\""),
        ("'UDP'", "'ICMP'", "f:18:30: ports: \"ICMP\" is not one of \"TCP\", \"UDP\", \"SCTP\""),
        (
            "labels",
            "service_account='x'\nlabels",
            "f:17:1: unknown key \"service_account\" in [[endpoint]]; there are no service accounts without Kubernetes; use labels, and selectors of them",
        ),
        (
            "[[endpoint]]",
            "[[endpoint]]\nname='web'\naddresses=['10.1.0.9']\n[[endpoint]]",
            "f:18:6: name: endpoint default/web exists already in line 15; names are unique in a namespace",
        ),
    ] {
        assert!(ENDPOINT.contains(from), "{from}");
        assert_eq!(errors_with(&ENDPOINT.replacen(from, to, 1)), expected, "{to}");
    }
}

/// A configuration with a directory of manifests.
struct Files(TempDir);

impl Files {
    fn new(manifests: &[(&str, &str)]) -> Self {
        let files = Self(TempDir::new().unwrap());
        fs::create_dir(files.path("policy.d")).unwrap();
        for (name, text) in manifests {
            fs::write(files.path(&format!("policy.d/{name}")), text).unwrap();
        }
        files.configure("");
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, more: &str) {
        let directory = self.path("policy.d").display().to_string();
        fs::write(self.path("u.toml"), format!("{BASE}[policy]\ndirectory='{directory}'\n{more}")).unwrap();
    }

    fn good(&self) -> Config {
        let config = load(&self.path("u.toml")).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(load_again(&self.path("u.toml")), Ok(config.clone()));
        config
    }

    /// What is wrong, without the path of the directory.
    fn errors(&self) -> String {
        let text = load(&self.path("u.toml")).unwrap_err().to_string();
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

const DENY: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: deny\n  namespace: shop\nspec:\n  podSelector: {}\n";

#[test]
fn manifests_are_read_by_name() {
    let files = Files::new(&[
        ("10-deny.yaml", DENY),
        (
            "20-list.yml",
            "kind: List\napiVersion: v1\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: t}\n- apiVersion: v1\n  kind: Namespace\n  metadata: {name: shop}\n---\n---\n",
        ),
        (
            "30-set.json",
            "{\n\t\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"GlobalNetworkPolicy\",\n\t\"metadata\": {\"name\": \"g\"}, \"spec\": {\"tier\": \"t\"}\n}\n",
        ),
        (".hidden.yaml", "["),
        ("README.md", "["),
    ]);
    files.configure("[[endpoint]]\nname='a'\nnamespace='shop'\naddresses=['10.1.0.5']\n");
    let world = files.good().policy.unwrap().world;
    let found: Vec<String> = world.objects().map(|object| object.id().to_string()).collect();
    assert_eq!(
        found,
        ["namespace shop", "endpoint shop/a", "tier t", "policy g", "policy shop/knp.default.deny"]
    );
}

#[test]
fn every_mistake_has_its_file_line_and_column() {
    let files = Files::new(&[
        (
            "a.yaml",
            &DENY.replace("podSelector: {}", "podSelector: {}\n  policyTypes: [Ingress, Egres]\n  foo: 1"),
        ),
        ("b.yaml", &format!("{DENY}---\n{DENY}---\na: [\n---\nkind: Wrong\napiVersion: v1\n")),
        (
            "c.yaml",
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: g\nspec:\n  tier: nowhere\n",
        ),
        ("d.yaml", "- 1\n"),
    ]);
    files.configure("scope='x'\n");
    assert_eq!(
        files.errors(),
        "u.toml:15:7: scope: \"x\" is not one of \"overlay\", \"all\"\n\
         policy.d/a.yaml:8:26: policyTypes: \"Egres\" is not one of \"Ingress\", \"Egress\"; did you mean \"Egress\"?\n\
         policy.d/a.yaml:9:3: unknown key \"foo\"; known keys: podSelector, policyTypes, ingress, egress\n\
         policy.d/b.yaml:12:3: policy shop/knp.default.deny exists already in policy.d/b.yaml:4:3; remove one of them\n\
         policy.d/b.yaml:17:4: unclosed bracket '['\n\
         policy.d/b.yaml:19:1: kind: \"Wrong\" is no kind that is known here; there are Namespace, Pod, ServiceAccount, \
         NetworkPolicy, GlobalNetworkPolicy, Tier, NetworkSet, GlobalNetworkSet, WorkloadEndpoint\n\
         policy.d/c.yaml:6:3: tier: there is no tier \"nowhere\"; write a manifest of it, or use another\n\
         policy.d/d.yaml:1:1: expected a mapping, found a list"
    );
}

#[test]
fn what_both_have_is_refused() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nstatus: {podIPs: [{ip: 10.1.0.5}]}\n";
    let files = Files::new(&[("a.yaml", pod), ("b.yaml", &pod.replace("web", "other"))]);
    files.configure(
        "[[endpoint]]\nname='web'\nnamespace='shop'\naddresses=['10.1.0.9']\n[[endpoint]]\nname='more'\naddresses=['10.1.0.5']\n",
    );
    assert_eq!(
        files.errors(),
        "u.toml:16:6: name: endpoint shop/web exists already in policy.d/a.yaml:3:12; names are unique in a namespace\n\
         u.toml:21:12: addresses: 10.1.0.5 is also an address of the endpoint in policy.d/a.yaml:3:12; each has its own\n\
         policy.d/b.yaml:3:12: 10.1.0.5 is also an address of the endpoint in policy.d/a.yaml:3:12; each has its own"
    );
}

#[test]
fn what_cannot_be_read_is_told() {
    let files = Files::new(&[("a.yaml", "ok: 1"), ("b.yaml", "")]);
    fs::write(files.path("policy.d/b.yaml"), b"\xff").unwrap();
    fs::create_dir(files.path("policy.d/c.yaml")).unwrap();
    let fifo = std::ffi::CString::new(files.path("policy.d/d.yaml").display().to_string()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.as_c_str(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    fs::File::create(files.path("policy.d/e.yaml")).unwrap().set_len((16 << 20) + 1).unwrap();
    assert_eq!(
        files.errors(),
        "policy.d/a.yaml:1:1: missing key \"apiVersion\"\n\
         policy.d/a.yaml:1:1: missing key \"kind\"\n\
         policy.d/b.yaml: not UTF-8, which a manifest must be\n\
         policy.d/c.yaml: cannot read the manifest: is a directory\n\
         policy.d/d.yaml: cannot read the manifest: it is a pipe, which cannot be read again; give a file\n\
         policy.d/e.yaml: cannot read the manifest: larger than 16 MiB"
    );
    fs::remove_dir_all(files.path("policy.d")).unwrap();
    assert_eq!(
        files.errors(),
        "u.toml:14:11: directory: cannot read policy.d: No such file or directory (os error 2)"
    );
}

#[test]
fn service_accounts_and_tiers_may_come_from_a_cluster() {
    let text = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: g}\nspec:\n  tier: theirs\n  serviceAccountSelector: all()\n";
    let files = Files::new(&[("a.yaml", text)]);
    assert_eq!(
        files.errors(),
        "policy.d/a.yaml:6:3: serviceAccountSelector: there are no service accounts without [source.kubernetes]; use labels and a selector"
    );
    if cfg!(feature = "kubernetes") {
        files.configure("[source.kubernetes]\nnode_name='a'\n");
        assert_eq!(files.good().policy.unwrap().world.policies().len(), 1);
    }
}

#[test]
fn no_more_mistakes_are_told_than_anybody_reads() {
    let many = "a: 1\n---\n".repeat(2000);
    let files = Files::new(&[("a.yaml", &many)]);
    let errors = files.errors();
    assert_eq!(errors.lines().count(), 1001);
    assert!(
        errors.ends_with("policy.d/a.yaml: and 3000 more mistakes"),
        "{}",
        errors.lines().last().unwrap()
    );
}

/// What the document shows is right, every block of it.
#[test]
fn examples_of_the_document_work() {
    let document = include_str!("../../../docs/policy.md");
    let blocks = |language: &str| {
        let begin = format!("\n```{language}\n");
        let blocks = document.split(&begin).skip(1);
        blocks.map(|rest| rest.split("\n```").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (toml, yaml) = (blocks("toml"), blocks("yaml"));
    assert!(toml.len() == 1 && yaml.len() == 3, "{} {}", toml.len(), yaml.len());
    let names: Vec<String> = (0..yaml.len()).map(|number| format!("{number}.yaml")).collect();
    let manifests: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(yaml.iter().map(String::as_str)).collect();
    let files = Files::new(&manifests);
    files.configure(toml[0].split_once("policy.d\"\n").unwrap().1);
    let world = files.good().policy.unwrap().world;
    assert_eq!((world.policies().len(), world.endpoints().len(), world.tiers().len()), (2, 2, 1));
    let ruleset = compile(&world, 1, None).unwrap().ruleset;
    let allowed = |from: &str, port| {
        let tuple = Tuple {
            source: from.parse().unwrap(),
            destination: "10.244.2.9".parse().unwrap(),
            protocol: 6,
            ports: Some((40_000, port)),
            icmp: None,
        };
        ruleset.decide(Direction::Inbound, &tuple, |_| {}).allowed
    };
    assert!(allowed("10.244.1.7", 5432));
    assert!(!allowed("10.244.1.7", 22) && !allowed("10.244.3.3", 5432) && !allowed("192.0.2.1", 22));
}
