//! netload: the load generator of `scripts/bench` where iperf3 does not measure what is asked: the
//! highest UDP rate without loss, round trips, new TCP connections per second, and floods of packets that
//! each begin a connection.
//!
//! One process serves at the far end (`netload serve`), the others measure against it and print one
//! JSON object. Everything goes to the address given, nowhere else.

#![expect(clippy::print_stdout, reason = "a tool of the benchmarks, whose output is read")]

mod cpu;
mod flood;
mod latency;
mod pace;
mod search;
mod serve;
mod trial;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::json;

/// UDP port that counts datagrams.
const COUNT_PORT: u16 = 7001;
/// TCP port that accepts connections.
const CONNECT_PORT: u16 = 7002;

/// Load generator and its far end, for throughput tests inside network namespaces.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be the far end of all measurements, until killed.
    Serve {
        /// Address to listen on.
        address: Ipv4Addr,
    },
    /// Search for the highest rate of UDP datagrams that arrive with little loss.
    Udp {
        /// The far end.
        address: Ipv4Addr,
        /// Bytes of UDP payload, 12 to 65507.
        #[arg(long, value_parser = clap::value_parser!(u16).range(12..=65507))]
        size: u16,
        /// Share of datagrams that may get lost.
        #[arg(long, default_value_t = 0.001)]
        max_loss: f64,
        /// Milliseconds of each step of the search.
        #[arg(long, default_value_t = 500)]
        probe_ms: u64,
        /// Milliseconds of the last run, whose figures are the result.
        #[arg(long, default_value_t = 2000)]
        confirm_ms: u64,
    },
    /// Time ICMP echoes with pauses between them.
    Rtt {
        /// The far end.
        address: Ipv4Addr,
        /// Number of echoes.
        #[arg(long, default_value_t = 200)]
        count: u32,
        /// Milliseconds of pause before each.
        #[arg(long, default_value_t = 10)]
        gap_ms: u64,
        /// Milliseconds after which no further echo is sent.
        #[arg(long, default_value_t = 60_000)]
        limit_ms: u64,
        /// Echoes that may get lost before the measurement is given up.
        #[arg(long, default_value_t = 3)]
        max_lost: u32,
    },
    /// Open TCP connections one after another.
    Connections {
        /// The far end.
        address: Ipv4Addr,
        /// Milliseconds to go on for.
        #[arg(long, default_value_t = 5000)]
        ms: u64,
    },
    /// Flood an address with packets that each begin a connection which nobody goes on with.
    ///
    /// Raw packets (CAP_NET_RAW) to this address alone, at a steady rate, for a limited time. Source ports change from
    /// packet to packet, then the source address, then the destination port; when all of them have had their turn, they
    /// come again. Nobody reads the answers; where they reach this host, its kernel resets them. The result is one JSON
    /// object: `sent` packets, `refused` ones that the kernel did not take, `connections` that these are of, `seconds`
    /// and `packets_per_second`.
    ///
    /// A SYN flood for ten seconds: netload flood 10.244.2.2 --port 81 --rate 100000 --ms 10000
    Flood {
        /// Whom the packets are for.
        address: Ipv4Addr,
        /// What they are.
        #[arg(long, value_enum, default_value_t = flood::Kind::Syn)]
        kind: flood::Kind,
        /// Destination port, the first one.
        #[arg(long, default_value_t = 80)]
        port: u16,
        /// How many destination ports, from that one on.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
        ports: u16,
        /// Source addresses, comma-separated; default: the one that this host uses for the address.
        #[arg(long, value_delimiter = ',')]
        source: Vec<Ipv4Addr>,
        /// How many source ports, from 1024 on.
        #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u16).range(1..=64_512))]
        source_ports: u16,
        /// Packets per second.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
        rate: u32,
        /// Milliseconds to go on for, ten minutes at most.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
        ms: u64,
        /// Packets after which it ends before that.
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        count: u64,
    },
}

fn main() -> anyhow::Result<()> {
    // Sleeps of a paced sender must not be rounded up to the default 50 µs.
    nix::sys::prctl::set_timerslack(1).context("prctl PR_SET_TIMERSLACK")?;
    let result = match Arguments::parse().command {
        Command::Serve { address } => return serve::run(address),
        Command::Udp { address, size, max_loss, probe_ms, confirm_ms } => {
            let lengths = [probe_ms, confirm_ms].map(Duration::from_millis);
            udp(address, usize::from(size), max_loss, lengths)?
        }
        Command::Rtt { address, count, gap_ms, limit_ms, max_lost } => {
            let [gap, limit] = [gap_ms, limit_ms].map(Duration::from_millis);
            latency::round_trips(address, latency::Echoes { count, gap, limit, max_lost })?
        }
        Command::Connections { address, ms } => latency::connections(address, Duration::from_millis(ms))?,
        Command::Flood { address, kind, port, ports, source, source_ports, rate, ms, count } => {
            anyhow::ensure!(port.checked_add(ports - 1).is_some(), "no {ports} ports from {port} on");
            flood::Flood {
                kind,
                address,
                ports: (port, ports),
                sources: source,
                source_ports,
                rate: f64::from(rate),
                duration: Duration::from_millis(ms),
                most: count,
            }
            .run()?
        }
    };
    println!("{result}");
    Ok(())
}

fn udp(
    address: Ipv4Addr,
    size: usize,
    max_loss: f64,
    [probe, confirm]: [Duration; 2],
) -> anyhow::Result<serde_json::Value> {
    let mut sender = trial::Sender::connect((address, COUNT_PORT).into(), size)?;
    let trial = search::highest_rate(max_loss, |rate, step| {
        sender.run(rate, if step == search::Step::Confirm { confirm } else { probe })
    })?;
    Ok(json!({
        "packets_per_second": trial.delivered_rate(),
        "gbps": trial.delivered_rate() * size as f64 * 8.0 / 1e9,
        "sent": trial.sent,
        "received": trial.received,
        "reordered": trial.reordered,
        "loss": trial.loss(),
        "seconds": trial.seconds,
        "cpu_seconds": trial.cpu_seconds,
        "bytes": trial.received * size as u64,
    }))
}
