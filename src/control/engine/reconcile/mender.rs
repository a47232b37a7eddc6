//! Which differences are mended now, which have to wait, and which are an administrator's.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::devices::{Difference, Key, Role};
use crate::control::engine::port::{HostError, HostRequest, Requirement, Sysctl};

/// From one time that a difference is mended to the next: somebody else may insist on his value.
const PAUSE: Duration = Duration::from_secs(1);
/// After this time a refused request is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(30);

/// What was asked and what became of it.
#[derive(Debug, Default)]
pub(in crate::control::engine) struct Mender {
    asked: HashMap<Key, Asked>,
}

#[derive(Debug)]
struct Asked {
    when: Instant,
    /// Requests without an answer.
    open: usize,
    refused: Option<HostError>,
}

/// What to do about the differences.
#[derive(Debug, Default)]
pub(in crate::control::engine) struct Plan {
    /// What to ask for.
    pub requests: Vec<(Key, HostRequest)>,
    /// What is left to an administrator, in the order in which it can be done.
    pub requirements: Vec<Requirement>,
    /// Whether the MTU is among them.
    pub mtu_is_held: bool,
    /// Whether what has local addresses as its source is not taken from the TUN.
    pub accept_local_is_held: bool,
    /// When something that has to wait may be mended.
    pub again: Option<Instant>,
}

impl Mender {
    /// Decides about all `differences`; `may` says whether there is the right to change the host.
    pub(in crate::control::engine) fn plan(
        &mut self,
        mut differences: Vec<Difference>,
        may: bool,
        now: Instant,
    ) -> Plan {
        let mut plan = Plan::default();
        for difference in &mut differences {
            if difference.requests.is_empty() {
                continue;
            }
            let key = difference.key;
            let asked = self.asked.get(&key);
            if asked.is_some_and(|asked| asked.open > 0) {
                difference.requirement = None;
                continue;
            }
            let refused = asked.and_then(|asked| asked.refused.as_ref().filter(|_| now < asked.when + RETRY));
            if !may {
                continue;
            }
            if let Some(error) = refused {
                difference.explain(error);
                continue;
            }
            difference.requirement = None;
            match asked.map(|asked| asked.when + PAUSE).filter(|next| *next > now) {
                Some(next) => plan.again = Some(plan.again.map_or(next, |again| again.min(next))),
                None => {
                    let requests = std::mem::take(&mut difference.requests);
                    self.asked.insert(key, Asked { when: now, open: requests.len(), refused: None });
                    plan.requests.extend(requests.into_iter().map(|request| (key, request)));
                }
            }
        }
        differences.sort_by_key(|difference| difference.key);
        for difference in differences {
            if let Some(requirement) = difference.requirement {
                plan.mtu_is_held |= difference.key == Key::Mtu;
                plan.accept_local_is_held |= difference.key == Key::Sysctl(Role::Tun, Sysctl::AcceptLocal);
                plan.requirements.push(requirement);
            }
        }
        plan
    }

    /// Whether a request about `key` has no answer yet.
    pub(in crate::control::engine) fn is_asked(&self, key: Key) -> bool {
        self.asked.get(&key).is_some_and(|asked| asked.open > 0)
    }

    /// A request about `key` has ended.
    pub(in crate::control::engine) fn ended(&mut self, key: Key, refused: Option<HostError>) {
        if let Some(asked) = self.asked.get_mut(&key) {
            asked.open = asked.open.saturating_sub(1);
            asked.refused = refused.or(asked.refused.take());
        }
    }
}

impl Difference {
    /// Adds why the kernel does not let us, where that is not for want of a privilege.
    fn explain(&mut self, error: &HostError) {
        if let Some(requirement) = self.requirement.as_mut().filter(|_| !error.is_denied()) {
            requirement.what = format!("{} ({error})", requirement.what);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::devices::{Difference, Key, Role};
    use super::{Mender, PAUSE, RETRY};
    use crate::control::engine::port::{HostError, HostRequest, LinkChange, Requirement};

    fn down() -> Vec<Difference> {
        let request = |change| HostRequest::Link { index: 7, name: "up0".to_owned(), change };
        vec![Difference {
            key: Key::Up(Role::Tun),
            requests: vec![request(LinkChange::NoQueue), request(LinkChange::Up)],
            requirement: Some(Requirement { what: "up0 is down".to_owned(), command: String::new() }),
        }]
    }

    fn refusal(errno: i32) -> HostError {
        HostError::Netlink { action: "set up0 up".to_owned(), reason: "no".to_owned(), errno: Some(errno) }
    }

    #[test]
    fn a_difference_is_mended_once_and_again_only_after_a_pause() {
        let (mut mender, now) = (Mender::default(), Instant::now());
        assert_eq!(mender.plan(down(), true, now).requests.len(), 2);
        let waiting = mender.plan(down(), true, now);
        assert!(waiting.requests.is_empty() && waiting.requirements.is_empty() && waiting.again.is_none());
        mender.ended(Key::Up(Role::Tun), None);
        assert!(mender.plan(down(), true, now).again.is_none(), "one answer is still to come");
        mender.ended(Key::Up(Role::Tun), None);
        let insisting = mender.plan(down(), true, now + Duration::from_millis(1));
        assert_eq!((insisting.requests.len(), insisting.again), (0, Some(now + PAUSE)));
        assert_eq!(mender.plan(down(), true, now + PAUSE).requests.len(), 2);
    }

    #[test]
    fn what_is_refused_is_shown_with_its_reason_and_tried_again() {
        let (mut mender, now) = (Mender::default(), Instant::now());
        for (errno, what) in
            [(libc::EPERM, "up0 is down"), (libc::ENODEV, "up0 is down (cannot set up0 up: no)")]
        {
            mender = Mender::default();
            mender.plan(down(), true, now);
            mender.ended(Key::Up(Role::Tun), None);
            mender.ended(Key::Up(Role::Tun), Some(refusal(errno)));
            let plan = mender.plan(down(), true, now + PAUSE);
            assert_eq!(plan.requests.len(), 0);
            assert_eq!(plan.requirements[0].what, what);
        }
        assert_eq!(mender.plan(down(), true, now + RETRY).requests.len(), 2);
    }

    #[test]
    fn without_the_right_nothing_is_tried() {
        let plan = Mender::default().plan(down(), false, Instant::now());
        assert_eq!((plan.requests.len(), plan.requirements.len()), (0, 1));
        assert!(!plan.mtu_is_held);
    }
}
