//! Help, wrong usage and `check`: what needs no daemon.

use std::fs;

use super::underpass;

#[test]
fn every_command_has_help_with_an_example() {
    for (command, about) in [
        (&["run"][..], "Run the daemon in the foreground"),
        (&["check"], "Check a configuration file"),
        (&["status"], "Show what the daemon runs with"),
        (&["route"], "Show routes, explain how a destination is reached, and change routes"),
        (&["route", "list"], "List all routes"),
        (&["route", "get"], "Show the route that packets to an address take, and why"),
        (&["route", "add"], "Add routes, or replace those"),
        (&["route", "del"], "Delete control routes"),
        (&["route", "replace"], "Replace all control routes"),
        (&["peer"], "Show the other nodes"),
        (&["peer", "list"], "List all peers"),
        (&["peer", "add"], "Make a node known"),
        (&["peer", "del"], "Forget a node and its routes"),
        (&["endpoint"], "Show the pods of this node"),
        (&["endpoint", "list"], "List all pods with their addresses"),
        (&["policy"], "Show network policies"),
        (&["policy", "list"], "List the policies in the order"),
        (&["policy", "check"], "Check manifests of policies"),
        (&["policy", "trace"], "Show what policies say of the first packet"),
        (&["connections"], "Show the connections that policies follow"),
        (&["connections", "list"], "List connections"),
        (&["connections", "flush"], "Forget connections"),
        (&["drops"], "Show how many packets were not delivered"),
        (&["capture"], "Write packets to a pcapng file while they pass"),
    ] {
        let (code, stdout, stderr) = underpass(&[command, &["--help"]].concat());
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert!(stdout.starts_with(about), "{stdout}");
        assert!(stdout.contains("Examples:\n  "), "{stdout}");
        let group = ["route", "peer", "endpoint", "policy", "connections"];
        let is_client = !matches!(command, ["run"] | ["check"] | ["policy", "check"])
            && !group.iter().any(|word| command == [*word]);
        for option in ["--socket <PATH>", "-o, --output <FORMAT>", "UNDERPASS_SOCKET"] {
            assert_eq!(stdout.contains(option), is_client, "{command:?} {option}\n{stdout}");
        }
    }
    let (code, stdout, _) = underpass(&["--help"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 denied"));
}

/// Every command, in the order in which its words are given.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut place = 0;
    while let Some(command) = found.get(place).cloned() {
        place += 1;
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let (_, help, _) = underpass(&words);
        let Some((_, listed)) = help.split_once("Commands:\n") else { continue };
        let names = listed.lines().take_while(|line| !line.is_empty());
        let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            found.push(command.iter().cloned().chain([name.to_owned()]).collect());
        }
    }
    found
}

#[test]
fn help_is_laid_out_well_at_every_width() {
    let commands = commands();
    assert!(commands.len() >= 16, "{commands:?}");
    for command in commands {
        let mut endings = Vec::new();
        for width in [80, 100, 120] {
            let mut words = command.clone();
            words.push("--help".to_owned());
            let help = super::underpass_at(&words, width);
            let what = || format!("{command:?} at {width}\n{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= width, "too long: {line:?} of {}", what());
                let open = |bracket| line.matches(bracket).count();
                assert_eq!(open('['), open(']'), "broken within brackets: {line:?} of {}", what());
            }
            // What follows the options is laid out by hand.
            endings.push(help.split("Print help").last().unwrap_or_default().to_owned());
        }
        assert!(endings.windows(2).all(|pair| pair[0] == pair[1]), "{command:?}\n{}", endings[0]);
    }
}

#[test]
fn version_is_the_packages() {
    let (code, stdout, _) = underpass(&["--version"]);
    assert_eq!((code, stdout.as_str()), (0, concat!("underpass ", env!("CARGO_PKG_VERSION"), "\n")));
}

