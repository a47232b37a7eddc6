//! Status, routes and drops, from the server through the client, as text and as JSON.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};
use underpass::net::DropReason;

use super::daemon::Daemon;
use super::finish;

#[test]
fn status_as_text() {
    let expected = "\
node      node-a
daemon    underpass 0.1.0, up 1h 2m
tunnel    up0, mtu 1450, address 10.244.1.0
vtep mac  66:2f:40:d1:21:2b
backend   offload, 2 workers
offloads  tso active
          uso off: kernel too old
source    kubernetes (flannel), 3 nodes, degraded: API server: connection refused
          the state is not kept
          node n7 is left out: its address 192.0.2.2 is another node's
          and 1 more that are left out
routes    2
direct    via kernel, 2 routes, 1 by the pump
policy    scope overlay, 2 policies, 30 endpoints in 1 namespace
          120 of 524288 connections
          1 connection found no room and passed unfollowed
          16 packets too many to be logged
          left out: policy shop/lost: there is no tier called security
dropped   12 (no_route 7, spoofed_source 5)
local     6 packets of local pods judged here
cut anew  2 super-packets of unknown segment size
missing   packets for 10.9.0.0/16 do not reach the tunnel; run `ip route add 10.9.0.0/16 dev up0`
sockets   3 packets not taken by the kernel; it refuses strangers now
stuck     worker 1: no progress
errors    3 reads of the TUN were refused
log       17 lines lost: stderr was full or not read in time

EDGE      RX PACKETS  RX BYTES  TX PACKETS  TX BYTES
device          1000   1.3 MiB           0       0 B
underlay           0       0 B         988   1.4 KiB

PEER    ADDRESS    VTEP MAC           SUBNETS
node-b  192.0.2.2  66:2f:40:d1:21:2c  10.244.2.0/24, 10.244.3.0/24

PEER    NEXT HOP   PACKETS  DIRECT PATH  FAILURES  REASON
node-b  192.0.2.2  ipv4     unverified   2         probes do not get through both ways

PEER    INTERFACE  MODE  WAY     REASON
node-b  eth0       ipip  socket  eth0 does not segment IP-in-IP (tx-ipxip4-segmentation off)
";
    assert_eq!(Daemon::start().ask(&["status"]), expected);
}

#[test]
fn status_as_json() {
    let status = Daemon::start().ask_json(&["status"]);
    for (pointer, expected) in [
        ("/node", json!("node-a")),
        ("/workers", json!(2)),
        ("/backend", json!("offload")),
        (
            "/tunnel",
            json!({"device": "up0", "mtu": 1450, "address": "10.244.1.0", "vtep_mac": "66:2f:40:d1:21:2b"}),
        ),
        ("/counters/device/rx_packets", json!(1000)),
        ("/counters/device/rx_bytes", json!(1_450_000)),
        ("/counters/device/tx_packets", json!(0)),
        ("/counters/underlay/tx_bytes", json!(1500)),
        ("/drops/no_route", json!(7)),
        ("/drops/ttl", json!(0)),
        ("/missing/0/command", json!("ip route add 10.9.0.0/16 dev up0")),
        ("/hairpinned_packets", json!(6)),
        ("/recut_super_packets", json!(2)),
        ("/device_read_errors", json!(3)),
        ("/stuck_workers", json!([1])),
        ("/log_lines_lost", json!(17)),
        ("/socket_drops", json!(3)),
        ("/strangers_refused", json!(true)),
        ("/policy/scope", json!("overlay")),
        ("/policy/connections_capacity", json!(524_288)),
        ("/policy/left_out/0", json!("policy shop/lost: there is no tier called security")),
        ("/routes", json!(2)),
        ("/peers/0/name", json!("node-b")),
        (
            "/peers/0/direct_paths/0",
            json!({"family": "ipv4", "next_hop": "192.0.2.2", "verified": false,
                "reason": "probes do not get through both ways", "failures": 2}),
        ),
        ("/peers/0/uplink/interface", json!("eth0")),
        ("/peers/0/uplink/ipip/way", json!("socket")),
        ("/offloads/tso", json!("active")),
        ("/uptime_seconds", json!(3725)),
    ] {
        assert_eq!(status.pointer(pointer), Some(&expected), "{pointer}");
    }
    assert_eq!(status["drops"].as_object().unwrap().len(), DropReason::ALL.len());
}

#[test]
fn route_list() {
    let daemon = Daemon::start();
    let expected = "\
PREFIX         PEER    MODE   NEXT HOP    MTU  SOURCE
10.244.1.0/24  -       local  -          1450  local
10.244.2.0/24  node-b  ipip   192.0.2.2  1480  static
";
    assert_eq!(daemon.ask(&["route", "list"]), expected);
    let routes = daemon.ask_json(&["route", "list"]);
    let prefixes: Vec<_> = routes.as_array().unwrap().iter().map(|route| &route["prefix"]).collect();
    assert_eq!(prefixes, ["10.244.1.0/24", "10.244.2.0/24"]);
    assert_eq!(daemon.ask(&["route", "list", "-o", "lines"]), "10.244.2.0/24 via node-b\n");
}

