//! A session with etcd: what changes there is followed, and this node's claim is kept.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use etcd_client::{WatchResponse, WatchStream};
use tokio::time::{Instant, sleep_until};

use super::acquire::{self, Plan};
use super::facts::{Place, Record, place};
use super::follower::Follower;
use super::layout::Layout;
use super::record::{self, Said};
use super::store::{self, Moment, Store};
use crate::control::source::at;

/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(50);
/// A lease is kept alive after a third of its time, and this often at least: that shows whether etcd still answers, too.
const RENEWED: Duration = Duration::from_secs(60);
/// From a claim that could not be made to the next try.
const RETRY: Duration = Duration::from_secs(5);
/// How long peers are remembered of whom an etcd that was set up anew says nothing yet.
const REMEMBERED: Duration = Duration::from_secs(60);
/// How often a claim is made anew when others are quicker, before it waits for a moment.
const TRIES: usize = 10;

/// The watch, and what it has told so far.
pub(super) struct Session<'a> {
    follower: &'a mut Follower,
    store: Store,
    watch: WatchStream,
    /// When what was told is passed on.
    due: Option<Instant>,
    renew_at: Instant,
}

impl<'a> Session<'a> {
    /// Finds out what there is, and watches it from there on.
    ///
    /// # Errors
    /// Why etcd cannot be used.
    pub(super) async fn begin(follower: &'a mut Follower, mut store: Store) -> Result<Self, String> {
        let now = store.moment().await?;
        // What happened meanwhile is told by the watch, unless this is another etcd, or one that was set back.
        let moment = match follower.moment.filter(|was| was.goes_on_at(now)) {
            Some(moment) => moment,
            None => list(follower, &mut store).await?,
        };
        let watch = store.watch(moment).await?;
        let now = Instant::now();
        let mut session = Self { follower, store, watch, due: Some(now), renew_at: now };
        session.renew().await?;
        Ok(session)
    }

    /// Follows what is told. Returns why that ended; `None` when nobody wants to know any more.
    pub(super) async fn run(mut self) -> Option<String> {
        let mut announced = self.follower.announced.clone();
        loop {
            let done = tokio::select! {
                told = self.watch.message() => match told {
                    Ok(Some(told)) => self.take(&told).await,
                    Ok(None) => Err("etcd ended the watch".to_owned()),
                    Err(error) => Err(self.store.explain(error)),
                },
                changed = announced.changed() => match changed {
                    Ok(()) => {
                        self.follower.write_subnets();
                        Ok(())
                    }
                    Err(_) => return None,
                },
                () = at(self.due) => self.pass_on().await,
                () = at(self.follower.forget_at) => {
                    self.follower.forget();
                    self.pass_on_within(Duration::ZERO);
                    Ok(())
                }
                () = at(self.follower.teller.write_at()) => {
                    self.follower.write();
                    Ok(())
                }
                () = sleep_until(self.renew_at) => self.renew().await,
            };
            if let Err(why) = done {
                return Some(why);
            }
        }
    }

    /// Takes what the watch tells.
    async fn take(&mut self, told: &WatchResponse) -> Result<(), String> {
        if told.canceled() {
            let reason = told.cancel_reason();
            if told.compact_revision() == 0 {
                return Err(format!("etcd ended the watch: {reason}"));
            }
            let compacted = told.compact_revision();
            tracing::info!("source etcd: its history before {compacted} is compacted, all is read again");
            let moment = list(self.follower, &mut self.store).await?;
            self.watch = self.store.watch(moment).await?;
            self.pass_on_within(Duration::ZERO);
            return Ok(());
        }
        let mut changed = false;
        for found in told.events().iter().filter_map(|event| event.kv()) {
            // A deleted key has no version. The kind of the event is not asked for: the crate panics at an unknown one.
            let is_gone = found.version() == 0;
            changed |= self.follower.take(found.key(), store::record(found), is_gone);
            if let Some(moment) = &mut self.follower.moment {
                moment.revision = moment.revision.max(found.mod_revision());
            }
        }
        if changed {
            self.pass_on_within(GATHER);
        }
        Ok(())
    }

