//! The far end: counts datagrams, accepts connections.

use std::io::{IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::Context;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt};

use crate::trial::{ANSWER, HEADER, QUESTION, number};
use crate::{CONNECT_PORT, COUNT_PORT};

/// Datagrams in one system call.
const BATCH: usize = 64;
/// Bytes of the receive buffer: a far end that is kept from running for some milliseconds must not
/// look like a path that loses packets.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Serves on `address` until killed; says `ready` on standard output first.
///
/// # Errors
/// When a port is taken or a socket fails.
pub fn run(address: Ipv4Addr) -> anyhow::Result<()> {
    let counter = bind(address, COUNT_PORT)?;
    // Needs CAP_NET_ADMIN outside user namespaces; without it the limit of net.core.rmem_max applies.
    if setsockopt(&counter, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&counter, sockopt::RcvBuf, &RECEIVE_BUFFER).context("receive buffer")?;
    }
    let listener = TcpListener::bind((address, CONNECT_PORT)).context("TCP port")?;
    println!("ready");
    let workers = [thread::spawn(move || count(&counter)), thread::spawn(move || accept(&listener))];
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    Ok(())
}

fn bind(address: Ipv4Addr, port: u16) -> anyhow::Result<UdpSocket> {
    UdpSocket::bind((address, port)).with_context(|| format!("UDP port {port} of {address}"))
}

/// What has arrived of the trial in progress.
#[derive(Default)]
struct Tally {
    trial: [u8; 4],
    received: u64,
    reordered: u64,
    /// One more than the highest number seen.
    next: u64,
}

impl Tally {
    /// Takes one datagram; returns the answer when it is a question.
    fn take(&mut self, datagram: &[u8]) -> Option<[u8; ANSWER]> {
        let header: &[u8; HEADER] = datagram.first_chunk()?;
        if header[..4] != self.trial {
            *self = Self { trial: [header[0], header[1], header[2], header[3]], ..Self::default() };
        }
        match number(header, 4) {
            QUESTION => Some(self.answer()),
            sequence => {
                self.received += 1;
                self.reordered += u64::from(sequence < self.next);
                self.next = self.next.max(sequence + 1);
                None
            }
        }
    }

    fn answer(&self) -> [u8; ANSWER] {
        let mut answer = [0; ANSWER];
        answer[..4].copy_from_slice(&self.trial);
        answer[4..12].copy_from_slice(&self.received.to_le_bytes());
        answer[12..].copy_from_slice(&self.reordered.to_le_bytes());
        answer
    }
}

/// Only the first bytes of a datagram are copied out of the kernel.
fn count(socket: &UdpSocket) -> anyhow::Result<()> {
    let mut tally = Tally::default();
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = [[0; HEADER]; BATCH];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let received =
            recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None).context("recvmmsg")?;
        for message in received {
            let answer = message.iovs().next().and_then(|datagram| tally.take(datagram));
            if let (Some(answer), Some(to)) = (answer, message.address) {
                // A lost answer is asked for again.
                let _ = socket.send_to(&answer, std::net::SocketAddrV4::from(to));
            }
        }
    }
}

fn accept(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        let (connection, _) = listener.accept().context("accept")?;
        // Whatever becomes of one connection, the next one is served.
        let _ = greet(connection);
    }
}

/// One byte says that the connection has been accepted; then the other end closes.
fn greet(mut connection: TcpStream) -> std::io::Result<()> {
    connection.write_all(b"+")?;
    connection.read(&mut [0]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::trial::{QUESTION, number};

    fn datagram(trial: u32, sequence: u64) -> Vec<u8> {
        [&trial.to_le_bytes()[..], &sequence.to_le_bytes()].concat()
    }

    #[test]
    fn counts_arrivals_and_those_that_are_late() {
        let mut tally = Tally::default();
        for sequence in [0, 1, 4, 3, 5, 2] {
            assert_eq!(tally.take(&datagram(7, sequence)), None);
        }
        let answer = tally.take(&datagram(7, QUESTION)).unwrap();
        assert_eq!((answer[0], number(&answer, 4), number(&answer, 12)), (7, 6, 2));
    }

    #[test]
    fn a_new_trial_starts_from_nothing_and_short_datagrams_are_nothing() {
        let mut tally = Tally::default();
        tally.take(&datagram(1, 9));
        assert_eq!(tally.take(&[1; 11]), None);
        let answer = tally.take(&datagram(2, QUESTION)).unwrap();
        assert_eq!((answer[0], number(&answer, 4), number(&answer, 12)), (2, 0, 0));
    }
}
