//! What the daemon may do: less from its first moment on.
//!
//! Rights are a thread's, and threads begin with those of their maker; so they are given up before there is
//! a second thread. What stays is what devices, sockets and routes need while the daemon runs, too: a TAP is
//! made again, an uplink moves, a sysctl is set back.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use crate::config::Config;

/// Largest port that takes a right of its own (`net.ipv4.ip_unprivileged_port_start` may be lower).
const RESERVED_PORTS: u16 = 1023;

/// What `config` needs: of these a process keeps what it has.
fn needed(config: &Config) -> CapabilitySet {
    let ports = [Some(config.vxlan.port), config.metrics.map(|listen| listen.port())];
    let reserved = ports.into_iter().flatten().any(|port| port <= RESERVED_PORTS);
    let always = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::BPF;
    if reserved { always | CapabilitySet::NET_BIND_SERVICE } else { always }
}

/// Gives up everything that `config` does not need, for this thread and those that it starts. Call it before
/// there are others. Returns what should be logged: a step that the kernel refuses is no reason to end.
pub fn give_up(config: &Config) -> Vec<String> {
    // Without CAP_SETPCAP the bounding set stays; as no program is run, that matters little.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let steps: [(&str, Result<(), Errno>); 4] = [
        ("the ambient capabilities", clear_ambient_capability_set()),
        ("capabilities that are not needed", drop_capabilities(needed(config))),
        ("new privileges by running programs", set_no_new_privs(true)),
        ("being read by other processes of its user", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
    ];
    let refused = steps.iter().filter_map(|(what, done)| Some((what, done.err()?)));
    refused.map(|(what, error)| format!("the daemon cannot give up {what}: {error}")).collect()
}

fn drop_capabilities(needed: CapabilitySet) -> Result<(), Errno> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let kept = CapabilitySets {
        effective: effective & needed,
        permitted: permitted & needed,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept)
}

/// What should be logged where `file` could be read only with rights that are gone.
pub fn check_file(file: &Path) -> Option<String> {
    // A pipe would make us wait, and is refused by a reload anyhow.
    let opened =
        if std::fs::metadata(file).ok()?.is_file() { std::fs::File::open(file) } else { return None };
    let denied = opened.err().filter(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
    denied.map(|error| {
        let file = file.display();
        format!("{file}: a reload will be refused, because the daemon no longer reads other users' files ({error}); make it readable for the daemon's user")
    })
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::needed;

    #[test]
    fn a_reserved_port_takes_one_right_more() {
        let config = |extra: &str| {
            let text = format!(
                "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n{extra}"
            );
            crate::config::parse(&text, "f").unwrap()
        };
        let three = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::BPF;
        assert_eq!(needed(&config("")), three);
        assert_eq!(needed(&config("[metrics]\nlisten = \"127.0.0.1:9091\"\n")), three);
        let four = three | CapabilitySet::NET_BIND_SERVICE;
        assert_eq!(needed(&config("[metrics]\nlisten = \"127.0.0.1:91\"\n")), four);
        assert_eq!(needed(&config("[vxlan]\nport = 500\n")), four);
    }
}
