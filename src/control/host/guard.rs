//! Nobody else at our devices: looked at before they are up, and every second from then on.
//!
//! The owner keeps ordinary users away. What he does not keep away is a process with CAP_NET_ADMIN, and
//! one that attached in the moment between the making of a device and its owner. Each holds a queue,
//! and the kernel tells how many there are.

use std::time::Duration;

use anyhow::bail;

use super::Host;
use crate::control::engine::judge::user;
use crate::control::engine::port::{Requirement, TunDetails};
use crate::dataplane::device::Ownership;

/// From one look to the next.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A TUN or TAP that is to be ours alone.
pub struct Guarded {
    name: String,
    /// Its interface index; 0 until it was looked at first. Another device under its name is not ours.
    index: u32,
    ownership: Ownership,
    /// Queues that we hold.
    queues: u32,
    /// Whether the last look found it given to somebody else.
    given_away: bool,
}

/// What is not as it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// It is somebody else's, or nobody's: then everybody may attach.
    Owner(Option<u32>),
    /// This many queues are held by processes.
    Queues(u32),
}

/// Compares what the kernel says with what is ours. A kernel that says nothing (before Linux 4.16)
/// and a device with one queue, at which nobody else can be while we are, are as they should be.
fn faults(tun: Option<&TunDetails>, user: u32, queues: u32) -> Vec<Fault> {
    let Some(tun) = tun else { return Vec::new() };
    let owner = (tun.owner != Some(user)).then_some(Fault::Owner(tun.owner));
    let count = (tun.multi_queue && tun.queues != queues).then_some(Fault::Queues(tun.queues));
    owner.into_iter().chain(count).collect()
}

impl Guarded {
    /// The device `name` with `queues` queues that we just opened.
    pub fn new(name: &str, ownership: Ownership, queues: usize) -> Self {
        let queues = u32::try_from(queues).unwrap_or(u32::MAX);
        Self { name: name.to_owned(), index: 0, ownership, queues, given_away: false }
    }

    /// Refuses a device that somebody else got hold of while we opened it. Call it before the device is up:
    /// until then no packet passes.
    ///
    /// # Errors
    /// Who else is there, and how to find him; the kernel's.
    pub async fn check(&mut self, host: &Host) -> anyhow::Result<()> {
        self.index = host.link_by_name(&self.name).await?.map_or(0, |link| link.index);
        let faults = self.faults(host).await?;
        let Some(fault) = faults.first() else { return Ok(()) };
        let Requirement { what, command } = self.requirement(*fault);
        bail!(
            "cannot use the device {}: {what}; find that process by `{command}`, stop it, and start again",
            self.name
        )
    }

    /// What is left to do by others, after the device has been taken back from whom it was given to.
    async fn look(&mut self, host: &Host) -> Vec<Requirement> {
        // A TUN that is gone ends the workers, a TAP is made again, and what the kernel does not say now it says next time.
        let Ok(mut found) = self.faults(host).await else { return Vec::new() };
        let given =
            found.iter().find_map(|fault| if let Fault::Owner(to) = fault { Some(*to) } else { None });
        if let Some(to) = given
            && self.ownership.renew().is_ok()
        {
            found.retain(|fault| !matches!(fault, Fault::Owner(_)));
            if !self.given_away {
                tracing::warn!("another process gave {} to {}: taken back", self.name, whom(to));
            }
        }
        self.given_away = given.is_some();
        found.into_iter().map(|fault| self.requirement(fault)).collect()
    }

    async fn faults(&self, host: &Host) -> anyhow::Result<Vec<Fault>> {
        let link = host.link_by_name(&self.name).await?;
        let ours = link.as_ref().filter(|link| link.index == self.index);
        let tun = ours.and_then(|link| link.tun.as_ref());
        Ok(faults(tun, self.ownership.user(), self.queues))
    }

    /// The command names the processes at devices of this name by their pids; this one is among them.
    fn requirement(&self, fault: Fault) -> Requirement {
        let (name, ours, pid) = (&self.name, self.queues, std::process::id());
        let what = match fault {
            Fault::Owner(owner) => {
                format!("{name} was given to {}, who may attach to it and read its packets", whom(owner))
            }
            Fault::Queues(all) => format!(
                "{name} has {all} queues and {ours} are ours: another process than {pid} gets a part of the packets and may forge others"
            ),
        };
        Requirement {
            what,
            command: format!("grep -ls 'iff:.{name}$' /proc/[0-9]*/fdinfo/* | cut -d/ -f3 | sort -u"),
        }
    }
}

fn whom(owner: Option<u32>) -> String {
    owner.map_or_else(|| "everybody".to_owned(), user)
}

/// Takes `new` in place of the device of its name.
pub fn take(devices: &mut Vec<Guarded>, new: Guarded) {
    devices.retain(|device| device.name != new.name);
    devices.push(new);
}

/// Looks at all `devices` in turn.
pub async fn look(devices: &mut [Guarded], host: &Host) -> Vec<Requirement> {
    let mut found = Vec::new();
    for device in devices {
        found.extend(device.look(host).await);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Fault, TunDetails, faults, whom};

    fn tun(owner: Option<u32>, queues: u32) -> TunDetails {
        TunDetails { owner, queues, multi_queue: true, ..TunDetails::default() }
    }

    #[test]
    fn ours_alone_or_what_is_wrong() {
        let of = |tun: TunDetails| faults(Some(&tun), 1000, 2);
        assert_eq!(of(tun(Some(1000), 2)), []);
        assert_eq!(of(tun(Some(1000), 3)), [Fault::Queues(3)]);
        assert_eq!(of(tun(Some(1000), 1)), [Fault::Queues(1)], "it is another device by now");
        assert_eq!(of(tun(None, 2)), [Fault::Owner(None)]);
        assert_eq!(of(tun(Some(0), 4)), [Fault::Owner(Some(0)), Fault::Queues(4)]);
        // The kernel does not count the queue of a device that has one.
        assert_eq!(of(TunDetails { multi_queue: false, ..tun(Some(1000), 0) }), []);
        assert_eq!(faults(None, 1000, 2), []);
    }

    #[test]
    fn owners_in_words() {
        assert_eq!(whom(None), "everybody");
        assert_eq!(whom(Some(7)), "user 7");
        assert!(whom(Some(65534)).contains("without a number in this user namespace"));
    }
}
