//! Changing routes and peers: from the command line through the server to a daemon's own state.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use underpass::client::{Client, Target};

use super::daemon::{CONFIG, Daemon};
use super::finish;

impl Daemon {
    /// The control routes as lines.
    fn lines(&self) -> String {
        self.ask(&["route", "list", "--source", "control", "-o", "lines"])
    }

    /// Stdout and stderr of a command that is refused.
    fn refused(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.try_ask(args);
        assert_eq!((code, stdout.as_str()), (1, ""), "{args:?}: {stderr}");
        stderr
    }

    /// Stdout of a command that reads `input`.
    fn feed(&self, args: &[&str], input: &str) -> (i32, String, String) {
        let mut command = Command::new(cargo_bin!("underpass"));
        command.args(args).arg("--socket").arg(&self.socket);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        finish(child.wait_with_output().unwrap())
    }
}

#[test]
fn routes_come_and_go() {
    let daemon = Daemon::with_state();
    assert_eq!(daemon.ask(&["route", "add", "10.9.0.0/24", "--via", "node-b"]), "");
    daemon.ask(&["route", "add", "10.9.1.0/24", "--via", "node-c", "--via", "node-b", "--mtu", "1300"]);
    assert_eq!(daemon.lines(), "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-b,node-c mtu 1300\n");
    let route = daemon.ask_json(&["route", "get", "10.9.1.7"]);
    for (pointer, expected) in [
        ("/prefix", json!("10.9.1.0/24")),
        ("/peer", json!("node-b")),
        ("/mode", json!("direct")),
        ("/next_hop", json!("192.0.2.2")),
        ("/mtu", json!(1300)),
        ("/mtu_limit", json!(1300)),
        ("/source", json!("control")),
        ("/next_hops/1", json!({"peer": "node-c", "address": "198.51.100.3", "mode": "direct", "mtu": 1300})),
    ] {
        assert_eq!(route.pointer(pointer), Some(&expected), "{pointer}");
    }
    // Adding replaces; deleting brings back what was there before.
    daemon.ask(&["route", "add", "10.9.0.0/24", "--via", "node-c"]);
    assert_eq!(daemon.ask_json(&["route", "get", "10.9.0.1"])["peer"], "node-c");
    daemon.ask(&["route", "del", "10.9.0.0/24"]);
    assert!(daemon.refused(&["route", "get", "10.9.0.1"]).starts_with("underpass: no route to 10.9.0.1"));
    let text = daemon.ask(&["route", "list"]);
    assert!(
        text.contains("10.9.1.0/24    node-b,node-c  direct  192.0.2.2,198.51.100.3  1300  control\n"),
        "{text}"
    );
}

#[test]
fn the_configuration_comes_before_the_command_line() {
    let daemon = Daemon::with_state();
    daemon.ask(&["route", "add", "10.244.2.0/24", "--via", "node-c"]);
    let route = daemon.ask_json(&["route", "get", "10.244.2.1"]);
    assert_eq!((&route["peer"], &route["source"]), (&json!("node-b"), &json!("static")));
    let candidates = route["candidates"].as_array().unwrap();
    let said: Vec<_> = candidates.iter().map(|one| (&one["source"], &one["peer"])).collect();
    assert_eq!(said, [(&json!("static"), &json!("node-b")), (&json!("control"), &json!("node-c"))]);
    assert!(daemon.ask(&["route", "get", "10.244.2.1"]).contains("\nthen      control via node-c, for "));
    assert_eq!(daemon.lines(), "10.244.2.0/24 via node-c\n");
}

#[test]
fn files_are_changes_that_are_made_together() {
    let daemon = Daemon::with_state();
    let file = daemon.dir.path().join("routes.txt");
    let name = file.to_str().unwrap();
    let lines = "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-b,node-c mtu 1400\nfd00:9::/48 via node-c\n";
    fs::write(&file, format!("# mine\n\n{lines}")).unwrap();
    assert_eq!(daemon.ask(&["route", "add", "--file", name]), "3 routes added, 0 deleted, 5 in the table\n");
    assert_eq!(daemon.lines(), lines);
    let (code, stdout, stderr) =
        daemon.feed(&["route", "add", "--file", "-"], "del 10.9.0.0/24\n10.10.0.0/16 via node-c\n");
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (0, "1 route added, 1 deleted, 5 in the table\n", "")
    );
    let before = daemon.lines();
    fs::write(&file, "10.11.0.0/16 via node-b\n10.12.0.0/16 via node-x\ndel 10.13.0.0/16\n").unwrap();
    let stderr = daemon.refused(&["route", "add", "--file", name]);
    assert_eq!(
        stderr,
        "underpass: 2 errors, nothing has changed\n\
         \x20 line 2: no peer is called \"node-x\"; `underpass peer list` shows all\n\
         \x20 line 3: there is no control route 10.13.0.0/16; `underpass route list --source control` shows all\n"
    );
    assert_eq!(daemon.lines(), before);
    // What is listed is what can be read again, and deletes itself.
    assert_eq!(daemon.feed(&["route", "replace", "--file", "-"], &before).0, 0);
    assert_eq!(daemon.lines(), before);
    let (code, stdout, _) = daemon.feed(&["route", "del", "--file", "-"], &before);
    assert_eq!((code, stdout.as_str()), (0, "0 routes added, 3 deleted, 2 in the table\n"));
    assert_eq!(daemon.lines(), "");
}