    /// Has what is known passed on after `wait`, if not before that.
    fn pass_on_within(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Tells what etcd says now, and sees to this node's claim.
    async fn pass_on(&mut self) -> Result<(), String> {
        self.due = None;
        self.follower.read_layout();
        if let Some(layout) = self.follower.layout.clone() {
            self.claim(&layout).await?;
        }
        if self.follower.has_claim_problem() {
            self.pass_on_within(RETRY);
        }
        self.follower.say();
        self.follower.write_subnets();
        Ok(())
    }

    /// Has this node's record say what it should.
    async fn claim(&mut self, layout: &Layout) -> Result<(), String> {
        for _ in 0..TRIES {
            let random = RandomState::new().build_hasher().finish();
            let plan = match self.follower.plan(layout, random) {
                Ok(plan) => plan,
                Err(problem) => {
                    self.follower.note_claim(Some(problem));
                    return Ok(());
                }
            };
            let done = match plan {
                Plan::Take { key, record } => self.take_over(layout, key, &record).await?,
                Plan::Claim(subnets) => self.make(layout, &record::key(&subnets)).await?,
            };
            if done {
                self.follower.note_claim(None);
                return self.leave_others().await;
            }
            // Somebody else was quicker.
            self.read_again().await?;
        }
        self.follower
            .note_claim(Some("others are quicker with every subnet; this is tried again".to_owned()));
        Ok(())
    }

    /// Has this node's record in hand. Returns whether it was as it is known.
    async fn take_over(&mut self, layout: &Layout, key: String, record: &Record) -> Result<bool, String> {
        let value = self.follower.value(layout, &key);
        let is_reserved = record.lease == 0;
        let is_held = is_reserved || self.follower.lease == Some(record.lease);
        if record.value == value && is_held {
            self.follower.facts.own = Some(key);
            return Ok(true);
        }
        let lease = if is_reserved { None } else { Some(self.lease().await?) };
        if !self.store.rewrite(&key, &value, record.modified, lease).await? {
            return Ok(false);
        }
        let how = if is_reserved { ", reserved for this node" } else { "" };
        tracing::info!("source etcd: subnet {key} is this node's{how}");
        self.follower.facts.own = Some(key);
        self.read_again().await?;
        Ok(true)
    }

    /// Makes this node's record. Returns whether the subnet is its own by that.
    async fn make(&mut self, layout: &Layout, key: &str) -> Result<bool, String> {
        let is_lost = self.follower.facts.own.as_deref() == Some(key) && self.follower.lease.is_some();
        if is_lost {
            tracing::error!("source etcd: the lease of subnet {key} is gone; it is claimed again");
        }
        let value = self.follower.value(layout, key);
        // One whose record is gone is not to be trusted.
        if let Some(lease) = self.follower.lease.take() {
            self.store.revoke(lease).await;
        }
        let lease = self.lease().await?;
        let own = self.follower.address();
        // A record of its own that does not fit the network any more, such as one with a subnet of IPv6.
        let in_the_way = acquire::in_the_way(&self.follower.facts, key, own);
        for (other, modified) in in_the_way {
            self.store.delete(other, modified).await?;
        }
        let made = self.store.make(key, &value, lease).await?;
        self.read_again().await?;
        let elder = acquire::elder(&self.follower.facts, key, own).map(str::to_owned);
        if let Some(elder) = elder.filter(|_| made) {
            tracing::info!("source etcd: subnet {key} is given back, {elder} was there before");
            if let Some(record) = self.follower.facts.records.get(key) {
                let modified = record.modified;
                self.store.delete(key, modified).await?;
            }
            return Ok(false);
        }
        if made {
            tracing::info!("source etcd: subnet {key} is this node's now");
            self.follower.facts.own = Some(key.to_owned());
        } else {
            self.follower.lease = None;
            self.store.revoke(lease).await;
        }
        Ok(made)
    }

    /// Deletes records of subnets that this node has left.
    async fn leave_others(&mut self) -> Result<(), String> {
        let left = self.follower.left_behind();
        for (key, modified) in &left {
            if self.store.delete(key, *modified).await? {
                tracing::info!("source etcd: subnet {key} is given back, this node has another one");
            }
        }
        if left.is_empty() { Ok(()) } else { self.read_again().await }
    }

    /// The lease of this node, a new one where it has none.
    async fn lease(&mut self) -> Result<i64, String> {
        if let Some(lease) = self.follower.lease {
            return Ok(lease);
        }
        let lease = self.store.grant(self.follower.settings.lease_ttl).await?;
        Ok(*self.follower.lease.insert(lease))
    }

    /// Keeps the lease alive, and finds out whether etcd is there.
    async fn renew(&mut self) -> Result<(), String> {
        let third = Duration::from_secs((self.follower.settings.lease_ttl / 3).into());
        self.renew_at = Instant::now() + third.min(RENEWED);
        let is_alive = match self.follower.lease {
            Some(lease) => self.store.keep_alive(lease).await?,
            None => return self.store.moment().await.map(drop),
        };
        if !is_alive {
            self.follower.lease = None;
            tracing::error!("source etcd: the lease of this node has ended; its subnet is claimed again");
            self.read_again().await?;
            self.pass_on_within(Duration::ZERO);
        }
        Ok(())
    }

    /// Reads all again, without a new watch: what that tells twice changes nothing.
    async fn read_again(&mut self) -> Result<(), String> {
        let moment = self.follower.moment;
        list(self.follower, &mut self.store).await?;
        // The watch has not told all of it yet.
        self.follower.moment = moment;
        Ok(())
    }
}

/// Reads everything.
async fn list(follower: &mut Follower, store: &mut Store) -> Result<Moment, String> {
    let listing = store.list().await?;
    let moment = listing.moment;
    follower.replace(listing);
    follower.moment = Some(moment);
    Ok(moment)
}

impl Follower {
    /// Has everything as it was listed.
    fn replace(&mut self, listing: store::Listing) {
        let is_another = |was: Moment| !was.goes_on_at(listing.moment);
        if self.moment.is_some_and(is_another) {
            // Every node makes its record anew, one a little later than the other.
            let own = self.facts.own.clone();
            let address = self.address();
            let is_own = |value: &str| Said::read(value).is_ok_and(|said| said.is_of(address));
            self.facts.remember(|key, record| own.as_deref() != Some(key) && !is_own(&record.value));
            self.forget_at = Some(Instant::now() + REMEMBERED);
        }
        self.facts.forget(|_| self.forget_at.is_none());
        self.facts.records.retain(|_, record| record.is_remembered());
        self.facts.configure(listing.config);
        self.facts.passed_over = 0;
        let prefix = self.settings.prefix.clone();
        for (key, record) in listing.records {
            if let Place::Record(key) = place(&prefix, &key) {
                self.put(key, record);
            }
        }
    }

    /// Takes a record. What is remembered of its node is no news any more.
    fn put(&mut self, key: &str, record: Record) -> bool {
        if self.forget_at.is_some()
            && let Ok(Said { address: Some(address), .. }) = Said::read(&record.value)
        {
            let is_its = |known: &Record| {
                Said::read(&known.value).is_ok_and(|said| said.address.as_ref() == Some(&address))
            };
            self.facts.forget(is_its);
        }
        self.facts.put(key, record)
    }

    /// Forgets what an etcd said that was there before this one.
    fn forget(&mut self) {
        self.forget_at = None;
        self.facts.forget(|_| true);
    }

    /// Takes what a key holds, or held before it went. Returns whether something is other than before.
    fn take(&mut self, key: &[u8], record: Record, is_gone: bool) -> bool {
        match place(&self.settings.prefix, key) {
            Place::Config => self.facts.configure((!is_gone).then_some(record.value)),
            Place::Record(key) => {
                // What is known in a newer form was read in between.
                let known = self.facts.records.get(key).map_or(0, |known| known.modified);
                match is_gone {
                    _ if record.modified <= known => false,
                    true => self.facts.records.remove(key).is_some(),
                    false => self.put(key, record),
                }
            }
            Place::Other => false,
        }
    }
}
