//! The host kernel's side against a real kernel: each test runs as root in a network namespace of
//! its own, made by running this very binary again under `unshare --net`.

use std::net::IpAddr;
use std::process::Command;

use serde_json::Value;
use tun_tap::{Iface, Mode};
use underpass::control::host::{
    Host, HostError, Needs, Plan, PreflightError, ROUTE_PROTOCOL, TunRoute, Warning, gather, judge,
    udp_bind_error,
};

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

fn ip_json(arguments: &str) -> Vec<Value> {
    let output = Command::new("ip").arg("-j").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip -j {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    if output.stdout.is_empty() { Vec::new() } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn sysctl(path: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
}

fn route(prefix: &str, source: Option<&str>) -> TunRoute {
    TunRoute { prefix: prefix.parse().unwrap(), source: source.map(address), mtu: None }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own_protocol() -> String {
    ROUTE_PROTOCOL.to_string()
}

/// eth0 192.0.2.1/24, up, as the underlay.
fn underlay() {
    ip("link add eth0 mtu 1400 type veth peer name far0");
    ip("address add 192.0.2.1/24 dev eth0");
    ip("link set eth0 up");
    ip("link set far0 up");
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn configures_and_forgets_a_transient_tun() {
    in_namespace("configures_and_forgets_a_transient_tun", async || {
        let tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let mut host = Host::connect().unwrap();
        let index = host.configure_tun("up0", 1430, address("10.244.1.0"), 32, Some(10_000)).await.unwrap();
        host.add_tun_address(address("fd00:10:0:1::"), 128).await.unwrap();
        let mut limited = route("172.16.2.0/24", None);
        limited.mtu = Some(1380);
        let routes = [
            route("10.244.0.0/16", Some("10.244.1.0")),
            limited,
            route("fd00:10::/48", Some("fd00:10:0:1::")),
        ];
        host.add_routes(index, &routes).await.unwrap();

        let link = host.link_by_name("up0").await.unwrap().unwrap();
        assert_eq!((link.index, link.mtu, link.txqueuelen, link.up), (index, 1430, 10_000, true));
        assert_eq!(link.kind.as_deref(), Some("tun"));
        assert_eq!(ip_json("link show dev up0")[0]["qdisc"], "noqueue");
        assert!(!link.tun.unwrap().persistent);

        let addresses = ip_json("address show dev up0");
        let seen: Vec<_> = addresses[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| (a["local"].as_str().unwrap(), a["prefixlen"].as_u64().unwrap()))
            .collect();
        assert_eq!(seen, [("10.244.1.0", 32), ("fd00:10:0:1::", 128)], "and no link-local address");

        let v4 = ip_json(&format!("route show proto {ROUTE_PROTOCOL}"));
        assert_eq!(v4.len(), 2);
        assert_eq!((&v4[0]["dst"], &v4[0]["dev"]), (&"10.244.0.0/16".into(), &"up0".into()));
        assert_eq!((&v4[0]["scope"], &v4[0]["prefsrc"]), (&"link".into(), &"10.244.1.0".into()));
        assert_eq!(v4[1]["dst"], "172.16.2.0/24");
        assert!(v4[1]["metrics"].to_string().contains("1380"), "{}", v4[1]);
        let v6 = ip_json(&format!("-6 route show proto {ROUTE_PROTOCOL}"));
        assert_eq!((&v6[0]["dst"], &v6[0]["prefsrc"]), (&"fd00:10::/48".into(), &"fd00:10:0:1::".into()));
        let all = ip_json("-d route show 10.244.0.0/16");
        assert_eq!(all[0]["protocol"], own_protocol());

        host.teardown().await.unwrap();
        assert_eq!(ip_json("route show dev up0"), [] as [Value; 0]);
        assert_eq!(ip_json("address show dev up0")[0]["addr_info"].as_array().unwrap().len(), 0);
        host.teardown().await.unwrap();
        drop(tun);
        assert_eq!(host.link_by_name("up0").await.unwrap(), None);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn teardown_tolerates_a_vanished_device() {
    in_namespace("teardown_tolerates_a_vanished_device", async || {
        let tun = Iface::without_packet_info("up0", Mode::Tun).unwrap();
        let mut host = Host::connect().unwrap();
        let index = host.configure_tun("up0", 1430, address("10.244.1.0"), 32, None).await.unwrap();
        host.add_routes(index, &[route("10.244.0.0/16", None)]).await.unwrap();
        drop(tun);
        host.teardown().await.unwrap();
        assert_eq!(ip_json("route show"), [] as [Value; 0]);
        assert_eq!(host.remove_stale_routes(index).await, Ok(0));
        let error = host.configure_tun("up0", 1430, address("10.244.1.0"), 32, None).await.unwrap_err();
        assert_eq!(error, HostError::NoDevice("up0".to_owned()));
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_prepared_persistent_tun_keeps_what_it_had() {
    in_namespace("a_prepared_persistent_tun_keeps_what_it_had", async || {
        ip("tuntap add dev up0 mode tun user 1234");
        ip("address add 10.244.1.0/32 dev up0");
        ip("link set up0 up");
        ip("route add 172.16.9.0/24 dev up0 proto static");
        ip(&format!("route add 10.99.0.0/16 dev up0 proto {ROUTE_PROTOCOL}"));
        ip(&format!("route add 10.244.0.0/16 dev up0 scope link proto {ROUTE_PROTOCOL}"));

        let mut host = Host::connect().unwrap();
        let index = host.configure_tun("up0", 1430, address("10.244.1.0"), 32, None).await.unwrap();
        let details = host.link_by_name("up0").await.unwrap().unwrap().tun.unwrap();
        assert_eq!((details.owner, details.persistent), (Some(1234), true));
        assert_eq!(host.remove_stale_routes(index).await, Ok(2));

        ip(&format!("route add 10.244.0.0/16 dev up0 scope link proto {ROUTE_PROTOCOL}"));
        let routes = [route("10.244.0.0/16", Some("10.244.1.0")), route("172.16.9.0/24", None)];
        host.add_routes(index, &routes).await.unwrap();
        assert_eq!(ip_json("route show 10.244.0.0/16")[0]["prefsrc"], "10.244.1.0", "taken over");
        assert_eq!(ip_json("route show 172.16.9.0/24")[0]["protocol"], "static", "left alone");

        host.teardown().await.unwrap();
        let left = ip_json("route show dev up0");
        assert_eq!((left.len(), &left[0]["dst"]), (1, &"172.16.9.0/24".into()));
        let link = ip_json("address show dev up0");
        assert_eq!(link[0]["addr_info"][0]["local"], "10.244.1.0");
        assert!(host.link_by_name("up0").await.unwrap().unwrap().up);
    });
}

#[test]
#[ignore = "needs root: run by scripts/test"]
fn a_bare_persistent_tun_is_left_bare() {
    in_namespace("a_bare_persistent_tun_is_left_bare", async || {
        ip("tuntap add dev up0 mode tun");
        let mut host = Host::connect().unwrap();
        host.configure_tun("up0", 1430, address("10.244.1.0"), 32, None).await.unwrap();
        assert_eq!(
            host.configure_tun("up0", 1400, address("10.244.1.0"), 32, None).await,
            Ok(host.link_by_name("up0").await.unwrap().unwrap().index),
            "a second call changes the MTU only"
        );
        let link = host.link_by_name("up0").await.unwrap().unwrap();
        assert_eq!((link.up, link.mtu), (true, 1400));
        host.teardown().await.unwrap();
        assert!(!host.link_by_name("up0").await.unwrap().unwrap().up);
        assert_eq!(ip_json("address show dev up0")[0]["addr_info"].as_array().unwrap().len(), 0);
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
        let mut host = Host::connect().unwrap();
        let index = host.configure_tun("up0", 1350, address("10.244.1.0"), 32, None).await.unwrap();
        let before = (ip_json("route show 10.244.0.0/16"), ip_json("-6 route show fd00:10::/48"));

        let error = host.add_routes(index, &[route("10.244.0.0/16", None)]).await.unwrap_err();
        assert!(matches!(&error, HostError::RouteConflict { prefix, device, existing }
            if prefix.to_string() == "10.244.0.0/16" && device == "up0" && existing == "dev eth0 proto bird metric 0"));
        let text = error.to_string();
        assert!(
            text.starts_with(
                "cannot add the route 10.244.0.0/16 dev up0: the kernel already has it dev eth0 proto bird"
            ),
            "{text}"
        );
        let error = host.add_routes(index, &[route("fd00:10::/48", None)]).await.unwrap_err();
        assert!(
            matches!(&error, HostError::RouteConflict { existing, .. } if existing == "dev eth0 proto static metric 1024"),
            "{error}"
        );

        host.add_routes(index, &[route("172.16.2.0/24", None)]).await.unwrap();
        host.teardown().await.unwrap();
        assert_eq!((ip_json("route show 10.244.0.0/16"), ip_json("-6 route show fd00:10::/48")), before);
        assert_eq!(ip_json("route show 172.16.2.0/24"), [] as [Value; 0]);
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
            ..Needs::default()
        };
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap());
        assert_eq!((verdict.errors, verdict.warnings), (vec![], vec![]));

        sysctl("ipv4/conf/all/rp_filter", "1");
        sysctl("ipv4/ip_forward", "0");
        ip("link add tunl0 type veth peer name tunl1");
        ip("link set tunl0 up");
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap());
        assert_eq!(
            verdict.errors,
            [PreflightError::KernelIpip, PreflightError::StrictReversePath { uplink: "eth0".to_owned() }]
        );
        assert_eq!(verdict.warnings, [Warning::ForwardingOff]);

        sysctl("ipv4/conf/eth0/rp_filter", "2");
        ip("link set tunl0 down");
        let verdict = judge(&needs, &gather(&host, &needs).await.unwrap());
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
        ip("link set up0 mtu 1350 up");
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
    let mut host = Host::connect().unwrap();
    let index = host.configure_tun("up0", 1350, address("10.244.1.0"), 32, Some(10_000)).await.unwrap();
    host.add_routes(index, &[route("10.244.0.0/16", Some("10.244.1.0"))]).await.unwrap();
    assert!(host.was_denied());
    let mut plan = Plan {
        device: "up0".to_owned(),
        mtu: 1350,
        tx_queue_len: 500,
        addresses: vec![address("10.244.1.0")],
        routes: ["10.244.0.0/16".parse().unwrap()].into(),
    };
    let look = host.look(&plan).await.unwrap();
    assert_eq!((look.mtu, look.chores), (1350, vec![]), "all is there");
    host.add_routes(index, &[route("172.16.2.0/24", None)]).await.unwrap();
    host.configure_tun("up0", 1300, address("10.244.1.1"), 32, None).await.unwrap();
    plan.mtu = 1300;
    plan.addresses.push(address("10.244.1.1"));
    plan.routes.insert("172.16.2.0/24".parse().unwrap());
    let commands: Vec<_> =
        host.look(&plan).await.unwrap().chores.into_iter().map(|chore| chore.command).collect();
    let expected = [
        "ip link set dev up0 mtu 1300",
        "ip address add 10.244.1.1/32 dev up0",
        "ip route add 172.16.2.0/24 dev up0",
    ];
    assert_eq!(commands, expected);
    let refused = host.add_routes(index, &[route("172.16.9.0/24", None)]).await.unwrap_err();
    assert!(matches!(refused, HostError::RouteConflict { .. }), "{refused}");
    host.teardown().await.unwrap();

    let needs = |device: &str| Needs { device: device.into(), uplink: "eth0".into(), ..Needs::default() };
    let mut errors = Vec::new();
    for device in ["up0", "up1", "alien"] {
        let needs = needs(device);
        errors.extend(judge(&needs, &gather(&host, &needs).await.unwrap()).errors);
    }
    let raw = Needs { ipip: true, ..needs("up0") };
    errors.extend(judge(&raw, &gather(&host, &raw).await.unwrap()).errors);
    let alien =
        PreflightError::NotOurTun { device: "alien".to_owned(), owner: Some(1234), group: None, uid: 0 };
    let expected = [
        PreflightError::NoNetAdmin { device: "up1".to_owned(), uid: 0 },
        alien,
        PreflightError::NoNetRaw { modes: "ipip" },
    ];
    assert_eq!(errors, expected);
}
