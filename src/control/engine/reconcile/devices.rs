//! The TUN and the TAP as they should be, compared with what they are.

use std::net::IpAddr;

use crate::control::engine::port::{
    DeviceView, HostRequest, HostView, LinkChange, Requirement, Sysctl, TAP_QUIET, TAP_SYSCTLS, TX_QUEUE_LEN,
};
use crate::net::Prefix;

/// How the devices should be.
#[derive(Clone, Copy, Debug)]
pub(in crate::control::engine) struct Desired<'a> {
    /// Bytes of its MTU.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: &'a [IpAddr],
    /// Index of the TAP, where there is one.
    pub tap: Option<u32>,
    /// Whether the TUN was up before: who sets it down then means it, and it stays down.
    pub tun_was_up: bool,
}

/// A device of ours.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::control::engine) enum Role {
    Tun,
    Tap,
}

/// What a difference is about. The order is the one in which an administrator can mend them: without
/// the up flag there can be no routes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::control::engine) enum Key {
    Up(Role),
    Mtu,
    QueueLength,
    Address(IpAddr),
    Sysctl(Role, Sysctl),
    Nat,
    Group,
    PodTable,
    PodRoute { ipv4: bool, refuses: bool },
    PodRule { leads: bool, ipv4: bool, priority: u32, prefix: Option<Prefix> },
    OldPodRule { guards: bool, ipv4: bool, priority: u32, prefix: Option<Prefix> },
}

/// Something that is not as it should be.
#[derive(Clone, Debug)]
pub(in crate::control::engine) struct Difference {
    /// What it is about.
    pub key: Key,
    /// What mends it, in this order; nothing where it is an administrator's whatever the daemon may do.
    pub requests: Vec<HostRequest>,
    /// What an administrator is told where the daemon may not mend it; `None` for what only adds noise.
    pub requirement: Option<Requirement>,
}

impl Difference {
    /// The same, but not for the daemon to mend.
    fn left(self) -> Self {
        Self { requests: Vec::new(), ..self }
    }
}

/// All differences, in the order in which the daemon mends them: what must hold before packets flow
/// comes before the up flag.
pub(in crate::control::engine) fn differences(desired: Desired<'_>, view: &HostView) -> Vec<Difference> {
    let mut found = Vec::new();
    if let Some(tun) = &view.tun {
        found.extend(of_tun_sysctls(desired, tun, view.settings.ip_forward));
        found.extend(of_tun_link(desired, tun));
        found.extend(of_addresses(desired, tun));
        found.extend(of_up(Role::Tun, tun).map(|down| if desired.tun_was_up { down.left() } else { down }));
    }
    if let Some(tap) = view.tap.as_ref().filter(|tap| desired.tap == Some(tap.link.index)) {
        found.extend(of_tap_sysctls(tap));
        found.extend(of_up(Role::Tap, tap));
    }
    found
}

/// The ICMP errors that we write to the TUN have its own address as their source, hence accept_local.
/// Router solicitations and link-local addresses are only noise, which nobody needs to be told of.
fn of_tun_sysctls(desired: Desired<'_>, tun: &DeviceView, host_forwards: bool) -> Vec<Difference> {
    let name = &tun.link.name;
    let has_ipv4 = desired.addresses.iter().any(IpAddr::is_ipv4);
    let has_ipv6 = desired.addresses.iter().any(IpAddr::is_ipv6);
    let local =
        format!("{name} does not accept local addresses: pods get ICMP errors in the name of their targets");
    let disabled = format!("IPv6 is disabled on {name}: IPv6 packets of pods do not reach the tunnel");
    let forwarding =
        format!("{name} does not forward: packets of other nodes do not reach the pods of this one");
    let wanted = [
        (Sysctl::AddressGeneration, 1, true, None),
        (Sysctl::RouterAdvertisements, 0, true, None),
        // Behind these two, so that IPv6 begins without a link-local address; before addresses and routes.
        (Sysctl::DisableIpv6, 0, has_ipv6, Some(disabled)),
        (Sysctl::AcceptLocal, 1, has_ipv4, Some(local)),
        // Where the host does not forward at all, that is for the administrator to decide.
        (Sysctl::Forwarding, 1, has_ipv4 && host_forwards, Some(forwarding)),
    ];
    // A strict check would drop what another node or an external one sends in its own name.
    let strict = tun.sysctls.get(&Sysctl::ReversePath) == Some(&1);
    let loose =
        format!("strict reverse path filtering on {name} drops packets whose sources are not routed to it");
    let wanted = wanted.into_iter().chain([(Sysctl::ReversePath, 2, has_ipv4 && strict, Some(loose))]);
    let wanted = wanted.filter(|(_, _, needed, _)| *needed);
    wanted.filter_map(|(sysctl, value, _, what)| of_sysctl(Role::Tun, tun, sysctl, value, what)).collect()
}

