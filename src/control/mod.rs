//! The control plane: everything that runs on tokio, beside the packet path and never on it.
//!
//! `daemon` brings everything up and down in order; `host` is the kernel's side (links, routes,
//! what must hold before start); `state` owns the routes (`edit`) and peers (`peers`, `roster`),
//! `writer` publishes forwarding tables made of them, `leads` says which kernel routes they need,
//! `chores` which of them, and what else, is left to an administrator; `guard` notices others at our devices;
//! `paths` watches the host for MTUs and first hops; `tap_watch` says who is reached through the TAP, by what
//! the interfaces can (`ways`) and by tests (`tap_test`); `path_mtu` listens
//! to routers. `log` is where all of them log to, without ever waiting for stderr, and `fallbacks` logs for the
//! workers, which never do. `socket`
//! makes the socket file, `http` accepts and polices connections (`progress`), `server` answers the
//! API in the types of `api` with what `entries` tells it, and `metrics_http` answers scrapers; they
//! see the dataplane only through the [`Dataplane`] trait.

pub mod api;
mod bring_up;
mod capture;
mod chores;
pub mod daemon;
mod edit;
mod entries;
mod fallbacks;
mod guard;
pub mod host;
pub mod http;
mod kernel_routes;
pub mod leads;
mod log;
pub mod metrics_http;
mod path_mtu;
mod paths;
mod peers;
mod progress;
pub mod refusal;
mod reload;
mod roster;
pub mod server;
pub mod socket;
pub mod state;
mod sys;
mod tap_test;
mod tap_watch;
mod ways;
mod writer;

pub use server::Dataplane;
pub use socket::ControlSocket;
