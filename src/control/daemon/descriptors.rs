//! How many files this process has open at most, and the right to have so many: what a client or a watcher
//! opens must never be what a packet path lacks.

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::control::server::http::CONNECTIONS;
use crate::dataplane::underlay::SOURCE_PORTS;

/// Of each worker, whatever the families: its queues of the TUN and the TAP, its poll instance and what wakes
/// it, the packet socket, the metadata socket and the one that takes what that leaves out.
const PER_WORKER: usize = 7;
/// Of each worker in each family beside the source ports: sockets for VXLAN and two protocols of IP-in-IP, each a
/// second time to say whom the kernel lets through, the raw one for sending, and a UDP and a raw one for what may
/// leave in fragments.
const PER_FAMILY: usize = 2 * 3 + 1 + 2;
/// The control socket and the metrics endpoint, each with its clients, and some that are being closed.
const SERVERS: usize = 2 * (1 + CONNECTIONS + CONNECTIONS / 4);
/// Everything else: the log, signals, the runtime, netlink, the programs on TUN and TAP, tests of the TAP,
/// and files that are read and closed again.
const OTHERS: usize = 64;

/// Raises the soft limit of open files to what is allowed, which has to be enough for so many workers in so
/// many families.
///
/// # Errors
/// When it is not.
pub(super) fn allow(workers: u16, families: usize) -> anyhow::Result<()> {
    let needed = needed(usize::from(workers), families);
    let limit = getrlimit(Resource::Nofile);
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < needed) {
        bail!(
            "the limit of open files is {maximum}, and {needed} are needed; raise it (`ulimit -n`, LimitNOFILE=) or set fewer `workers`",
        );
    }
    if limit.current.is_none() || limit.current == limit.maximum {
        return Ok(());
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

fn needed(workers: usize, families: usize) -> u64 {
    let sockets = families * (usize::from(SOURCE_PORTS) + PER_FAMILY);
    (workers * (sockets + PER_WORKER) + SERVERS + OTHERS) as u64
}

#[cfg(test)]
mod tests {
    use super::needed;

    #[test]
    fn every_worker_and_every_client_has_its_own() {
        assert_eq!(needed(8, 1), 8 * (256 + 9 + 7) + 2 * (1 + 64 + 16) + 64);
        assert_eq!(needed(2, 2) - needed(1, 2), 2 * 265 + 7);
    }
}
