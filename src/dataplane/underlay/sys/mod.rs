//! The system calls of the network edge: `sendmmsg` and `recvmmsg` over reusable arrays, and
//! socket options that socket2 lacks.
#![expect(clippy::cast_possible_truncation, reason = "sizes of C structures and of batches")]

mod address;
mod control;
mod options;
mod receive;
mod send;

#[cfg(test)]
pub use options::set_no_checksum;
pub(super) use options::{
    accept_zero_checksum6, attach_reuseport_filter, begin_group, bind_to_all, bind_to_all_of_interface,
    bind_to_interface, bind_to_ipv4_of_interface, choose_by, drops, ignore_outgoing, ignore_path_mtu_of,
    join_group, let_fragment, refuse_multicast6, set_dont_fragment, set_dont_fragment6,
    set_packet_vnet_header, set_receive_buffer, set_receive_traffic_class, set_send_buffer, set_udp_gro,
    set_udp_segment,
};
pub(super) use receive::ReceiveBatch;
pub(super) use send::SendBatch;
