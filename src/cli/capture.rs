//! `underpass capture`: packets into a pcapng file.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::out;
use super::text::plural;
use crate::api;
use crate::client::ClientArgs;
use crate::dataplane::observe::capture::{Filter, Point, pcapng::Tally};

/// Write packets to a pcapng file while they pass, drops with their reason as comment
#[derive(Args, Debug)]
#[command(after_help = "Ends after --count packets, or when interrupted. One capture runs at a time.

A filter is made of: host ADDR, net PREFIX, port N, proto N, tcp, udp, icmp, icmp6, ipip, gre, and, or,
not and parentheses. A test holds when it holds of any IP header of the packet, outer or inner.

Examples:
  underpass capture -w all.pcapng
  underpass capture -w drops.pcapng --point drop --count 100
  underpass capture -w - --filter 'host 10.244.2.7 and not tcp' | tshark -r -")]
pub(super) struct Capture {
    /// The file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Where to look: at the TUN, at the sockets, or at what is dropped; everywhere by default
    #[arg(long, value_name = "POINT", value_enum)]
    point: Vec<PointName>,
    /// Which packets
    #[arg(long, value_name = "EXPR")]
    filter: Option<Filter>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Keep so many bytes of each packet
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(1..))]
    snaplen: u16,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PointName {
    Device,
    Underlay,
    Drop,
}

impl PointName {
    fn point(self) -> Point {
        match self {
            Self::Device => Point::Device,
            Self::Underlay => Point::Underlay,
            Self::Drop => Point::Drop,
        }
    }
}

/// What came of it.
#[derive(Serialize)]
struct Summary {
    packets: u64,
    lost: u64,
}

impl Capture {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tally = runtime.block_on(self.copy())?;
        let summary = Summary { packets: tally.packets, lost: tally.lost() };
        let text = |summary: &Summary| {
            let packets = plural(summary.packets as usize, "packet");
            format!("{packets} captured, {} lost because they came too fast\n", summary.lost)
        };
        if self.write == Path::new("-") {
            out::complain(text(&summary).trim_end());
            return Ok(());
        }
        self.client.print(&summary, text)
    }

    /// Copies the stream to the file until its end or an interruption.
    async fn copy(&self) -> anyhow::Result<Tally> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut stream = self.client.stream(&self.target()).await?;
        // Only now: a refused capture leaves an older file alone.
        let mut file = open(&self.write)?;
        let mut tally = Tally::default();
        loop {
            let piece = tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                piece = stream.next() => piece,
            };
            let piece = match piece {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_) => {
                    out::complain(
                        "underpass: the daemon ended the capture; what came until then is in the file",
                    );
                    break;
                }
            };
            tally.take(&piece);
            match file.write_all(&piece).and_then(|()| file.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                result => result.with_context(|| format!("cannot write to {}", self.write.display()))?,
            }
        }
        Ok(tally)
    }

    fn target(&self) -> String {
        let points: Vec<_> = self.point.iter().map(|name| name.point().name()).collect();
        let mut target = format!("{}?snaplen={}", api::CAPTURE, self.snaplen);
        if !points.is_empty() {
            target += &format!("&point={}", points.join(","));
        }
        if let Some(count) = self.count {
            target += &format!("&count={count}");
        }
        if let Some(filter) = &self.filter {
            target += &format!("&filter={}", encode(filter.text()));
        }
        target
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(out::bytes()));
    }
    let file = File::create(path).with_context(|| format!("cannot write to {}", path.display()))?;
    Ok(Box::new(file))
}

/// A query's value: whatever is not a letter or a digit as its bytes in hexadecimal.
fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn a_filter_survives_the_query() {
        assert_eq!(encode("host fd00::1 and (tcp)"), "host%20fd00%3A%3A1%20and%20%28tcp%29");
    }
}
