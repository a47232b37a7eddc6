//! One trial: datagrams at a steady rate for a while, then the question how many arrived.
//!
//! ```text
//! datagram   trial (4) | sequence number (8) | zeros …
//! question   trial (4) | all ones (8)
//! answer     trial (4) | received (8) | reordered (8)
//! ```
//! Numbers are little endian. Question and answer take the way of the datagrams, behind them, and are
//! repeated until they get through: when the answer is there, no queue holds a datagram of this trial.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};

use crate::cpu;
use crate::pace::{self, BATCH, Pace};

/// Bytes of trial and sequence number.
pub const HEADER: usize = 12;
/// Bytes of an answer.
pub const ANSWER: usize = 20;
/// The sequence number that makes a datagram a question.
pub const QUESTION: u64 = u64::MAX;

/// A sender that was kept from running must not fill all queues afterwards; seconds.
const LONGEST_BURST: f64 = 0.001;
const ANSWER_TIMEOUT: Duration = Duration::from_millis(40);
const QUESTIONS: usize = 75;

/// What became of the datagrams of one trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Datagrams handed to the kernel.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Those of them that arrived after one with a higher number.
    pub reordered: u64,
    /// Seconds of sending.
    pub seconds: f64,
    /// CPU seconds of the whole machine.
    pub cpu_seconds: f64,
}

impl Trial {
    /// The share of datagrams that did not arrive.
    pub fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    /// Datagrams sent per second.
    pub fn sent_rate(&self) -> f64 {
        self.sent as f64 / self.seconds
    }

    /// Datagrams that arrived per second of sending.
    pub fn delivered_rate(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

/// A socket connected to the far end, and the datagrams of one system call.
pub struct Sender {
    socket: UdpSocket,
    headers: MultiHeaders<SockaddrIn>,
    datagrams: Vec<Vec<u8>>,
    trial: u32,
}

impl Sender {
    /// For datagrams of `size` bytes of payload, at least [`HEADER`].
    pub fn connect(to: SocketAddr, size: usize) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0").context("UDP socket")?;
        socket.connect(to).with_context(|| format!("no way to {to}"))?;
        // Numbers of an earlier process at the same far end are not used again soon.
        let trial = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u32;
        let headers = MultiHeaders::preallocate(BATCH, None);
        Ok(Self { socket, headers, datagrams: vec![vec![0; size]; BATCH], trial })
    }

    /// Sends `rate` datagrams per second (infinite: as fast as the kernel takes them) for `duration`.
    ///
    /// # Errors
    /// When the far end does not answer or sending fails.
    pub fn run(&mut self, rate: f64, duration: Duration) -> anyhow::Result<Trial> {
        self.trial = self.trial.wrapping_add(1);
        let cpu_before = cpu::busy_seconds()?;
        let pace = Pace { rate, longest_burst: LONGEST_BURST, duration, most: u64::MAX };
        let (sent, seconds) = pace::send_for(pace, |first, count| self.send_batch(first, count))?;
        let (received, reordered) = self.ask()?;
        let cpu_seconds = cpu::busy_seconds()? - cpu_before;
        Ok(Trial { sent, received, reordered, seconds, cpu_seconds })
    }

    /// Sends up to `count` datagrams, numbered from `first`; returns how many numbers are used up.
    fn send_batch(&mut self, first: u64, count: usize) -> anyhow::Result<u64> {
        for (sequence, datagram) in (first..).zip(&mut self.datagrams[..count]) {
            label(datagram, self.trial, sequence);
        }
        let slices: Vec<_> =
            self.datagrams[..count].iter().map(|datagram| [IoSlice::new(datagram)]).collect();
        let addresses = [None; BATCH];
        let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::empty());
        match sendmmsg(fd, &mut self.headers, &slices, &addresses[..count], [], flags) {
            Ok(sent) => Ok(sent.count() as u64),
            // The kernel dropped one of ours: a loss like any other.
            Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(1),
            Err(error) => Err(error).context("sendmmsg"),
        }
    }

    /// Asks how many datagrams of this trial arrived, and how many of them late.
    fn ask(&self) -> anyhow::Result<(u64, u64)> {
        let (mut question, mut answer) = ([0; HEADER], [0; ANSWER]);
        label(&mut question, self.trial, QUESTION);
        self.socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        for _ in 0..QUESTIONS {
            match self.socket.send(&question).and_then(|_| self.socket.recv(&mut answer)) {
                Ok(ANSWER) if answer[..4] == self.trial.to_le_bytes() => {
                    return Ok((number(&answer, 4), number(&answer, 12)));
                }
                Ok(_) => {}
                Err(error) if again(&error) => {}
                Err(error) => return Err(error).context("no answer from the far end"),
            }
        }
        anyhow::bail!("the far end does not answer: is 'netload serve' running there?")
    }
}

fn again(error: &io::Error) -> bool {
    let full = error.raw_os_error() == Some(Errno::ENOBUFS as i32);
    full || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn label(datagram: &mut [u8], trial: u32, sequence: u64) {
    datagram[..4].copy_from_slice(&trial.to_le_bytes());
    datagram[4..HEADER].copy_from_slice(&sequence.to_le_bytes());
}

/// The eight bytes at `at` as a number; 0 where there are fewer.
pub fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}
