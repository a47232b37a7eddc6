//! This node's own addresses where the file has a rule for them: the host is looked at, and what the rule chooses is
//! followed once it has been the same for a moment, so that an address that is renewed changes nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::config::{AddressRule, Config, Destination};
use crate::control::daemon::watch::tap_device::tap_name;
use crate::control::host::Host;
use crate::control::source::names::Answers;
use crate::control::source::own_address::{Choice, Seen, choose};
use crate::net::Prefix;

/// How long the host has to say the same before it is followed.
const SETTLE: Duration = Duration::from_secs(1);

/// What the rules choose now, IPv4 first; `None` where the file has no rule.
pub(super) type Looked = [Option<Result<Choice, String>>; 2];

/// The addresses that are followed, IPv4 first.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnAddresses([Family; 2]);

#[derive(Clone, Debug, Default)]
struct Family {
    /// What is followed.
    chosen: Option<Choice>,
    /// Since when the host says otherwise.
    other_since: Option<Instant>,
    /// Why the rule chooses nothing now.
    problem: Option<String>,
}

impl OwnAddresses {
    /// What the rules of `file` choose on `host` now.
    pub(super) async fn look(&self, host: &Host, file: &Config, answers: &Answers) -> Looked {
        if !has_rules(file) {
            return [None, None];
        }
        let interfaces = match host.interfaces().await {
            Ok(interfaces) => interfaces,
            Err(error) => return both(|is_ipv4| file.node.rule(is_ipv4).map(|_| Err(error.to_string()))),
        };
        let mut sources = both(|_| Err("no destination is given".to_owned()));
        for (source, is_ipv4) in sources.iter_mut().zip([true, false]) {
            if let Some(AddressRule::CanReach(destination)) = file.node.rule(is_ipv4) {
                *source = source_towards(host, destination, is_ipv4, answers).await;
            }
        }
        let device = &file.tunnel.device;
        let ours = [device.clone(), tap_name(device)];
        let taken = Claims::of(file);
        let [source4, source6] = sources;
        let choose = |source, is_ipv4: bool| {
            let seen = Seen { interfaces: &interfaces, ours: &ours, source, taken: &|own| taken.about(own) };
            let before = self.of(is_ipv4).chosen.as_ref().map(|choice| choice.net.addr());
            Some(choose(file.node.rule(is_ipv4)?, is_ipv4, &seen, before))
        };
        [choose(source4, true), choose(source6, false)]
    }

    /// Follows what was seen at once.
    pub(super) fn follow(&mut self, looked: Looked) {
        for (family, looked) in self.0.iter_mut().zip(looked) {
            family.other_since = None;
            match looked {
                Some(looked) => family.follow(looked),
                None => *family = Family::default(),
            }
        }
    }

    /// Forgets what was chosen and is not there: nothing can begin with it.
    pub(super) fn forget_missing(&mut self) {
        for family in self.0.iter_mut().filter(|family| family.problem.is_some()) {
            family.chosen = None;
        }
    }

    /// Follows what was seen if it has been the same for long enough. Returns when to look again where it has not.
    pub(super) fn settle(&mut self, looked: Looked, now: Instant) -> Option<Instant> {
        let waits = self.0.iter_mut().zip(looked).filter_map(|(family, looked)| family.settle(looked?, now));
        waits.min()
    }

    /// Gives `config`, which is the file's, the addresses that are followed.
    pub(super) fn apply(&self, config: &mut Config) {
        let chosen = |is_ipv4| self.of(is_ipv4).chosen.as_ref().map(|choice| choice.net);
        if config.node.address_rule.is_some() {
            config.node.address =
                chosen(true).and_then(|net| if let IpNet::V4(net) = net { Some(net) } else { None });
        }
        if config.node.address6_rule.is_some() {
            config.node.address6 =
                chosen(false).and_then(|net| if let IpNet::V6(net) = net { Some(net) } else { None });
        }
    }

    /// What is followed and why.
    pub(super) fn chosen(&self) -> impl Iterator<Item = &Choice> {
        self.0.iter().filter_map(|family| family.chosen.as_ref())
    }

    /// Why rules choose nothing now.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.0.iter().filter_map(|family| {
            let problem = family.problem.as_ref()?;
            Some(match &family.chosen {
                Some(choice) => format!("{} stays although it is not there any more: {problem}", choice.net),
                None => problem.clone(),
            })
        })
    }

    fn of(&self, is_ipv4: bool) -> &Family {
        &self.0[usize::from(!is_ipv4)]
    }
}

impl Family {
    fn settle(&mut self, looked: Result<Choice, String>, now: Instant) -> Option<Instant> {
        let same = match (&looked, &self.chosen) {
            (Ok(now), Some(chosen)) => now.net == chosen.net,
            (Err(_), _) => self.problem.is_some(),
            (Ok(_), None) => false,
        };
        if same {
            self.other_since = None;
            self.follow(looked);
            return None;
        }
        let end = *self.other_since.get_or_insert(now) + SETTLE;
        if now < end {
            return Some(end);
        }
        self.other_since = None;
        self.follow(looked);
        None
    }