fn of_tap_sysctls(tap: &DeviceView) -> Vec<Difference> {
    let name = &tap.link.name;
    let what = |sysctl: Sysctl| {
        let key = sysctl.key(name);
        let sysctl = key.rsplit('/').next().unwrap_or_default();
        format!("{sysctl} of {name} was changed: super-packets do not leave through it")
    };
    let needed = TAP_SYSCTLS.into_iter().map(|(sysctl, value)| (sysctl, value, Some(what(sysctl))));
    let wanted = [(TAP_QUIET.0, TAP_QUIET.1, None)].into_iter().chain(needed);
    wanted.filter_map(|(sysctl, value, what)| of_sysctl(Role::Tap, tap, sysctl, value, what)).collect()
}

/// A sysctl that cannot be read, as without IPv6 in the kernel, is no difference.
fn of_sysctl(
    role: Role,
    device: &DeviceView,
    sysctl: Sysctl,
    value: u8,
    what: Option<String>,
) -> Option<Difference> {
    let name = device.link.name.clone();
    let is = device.sysctls.get(&sysctl).filter(|is| **is != value);
    is.map(|_| Difference {
        key: Key::Sysctl(role, sysctl),
        requirement: what.map(|what| Requirement {
            what,
            command: format!("sysctl -w net/{}={value}", sysctl.key(&name)),
        }),
        requests: vec![HostRequest::Sysctl { name, sysctl, value }],
    })
}

fn of_tun_link(desired: Desired<'_>, tun: &DeviceView) -> Vec<Difference> {
    let link = &tun.link;
    let name = &link.name;
    let mut found = Vec::new();
    if link.mtu != u32::from(desired.mtu) {
        let mtu = desired.mtu;
        let effect = if link.mtu > u32::from(mtu) {
            "larger packets are answered by ICMP"
        } else {
            "packets could be larger"
        };
        found.push(Difference {
            key: Key::Mtu,
            requests: vec![change(tun, LinkChange::Mtu(mtu))],
            requirement: Some(set(
                name,
                format!("the MTU of {name} is {}, not {mtu}: {effect}", link.mtu),
                format!("mtu {mtu}"),
            )),
        });
    }
    if link.txqueuelen < TX_QUEUE_LEN {
        found.push(Difference {
            key: Key::QueueLength,
            requests: vec![change(tun, LinkChange::QueueLength(TX_QUEUE_LEN))],
            requirement: Some(set(
                name,
                format!("a queue of {name} holds {} packets: bursts may be lost", link.txqueuelen),
                format!("txqueuelen {TX_QUEUE_LEN}"),
            )),
        });
    }
    found
}

fn of_addresses(desired: Desired<'_>, tun: &DeviceView) -> Vec<Difference> {
    let name = &tun.link.name;
    let missing = desired.addresses.iter().filter(|address| !tun.addresses.contains(address));
    let difference = |address: &IpAddr| {
        let (len, flags) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
        Difference {
            key: Key::Address(*address),
            requests: vec![HostRequest::AddAddress { index: tun.link.index, address: *address }],
            requirement: Some(Requirement {
                what: format!(
                    "{name} lacks the address {address}: this node itself does not reach pods elsewhere"
                ),
                command: format!("ip address add {address}/{len} dev {name}{flags}"),
            }),
        }
    };
    missing.map(difference).collect()
}

fn of_up(role: Role, device: &DeviceView) -> Option<Difference> {
    let name = &device.link.name;
    let (effect, before) = match role {
        Role::Tun => ("nothing passes", Some(change(device, LinkChange::NoQueue))),
        Role::Tap => ("super-packets do not leave through it", None),
    };
    (!device.link.up).then(|| Difference {
        key: Key::Up(role),
        requests: before.into_iter().chain([change(device, LinkChange::Up)]).collect(),
        requirement: Some(set(name, format!("{name} is down, {effect}"), "up".to_owned())),
    })
}

fn change(device: &DeviceView, change: LinkChange) -> HostRequest {
    HostRequest::Link { index: device.link.index, name: device.link.name.clone(), change }
}

