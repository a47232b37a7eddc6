//! Host names: the host's resolver (`/etc/hosts`, DNS, whatever `nsswitch.conf` says) is asked for each at once, and
//! again every minute, sooner while it does not know.
//!
//! The resolver blocks, so it is asked in threads of their own, a few at a time: one that does not answer holds up
//! these, and nobody else. The last good answer stays for as long as there is no better one. The system's resolver
//! does not tell how long an answer holds (its TTL); a minute is the rule.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::at;
use crate::net::HostName;

/// From an answer to the next question.
const AGAIN: Duration = Duration::from_secs(60);
/// From the first question without an answer to the next one; it doubles.
const SOON: Duration = Duration::from_secs(1);
/// The longest such pause.
const LATEST: Duration = Duration::from_secs(15);
/// Names that are asked for together.
const AT_ONCE: usize = 8;
/// Addresses of one name that count.
const MOST_ADDRESSES: usize = 32;
/// From one telling of answers to the next: with many names each costs a look at all peers.
const TELL_PAUSE: Duration = Duration::from_millis(100);

/// What is known of a name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// The addresses of the last good answer, in order.
    pub addresses: Vec<IpAddr>,
    /// Why there was no good answer when it was asked for last.
    pub trouble: Option<String>,
}

/// What is known of the names that have been asked for.
pub type Answers = BTreeMap<HostName, Answer>;

/// The names that are followed.
#[derive(Clone, Debug, Default)]
struct Wanted {
    names: BTreeSet<HostName>,
    /// Grows when all of them are to be asked for now.
    round: u64,
}

/// What has been found out.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// What there is to say of each name.
    pub answers: Answers,
    /// The last round in which all names have been asked for.
    round: u64,
}

/// How a name is looked up; it may block.
pub type Lookup = fn(&HostName) -> io::Result<Vec<IpAddr>>;

/// Names that are followed until the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Names {
    wanted: Arc<watch::Sender<Wanted>>,
    known: watch::Receiver<Arc<Known>>,
}

impl Names {
    /// Follows names by `lookup`, in a task on the current tokio runtime.
    pub fn follow(lookup: Lookup) -> Self {
        let (wanted, names) = watch::channel(Wanted::default());
        let (tell, known) = watch::channel(Arc::default());
        let follower = Follower {
            lookup,
            tell,
            queue: BTreeSet::new(),
            failures: HashMap::new(),
            under_way: HashSet::new(),
            asked: JoinSet::new(),
            known: Known::default(),
            round: 0,
            unasked: HashSet::new(),
            untold: None,
            told: None,
        };
        tokio::spawn(follower.run(names));
        Self { wanted: Arc::new(wanted), known }
    }

    /// Follows these names from now on, and no others. Each is asked for now.
    pub fn want(&self, names: BTreeSet<HostName>) {
        self.wanted.send_modify(|wanted| *wanted = Wanted { names, round: wanted.round + 1 });
    }

    /// What is known, and whenever that changes.
    pub fn known(&self) -> watch::Receiver<Arc<Known>> {
        self.known.clone()
    }

    /// Waits until all names have been asked for since they were wanted.
    pub async fn asked(&self) {
        let round = self.wanted.borrow().round;
        // Its task lives for as long as this does.
        drop(self.known.clone().wait_for(|known| known.round >= round).await);
    }
}

/// Asks the host's resolver. Blocks.
///
/// # Errors
/// The resolver's.
pub fn system(name: &HostName) -> io::Result<Vec<IpAddr>> {
    let found = (name.as_str(), 0).to_socket_addrs()?;
    Ok(found.map(|address| address.ip()).collect())
}

struct Follower {
    lookup: Lookup,
    tell: watch::Sender<Arc<Known>>,
    /// The names that are waiting, by when they are to be asked for.
    queue: BTreeSet<(Instant, HostName)>,
    /// The names that are wanted, and how often in a row there was no answer.
    failures: HashMap<HostName, u32>,
    /// The names that are being asked for.
    under_way: HashSet<HostName>,
    asked: JoinSet<(HostName, io::Result<Vec<IpAddr>>)>,
    known: Known,
    /// The round that is under way, and the names that it has not asked for yet.
    round: u64,
    unasked: HashSet<HostName>,
    /// When what is new is to be told.
    untold: Option<Instant>,
    /// When something was told last.
    told: Option<Instant>,
}

