//! The host as the engine knows it: the last observation, what was asked and what is open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::engine::event::{Effect, EffectId, Failure};
use crate::control::engine::leads::Lead;
use crate::control::engine::port::{
    Capabilities, DeviceView, HostError, HostRequest, HostView, LinkChange, NatView, PodRouting, Requirement,
    nat_table,
};
use crate::control::engine::reconcile::devices::{self, Desired, Key, Role};
use crate::control::engine::reconcile::looks::Looks;
use crate::control::engine::reconcile::mender::Mender;
use crate::control::engine::reconcile::nat;
use crate::control::engine::reconcile::pod_rules;
use crate::control::engine::reconcile::requirements::Requirements;
use crate::control::engine::state::State;
use crate::net::Prefix;

/// Refused routes that are remembered, so that each is shown once.
const REMEMBERED: usize = 10_000;

/// What is known of the host and wanted of it.
#[derive(Debug)]
pub(in crate::control::engine) struct HostSide {
    pub(super) capabilities: Capabilities,
    /// Addresses on the TUN.
    pub(super) addresses: Arc<[IpAddr]>,
    /// Index of the TUN that the daemon opened: another one with its name is not ours.
    pub(super) tun: u32,
    /// Index of the TAP, where there is one.
    pub(super) tap: Option<u32>,
    /// Name of the table of nftables that masquerades.
    pub(super) nat: String,
    pub(super) view: HostView,
    /// Whether the TUN was up at some time since the start.
    tun_was_up: bool,
    pub(super) looks: Looks,
    pub(super) mender: Mender,
    pub(super) requirements: Requirements,
    pub(super) strangers: Vec<Requirement>,
    /// What is wrong with the kernel's routes, as of the last comparison.
    pub(super) route_requirements: Vec<Requirement>,
    /// Routes that the kernel refused, why, and when.
    pub(super) refused: HashMap<Prefix, (HostError, Instant)>,
    pub(super) asked: HashMap<EffectId, Open>,
    pub(super) last_id: u64,
    /// Destinations that were changed since the look under way began: it says nothing of them.
    pub(super) touched: BTreeSet<Prefix>,
    /// What is wrong with the devices, as of the last comparison.
    pub(super) device_requirements: Vec<Requirement>,
    pub(super) again: Option<Instant>,
    /// Whether there were routes to other nodes at some time, which stay without the TUN.
    pub(super) sends_directly: bool,
    pub(super) own: Own,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) enum Open {
    Mend(Key, HostRequest),
    Routes,
    Look,
}

/// What was changed and has to be taken back.
#[derive(Debug, Default)]
pub(super) struct Own {
    addresses: Vec<IpAddr>,
    brought_up: bool,
    /// The group that the TUN was in before.
    group: Option<u32>,
}

pub(super) fn is_up(view: &HostView) -> bool {
    view.tun.as_ref().is_some_and(|tun| tun.link.up)
}

/// What of the TUN is for others to set, and packets have to be handled accordingly.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::control::engine) struct Held {
    /// Its MTU as it is.
    pub mtu: Option<u16>,
    /// Whether it does not take packets that have an address of this host as their source.
    pub accept_local: bool,
}

/// How the TUN should be, and what should point at it.
#[derive(Clone, Copy)]
pub(in crate::control::engine) struct Wish<'a> {
    pub state: &'a State,
    pub cover: &'a BTreeMap<Prefix, Lead>,
    /// Destinations outside of the pools that the kernel sends to other nodes by itself.
    pub outside: &'a BTreeSet<Prefix>,
}

impl HostSide {
    /// The host as `view` shows it, looked at just now.
    pub(in crate::control::engine) fn new(
        capabilities: Capabilities,
        addresses: Vec<IpAddr>,
        tap: Option<u32>,
        view: HostView,
        now: Instant,
    ) -> Self {
        Self {
            capabilities,
            addresses: addresses.into(),
            tun: view.tun.as_ref().map_or(0, |tun| tun.link.index),
            tap,
            nat: nat_table(view.tun.as_ref().map_or("", |tun| tun.link.name.as_str())),
            tun_was_up: false,
            view,
            looks: Looks::new(now),
            mender: Mender::default(),
            requirements: Requirements::default(),
            strangers: Vec::new(),
            route_requirements: Vec::new(),
            refused: HashMap::new(),
            asked: HashMap::new(),
            last_id: 0,
            touched: BTreeSet::new(),
            device_requirements: Vec::new(),
            again: None,
            sends_directly: false,
            own: Own::default(),
        }
    }

    /// The last observation.
    pub(in crate::control::engine) fn view(&self) -> &HostView {
        &self.view
    }

