//! Running `nft`, which the table that masquerades is written with and read by.
//!
//! Documents are those of the `nftables` crate. Its own way to run the program does not fit: it leaves nft's words
//! on our stderr, so that no reason is known, and waits for it however long that takes.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use nftables::schema::Nftables;
use rustix::thread::{CapabilitySet, clear_ambient_capability_set, configure_capability_in_ambient_set};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of its words that are passed on.
const LONGEST_REASON: usize = 300;

/// Has `nft` execute `document`, in one transaction. Returns what it printed.
///
/// # Errors
/// Why it did not, with what to do about it.
pub(super) async fn run(document: &Nftables<'_>) -> Result<String, String> {
    let text = serde_json::to_string(document).map_err(|error| error.to_string())?;
    let output = timeout(PATIENCE, async {
        let mut child = start()?;
        // One that ends without reading says why.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    });
    match output.await {
        Ok(Ok(output)) => judge(&output),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no program `nft` in PATH, install the package nftables".to_owned())
        }
        Ok(Err(error)) => Err(format!("nft cannot be run: {error}")),
        Err(_) => Err(format!("nft was not done within {} s, is it stuck?", PATIENCE.as_secs())),
    }
}

/// Starts it with CAP_NET_ADMIN, where this thread may pass that on: a program begins with the ambient rights of the
/// thread that starts it. Numbers are to be numbers, whatever /etc/protocols calls them.
fn start() -> io::Result<Child> {
    // Without it nft says itself what it may not.
    let _ = configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true);
    let child = Command::new("nft")
        .args(["-n", "-j", "-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let _ = clear_ambient_capability_set();
    child
}

fn judge(output: &Output) -> Result<String, String> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(said(&output.stdout));
    }
    Err(match output.status.signal() {
        // 1.0.6 does that on named sets of 1.1.3, in whatever table they are.
        Some(signal) => {
            format!("nft crashed (signal {signal}), is it older than the one that made other tables?")
        }
        None => reason(&said(&output.stderr)).unwrap_or_else(|| format!("nft ended with {}", output.status)),
    })
}

/// The first error of several lines, as `internal:0:0-0: Error: No such file or directory`.
fn reason(words: &str) -> Option<String> {
    let line = words.lines().find(|line| line.contains("Error: ")).or_else(|| words.lines().next())?;
    let reason = line.split_once("Error: ").map_or(line, |(_, reason)| reason);
    let clean = reason.trim().chars().filter(|c| !c.is_control()).take(LONGEST_REASON);
    Some(clean.collect::<String>()).filter(|reason| !reason.is_empty())
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn of_many_words_the_first_error_is_told() {
        let said =
            "internal:0:0-0: Error: Could not process rule: Operation not permitted\n\n{\"nftables\": []}\n";
        assert_eq!(reason(said).unwrap(), "Could not process rule: Operation not permitted");
        assert_eq!(reason("no\u{1b} such thing\nat all").unwrap(), "no such thing");
        assert_eq!(reason(&"x".repeat(9000)).unwrap().len(), 300);
        assert_eq!(reason(""), None);
    }
}