#[test]
fn replacing_leaves_only_what_was_given() {
    let daemon = Daemon::with_state();
    daemon.feed(&["route", "add", "--file", "-"], "10.9.0.0/24 via node-b\n10.9.1.0/24 via node-b\n");
    daemon.feed(&["route", "replace", "--file", "-"], "10.9.1.0/24 via node-c\n");
    assert_eq!(daemon.lines(), "10.9.1.0/24 via node-c\n");
    daemon.feed(&["route", "replace", "--file", "-"], "");
    assert_eq!(daemon.lines(), "");
    assert_eq!(daemon.ask_json(&["status"])["routes"], 2);
}

#[test]
fn a_long_list_is_a_table_too() {
    let daemon = Daemon::with_state();
    let routes: String = (0..3000).map(|n| format!("10.{}.{}.0/24 via node-b\n", n >> 8, n & 255)).collect();
    assert_eq!(daemon.feed(&["route", "replace", "--file", "-"], &routes).0, 0);
    assert_eq!(daemon.lines(), routes);
    let text = daemon.ask(&["route", "list"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3003);
    assert_eq!(lines[1], "10.0.0.0/24    node-b  direct  192.0.2.2  1500  control");
    assert_eq!(lines[3000], "10.11.183.0/24  node-b  direct  192.0.2.2  1500  control");
    assert_eq!(daemon.ask_json(&["route", "list"]).as_array().unwrap().len(), 3002);
}

#[test]
fn peers_come_and_go() {
    let daemon = Daemon::with_state();
    daemon.ask(&["peer", "add", "node-d", "192.0.2.4", "--subnet", "10.244.4.0/24"]);
    assert_eq!(daemon.ask_json(&["route", "get", "10.244.4.1"])["peer"], "node-d");
    let text = daemon.ask(&["peer", "list"]);
    let line = text.lines().nth(3).unwrap();
    assert!(line.starts_with("node-d  192.0.2.4     66:") && line.ends_with("10.244.4.0/24"), "{text}");
    assert_eq!(daemon.ask_json(&["status"])["peers"], daemon.ask_json(&["peer", "list"]));
    let stderr = daemon.refused(&["peer", "add", "node-e", "192.0.2.4", "--vtep-mac", "x"]);
    assert!(stderr.contains("that of peer node-d") && stderr.contains("vtep_mac: \"x\""), "{stderr}");
    daemon.ask(&["peer", "del", "node-d"]);
    daemon.refused(&["route", "get", "10.244.4.1"]);
    assert!(daemon.refused(&["peer", "del", "node-d"]).contains("no peer is called \"node-d\""));
    daemon.ask(&["peer", "del", "node-b"]);
    daemon.refused(&["route", "get", "10.244.2.1"]);
}

#[test]
fn peers_are_replaced_and_deleted_as_often_as_one_likes() {
    let daemon = Daemon::with_state();
    let known = |daemon: &Daemon| {
        let peers = daemon.ask_json(&["peer", "list"]);
        let peers = peers.as_array().unwrap().iter();
        peers
            .map(|peer| format!("{} {} {}", peer["name"], peer["address"], peer["subnets"]))
            .collect::<Vec<_>>()
    };
    let before = known(&daemon);
    for _ in 0..2 {
        daemon.ask(&["peer", "add", "--replace", "node-d", "192.0.2.4", "--subnet", "10.244.4.0/24"]);
        assert_eq!(known(&daemon)[2], r#""node-d" "192.0.2.4" ["10.244.4.0/24"]"#);
    }
    let stderr = daemon.refused(&["peer", "add", "node-d", "192.0.2.4"]);
    assert!(stderr.contains("`peer add --replace` changes it"), "{stderr}");
    daemon.ask(&["peer", "add", "--replace", "node-d", "192.0.2.5", "--subnet", "10.244.5.0/24"]);
    assert_eq!(known(&daemon)[2], r#""node-d" "192.0.2.5" ["10.244.5.0/24"]"#);
    assert_eq!(daemon.lines(), "10.244.5.0/24 via node-d\n");
    let stderr = daemon.refused(&["peer", "add", "--replace", "node-d", "192.0.2.2"]);
    assert!(stderr.contains("that of peer node-b"), "{stderr}");
    assert_eq!(daemon.lines(), "10.244.5.0/24 via node-d\n");
    let deleted = daemon.ask_json(&["peer", "del", "--ignore-missing", "node-d"]);
    assert_eq!(deleted, json!({"deleted": "node-d"}));
    assert_eq!(daemon.ask(&["peer", "del", "--ignore-missing", "node-d"]), "");
    assert_eq!(daemon.ask_json(&["peer", "del", "--ignore-missing", "node-d"]), json!(null));
    assert_eq!(known(&daemon), before);
}

#[test]
fn endpoints_are_told_and_listed() {
    let daemon = Daemon::with_state();
    assert_eq!(daemon.ask_json(&["endpoint", "list"]), json!([]));
    let client = Client::new(&daemon.socket);
    let target = Target::new("/v1/endpoints/c1:eth0");
    let endpoint = json!({"container_id": "c1", "ifname": "eth0", "netns": "/run/netns/x",
        "addresses": ["10.244.1.2", "fd00::2"], "namespace": "default", "pod": "web-0", "labels": {"app": "web"}});
    let known: Value = client.put(&target, &endpoint).unwrap();
    assert_eq!(known["id"], "c1:eth0");
    assert_eq!(daemon.ask_json(&["endpoint", "list"]), json!([known]));
    let text = daemon.ask(&["endpoint", "list"]);
    let line = text.lines().nth(1).unwrap();
    assert_eq!(line, "default    web-0  10.244.1.2,fd00::2  eth0       c1         /run/netns/x");
    let refused = client.put::<Value>(&Target::new("/v1/endpoints/other"), &endpoint).unwrap_err();
    assert!(refused.to_string().contains("id: it is not `container_id:ifname`"), "{refused}");
    let _: Value = client.delete(&target).unwrap();
    assert_eq!(daemon.ask_json(&["endpoint", "list"]), json!([]));
    let missing = client.delete::<Value>(&target).unwrap_err();
    assert!(missing.to_string().contains("there is no endpoint \"c1:eth0\""), "{missing}");
    let facts = daemon.get("/v1/cni");
    assert_eq!(facts, json!({"subnets": ["10.244.1.0/24"], "mtu": 1480}));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let daemon = Daemon::with_state();
    let stderr = daemon.refused(&["route", "add", "--file", "/nonexistent"]);
    assert_eq!(stderr, "underpass: cannot read /nonexistent: No such file or directory (os error 2)\n");
    let stderr = daemon.refused(&["route", "replace", "--file", "/"]);
    assert_eq!(stderr, "underpass: cannot read /: Is a directory (os error 21)\n");
}

#[test]
fn the_configuration_file_is_followed_or_refused_as_a_whole() {
    let daemon = Daemon::with_state();
    let file = daemon.dir.path().join("test.toml");
    let mode = |daemon: &Daemon| daemon.ask_json(&["route", "get", "10.244.2.1"])["mode"].clone();
    assert_eq!(mode(&daemon), "direct");
    fs::write(&file, CONFIG.replace("CrossSubnet", "Always")).unwrap();
    assert_eq!(daemon.ask(&["reload"]), "reloaded: 2 peers, 2 routes\n");
    assert_eq!(mode(&daemon), "ipip");
    let name = file.display();
    for (text, errors) in [
        (CONFIG.replace("cidr", "cidre"), vec![format!("{name}:6:1: "), "nothing has changed".into()]),
        (
            CONFIG
                .replace("node-a", "node-z")
                .replace("CrossSubnet", "Sometimes")
                .replace("198.51.100.3", "over there"),
            vec!["2 errors, nothing has changed".into(), format!("{name}:7:13: "), format!("{name}:16:11: ")],
        ),
        (
            CONFIG.replace("node-a", "node-z"),
            vec!["`name` under [node] has changed, which takes a restart".into()],
        ),
    ] {
        fs::write(&file, text).unwrap();
        let stderr = daemon.refused(&["reload"]);
        for error in errors {
            assert!(stderr.contains(&error), "{error}: {stderr}");
        }
        assert_eq!(mode(&daemon), "ipip");
    }
    fs::remove_file(&file).unwrap();
    assert!(daemon.refused(&["reload"]).contains("cannot read the configuration file"));
    fs::write(&file, CONFIG).unwrap();
    assert_eq!(daemon.ask_json(&["reload"]), json!({"peers": 2, "routes": 2}));
    assert_eq!(mode(&daemon), "direct");
}
