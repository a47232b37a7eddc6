//! The command line: clap's view of the commands, their dispatch and the exit codes. All they print goes
//! through `out`.
//!
//! Each command is a file with its arguments and what it does with them; `connection` and `text` are
//! what they have in common. The words here are the
//! help texts, so the doc comments address the operator.

mod capture;
mod check;
mod connection;
mod connections;
mod drops;
mod endpoint;
mod listing;
pub(crate) mod out;
mod peer;
mod policy;
mod reload;
mod route;
mod run;
mod status;
mod text;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::client::ClientError;
use crate::control::daemon::log::{self, style};

/// Userspace tunnel dataplane: joins the pod networks of nodes by IPIP, VXLAN or direct routing
#[derive(Debug, Parser)]
#[command(name = "underpass", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 denied")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Status(status::Status),
    Route(route::edit::Route),
    Peer(peer::Peer),
    Endpoint(endpoint::Endpoint),
    Policy(policy::Policy),
    Connections(connections::Connections),
    Drops(drops::Drops),
    Reload(reload::Reload),
    Capture(capture::Capture),
}

/// The exit code of a command that was called in a wrong way, as clap has it.
const USAGE: u8 = 2;
/// How long the daemon's last words may hold up its end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Does what the arguments of the process say; returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return out::parsed(&message),
    };
    let is_daemon = matches!(cli.command, Command::Run(_));
    let Err(error) = cli.execute() else { return ExitCode::SUCCESS };
    if is_daemon {
        // Whoever supervises it waits for its end, and may well be the one who does not read.
        let words = style::with_priority(&words(&error), style::ERROR, log::is_journal());
        out::complain_within(words, LAST_WORDS);
    } else {
        out::complain(&words(&error));
    }
    ExitCode::from(exit_code(&error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<capture::Usage>() {
        return USAGE;
    }
    error.downcast_ref::<ClientError>().map_or(1, connection::exit_code)
}

impl Cli {
    fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(command) => command.execute(),
            Command::Check(command) => command.execute(),
            Command::Status(command) => command.execute(),
            Command::Route(command) => command.execute(),
            Command::Peer(command) => command.execute(),
            Command::Endpoint(command) => command.execute(),
            Command::Policy(command) => command.execute(),
            Command::Connections(command) => command.execute(),
            Command::Drops(command) => command.execute(),
            Command::Reload(command) => command.execute(),
            Command::Capture(command) => command.execute(),
        }
    }
}

/// An error as the user is told of it.
fn words(error: &anyhow::Error) -> String {
    // Configuration errors stand alone on their lines, so that editors find FILE:LINE:COL.
    match error.downcast_ref::<crate::config::ConfigErrors>() {
        Some(errors) => errors.to_string(),
        None => format!("underpass: {error:#}"),
    }
}