fn set(name: &str, what: String, how: String) -> Requirement {
    Requirement { what, command: format!("ip link set dev {name} {how}") }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Desired, Key, Role, differences};
    use crate::control::engine::port::{DeviceView, HostView, Link, Settings, Sysctl};

    fn addresses() -> Vec<IpAddr> {
        vec!["10.244.1.0".parse().unwrap(), "fd00::".parse().unwrap()]
    }

    fn desired(addresses: &[IpAddr]) -> Desired<'_> {
        Desired { mtu: 1450, addresses, tap: Some(8), tun_was_up: false }
    }

    fn good() -> HostView {
        let link = |name: &str, index| Link { name: name.to_owned(), index, up: true, ..Link::default() };
        let tun = DeviceView {
            link: Link { mtu: 1450, txqueuelen: 10_000, ..link("up0", 7) },
            addresses: addresses(),
            sysctls: [
                (Sysctl::AcceptLocal, 1),
                (Sysctl::Forwarding, 1),
                (Sysctl::AddressGeneration, 1),
                (Sysctl::RouterAdvertisements, 0),
            ]
            .into(),
        };
        let tap = DeviceView {
            link: link("up0-x", 8),
            sysctls: [(Sysctl::Forwarding, 1), (Sysctl::AcceptLocal, 1), (Sysctl::ReversePath, 0)].into(),
            ..DeviceView::default()
        };
        HostView { tun: Some(tun), tap: Some(tap), ..HostView::default() }
    }

    /// The commands for an administrator, in their order.
    fn commands(view: &HostView) -> Vec<String> {
        let addresses = addresses();
        let mut found = differences(desired(&addresses), view);
        found.sort_by_key(|one| one.key);
        found.into_iter().filter_map(|one| Some(one.requirement?.command)).collect()
    }

    fn with_tun(change: impl FnOnce(&mut DeviceView)) -> HostView {
        let mut view = good();
        change(view.tun.as_mut().unwrap());
        view
    }

    #[test]
    fn a_link_is_as_desired_or_the_command_says_how() {
        assert!(differences(desired(&addresses()), &good()).is_empty());
        assert_eq!(commands(&with_tun(|tun| tun.link.txqueuelen = 20_000)), [""; 0]);
        let view = with_tun(|tun| (tun.link.mtu, tun.link.txqueuelen, tun.link.up) = (1500, 500, false));
        let expected = ["up", "mtu 1450", "txqueuelen 10000"].map(|how| format!("ip link set dev up0 {how}"));
        assert_eq!(commands(&view), expected);
        let all = addresses();
        let first = &differences(desired(&all), &view)[0];
        assert_eq!(first.key, Key::Mtu, "the device is up last");
        let what = &first.requirement.as_ref().unwrap().what;
        assert!(what.ends_with("is 1500, not 1450: larger packets are answered by ICMP"), "{what}");
    }

    #[test]
    fn addresses_of_either_family() {
        let view = with_tun(|tun| tun.addresses.clear());
        let expected = ["ip address add 10.244.1.0/32 dev up0", "ip address add fd00::/128 dev up0 nodad"];
        assert_eq!(commands(&view), expected);
    }

    #[test]
    fn sysctls_of_both_devices() {
        let mut view = with_tun(|tun| {
            tun.sysctls.insert(Sysctl::AcceptLocal, 0);
            tun.sysctls.insert(Sysctl::Forwarding, 0);
            tun.sysctls.insert(Sysctl::RouterAdvertisements, 1);
            tun.sysctls.insert(Sysctl::DisableIpv6, 1);
        });
        let tap = view.tap.as_mut().unwrap();
        tap.sysctls.insert(Sysctl::ReversePath, 1);
        tap.link.up = false;
        assert_eq!(
            commands(&view),
            [
                "ip link set dev up0-x up",
                "sysctl -w net/ipv4/conf/up0/accept_local=1",
                "sysctl -w net/ipv4/conf/up0/forwarding=1",
                "sysctl -w net/ipv6/conf/up0/disable_ipv6=0",
                "sysctl -w net/ipv4/conf/up0-x/rp_filter=0",
            ]
        );
        let all = addresses();
        let noise = differences(desired(&all), &view);
        let key = Key::Sysctl(Role::Tun, Sysctl::RouterAdvertisements);
        assert!(noise.iter().any(|one| one.key == key && one.requirement.is_none()));
        // Where the host forwards nothing, its devices do not either.
        view.settings = Settings { ip_forward: false, ..Settings::default() };
        assert!(!commands(&view).iter().any(|command| command.contains("up0/forwarding")));
        // A TAP that is somebody else's is left alone.
        let other = Desired { tap: None, ..desired(&all) };
        assert!(differences(other, &view).iter().all(|one| !matches!(one.key, Key::Up(Role::Tap))));
        view.tun = None;
        assert!(differences(other, &view).is_empty());
    }
}
