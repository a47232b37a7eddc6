//! What the client commands have in common: which daemon they mean, and in which form they print.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{out, text};
use crate::client::{Client, ClientError, Target};

/// Which daemon is meant.
#[derive(Args, Debug)]
pub(super) struct SocketArgs {
    // clap would break a line within brackets.
    #[arg(
        long,
        value_name = "PATH",
        env = "UNDERPASS_SOCKET",
        default_value = "/run/underpass/underpass.sock",
        hide_env = true,
        hide_default_value = true,
        help = "The daemon's control socket [env: UNDERPASS_SOCKET]\n[default: /run/underpass/underpass.sock]"
    )]
    socket: PathBuf,
}

impl SocketArgs {
    /// The client of that daemon.
    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// What every client command takes.
#[derive(Args, Debug)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    socket: SocketArgs,
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value_t = Output::Text,
        hide_default_value = true,
        hide_possible_values = true,
        help = text::choice("Tables for people or JSON for programs", Some(&Output::Text))
    )]
    output: Output,
}

/// Tables for people, or the API's JSON for programs.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Json,
}

impl ClientArgs {
    /// The daemon's answer to a GET of `target`.
    pub(super) fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ClientError> {
        self.client().get(target)
    }

    /// The client of the daemon that is meant.
    pub(super) fn client(&self) -> Client {
        self.socket.client()
    }

    /// Whether JSON is to be printed.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.output, Output::Json)
    }

    /// Prints `value` as JSON, or as `render` lays it out.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        render: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.output {
            Output::Text => out::write(&render(value)),
            Output::Json => out::write(&(serde_json::to_string_pretty(value)? + "\n")),
        }
    }
}

/// The exit code of a command that fails with `error`.
pub(super) fn exit_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Unreachable { .. } | ClientError::Timeout { .. } => 3,
        ClientError::Denied { .. } => 4,
        ClientError::Refused { status, .. } if status.as_u16() == 403 => 4,
        ClientError::Refused { .. }
        | ClientError::Input { .. }
        | ClientError::Output(_)
        | ClientError::Ended { .. }
        | ClientError::Garbled { .. }
        | ClientError::Setup(_) => 1,
    }
}
