//! When connections are forgotten.

/// Seconds without a packet until a connection is forgotten, by its state. The defaults are those of the kernel's
/// connection tracking (Documentation/networking/nf_conntrack-sysctl.rst).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// TCP, before the handshake is done.
    pub tcp_syn: u32,
    /// TCP, while data may flow.
    pub tcp_established: u32,
    /// TCP, once one end has sent FIN.
    pub tcp_fin: u32,
    /// TCP, once both have.
    pub tcp_time_wait: u32,
    /// TCP, after a reset.
    pub tcp_close: u32,
    /// UDP, without an answer.
    pub udp: u32,
    /// UDP, once there was one.
    pub udp_stream: u32,
    /// SCTP, once there was an answer.
    pub sctp: u32,
    /// Queries of ICMP, such as echo requests.
    pub icmp: u32,
    /// Everything else.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn: 120,
            tcp_established: 432_000,
            tcp_fin: 120,
            tcp_time_wait: 120,
            tcp_close: 10,
            udp: 30,
            udp_stream: 120,
            sctp: 210,
            icmp: 30,
            other: 600,
        }
    }
}