#[test]
fn wrong_usage_exits_2() {
    for args in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "--config", "x", "--ipip-mode", "Always"],
        &["run", "--config", "x", "--nat-outgoing", "true"],
        &["run", "--config", "x", "--pool", "10.244.0.1/16"],
        &["run", "--config", "x", "--pool", "0.0.0.0/0"],
        &["run", "--config", "x", "--pool", "169.254.0.0/16"],
        &["run", "--config", "x", "--pool", "10.244.0.0/16", "--vxlan-mode", "always"],
        &["run", "--config", "x", "--pool", "10.244.0.0/16", "--nat-outgoing", "yes"],
        &["check"],
        &["check", "a", "b"],
        &["status", "--nonsense"],
        &["status", "-o", "yaml"],
        &["route"],
        &["route", "get"],
        &["route", "get", "10.0.0.0/8"],
        &["route", "get", "node-b"],
        &["drops", "--socket"],
        &["route", "add"],
        &["route", "add", "10.9.0.0/24"],
        &["route", "add", "10.9.0.1/24", "--via", "b"],
        &["route", "add", "10.9.0.0/24", "--via", "b", "--file", "x"],
        &["route", "add", "10.9.0.0/24", "--via", "b", "--mtu", "x"],
        &["route", "add", "--file", "x", "--mtu", "1400"],
        &["route", "del"],
        &["route", "del", "10.9.0.0/24", "--file", "x"],
        &["route", "replace"],
        &["peer", "add", "b"],
        &["peer", "add", "b", "192.0.2.2/24"],
        &["peer", "add", "a b", "192.0.2.2"],
        &["peer", "del"],
        &["policy"],
        &["policy", "check"],
        &["policy", "trace", "10.1.0.1", "10.1.0.2"],
        &["policy", "trace", "10.1.0.1", "10.1.0.2", "quic/443"],
        &["policy", "trace", "10.1.0.1", "10.1.0.2", "tcp/http"],
        &["policy", "trace", "10.1.0.1/24/", "10.1.0.2", "tcp/80"],
        &["connections"],
        &["connections", "list", "--limit", "0"],
        &["connections", "list", "--port", "http"],
        &["connections", "flush"],
        &["connections", "flush", "--all", "--port", "80"],
        &["capture"],
        &["capture", "-w", "x", "--point", "nowhere"],
        &["capture", "-w", "x", "--count", "0"],
        &["capture", "-w", "x", "--snaplen", "65536"],
    ] {
        let (code, stdout, stderr) = underpass(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(stderr.contains("Usage: underpass") || stderr.contains("try '--help'"), "{args:?}: {stderr}");
    }
}

/// Three peers in two pools.
const GOOD: &str = r#"[node]
name = "node-a"
address = "192.0.2.1/24"

[[pool]]
cidr = "10.244.0.0/16"
ipip_mode = "CrossSubnet"

[[pool]]
cidr = "10.245.0.0/16"
vxlan_mode = "Always"

[local]
subnets = ["10.244.1.0/24"]

[[peer]]
name = "node-b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]

[[peer]]
name = "node-c"
address = "198.51.100.3"
subnets = ["10.244.3.0/24"]

[[peer]]
name = "node-d"
address = "198.51.100.4"
subnets = ["10.245.4.0/24"]
"#;

#[test]
fn check_says_what_a_good_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.toml");
    fs::write(&good, GOOD).unwrap();
    let good = good.to_str().unwrap();
    let expected = format!("{good}: ok (node node-a, 3 peers, 4 subnets, 2 pools)\n");
    assert_eq!(underpass(&["check", good]), (0, expected, String::new()));
}

#[test]
fn check_and_run_report_all_errors_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.toml");
    let text = GOOD.replace("10.244.2.0/24", "10.244.2.1/24").replace("198.51.100.3", "198.51.100.300");
    fs::write(&bad, text).unwrap();
    let bad = bad.to_str().unwrap();
    let (code, stdout, stderr) = underpass(&["check", bad]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with(&format!("{bad}:19:")) && lines[0].contains("10.244.2.1/24"), "{stderr}");
    assert!(lines[1].starts_with(&format!("{bad}:23:")) && lines[1].contains("198.51.100.300"), "{stderr}");
    assert_eq!(underpass(&["run", "--config", bad]), (1, String::new(), stderr));
}