    /// Whether the daemon may change the host.
    pub(in crate::control::engine) fn may_change(&self) -> bool {
        self.capabilities.net_admin
    }

    /// What is left to an administrator, strangers at our devices first.
    pub(in crate::control::engine) fn open(&self) -> Arc<[Requirement]> {
        self.requirements.open()
    }

    /// That the TUN, opened as `name`, is gone while the daemon runs on: somebody has moved it to another namespace.
    pub(in crate::control::engine) fn gone(&self, name: &str) -> Option<Requirement> {
        self.view.tun.is_none().then(|| Requirement {
            what: format!("{name} is not in this network namespace any more: no packet reaches the tunnel"),
            command: "systemctl restart underpass".to_owned(),
        })
    }

    /// Takes this as the index of the TAP: one that is not ours is left alone.
    pub(in crate::control::engine) fn set_tap(&mut self, tap: Option<u32>) {
        self.tap = tap;
    }

    /// Whether the host has answered everything.
    pub(in crate::control::engine) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Index of the TUN; 0, which no interface has, when it is gone.
    pub(in crate::control::engine) fn tun_index(&self) -> u32 {
        self.view.tun.as_ref().map_or(0, |tun| tun.link.index)
    }

    /// Others are at our devices.
    pub(in crate::control::engine) fn set_strangers(&mut self, strangers: Vec<Requirement>) {
        self.strangers = strangers;
    }

    /// A request has ended. Returns whether it was about routes.
    pub(in crate::control::engine) fn ended(
        &mut self,
        id: EffectId,
        failures: Vec<Failure>,
        now: Instant,
    ) -> bool {
        let asked = self.asked.remove(&id);
        let denied = failures.iter().any(|failure| failure.error.errno() == Some(libc::EPERM));
        if denied && !matches!(asked, Some(Open::Look)) {
            self.capabilities.net_admin = false;
        }
        match asked {
            Some(Open::Mend(key, request)) => {
                let refused = failures.into_iter().next().map(|failure| failure.error);
                if refused.is_none() {
                    self.done(&request);
                    if matches!(key, Key::Up(Role::Tun) | Key::Address(_)) {
                        // Routes could not be there before.
                        self.refused.clear();
                        self.looks.at_once(now);
                    }
                }
                self.mender.ended(key, refused);
                false
            }
            Some(Open::Routes) => {
                for failure in failures {
                    let Some(prefix) = failure.route.filter(|_| !failure.error.is_denied()) else { continue };
                    if self.refused.len() < REMEMBERED {
                        self.refused.insert(prefix, (failure.error, now));
                    }
                }
                true
            }
            Some(Open::Look) => {
                self.looks.end(Duration::ZERO, now);
                false
            }
            None => false,
        }
    }

    /// Keeps the view up to date until the next look, and remembers what is ours.
    fn done(&mut self, request: &HostRequest) {
        let tun = self.tun_index();
        let group = self.view.tun.as_ref().map(|tun| tun.link.group);
        let devices = [self.view.tun.as_mut(), self.view.tap.as_mut()].into_iter().flatten();
        match request {
            HostRequest::Link { index, change, .. } => {
                self.own.brought_up |= *change == LinkChange::Up && *index == tun;
                if let (LinkChange::Group(_), Some(group)) = (change, group) {
                    self.own.group.get_or_insert(group);
                }
                devices
                    .filter(|device| device.link.index == *index)
                    .for_each(|device| apply(device, *change));
            }
            HostRequest::AddAddress { index, address } => {
                self.own.addresses.push(*address);
                let device = devices.filter(|device| device.link.index == *index);
                device.for_each(|device| device.addresses.push(*address));
            }
            HostRequest::Sysctl { name, sysctl, value } => {
                for device in devices.filter(|device| device.link.name == *name) {
                    device.sysctls.insert(*sysctl, *value);
                }
            }
            HostRequest::PodRule { .. } | HostRequest::PodRoute { .. } => {
                self.view.pods.iter_mut().for_each(|seen| pod_rules::done(seen, request));
            }
            HostRequest::Nat { rules, .. } => {
                self.view.nat = Some(rules.clone().map_or(NatView::Absent, NatView::Rules));
            }
            _ => {}
        }
    }

