//! `[tunnel]`: the TUN device and the packet pump.

use std::net::IpAddr;
use std::time::Duration;

use super::diagnostic::Log;
use super::reader::{At, Table, auto_or, boolean, integer_in, word};
use super::value::{self, BACKENDS, HOOKS, SWITCHES, UPLINKS};
use super::{Backend, Dscp, Hooks, Switch, Uplink};

/// The section. Wherever a value is `None`, what was wrong with it is in the log.
pub(super) struct Tunnel {
    device: Option<At<String>>,
    pub(super) address: Option<At<Option<IpAddr>>>,
    pub(super) mtu: Option<At<Option<u16>>>,
    pub(super) workers: Option<At<Option<u16>>>,
    pub(super) backend: Option<At<Backend>>,
    uplink: Option<At<Uplink>>,
    dscp: Option<At<Dscp>>,
    pub(super) tso: Option<At<Switch>>,
    pub(super) uso: Option<At<Switch>>,
    pub(super) gro: Option<At<Switch>>,
    udp_gso: Option<At<Switch>>,
    udp_gro: Option<At<Switch>>,
    segment_sizes: Option<At<Switch>>,
    packet_socket: Option<At<Switch>>,
    kernel_path: Option<At<Switch>>,
    kernel_path_hooks: Option<At<Hooks>>,
    kernel_path_after: Option<At<u16>>,
    busy_poll: Option<At<u16>>,
    allow_nested: Option<At<bool>>,
}

impl Tunnel {
    pub(super) fn read(table: &Table<'_>, log: &mut Log<'_>) -> Self {
        let mut switch = |key| table.value_or(log, key, Switch::Auto, |v| word(v, &SWITCHES));
        let [tso, uso, gro] = ["tso", "uso", "gro"].map(&mut switch);
        let [udp_gso, udp_gro] = ["udp_gso", "udp_gro"].map(&mut switch);
        let [segment_sizes, packet_socket] = ["segment_sizes", "packet_socket"].map(switch);
        let kernel_path = table.value_or(log, "kernel_path", Switch::Auto, |v| word(v, &SWITCHES));
        Self {
            device: table.value_or(log, "device", super::Tunnel::DEVICE.to_owned(), value::device),
            address: table.value_or(log, "address", None, |v| auto_or(v, value::tunnel_address)),
            mtu: table.value_or(log, "mtu", None, |v| auto_or(v, |v| integer_in(v, 576, u16::MAX))),
            workers: table.value_or(log, "workers", None, |v| auto_or(v, |v| integer_in(v, 1, 64))),
            backend: table.value_or(log, "backend", Backend::Auto, |v| word(v, &BACKENDS)),
            uplink: table.value_or(log, "uplink", Uplink::Auto, |v| word(v, &UPLINKS)),
            dscp: table.value_or(log, "dscp", Dscp::Fixed(0), value::dscp),
            tso,
            uso,
            gro,
            udp_gso,
            udp_gro,
            segment_sizes,
            packet_socket,
            kernel_path,
            kernel_path_hooks: table.value_or(log, "kernel_path_hooks", Hooks::Auto, |v| word(v, &HOOKS)),
            kernel_path_after: table.value_or(
                log,
                "kernel_path_after",
                super::Tunnel::KERNEL_PATH_AFTER,
                |v| integer_in(v, 1, 10_000),
            ),
            busy_poll: table.value_or(log, "busy_poll", super::Tunnel::BUSY_POLL, |v| integer_in(v, 0, 1000)),
            allow_nested: table.value_or(log, "allow_nested", false, boolean),
        }
    }

    pub(super) fn build(self) -> Option<super::Tunnel> {
        Some(super::Tunnel {
            device: self.device?.value,
            address: self.address?.value,
            mtu: self.mtu?.value,
            workers: self.workers?.value,
            backend: self.backend?.value,
            uplink: self.uplink?.value,
            dscp: self.dscp?.value,
            offload: super::Offload {
                tso: self.tso?.value,
                uso: self.uso?.value,
                gro: self.gro?.value,
                udp_gso: self.udp_gso?.value,
                udp_gro: self.udp_gro?.value,
                segment_sizes: self.segment_sizes?.value,
                packet_socket: self.packet_socket?.value,
            },
            kernel_path: self.kernel_path?.value,
            kernel_path_hooks: self.kernel_path_hooks?.value,
            kernel_path_after: self.kernel_path_after?.value,
            busy_poll: Duration::from_micros(self.busy_poll?.value.into()),
            allow_nested: self.allow_nested?.value,
        })
    }
}
