//! What is left to an administrator where the daemon may not do it itself.
//!
//! Found by looking at what there is, not by remembering what was refused: so it goes away by itself
//! once somebody has done it, and it is there again when somebody takes it back.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use super::link::Link;
use super::table::Table;
use super::{Host, HostError};
use crate::net::Prefix;

/// Chores told at once: whoever has done those sees the next.
const MOST: usize = 100;

/// One thing to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chore {
    /// What does not work for as long as it is not done.
    pub what: String,
    /// The command that does it.
    pub command: String,
}

/// How the TUN and the ways into it are meant to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the TUN.
    pub device: String,
    /// Bytes of its MTU.
    pub mtu: u16,
    /// Packets that each of its queues holds.
    pub tx_queue_len: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What leads into it.
    pub routes: BTreeSet<Prefix>,
}

/// What there is to do, and what the device is like until then.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Look {
    /// In an order in which each can be done.
    pub chores: Vec<Chore>,
    /// Bytes of the TUN's MTU.
    pub mtu: u16,
}

impl Host {
    /// Compares the TUN and the ways into it with `plan`.
    ///
    /// # Errors
    /// [`HostError::NoDevice`], [`HostError::Netlink`].
    pub async fn look(&self, plan: &Plan) -> Result<Look, HostError> {
        let name = &plan.device;
        let link = self.link_by_name(name).await?.ok_or_else(|| HostError::NoDevice(name.clone()))?;
        let mtu = link.mtu.min(u32::from(u16::MAX)) as u16;
        let mut chores = of_the_link(plan, &link);
        let present: Vec<IpAddr> =
            self.addresses().await?.iter().filter(|a| a.index == link.index).map(|a| a.address).collect();
        chores.extend(of_addresses(plan, &present));
        chores.extend(of_own_errors(plan));
        if !plan.routes.is_empty() {
            let table = self.table().await?;
            chores.extend(plan.routes.iter().filter_map(|prefix| of_a_route(name, *prefix, &table, &link)));
        }
        chores.truncate(MOST);
        Ok(Look { chores, mtu })
    }
}

/// Up first: without that there can be no routes.
fn of_the_link(plan: &Plan, link: &Link) -> Vec<Chore> {
    let name = &plan.device;
    let set = |what: String, how: String| Chore { what, command: format!("ip link set dev {name} {how}") };
    let (mtu, tx_queue_len) = (plan.mtu, plan.tx_queue_len);
    let down = || set(format!("{name} is down, nothing passes"), "up".to_owned());
    let other_mtu = || {
        let effect = if link.mtu > u32::from(mtu) {
            "larger packets are answered by ICMP"
        } else {
            "packets could be larger"
        };
        set(format!("the MTU of {name} is {}, not {mtu}: {effect}", link.mtu), format!("mtu {mtu}"))
    };
    let short = || {
        let what = format!("a queue of {name} holds {} packets: bursts may be lost", link.txqueuelen);
        set(what, format!("txqueuelen {tx_queue_len}"))
    };
    let chores = [
        (!link.up).then(down),
        (link.mtu != u32::from(mtu)).then(other_mtu),
        (link.txqueuelen < tx_queue_len).then(short),
    ];
    chores.into_iter().flatten().collect()
}

fn of_addresses(plan: &Plan, present: &[IpAddr]) -> Vec<Chore> {
    let name = &plan.device;
    let missing = plan.addresses.iter().filter(|address| !present.contains(address));
    let chore = |address: &IpAddr| {
        let (len, flags) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
        Chore {
            what: format!(
                "{name} lacks the address {address}: this node itself does not reach pods elsewhere"
            ),
            command: format!("ip address add {address}/{len} dev {name}{flags}"),
        }
    };
    missing.map(chore).collect()
}

/// Whether the ICMP errors are let in that come from the TUN with its own address.
fn of_own_errors(plan: &Plan) -> Option<Chore> {
    let name = &plan.device;
    let needed = plan.addresses.iter().any(IpAddr::is_ipv4) && !accepts_local(name);
    needed.then(|| Chore {
        what: format!("{name} does not accept local addresses: pods do not get ICMP errors from the tunnel"),
        command: format!("sysctl -w net/ipv4/conf/{name}/accept_local=1"),
    })
}

