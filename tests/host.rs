//! The host kernel's side against a real kernel: each test runs as root in a network namespace of
//! its own, made by running this very binary again under `unshare --net`.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tun_tap::{Iface, Mode};
use underpass::control::engine::judge::{Needs, PreflightError, Warning, judge};
use underpass::control::engine::port::{HostError, Notice, ROUTE_PROTOCOL};
use underpass::control::engine::{Effect, Engine, Event, Setup, Start, look, needs};
use underpass::control::host::{Host, gather, udp_bind_error};
use underpass::dataplane::packet::Offloaded;

/// Runs `body` in a fresh namespace with a tokio runtime. Outside one it only starts the test
/// `name` of this binary again inside.
fn in_namespace(name: &str, body: impl AsyncFnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body());
        return;
    }
    run_again("unshare --net", name, INSIDE);
}

/// Runs the test `name` of this binary again under `wrapper`, with `marker` in its environment.
fn run_again(wrapper: &str, name: &str, marker: &str) {
    let mut words = wrapper.split_whitespace();
    let status = Command::new(words.next().unwrap())
        .args(words)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env(marker, "1")
        .status()
        .unwrap_or_else(|error| panic!("{wrapper} (util-linux): {error}"));
    assert!(status.success(), "{name} failed under {wrapper}");
}

