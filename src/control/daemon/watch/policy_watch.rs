//! Which peers IPsec policies are about. Towards those, packets leave by sockets that pass the policies.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::control::engine::port::Requirement;
use crate::control::engine::{Event, Snapshot};
use crate::control::host::{Policies, Policy};
use crate::net::Mode;
use crate::wire::protocol;

/// What is known of the policies.
#[derive(Default)]
pub(crate) struct PolicyWatch {
    connection: Option<Policies>,
    /// Whether the kernel has none, or does not tell us: it is not asked again.
    denied: bool,
    /// Whether it is logged that they cannot be read for now.
    warned: bool,
    /// What was judged last, and what came of it.
    judged: Seen,
    told: Verdict,
}

/// The addresses of peers that some policy is about, and what cannot be obeyed.
type Verdict = (BTreeSet<IpAddr>, Vec<Requirement>);

/// Everything that a verdict depends on.
#[derive(Default, PartialEq)]
struct Seen {
    policies: Vec<Policy>,
    /// Each peer: our address towards it, and its own.
    peers: Vec<(IpAddr, IpAddr)>,
    /// Those that some route reaches by IP-in-IP.
    by_ipip: Vec<(IpAddr, IpAddr)>,
}

impl PolicyWatch {
    /// Looks at those of this network namespace; returns what is new.
    pub(crate) fn look(&mut self, snapshot: &Snapshot) -> Option<Event> {
        if self.denied {
            return None;
        }
        let read = self.read();
        let policies = self.accept(read)?;
        let (policed, wrong) = self.follow(Seen::of(policies, snapshot))?;
        Some(Event::Policies(policed, wrong))
    }

    /// Reads them, by a new connection where there is none. One that failed is not used again.
    fn read(&mut self) -> io::Result<Vec<Policy>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Policies::connect()?,
        };
        let policies = connection.read()?;
        self.connection = Some(connection);
        Ok(policies)
    }

    /// The policies that were read. Where they were not, what was told stands, and unless it is of no use the next
    /// look reads them again.
    fn accept(&mut self, read: io::Result<Vec<Policy>>) -> Option<Vec<Policy>> {
        match read {
            Ok(policies) => {
                if std::mem::take(&mut self.warned) {
                    tracing::info!("IPsec policies are known again");
                }
                Some(policies)
            }
            Err(error) => {
                self.denied = error.kind() == io::ErrorKind::PermissionDenied
                    || error.raw_os_error() == Some(libc::EPROTONOSUPPORT);
                if self.denied {
                    tracing::debug!("IPsec policies are not known: {error}");
                } else if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!("IPsec policies cannot be read, new ones are noticed late: {error}");
                }
                None
            }
        }
    }

    /// Judges what was seen, where it is not the same as last time; returns the verdict where it is another.
    fn follow(&mut self, seen: Seen) -> Option<Verdict> {
        if seen == self.judged {
            return None;
        }
        let found = judge(&seen);
        self.judged = seen;
        if found == self.told {
            return None;
        }
        self.told.clone_from(&found);
        Some(found)
    }
}

impl Seen {
    fn of(policies: Vec<Policy>, snapshot: &Snapshot) -> Self {
        if policies.is_empty() {
            return Self::default();
        }
        let facing = |peer: IpAddr| (snapshot.underlay.facing(peer), peer);
        let peers = snapshot.known().map(|peer| facing(peer.address)).collect();
        let by_ipip = snapshot.peers_by(Mode::Ipip).iter().map(|peer| facing(*peer)).collect();
        Self { policies, peers, by_ipip }
    }
}

fn judge(seen: &Seen) -> Verdict {
    let Seen { policies, peers, by_ipip } = seen;
    let about = |policy: &Policy, (own, peer): (IpAddr, IpAddr)| policy.applies(own, peer);
    let policed = peers.iter().filter(|ends| policies.iter().any(|policy| about(policy, **ends)));
    let special = policies.iter().filter(|policy| matches!(policy.protocol, protocol::IPIP | protocol::IPV6));
    let wrong = special.filter(|policy| by_ipip.iter().any(|ends| about(policy, *ends))).map(|policy| {
        let Policy { source, destination, protocol } = policy;
        Requirement {
            what: format!(
                "the IPsec policy for protocol {protocol} from {source} to {destination} is not applied to IP-in-IP \
                 packets, which leave by raw sockets and so have protocol 255 to policies: make one without `proto`"
            ),
            command: format!("ip xfrm policy delete src {source} dst {destination} proto {protocol} dir out"),
        }
    });
    (policed.map(|(_, peer)| *peer).collect(), wrong.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io;
    use std::net::IpAddr;

    use super::{PolicyWatch, Seen};
    use crate::control::host::Policy;
    use crate::wire::protocol;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn policy(destination: &str, protocol: u8) -> Policy {
        Policy {
            source: "192.0.2.1/32".parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
        }
    }

    fn seen(policies: &[Policy], by_ipip: &[&str]) -> Seen {
        let ends = |peer: &&str| (address("192.0.2.1"), address(peer));
        Seen {
            policies: policies.to_vec(),
            peers: ["192.0.2.2", "192.0.2.3"].iter().map(ends).collect(),
            by_ipip: by_ipip.iter().map(ends).collect(),
        }
    }

    #[test]
    fn a_failure_of_a_moment_does_not_end_the_watch() {
        let mut watch = PolicyWatch::default();
        for code in [libc::EAGAIN, libc::ENOBUFS, libc::EMFILE, libc::EINTR] {
            assert!(watch.accept(Err(io::Error::from_raw_os_error(code))).is_none());
            assert!(!watch.denied && watch.warned, "{code}");
        }
        assert_eq!(watch.accept(Ok(Vec::new())), Some(Vec::new()));
        assert!(!watch.warned);
        for code in [libc::EPERM, libc::EPROTONOSUPPORT] {
            assert!(watch.accept(Err(io::Error::from_raw_os_error(code))).is_none());
            assert!(watch.denied && !watch.warned, "{code}");
        }
    }

    #[test]
    fn a_verdict_is_told_when_it_is_another() {
        let mut watch = PolicyWatch::default();
        assert!(watch.follow(seen(&[], &[])).is_none());
        let policies = [policy("192.0.2.3/32", protocol::IPIP)];
        let (policed, wrong) = watch.follow(seen(&policies, &[])).unwrap();
        assert_eq!((policed, wrong.len()), (BTreeSet::from([address("192.0.2.3")]), 0));
        assert!(watch.follow(seen(&policies, &[])).is_none());
        // The same peers and policies, but a route goes by IP-in-IP now.
        assert!(watch.follow(seen(&policies, &["192.0.2.2"])).is_none());
        let (_, wrong) = watch.follow(seen(&policies, &["192.0.2.2", "192.0.2.3"])).unwrap();
        assert_eq!(wrong.len(), 1);
        assert_eq!(watch.follow(Seen::default()), Some(Default::default()));
    }
}
