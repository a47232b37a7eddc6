//! The command line: clap's view of the commands, their dispatch and the exit codes.
//!
//! Each command is a file with its arguments and what it does with them. The words here are the
//! help texts, so the doc comments address the operator.

mod capture;
mod check;
mod client;
mod drops;
mod peer;
mod reload;
mod route;
mod routes;
mod run;
mod status;
mod text;
mod upload;

use clap::{Parser, Subcommand};

pub use client::{Client, ClientError};

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
    Route(route::Route),
    Peer(peer::Peer),
    Drops(drops::Drops),
    Reload(reload::Reload),
    Capture(capture::Capture),
}

impl Cli {
    /// Does what the command says.
    ///
    /// # Errors
    /// Whatever the command meets; [`report`] turns it into text and an exit code.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Run(command) => command.execute(),
            Command::Check(command) => command.execute(),
            Command::Status(command) => command.execute(),
            Command::Route(command) => command.execute(),
            Command::Peer(command) => command.execute(),
            Command::Drops(command) => command.execute(),
            Command::Reload(command) => command.execute(),
            Command::Capture(command) => command.execute(),
        }
    }
}

/// Tells the user about `error` on stderr and returns the exit code for it.
pub fn report(error: &anyhow::Error) -> u8 {
    // Configuration errors stand alone on their lines, so that editors find FILE:LINE:COL.
    if let Some(errors) = error.downcast_ref::<crate::config::ConfigErrors>() {
        eprintln!("{errors}");
    } else {
        eprintln!("underpass: {error:#}");
    }
    error.downcast_ref::<ClientError>().map_or(1, ClientError::exit_code)
}
