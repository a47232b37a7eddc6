//! What the daemon may do: less from its first moment on.
//!
//! Rights are a thread's, and threads begin with those of their maker; so they are given up before there is
//! a second thread. What stays is what devices, sockets and routes need while the daemon runs, too: a TAP is
//! made again, an uplink moves, a sysctl is set back.
//!
//! One program is run, `nft` for masquerading. It begins with what is inheritable, and that is CAP_NET_ADMIN alone.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
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

/// Gives up everything that `config`, which is in the file `configuration`, does not need, for this thread and those that it starts. Call it before
/// there are others. Returns what should be logged: a step that the kernel refuses is no reason to end.
pub(super) fn give_up(config: &Config, configuration: &Path) -> Vec<String> {
    let files = Files { configuration, socket: &config.control.socket };
    // While the bounding set has it, as the kernel demands.
    let inherited = pass_on(CapabilitySet::NET_ADMIN);
    // Without CAP_SETPCAP the bounding set stays; as only nft is run, that matters little.
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if remove_capability_from_bounding_set(capability).is_err() {
            break;
        }
    }
    let steps: [(&str, Result<(), Errno>); 5] = [
        ("what programs that it runs do not need", inherited),
        ("the ambient capabilities", clear_ambient_capability_set()),
        ("capabilities that are not needed", drop_capabilities(needed(config), &files)),
        ("new privileges by running programs", set_no_new_privs(true)),
        ("being read by other processes of its user", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
    ];
    let refused = steps.iter().filter_map(|(what, done)| Some((what, done.err()?)));
    refused.map(|(what, error)| format!("the daemon cannot give up {what}: {error}")).collect()
}

/// Has programs inherit what there is of `inherited`, and nothing else.
fn pass_on(inherited: CapabilitySet) -> Result<(), Errno> {
    let sets = capabilities(None)?;
    let inheritable = sets.permitted & inherited;
    set_capabilities(None, CapabilitySets { inheritable, ..sets })
}

/// Keeps `needed` of what there is, and what `files` take besides.
fn drop_capabilities(needed: CapabilitySet, files: &Files<'_>) -> Result<(), Errno> {
    let CapabilitySets { permitted, inheritable, .. } = capabilities(None)?;
    let keep =
        |permitted, effective| set_capabilities(None, CapabilitySets { effective, permitted, inheritable });
    // What the modes of the files allow shows once the rights are not in effect.
    keep(permitted, permitted & needed)?;
    let kept = permitted & (needed | files.needed());
    keep(kept, kept)
}

/// What the daemon opens by name while it runs.
struct Files<'a> {
    /// The configuration, which a reload reads.
    configuration: &'a Path,
    /// The control socket, which is made again where it is removed.
    socket: &'a Path,
}

impl Files<'_> {
    /// What it takes to use them where they belong to another user.
    fn needed(&self) -> CapabilitySet {
        // The nearest directory that is there: those below it are made by the daemon.
        let directory = self.socket.ancestors().skip(1).find(|path| !is_missing(path));
        if directory.is_some_and(|path| is_denied(path, Access::WRITE_OK | Access::EXEC_OK)) {
            // That is for reading, too.
            CapabilitySet::DAC_OVERRIDE
        } else if is_denied(self.configuration, Access::READ_OK) {
            CapabilitySet::DAC_READ_SEARCH
        } else {
            CapabilitySet::empty()
        }
    }
}

fn is_denied(path: &Path, access: Access) -> bool {
    accessat(CWD, path, access, AtFlags::EACCESS) == Err(Errno::ACCESS)
}

fn is_missing(path: &Path) -> bool {
    accessat(CWD, path, Access::EXISTS, AtFlags::EACCESS) == Err(Errno::NOENT)
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