impl Follower {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let next = self.ask();
            let untold = self.untold;
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => self.want(&wanted.borrow_and_update().clone()),
                    Err(_) => return,
                },
                Some(done) = self.asked.join_next(), if !self.asked.is_empty() => {
                    if let Ok((name, found)) = done {
                        self.take(name, found);
                    }
                }
                () = at(next) => {}
                () = at(untold) => self.tell(),
            }
        }
    }

    /// Has those asked for whose time has come. Returns when the next one's does.
    fn ask(&mut self) -> Option<Instant> {
        while self.asked.len() < AT_ONCE {
            let (when, _) = self.queue.first()?;
            if *when > Instant::now() {
                return Some(*when);
            }
            let (_, name) = self.queue.pop_first()?;
            let lookup = self.lookup;
            self.under_way.insert(name.clone());
            self.asked.spawn_blocking(move || {
                let found = lookup(&name);
                (name, found)
            });
        }
        None
    }

    fn want(&mut self, wanted: &Wanted) {
        let Wanted { names, round } = wanted;
        self.failures.retain(|name, _| names.contains(name));
        self.known.answers.retain(|name, _| names.contains(name));
        for name in names {
            self.failures.entry(name.clone()).or_default();
        }
        // One that is being asked for has its answer soon.
        let now = Instant::now();
        let waiting = names.iter().filter(|name| !self.under_way.contains(*name));
        self.queue = waiting.map(|name| (now, name.clone())).collect();
        self.round = *round;
        self.unasked = names.iter().cloned().collect();
        self.end_round();
        self.have_told();
    }

    /// Notes when the round has asked for all names.
    fn end_round(&mut self) {
        if self.unasked.is_empty() && self.known.round != self.round {
            self.known.round = self.round;
            self.have_told();
        }
    }

    /// Takes what came of a question.
    fn take(&mut self, name: HostName, found: io::Result<Vec<IpAddr>>) {
        self.under_way.remove(&name);
        // Nobody may want to know any more.
        let Some(failures) = self.failures.get_mut(&name) else { return };
        let before = self.known.answers.get(&name).cloned();
        let pause;
        let now = match addresses(found) {
            Ok(addresses) => {
                *failures = 0;
                pause = AGAIN;
                Answer { addresses, trouble: None }
            }
            Err(error) => {
                pause = LATEST.min(SOON * (1 << (*failures).min(8)));
                *failures = failures.saturating_add(1);
                let addresses = before.as_ref().map(|before| before.addresses.clone()).unwrap_or_default();
                Answer { addresses, trouble: Some(error) }
            }
        };
        if before.as_ref() != Some(&now) {
            self.known.answers.insert(name.clone(), now);
            self.have_told();
        }
        self.unasked.remove(&name);
        self.end_round();
        self.queue.insert((Instant::now() + pause, name));
    }

    /// Has what is new told soon.
    fn have_told(&mut self) {
        let now = Instant::now();
        let soonest = self.told.map_or(now, |told| now.max(told + TELL_PAUSE));
        self.untold.get_or_insert(soonest);
    }

    fn tell(&mut self) {
        self.untold = None;
        self.told = Some(Instant::now());
        self.tell.send_replace(Arc::new(self.known.clone()));
    }
}

/// The addresses of an answer, in order, or why it is none.
fn addresses(found: io::Result<Vec<IpAddr>>) -> Result<Vec<IpAddr>, String> {
    let found = found.map_err(|error| {
        let text = error.to_string();
        // The resolver's own words follow.
        text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
    })?;
    let found: BTreeSet<IpAddr> = found.into_iter().take(MOST_ADDRESSES).collect();
    if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found.into_iter().collect()) }
}

#[cfg(test)]
mod tests;
