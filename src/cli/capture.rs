//! `underpass capture`: packets into a pcapng file.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::connection::ClientArgs;
use super::out;
use super::text::{self, plural};
use crate::api::{self, CapturePoint, ErrorCode};
use crate::client::{ClientError, Stream, Tally, Target};

/// Mode of a file with packets.
const OWNER_ONLY: u32 = 0o600;

/// Write packets to a pcapng file while they pass, drops with their reason as comment
#[derive(Args, Debug)]
#[command(after_help = "Ends after --count packets, or when interrupted. One capture runs at a time.

A filter is made of: host ADDR, net PREFIX, port N, proto N, tcp, udp, icmp,
icmp6, ipip, gre, and, or, not and parentheses. A test holds when it holds of
any IP header of the packet, outer or inner.

Examples:
  underpass capture -w all.pcapng
  underpass capture -w drops.pcapng --point drop --count 100
  underpass capture -w - --filter 'host 10.244.2.7 and not tcp' | tshark -r -")]
pub(super) struct Capture {
    /// The file, which only its owner can read; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[arg(
        long,
        value_name = "POINT",
        value_enum,
        hide_possible_values = true,
        help = text::choice::<PointName>(
            "Where to look: at the TUN, at the sockets, at what is dropped, or at what policies log; everywhere by default",
            None,
        )
    )]
    point: Vec<PointName>,
    /// Which packets
    #[arg(long, value_name = "EXPR")]
    filter: Option<String>,
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
    Log,
}

impl PointName {
    fn point(self) -> CapturePoint {
        match self {
            Self::Device => CapturePoint::Device,
            Self::Underlay => CapturePoint::Underlay,
            Self::Drop => CapturePoint::Drop,
            Self::Log => CapturePoint::Log,
        }
    }
}

/// An argument that only the daemon can judge, and does not understand.
#[derive(Debug, thiserror::Error)]
#[error("{0}; try '--help'")]
pub(super) struct Usage(String);

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
            let packets = plural(summary.packets, "packet");
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
        let mut stream = self.begin().await?;
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

    /// Asks for the stream. What the daemon does not understand of it can only be the filter, which is
    /// its to read, and a mistake in the usage like any other.
    async fn begin(&self) -> anyhow::Result<Stream> {
        let refused = |error: ClientError| match error {
            ClientError::Refused { code, message, .. } if code == ErrorCode::Malformed.name() => {
                anyhow::Error::new(Usage(message))
            }
            error => error.into(),
        };
        self.client.client().stream(&self.target()).await.map_err(refused)
    }

    fn target(&self) -> Target {
        let mut target = Target::new(api::CAPTURE).with("snaplen", &self.snaplen.to_string());
        if !self.point.is_empty() {
            let points: Vec<_> = self.point.iter().map(|name| name.point().name()).collect();
            target = target.with("point", &points.join(","));
        }
        if let Some(count) = self.count {
            target = target.with("count", &count.to_string());
        }
        if let Some(filter) = &self.filter {
            target = target.with("filter", filter);
        }
        target
    }
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(out::bytes()));
    }
    let file = create(path).with_context(|| format!("cannot write to {}", path.display()))?;
    Ok(Box::new(file))
}

/// Opens a file that only its owner can read: it will hold what others say to each other. A link is
/// followed, and what is no file, as a pipe, stays as it is.
fn create(path: &Path) -> io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(file);
    }
    if metadata.mode() & 0o077 != 0 {
        let refused =
            |error| io::Error::other(format!("others can read it, and that cannot be changed: {error}"));
        file.set_permissions(Permissions::from_mode(OWNER_ONLY)).map_err(refused)?;
    }
    file.set_len(0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::create;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_reads_what_was_captured() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old, link) = (dir.path().join("new"), dir.path().join("old"), dir.path().join("link"));
        create(&new).unwrap();
        assert_eq!(mode(&new), 0o600);
        fs::write(&old, "longer than what comes").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        symlink(&old, &link).unwrap();
        create(&link).unwrap().write_all(b"x").unwrap();
        assert_eq!((mode(&old), fs::read(&old).unwrap()), (0o600, b"x".to_vec()));
        // A device is no file of packets.
        let before = mode(Path::new("/dev/null"));
        create(Path::new("/dev/null")).unwrap();
        assert_eq!(mode(Path::new("/dev/null")), before);
        assert!(create(dir.path()).is_err());
    }
}
