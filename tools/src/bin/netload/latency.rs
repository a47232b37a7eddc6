//! What one packet at a time shows: round trips, and new connections.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::CONNECT_PORT;

/// A round trip that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes behind the ICMP header, as many as ping sends.
const ECHO_PAYLOAD: [u8; 56] = [0x5a; 56];
/// Room for an answer with IP header and options.
const ECHO_BUFFER: usize = 256;

/// Which echoes are sent.
pub struct Echoes {
    /// How many at most.
    pub count: u32,
    /// The pause before each.
    pub gap: Duration,
    /// When this is over, no further one is sent.
    pub limit: Duration,
    /// Echoes that may be lost before the measurement is given up.
    pub max_lost: u32,
}

/// Times ICMP echoes, one after another. The kernel at the far end answers, so no process there has to
/// wake up: what is timed is the path. The result has the median and the 99th percentile in microseconds.
///
/// # Errors
/// When the socket fails (it needs CAP_NET_RAW) or too many round trips are lost.
pub fn round_trips(address: Ipv4Addr, echoes: Echoes) -> anyhow::Result<Value> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).context("ICMP socket")?;
    let to: SocketAddr = (address, 0).into();
    socket.connect(&to.into()).with_context(|| format!("no way to {address}"))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let (begun, mut times, mut lost) = (Instant::now(), Vec::new(), 0);
    for number in 0..echoes.count {
        thread::sleep(echoes.gap);
        if begun.elapsed() >= echoes.limit {
            break;
        }
        match round_trip(&socket, number as u16) {
            Ok(time) => times.push(time),
            Err(error) => {
                lost += 1;
                anyhow::ensure!(lost <= echoes.max_lost, "{lost} round trips lost, the last: {error}");
            }
        }
    }
    times.sort_unstable();
    anyhow::ensure!(!times.is_empty(), "no round trip came back");
    let percentile = |share| micros(times[(times.len() - 1) * share / 100]);
    Ok(json!({ "p50_us": percentile(50), "p99_us": percentile(99), "count": times.len(), "lost": lost }))
}

fn round_trip(socket: &Socket, seq: u16) -> io::Result<Duration> {
    let echo = IcmpEchoHeader { id: std::process::id() as u16, seq };
    let question = icmp(Icmpv4Type::EchoRequest(echo));
    let answer = icmp(Icmpv4Type::EchoReply(echo));
    let begun = Instant::now();
    socket.send(&question)?;
    // Answers to questions that were given up, and to other processes, are passed over.
    while !receive(socket)?.ends_with(&answer) {}
    Ok(begun.elapsed())
}

/// An ICMP message with its checksum and the payload.
fn icmp(kind: Icmpv4Type) -> Vec<u8> {
    let header = Icmpv4Header::with_checksum(kind, &ECHO_PAYLOAD);
    [&header.to_bytes()[..], &ECHO_PAYLOAD].concat()
}

/// The next packet, IP header included.
fn receive(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; ECHO_BUFFER];
    let len = socket.read(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

/// Opens connections one after another for `duration`. One counts when the far end has accepted it
/// and said so by a byte. It is then reset, so that no end runs out of ports.
///
/// # Errors
/// When a connection fails.
pub fn connections(address: Ipv4Addr, duration: Duration) -> anyhow::Result<Value> {
    let (begun, mut count) = (Instant::now(), 0u64);
    while begun.elapsed() < duration {
        connect(address).with_context(|| format!("connection {} to {address}", count + 1))?;
        count += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({ "connections_per_second": count as f64 / seconds, "count": count }))
}

fn connect(address: Ipv4Addr) -> io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&(address, CONNECT_PORT).into(), TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.read_exact(&mut [0])?;
    socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO))
}