    /// Follows what was seen. Where that is nothing, what was chosen stays.
    fn follow(&mut self, looked: Result<Choice, String>) {
        match looked {
            Ok(choice) => {
                self.problem = None;
                if let Some(chosen) = self.chosen.as_mut().filter(|chosen| chosen.net == choice.net) {
                    // Why it was chosen is still why.
                    chosen.interface = choice.interface;
                } else {
                    self.chosen = Some(choice);
                }
            }
            Err(problem) => self.problem = Some(problem),
        }
    }
}

/// Whether `file` leaves it to a rule which address this node has.
pub(super) fn has_rules(file: &Config) -> bool {
    file.node.address_rule.is_some() || file.node.address6_rule.is_some()
}

fn both<T>(of: impl Fn(bool) -> T) -> [T; 2] {
    [of(true), of(false)]
}

/// The source of packets to `destination`, or why there is none.
async fn source_towards(
    host: &Host,
    destination: &Destination,
    is_ipv4: bool,
    answers: &Answers,
) -> Result<IpAddr, String> {
    let address = match destination {
        Destination::Address(address) => *address,
        Destination::Name(name) => {
            let answer = answers.get(name).ok_or_else(|| format!("{name} is not resolved yet"))?;
            let own = answer.addresses.iter().find(|address| address.is_ipv4() == is_ipv4);
            *own.ok_or_else(|| match &answer.trouble {
                Some(trouble) => format!("{name} is not resolved: {trouble}"),
                None => format!("{name} has no IPv{} address", if is_ipv4 { 4 } else { 6 }),
            })?
        }
    };
    host.source_towards(address).await.ok_or_else(|| format!("there is no route to {address}"))
}

/// What the file gives to others, which this node cannot have.
struct Claims<'a> {
    addresses: HashMap<IpAddr, &'a str>,
    subnets: HashMap<Prefix, String>,
}

impl<'a> Claims<'a> {
    fn of(file: &'a Config) -> Self {
        let addresses = file.peers.iter().flat_map(|peer| {
            let second = peer.address6.map(IpAddr::V6);
            let all = [peer.address].into_iter().chain(second).chain(peer.also_from.iter().copied());
            all.map(|address| (address, peer.name.as_str()))
        });
        let peers = file.peers.iter().map(|peer| (&peer.name, &peer.subnets));
        let named = file.named_peers.iter().map(|peer| (&peer.name, &peer.subnets));
        let of_peers = peers.chain(named).flat_map(|(name, subnets)| {
            subnets.iter().map(move |subnet| (*subnet, format!("of peer {name}")))
        });
        let local = file.local_subnets.iter().map(|subnet| (*subnet, "of this node".to_owned()));
        Self { addresses: addresses.collect(), subnets: local.chain(of_peers).collect() }
    }

    fn about(&self, address: IpAddr) -> Option<String> {
        if let Some(name) = self.addresses.get(&address) {
            return Some(format!("is the address of peer {name}"));
        }
        let around = Prefix::host(address).and_wider().find_map(|prefix| self.subnets.get_key_value(&prefix));
        around.map(|(subnet, owner)| format!("lies in the pod subnet {subnet} {owner}"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{Family, SETTLE};
    use crate::control::source::own_address::Choice;

    fn choice(net: &str) -> Result<Choice, String> {
        Ok(Choice { net: net.parse().unwrap(), interface: "eth0".to_owned(), reason: "why".to_owned() })
    }

    #[test]
    fn what_is_back_within_a_moment_was_never_away() {
        let now = Instant::now();
        let mut family = Family::default();
        family.follow(choice("192.0.2.1/24"));
        assert_eq!(family.settle(Err("away".to_owned()), now), Some(now + SETTLE));
        assert_eq!(family.settle(choice("192.0.2.1/24"), now + SETTLE / 2), None);
        assert_eq!(family.settle(Err("away".to_owned()), now + SETTLE), Some(now + SETTLE * 2));
        assert_eq!(family.settle(Err("away".to_owned()), now + SETTLE * 2), None);
        let net = || "192.0.2.1/24".parse().unwrap();
        assert_eq!(family.chosen.as_ref().map(|choice| choice.net), Some(net()), "the last stays");
        assert_eq!(family.problem.as_deref(), Some("away"));
        // Another one comes, and is followed once it has stayed.
        let later = now + SETTLE * 10;
        assert_eq!(family.settle(choice("192.0.2.9/24"), later), Some(later + SETTLE));
        assert_eq!(family.settle(choice("192.0.2.9/24"), later + SETTLE), None);
        assert_eq!(family.chosen.map(|choice| choice.net), Some("192.0.2.9/24".parse().unwrap()));
        assert_eq!(family.problem, None);
    }

    #[test]
    fn another_length_is_another_address() {
        let now = Instant::now();
        let mut family = Family::default();
        family.follow(choice("192.0.2.1/24"));
        assert!(family.settle(choice("192.0.2.1/16"), now).is_some());
        assert_eq!(family.settle(choice("192.0.2.1/16"), now + SETTLE), None);
        assert_eq!(family.chosen.map(|choice| choice.net.prefix_len()), Some(16));
    }
}