const INSIDE: &str = "UNDERPASS_TEST_NAMESPACE";
const DEPRIVED: &str = "UNDERPASS_TEST_DEPRIVED";

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What nft says.
fn nft(arguments: &str) -> Result<String, String> {
    let output = Command::new("nft").args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn ip_json(arguments: &str) -> Vec<Value> {
    let output = Command::new("ip").arg("-j").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip -j {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() { Vec::new() } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// eth0 192.0.2.1/24, up, as the underlay.
fn underlay() {
    ip("link add eth0 mtu 1400 type veth peer name far0");
    ip("address add 192.0.2.1/24 dev eth0");
    ip("link set eth0 up");
    ip("link set far0 up");
    sysctl("ipv4/ip_forward", "1");
}

/// The engine and the host, without sockets and workers.
struct Node {
    host: Host,
    engine: Engine,
    /// The engine's clock, so that no test waits.
    now: Instant,
}

impl Node {
    /// Brings the TUN up0, which is there already, to what `config` says.
    async fn start(config: &str) -> Result<Self, String> {
        let config = underpass::config::parse(&(HEAD.to_owned() + config), "test.toml").unwrap();
        let host = Host::connect().unwrap();
        let uplink = host.uplink_of(address("192.0.2.1")).await.unwrap();
        let facts = gather(&host, &needs(&config, "eth0")).await.unwrap();
        let view = host.observe(&look(&config, "eth0", None)).await.unwrap();
        let now = Instant::now();
        let start = Start {
            setup: Setup {
                capabilities: facts.capabilities(),
                workers: 1,
                uplink_mtu: uplink.packet_mtu(),
                uplink: uplink.index,
            },
            uplink,
            ways: std::collections::HashMap::new(),
            tap: None,
            tap_state: Offloaded::off("no TAP"),
            view,
            addresses: host.all_addresses().await.unwrap(),
            network_policy: None,
            now,
        };
        let (engine, _table) = Engine::new(config, start).map_err(|error| error.to_string())?;
        let mut node = Self { host, engine, now };
        node.follow(Event::Tick).await;
        Ok(node)
    }

    /// Hands an event over and does what the engine wants, until it wants nothing.
    async fn follow(&mut self, event: Event) {
        let mut effects = VecDeque::from(self.engine.handle(event, self.now));
        while let Some(effect) = effects.pop_front() {
            let Effect::Host(id, request) = effect else { continue };
            let event = self.host.answer(id, request).await;
            effects.extend(self.engine.handle(event, self.now));
        }
    }

    /// The host has changed, and some time has passed.
    async fn notice(&mut self) {
        self.follow(Event::Noticed(Notice::Overrun)).await;
        self.now += Duration::from_secs(2);
        self.follow(Event::Tick).await;
        self.now += Duration::from_secs(2);
        self.follow(Event::Tick).await;
    }

    /// The commands that are left to an administrator.
    fn open(&self) -> Vec<String> {
        self.engine.snapshot().requirements.iter().map(|one| one.command.clone()).collect()
    }

    async fn end(mut self) {
        for request in self.engine.take_down() {
            assert!(self.host.execute(request).await.is_ok());
        }
    }
}

const HEAD: &str = r#"
[node]
name = "a"
address = "192.0.2.1/24"
[tunnel]
mtu = 1330
"#;
const POOL: &str = r#"
[local]
subnets = ["10.244.1.0/24"]
[[pool]]
cidr = "10.244.0.0/16"
vxlan_mode = "Always"
[[peer]]
name = "b"
address = "192.0.2.2"
subnets = ["10.244.2.0/24"]
"#;
const MORE: &str = r#"
[[peer]]
name = "c"
address = "192.0.2.3"
subnets = ["172.16.2.0/24", "fd00:10::/48"]
"#;

/// What [`POOL`] and [`MORE`] make of the host.
fn assert_configured() {
    let link = &ip_json("link show dev up0")[0];
    assert_eq!((&link["mtu"], &link["txqlen"]), (&1330.into(), &10_000.into()));
    assert!(link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
    assert_eq!(addresses(), [("10.244.1.0".to_owned(), 32)], "and no link-local address");
    let v4 = ip_json(&format!("route show proto {ROUTE_PROTOCOL}"));
    let first = ["dst", "dev", "scope", "prefsrc"].map(|key| v4[0][key].clone());
    assert_eq!(first, ["10.244.0.0/16", "up0", "link", "10.244.1.0"]);
    assert_eq!(ip_json("-d route show 10.244.0.0/16")[0]["protocol"], ROUTE_PROTOCOL.to_string());
    assert_eq!((v4.len(), &v4[1]["dst"]), (2, &"172.16.2.0/24".into()));
    let v6 = ip_json(&format!("-6 route show proto {ROUTE_PROTOCOL}"));
    assert_eq!((v6.len(), &v6[0]["dst"]), (1, &"fd00:10::/48".into()));
}

/// The addresses of up0.
fn addresses() -> Vec<(String, u64)> {
    let link = ip_json("address show dev up0");
    let all = link[0]["addr_info"].as_array().unwrap();
    let address =
        |one: &Value| (one["local"].as_str().unwrap().to_owned(), one["prefixlen"].as_u64().unwrap());
    all.iter().map(address).collect()
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn configures_heals_and_forgets_a_transient_tun() {
    in_namespace("configures_heals_and_forgets_a_transient_tun", async || {
        underlay();
        let tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let mut node = Node::start(&(POOL.to_owned() + MORE)).await.unwrap();
        assert_configured();
        assert_eq!(ip_json("link show dev up0")[0]["qdisc"], "noqueue");
        assert_eq!(node.open(), [""; 0]);
        for change in [
            "route flush proto 117",
            "-6 route flush proto 117",
            "address flush dev up0",
            "link set up0 mtu 1300",
            "link set up0 txqueuelen 10",
            "route del 172.16.2.0/24",
            "route add 10.99.0.0/16 dev up0 proto 117",
        ] {
            ip(change);
            node.notice().await;
            assert_configured();
            assert_eq!(node.open(), [""; 0], "{change}");
        }
        // Who sets the TUN down means it: it is shown, and once it is up again everything is mended.
        ip("link set up0 down");
        node.notice().await;
        assert_eq!(node.open()[0], "ip link set dev up0 up");
        let down = ip_json("link show dev up0");
        assert!(!down[0]["flags"].as_array().unwrap().contains(&"UP".into()), "{down:?}");
        ip("link set up0 up");
        node.notice().await;
        assert_configured();
        assert_eq!(node.open(), [""; 0]);
        sysctl("ipv4/conf/up0/accept_local", "0");
        node.notice().await;
        let value = std::fs::read_to_string("/proc/sys/net/ipv4/conf/up0/accept_local").unwrap();
        assert_eq!(value.trim(), "1");
        node.end().await;
        assert_eq!(ip_json("route show dev up0"), [] as [Value; 0]);
        assert_eq!(addresses(), []);
        drop(tun);
        assert_eq!(Host::connect().unwrap().link_by_name("up0").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn masquerades_in_whatever_form_pools_are() {
    in_namespace("masquerades_in_whatever_form_pools_are", async || {
        underlay();
        let _tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let others = "table ip others { chain c { type nat hook postrouting priority srcnat ; } ; }";
        nft(others).unwrap();
        let pool = |cidr: &str, nat_outgoing| {
            format!("[[pool]]\ncidr = \"{cidr}\"\nvxlan_mode = \"Always\"\nnat_outgoing = {nat_outgoing}\n")
        };
        // Neighbours that are no prefix together, a single address, an exception, the upper end of the addresses.
        for pools in [
            &["10.9.1.0/24", "10.9.2.0/23", "10.245.3.7/32"][..],
            &["10.244.0.0/15", "!10.244.64.0/18", "10.244.64.8/29"],
            &["fd00:10::/48", "fd00:10:1::/48", "fd00:9::1/128"],
            &["10.0.0.0/8", "fd00::/8", "!fd00:1::/64", "192.0.0.0/8"],
            &["198.18.0.0/31", "0.0.0.0/1"],
        ] {
            let words = |cidr: &str| match cidr.strip_prefix('!') {
                Some(cidr) => pool(cidr, false),
                None => pool(cidr, true),
            };
            let config = POOL.replace("[[pool]]\ncidr = \"10.244.0.0/16\"\nvxlan_mode = \"Always\"\n", "");
            let config = config + &pools.iter().copied().map(words).collect::<String>();
            let mut node = Node::start(&config).await.unwrap();
            let table = || nft("-a list table inet underpass-up0");
            let written = table().unwrap();
            assert!(written.contains("masquerade"), "{written}");
            // What nft lists is understood: it is not written again, though the rule set is another one.
            nft("add chain ip others more").unwrap();
            node.notice().await;
            assert_eq!((table().unwrap(), node.open()), (written.clone(), vec![]), "{pools:?}");
            for change in ["delete table", "flush table"] {
                nft(&format!("{change} inet underpass-up0")).unwrap();
                node.notice().await;
                let plain = |listing: &str| -> Vec<String> {
                    listing.lines().map(|line| line.split(" # handle").next().unwrap().to_owned()).collect()
                };
                assert_eq!(plain(&table().unwrap()), plain(&written), "{change} {pools:?}");
                assert_eq!(node.open(), [""; 0]);
            }
            node.end().await;
            assert!(table().is_err());
            nft("delete chain ip others more").unwrap();
        }
        assert_eq!(nft("list tables").unwrap(), "table ip others\n");
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn taking_down_tolerates_a_vanished_device() {
    in_namespace("taking_down_tolerates_a_vanished_device", async || {
        underlay();
        let tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let node = Node::start(POOL).await.unwrap();
        drop(tun);
        node.end().await;
        assert_eq!(ip_json("route show dev eth0").len(), 1);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_prepared_persistent_tun_keeps_what_it_had() {
    in_namespace("a_prepared_persistent_tun_keeps_what_it_had", async || {
        underlay();
        ip("tuntap add dev up0 mode tun user 1234");
        ip("address add 10.244.1.0/32 dev up0");
        ip("link set up0 up");
        ip("route add 172.16.2.0/24 dev up0 proto static");
        ip(&format!("route add 10.99.0.0/16 dev up0 proto {ROUTE_PROTOCOL}"));
        ip(&format!("route add 10.244.0.0/16 dev up0 scope link proto {ROUTE_PROTOCOL}"));

        let node = Node::start(&(POOL.to_owned() + MORE)).await.unwrap();
        assert_eq!(ip_json("route show 10.99.0.0/16"), [] as [Value; 0], "of a former run");
        assert_eq!(ip_json("route show 10.244.0.0/16")[0]["prefsrc"], "10.244.1.0", "taken over");
        assert_eq!(ip_json("route show 172.16.2.0/24")[0]["protocol"], "static", "left alone");
        assert_eq!(node.open(), [""; 0]);

        node.end().await;
        let left = ip_json("route show dev up0");
        assert_eq!((left.len(), &left[0]["dst"]), (1, &"172.16.2.0/24".into()));
        assert_eq!(addresses(), [("10.244.1.0".to_owned(), 32)]);
        let link = Host::connect().unwrap().link_by_name("up0").await.unwrap().unwrap();
        let details = link.tun.unwrap();
        assert_eq!((link.up, details.owner, details.persistent), (true, Some(1234), true));
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_bare_persistent_tun_is_left_bare() {
    in_namespace("a_bare_persistent_tun_is_left_bare", async || {
        underlay();
        ip("tuntap add dev up0 mode tun");
        let node = Node::start(POOL).await.unwrap();
        let link = node.host.link_by_name("up0").await.unwrap().unwrap();
        assert_eq!((link.up, link.mtu), (true, 1330));
        node.end().await;
        assert!(!Host::connect().unwrap().link_by_name("up0").await.unwrap().unwrap().up);
        assert_eq!(addresses(), []);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_foreign_route_is_refused_and_untouched() {
    in_namespace("a_foreign_route_is_refused_and_untouched", async || {
        underlay();
        ip("route add 10.244.0.0/16 via 192.0.2.2 proto bird");
        ip("-6 route add fd00:10::/48 dev eth0 proto static");
        let _tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let before = (ip_json("route show 10.244.0.0/16"), ip_json("-6 route show fd00:10::/48"));
        let text = Node::start(&(POOL.to_owned() + MORE)).await.err().unwrap();
        assert!(
            text.starts_with(
                "cannot add the route 10.244.0.0/16 dev up0: the kernel already has it dev eth0 proto bird metric 0"
            ),
            "{text}"
        );
        assert!(text.contains("dev eth0 proto static metric 1024"), "all of them: {text}");
        ip("route del 10.244.0.0/16 proto bird");
        let text = Node::start(&(POOL.to_owned() + MORE)).await.err().unwrap();
        assert!(text.contains("fd00:10::/48 dev up0"), "{text}");

        // What comes later is shown, and never touched.
        let mut node = Node::start(POOL).await.unwrap();
        ip("route add 10.244.2.0/24 via 192.0.2.2 proto bird");
        node.notice().await;
        assert_eq!(node.open(), ["ip route del 10.244.2.0/24 dev eth0 metric 0"]);
        ip("route replace 10.244.0.0/16 via 192.0.2.2 proto bird");
        node.notice().await;
        assert_eq!(node.open()[0], "ip route del 10.244.0.0/16 dev eth0 metric 0");
        ip("route del 10.244.2.0/24");
        ip("route del 10.244.0.0/16");
        node.notice().await;
        assert_eq!(node.open(), [""; 0]);
        assert_eq!(ip_json("route show 10.244.0.0/16")[0]["dev"], "up0", "back again");
        ip("route add 10.244.3.0/24 via 192.0.2.2 proto bird");
        node.end().await;
        assert_eq!(ip_json("route show 10.244.3.0/24").len(), 1);
        assert_eq!(ip_json("-6 route show fd00:10::/48"), before.1);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn the_uplink_owns_the_node_address() {
    in_namespace("the_uplink_owns_the_node_address", async || {
        underlay();
        ip("address add 2001:db8::1/64 dev eth0 nodad");
        let host = Host::connect().unwrap();
        let uplink = host.uplink_of(address("192.0.2.1")).await.unwrap();
        let index = host.link_by_name("eth0").await.unwrap().unwrap().index;
        assert_eq!(
            (uplink.name.as_str(), uplink.index, uplink.mtu, uplink.prefix_len),
            ("eth0", index, 1400, 24)
        );
        assert_eq!(host.uplink_of(address("2001:db8::1")).await.unwrap().prefix_len, 64);
        let error = host.uplink_of(address("192.0.2.9")).await.unwrap_err();
        let candidates = vec!["eth0 192.0.2.1/24".to_owned()];
        assert_eq!(error, HostError::NoUplink { address: address("192.0.2.9"), candidates });
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_kernel_vxlan_device_is_named_as_owner_of_the_port() {
    in_namespace("a_kernel_vxlan_device_is_named_as_owner_of_the_port", async || {
        underlay();
        ip("link add idle type vxlan id 7 dstport 4789");
        ip("link add vxlan.calico type vxlan id 4096 local 192.0.2.1 dstport 4789 nolearning");
        ip("link set vxlan.calico up");
        let host = Host::connect().unwrap();
        let bind = std::net::UdpSocket::bind("192.0.2.1:4789").unwrap_err();
        let error = udp_bind_error(&host, 4789, &bind).await.unwrap();
        assert_eq!(error, PreflightError::PortInUse { port: 4789, owner: Some("vxlan.calico".to_owned()) });

        let _other = std::net::UdpSocket::bind("192.0.2.1:8472").unwrap();
        let bind = std::net::UdpSocket::bind("192.0.2.1:8472").unwrap_err();
        let error = udp_bind_error(&host, 8472, &bind).await.unwrap();
        assert_eq!(error, PreflightError::PortInUse { port: 8472, owner: None });
        let other = std::net::UdpSocket::bind("203.0.113.1:8472").unwrap_err();
        assert_eq!(udp_bind_error(&host, 8472, &other).await, None, "not about a port in use");
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn preflight_sees_the_namespace() {
    in_namespace("preflight_sees_the_namespace", async || {
        underlay();
        sysctl("ipv4/conf/all/rp_filter", "0");
        sysctl("ipv4/conf/eth0/rp_filter", "0");
        sysctl("ipv4/ip_forward", "1");
        let host = Host::connect().unwrap();
        let needs = Needs {
            device: "up0".into(),
            uplink: "eth0".into(),
            ipip: true,
            direct: true,
            direct_by_pump: true,
            ..Needs::default()
        };
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap(), |_| false);
        assert_eq!((verdict.errors, verdict.warnings), (vec![], vec![]));

        sysctl("ipv4/conf/all/rp_filter", "1");
        sysctl("ipv4/ip_forward", "0");
        ip("link add tunl0 type veth peer name tunl1");
        ip("link set tunl0 up");
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap(), |_| false);
        assert_eq!(
            verdict.errors,
            [PreflightError::KernelIpip, PreflightError::StrictReversePath { uplink: "eth0".to_owned() }]
        );
        assert_eq!(verdict.warnings, [Warning::ForwardingOff]);

        sysctl("ipv4/conf/eth0/rp_filter", "2");
        ip("link set tunl0 down");
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap(), |_| false);
        assert_eq!(verdict.errors, [], "loose on the uplink wins over strict on all");
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn without_capabilities_a_prepared_tun_is_enough() {
    let name = "without_capabilities_a_prepared_tun_is_enough";
    in_namespace(name, async || {
        if std::env::var_os(DEPRIVED).is_some() {
            return deprived().await;
        }
        underlay();
        ip("tuntap add dev up0 mode tun user 0");
        ip("link set up0 mtu 1330 txqueuelen 10000 up");
        ip("address add 10.244.1.0/32 dev up0");
        ip("route add 10.244.0.0/16 dev up0 src 10.244.1.0");
        ip("route add 172.16.9.0/24 dev eth0");
        sysctl("ipv4/conf/up0/accept_local", "1");
        ip("tuntap add dev alien mode tun user 1234");
        run_again("setpriv --bounding-set=-net_admin,-net_raw", name, DEPRIVED);
        assert_eq!(ip_json("route show 10.244.0.0/16").len(), 1);
    });
}

/// The part of the test above that runs as root without CAP_NET_ADMIN and CAP_NET_RAW.
async fn deprived() {
    let all = POOL.replace("subnets = [\"10.244.2.0/24\"]", "subnets = []");
    let mut node = Node::start(&all).await.unwrap();
    assert_eq!(node.open(), [""; 0], "all is there");
    node.end().await;
    node = Node::start(&(POOL.to_owned() + MORE)).await.unwrap();
    let expected = ["ip route add 172.16.2.0/24 dev up0", "ip route add fd00:10::/48 dev up0"];
    assert_eq!(node.open(), expected);
    let host = node.host.clone();
    let conflict = MORE.replace("172.16.2", "172.16.9");
    let refused = Node::start(&(POOL.to_owned() + &conflict)).await.err().unwrap();
    assert!(refused.contains("cannot add the route 172.16.9.0/24"), "{refused}");

    let needs = |device: &str| Needs { device: device.into(), uplink: "eth0".into(), ..Needs::default() };
    let mut errors = Vec::new();
    for device in ["up0", "up1", "alien"] {
        let needs = needs(device);
        errors.extend(judge(&needs, &gather(&host, &needs).await.unwrap(), |_| false).errors);
    }
    let raw = Needs { ipip: true, ..needs("up0") };
    errors.extend(judge(&raw, &gather(&host, &raw).await.unwrap(), |_| false).errors);
    let alien =
        PreflightError::NotOurTun { device: "alien".to_owned(), owner: Some(1234), group: None, uid: 0 };
    let expected = [
        PreflightError::NoNetAdmin { device: "up1".to_owned(), uid: 0 },
        alien,
        PreflightError::NoNetRaw { modes: "ipip" },
    ];
    assert_eq!(errors, expected);
}