/// `accept_local` of the device `name`: the kernel takes the larger of its own and that of all.
pub(in crate::control) fn accepts_local(name: &str) -> bool {
    ["all", name].iter().any(|scope| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{scope}/accept_local"));
        value.is_ok_and(|value| value.trim() == "1")
    })
}

fn of_a_route(name: &str, prefix: Prefix, table: &Table, link: &Link) -> Option<Chore> {
    if table.leads(prefix, link.index) {
        return None;
    }
    let (what, verb) = if table.has(prefix) {
        (format!("packets for {prefix} do not reach the tunnel, another route takes them"), "replace")
    } else {
        (format!("packets for {prefix} do not reach the tunnel"), "add")
    };
    Some(Chore { what, command: format!("ip route {verb} {prefix} dev {name}") })
}

#[cfg(test)]
mod tests {
    use super::{Chore, Plan, of_a_route, of_addresses, of_the_link};
    use crate::control::host::link::Link;
    use crate::control::host::table::Table;

    fn plan() -> Plan {
        Plan {
            device: "up0".to_owned(),
            mtu: 1450,
            tx_queue_len: 10_000,
            addresses: vec!["10.244.1.0".parse().unwrap(), "fd00::".parse().unwrap()],
            routes: ["10.244.0.0/16".parse().unwrap()].into(),
        }
    }

    fn commands(chores: impl IntoIterator<Item = Chore>) -> Vec<String> {
        chores.into_iter().map(|chore| chore.command).collect()
    }

    #[test]
    fn a_link_is_as_planned_or_the_command_says_how() {
        let ready = Link { index: 7, mtu: 1450, txqueuelen: 10_000, up: true, ..Link::default() };
        assert_eq!(of_the_link(&plan(), &ready), []);
        assert_eq!(of_the_link(&plan(), &Link { txqueuelen: 20_000, ..ready.clone() }), []);
        let raw = Link { mtu: 1500, txqueuelen: 500, up: false, ..ready };
        let said = of_the_link(&plan(), &raw);
        assert!(said[1].what.ends_with("is 1500, not 1450: larger packets are answered by ICMP"), "{said:?}");
        let expected = ["up", "mtu 1450", "txqueuelen 10000"].map(|how| format!("ip link set dev up0 {how}"));
        assert_eq!(commands(said), expected);
    }

    #[test]
    fn addresses_of_either_family() {
        let plan = plan();
        assert_eq!(of_addresses(&plan, &plan.addresses), []);
        let expected = ["ip address add 10.244.1.0/32 dev up0", "ip address add fd00::/128 dev up0 nodad"];
        assert_eq!(commands(of_addresses(&plan, &[])), expected);
    }

    #[test]
    fn a_route_is_added_or_replaced() {
        let link = Link { index: 7, ..Link::default() };
        let command = |table: &[(&str, u32)]| {
            let routes = table.iter().map(|(prefix, device)| (prefix.parse().unwrap(), 0, Some(*device)));
            let chore = of_a_route("up0", "10.244.0.0/16".parse().unwrap(), &Table::of(routes), &link);
            chore.map(|chore| chore.command)
        };
        let add = Some("ip route add 10.244.0.0/16 dev up0".to_owned());
        assert_eq!(command(&[("10.244.0.0/16", 7), ("0.0.0.0/0", 2)]), None);
        assert_eq!(command(&[("10.0.0.0/8", 7), ("10.244.1.0/24", 3)]), None);
        assert_eq!(command(&[]), add);
        assert_eq!(command(&[("10.0.0.0/8", 2), ("0.0.0.0/0", 7)]), add);
        let replace = add.map(|add| add.replace("add", "replace"));
        assert_eq!(command(&[("10.244.0.0/16", 2), ("0.0.0.0/0", 7)]), replace);
    }
}