#[test]
fn route_get() {
    let daemon = Daemon::start();
    let expected = "\
prefix    10.244.2.0/24
peer      node-b
mode      ipip
next hop  192.0.2.2
mtu       1480
source    static
age       1h 2m
reason    pool 10.244.0.0/16 ipip_mode=Always
";
    assert_eq!(daemon.ask(&["route", "get", "10.244.2.9"]), expected);
    let expected = json!({
        "prefix": "10.244.2.0/24", "peer": "node-b", "mode": "ipip", "next_hop": "192.0.2.2",
        "mtu": 1480, "source": "static", "reason": "pool 10.244.0.0/16 ipip_mode=Always", "age_seconds": 3725,
        "next_hops": [],
    });
    assert_eq!(daemon.ask_json(&["route", "get", "10.244.2.9"]), expected);
    assert_eq!(daemon.ask_json(&["route", "get", "10.244.1.9"])["peer"], Value::Null);
    for address in ["8.8.8.8", "2001:db8::1"] {
        let (code, stdout, stderr) = daemon.try_ask(&["route", "get", address]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.starts_with(&format!("underpass: no route to {address}")), "{stderr}");
    }
}

#[test]
fn drops() {
    let daemon = Daemon::start();
    let text = daemon.ask(&["drops"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), DropReason::ALL.len() + 2, "{text}");
    assert_eq!(lines[0], "REASON                PACKETS  MEANING");
    for (line, reason) in lines[1..].iter().zip(DropReason::ALL) {
        assert!(line.starts_with(reason.name()) && line.ends_with(reason.help()), "{line}");
    }
    assert_eq!(lines[4].split_whitespace().nth(1), Some("5"), "{text}");
    assert_eq!(lines[lines.len() - 1], "total                      12");
    assert_eq!(daemon.ask_json(&["drops"]), daemon.ask_json(&["status"])["drops"]);
}

#[test]
fn the_socket_may_come_from_the_environment() {
    let daemon = Daemon::start();
    let mut command = Command::new(cargo_bin!("underpass"));
    let (code, stdout, stderr) =
        finish(command.arg("status").env("UNDERPASS_SOCKET", &daemon.socket).output().unwrap());
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("node      node-a\n"), "{stdout}");
}

#[test]
fn policy_list() {
    let daemon = Daemon::start();
    let expected = "\
TIER      ORDER  KIND                 NAMESPACE  NAME      ENDPOINTS  RULES  ALLOWED  DENIED
security  10.5   GlobalNetworkPolicy  -          deny-bad       0/30    0/2        0       7
default   -      NetworkPolicy        shop       web             3/0    1/0     1234       0
";
    assert_eq!(daemon.ask(&["policy", "list"]), expected);
    let policies = daemon.ask_json(&["policy", "list"]);
    assert_eq!(policies[0]["order"], json!(10.5));
    assert_eq!([&policies[1]["order"], &policies[0]["namespace"]], [&Value::Null, &Value::Null]);
}

#[test]
fn policy_trace() {
    let daemon = Daemon::start();
    let expected = "\
tcp 10.244.1.2:49152 > 10.244.2.7:80: denied

egress       denied
endpoint     shop/web-0, 10.244.1.2 on node-a
labels       app=web, tier=front
tier         security
             deny-bad: no rule matches
             end of the tier: Pass
tier         default
             shop/web: egress[0] Log, egress[2] Deny
decided by   egress[2] of policy shop/web in tier default: Deny
enforcement  this node enforces it: packets to node-b pass the pump

ingress       allowed
address       10.244.2.7
network sets  shop/partners
decided by    no endpoint that is known has this address, so no policy is about it
enforcement   node-b enforces it
";
    assert_eq!(daemon.ask(&["policy", "trace", "shop/web-0", "10.244.2.7", "tcp/80"]), expected);
    let trace = daemon.ask_json(&["policy", "trace", "shop/web-0", "10.244.2.7", "icmp/8.0"]);
    assert_eq!([&trace["allowed"], &trace["egress"]["decided"]["rule"]], [&json!(false), &json!(2)]);
    let (code, stdout, stderr) = daemon.try_ask(&["policy", "trace", "shop/gone", "10.244.2.7", "tcp/80"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert_eq!(stderr, "underpass: source: no endpoint is called shop/gone\n");
}

#[test]
fn connections_list_and_flush() {
    let daemon = Daemon::start();
    let expected = "\
PROTOCOL  SOURCE            DESTINATION     STATE          AGE  EXPIRES  WORKER
tcp       10.244.1.2:40000  10.244.2.7:80   established  1m 5s    5d 0h       0
udp       [fd00:1::2]:5000  [fd00:2::7]:53  unanswered   1m 5s    5d 0h       1
icmp/8    10.244.1.2        10.244.2.7      answered     1m 5s    5d 0h       1
";
    assert_eq!(daemon.ask(&["connections", "list"]), expected);
    let list = daemon.ask_json(&["connections", "list", "--protocol", "udp", "--port", "53"]);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["source"]), (1, &json!("fd00:1::2")));
    let limited = daemon.ask_json(&["connections", "list", "--address", "10.244.1.0/24", "--limit", "1"]);
    assert_eq!(limited.as_array().unwrap().len(), 1);
    let flushed = daemon.ask(&["connections", "flush", "--state", "answered"]);
    assert_eq!(flushed, "forgotten: 1 connection\n");
    assert_eq!(daemon.ask_json(&["connections", "flush", "--all"]), json!({"flushed": 3}));
    let (code, _, stderr) = daemon.try_ask(&["connections", "list", "--state", "open"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("state: \"open\" is none of unanswered"), "{stderr}");
}
