//! copyloop: the floor of `scripts/bench`, the tunnel that anyone writes first.
//!
//! A TUN of the `tun-tap` crate, a UDP socket of the standard library, one thread for each direction, one
//! packet for each system call: no batches, no offloads, no routes, one peer. It frames packets as VXLAN,
//! so that the same bytes cross the link as with the other VXLAN systems.
//!
//! ```text
//! flags 0x08 (1) | 0 (3) | VNI (3) | 0 (1) | inner Ethernet: 2 × MAC (12), 0x0800 (2) | IPv4 packet
//! ```

#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a tool of the benchmarks, whose output is read"
)]

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::{process, thread};

use anyhow::Context;
use clap::Parser;
use tun_tap::{Iface, Mode};

/// Bytes of the VXLAN header (RFC 7348 section 5) and of the inner Ethernet header.
const HEADER: usize = 8 + 14;
/// Bytes of the VXLAN header alone.
const VXLAN: usize = 8;
/// The largest packet that a TUN passes.
const LARGEST: usize = 65535;

/// Copies packets between a TUN and one peer, as VXLAN.
#[derive(Parser)]
struct Arguments {
    /// Name of the TUN to make; addresses and MTU are for the caller to set.
    #[arg(long)]
    device: String,
    /// Our address on the underlay.
    #[arg(long)]
    local: Ipv4Addr,
    /// The peer's address on the underlay.
    #[arg(long)]
    peer: Ipv4Addr,
    /// UDP port at both ends.
    #[arg(long, default_value_t = 4789)]
    port: u16,
    /// VXLAN network identifier.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(..1 << 24))]
    vni: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let socket = UdpSocket::bind((arguments.local, arguments.port)).context("UDP port")?;
    socket.connect((arguments.peer, arguments.port)).context("no way to the peer")?;
    let tun = Iface::without_packet_info(&arguments.device, Mode::Tun).context("TUN")?;
    println!("ready");
    let header = header(arguments.vni);
    thread::scope(|scope| {
        scope.spawn(|| fail(outbound(&tun, &socket, &header)));
        fail(inbound(&tun, &socket, &header))
    })
}

/// Ends the process: one direction alone is no tunnel.
fn fail(reason: anyhow::Error) -> ! {
    eprintln!("copyloop: {reason:#}");
    process::exit(1)
}

fn header(vni: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[0] = 0x08;
    header[4..7].copy_from_slice(&vni.to_be_bytes()[1..]);
    header[HEADER - 2..].copy_from_slice(&[0x08, 0x00]);
    header
}

/// Copies until reading fails, and returns why it did.
fn outbound(tun: &Iface, socket: &UdpSocket, header: &[u8; HEADER]) -> anyhow::Error {
    let mut buffer = vec![0; HEADER + LARGEST];
    buffer[..HEADER].copy_from_slice(header);
    loop {
        let len = match tun.recv(&mut buffer[HEADER..]) {
            Ok(len) => len,
            Err(error) => return anyhow::Error::new(error).context("read from the TUN"),
        };
        // What the network does not take is lost, as on any link.
        let _ = socket.send(&buffer[..HEADER + len]);
    }
}

/// Copies until receiving fails, and returns why it did.
fn inbound(tun: &Iface, socket: &UdpSocket, header: &[u8; HEADER]) -> anyhow::Error {
    let mut buffer = vec![0; HEADER + LARGEST];
    loop {
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if passing(&error) => continue,
            Err(error) => return anyhow::Error::new(error).context("receive from the peer"),
        };
        if let Some(packet) = inner(&buffer[..len], header) {
            let _ = tun.send(packet);
        }
    }
}

/// Whether the next `recv` may work: the peer's socket is not there yet, or a signal came.
fn passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted)
}

/// The packet inside a datagram of our VNI.
fn inner<'a>(datagram: &'a [u8], header: &[u8; HEADER]) -> Option<&'a [u8]> {
    let (outer, packet) = datagram.split_at_checked(HEADER)?;
    (outer[..VXLAN] == header[..VXLAN] && outer[HEADER - 2..] == header[HEADER - 2..]).then_some(packet)
}

#[cfg(test)]
mod tests {
    use super::{HEADER, header, inner};

    #[test]
    fn the_header_is_vxlan_over_ethernet() {
        let mut expected = [0; HEADER];
        (expected[0], expected[5], expected[20]) = (0x08, 0x10, 0x08);
        assert_eq!(header(4096), expected);
    }

    #[test]
    fn only_datagrams_of_the_vni_have_an_inner_packet() {
        let datagram = [&header(7)[..], b"packet"].concat();
        assert_eq!(inner(&datagram, &header(7)), Some(&b"packet"[..]));
        assert_eq!(inner(&datagram, &header(8)), None);
        assert_eq!(inner(&datagram[..HEADER - 1], &header(7)), None);
    }
}