    /// Compares the devices and masquerading with what they should be. Returns what mends them, and what of the TUN
    /// is for others to set.
    pub(in crate::control::engine) fn mend_devices(
        &mut self,
        wish: Wish<'_>,
        now: Instant,
    ) -> (Vec<Effect>, Held) {
        self.tun_was_up |= is_up(&self.view);
        let addresses = Arc::clone(&self.addresses);
        let desired = Desired {
            mtu: wish.state.wanted_mtu(),
            addresses: &addresses,
            tap: self.tap,
            tun_was_up: self.tun_was_up,
        };
        let mut differences = devices::differences(desired, &self.view);
        let rules = nat::wanted(wish.state, wish.outside, self.tun_name(wish));
        differences.extend(nat::difference(&self.nat, rules, self.view.nat.as_ref()));
        if let (Some(tun), Some(seen)) = (&self.view.tun, &self.view.pods) {
            differences.extend(pod_rules::differences(&wish.state.config, tun, seen, self.may_change()));
        }
        let plan = self.mender.plan(differences, self.capabilities.net_admin, now);
        self.again = plan.again;
        let held = self.view.tun.as_ref().filter(|_| plan.mtu_is_held).map(|tun| tun.link.mtu);
        let held = Held {
            mtu: held.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX)),
            accept_local: plan.accept_local_is_held,
        };
        self.device_requirements = plan.requirements;
        let asked = plan.requests.into_iter().map(|(key, request)| {
            let open = Open::Mend(key, request.clone());
            self.ask(open, request)
        });
        (asked.collect(), held)
    }

    /// Shows what is left to an administrator, `settings` beside what the last comparisons found. Returns what
    /// is new and what is resolved.
    pub(in crate::control::engine) fn show(&mut self, settings: Vec<Requirement>) -> Vec<Effect> {
        let lists = [&self.strangers, &self.device_requirements, &settings, &self.route_requirements];
        let turn = self.requirements.set(lists.into_iter().flatten().cloned().collect());
        let appeared = turn.appeared.into_iter().map(Effect::Require);
        appeared.chain(turn.resolved.into_iter().map(Effect::Resolved)).collect()
    }

    /// When something has to be done again.
    pub(in crate::control::engine) fn deadline(&self) -> Instant {
        let looks = self.looks.deadline();
        self.again.map_or(looks, |again| again.min(looks))
    }

    /// Everything of ours, to be taken back at the end.
    pub(in crate::control::engine) fn take_down(&mut self) -> Vec<HostRequest> {
        let pods = self.view.pods.take().filter(|seen| self.owns(seen));
        // First, so that pods go on talking to one another.
        let mut requests: Vec<HostRequest> = pods.iter().flat_map(pod_rules::removal).collect();
        let table = self.view.nat.take().filter(NatView::is_there);
        let masquerading = table.map(|_| HostRequest::Nat { table: self.nat.clone(), rules: None });
        let Some(tun) = self.view.tun.take() else {
            let (index, name) = (0, String::new());
            let flush = self.sends_directly.then_some(HostRequest::FlushRoutes { index, name });
            requests.extend(flush.into_iter().chain(masquerading));
            return requests;
        };
        let (index, name) = (tun.link.index, tun.link.name.clone());
        requests.push(HostRequest::FlushRoutes { index, name: name.clone() });
        requests.extend(masquerading);
        let addresses = std::mem::take(&mut self.own.addresses).into_iter();
        requests.extend(addresses.map(|address| HostRequest::RemoveAddress { index, address }));
        // A device that goes with its descriptors needs no more.
        if tun.link.tun.is_some_and(|tun| tun.persistent) {
            let down = self.own.brought_up.then_some(LinkChange::Down);
            let back = self.own.group.map(LinkChange::Group).into_iter().chain(down);
            requests.extend(back.map(|change| HostRequest::Link { index, name: name.clone(), change }));
        }
        requests
    }

    /// Whether the policy routing of pods is this daemon's.
    fn owns(&self, seen: &PodRouting) -> bool {
        let tun = self.view.tun.as_ref().map(|tun| tun.link.name.as_str());
        seen.devices.iter().all(|device| Some(device.as_str()) == tun)
    }

    /// Whether packets of local pods are led into the TUN.
    pub(in crate::control::engine) fn leads_pods(&self) -> bool {
        self.view.pods.as_ref().is_some_and(|seen| self.owns(seen) && !seen.rules.is_empty())
    }

    pub(super) fn ask(&mut self, open: Open, request: HostRequest) -> Effect {
        self.last_id += 1;
        let id = EffectId(self.last_id);
        self.asked.insert(id, open);
        Effect::Host(id, request)
    }
}

fn apply(device: &mut DeviceView, change: LinkChange) {
    match change {
        LinkChange::Up => device.link.up = true,
        LinkChange::Down => device.link.up = false,
        LinkChange::Mtu(mtu) => device.link.mtu = mtu.into(),
        LinkChange::QueueLength(len) => device.link.txqueuelen = len,
        LinkChange::Group(group) => device.link.group = group,
        LinkChange::NoQueue => {}
    }
}