#[test]
fn check_of_a_missing_file_fails() {
    let (code, stdout, stderr) = underpass(&["check", "/nonexistent.toml"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("/nonexistent.toml: "), "{stderr}");
}

#[test]
fn a_pool_of_the_command_line_is_checked_with_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.toml");
    fs::write(&good, GOOD).unwrap();
    let run = ["run", "--config", good.to_str().unwrap(), "--pool"];
    for (options, said) in [
        (
            &["10.245.0.0/16"][..],
            "--pool 10.245.0.0/16: the configuration file has this pool already; leave out one of them\n",
        ),
        (
            &["10.246.0.0/16", "--ipip-mode", "Always", "--vxlan-mode", "CrossSubnet"],
            "--pool 10.246.0.0/16: --ipip-mode Always and --vxlan-mode CrossSubnet for one pool; set one of them to Never\n",
        ),
    ] {
        assert_eq!(underpass(&[&run, options].concat()), (1, String::new(), said.to_owned()));
    }
    let (code, _, stderr) = underpass(&[&run[..], &["10.244.0.0/16", "--ipip-mode", "crosssubnet"]].concat());
    assert_eq!(code, 2);
    assert!(stderr.contains("--ipip-mode") && stderr.contains("CrossSubnet"), "{stderr}");
}

/// Policies as files of a directory, one of them wrong.
fn manifests(directory: &std::path::Path) {
    fs::write(
        directory.join("endpoints.yaml"),
        "apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
status: {podIP: 10.1.0.2, podIPs: [{ip: 10.1.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
status: {podIP: 10.1.0.3, podIPs: [{ip: 10.1.0.3}]}
",
    )
    .unwrap();
    fs::write(
        directory.join("policy.yml"),
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
",
    )
    .unwrap();
    fs::write(directory.join("notes.txt"), "no manifest").unwrap();
}

#[test]
fn manifests_are_checked_and_answer_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    manifests(dir.path());
    let path = dir.path().to_str().unwrap();
    let summary = "ok (1 policy, 0 tiers, 2 endpoints, 0 network sets, 0 namespaces)\n".to_owned();
    assert_eq!(underpass(&["policy", "check", path]), (0, summary, String::new()));

    let trace = ["policy", "trace", "--offline", path, "shop/web-0", "shop/db-0"];
    let (code, allowed, stderr) = underpass(&[&trace[..], &["tcp/5432"]].concat());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(allowed.starts_with("tcp 10.1.0.2:49152 > 10.1.0.3:5432: allowed\n"), "{allowed}");
    let (_, denied, _) = underpass(&[&trace[..], &["tcp/80", "-o", "json"]].concat());
    let denied: serde_json::Value = serde_json::from_str(&denied).unwrap();
    assert_eq!(denied["allowed"], false);
    assert_eq!(
        [&denied["egress"]["decided"]["by"], &denied["ingress"]["decided"]["by"]],
        ["no_policy", "tier_end"]
    );
    let (code, _, stderr) = underpass(&["policy", "trace", "--offline", path, "shop/x", "10.1.0.3", "47"]);
    assert_eq!(code, 1);
    assert!(stderr.starts_with("underpass: source: no endpoint is called shop/x"), "{stderr}");

    let wrong = dir.path().join("wrong.yaml");
    fs::write(&wrong, "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: x}\nspec:\n  podSelectr: {}\n")
        .unwrap();
    let missing = dir.path().join("missing.yaml");
    let (code, stdout, stderr) = underpass(&["policy", "check", path, missing.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].starts_with(&format!("{}: cannot read the manifest: ", missing.display())), "{stderr}");
    assert!(
        lines[1..].iter().any(|line| line.starts_with(&format!("{}:5:3: ", wrong.display()))),
        "{stderr}"
    );
}
