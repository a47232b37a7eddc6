//! The control plane: everything that runs on tokio, beside the packet path and never on it.
//!
//! `daemon` brings everything up and down in order; `host` is the kernel's side (links, routes,
//! what must hold before start); `state` owns the routes and publishes forwarding tables; `paths`
//! watches the host for first hops and tests the TAP (`tap_test`). `socket`
//! makes the socket file, `http` accepts and polices connections, `server` answers the API in the
//! types of `api`, and `metrics_http` answers scrapers; they see the dataplane only through the
//! [`Dataplane`] trait.

pub mod api;
mod bring_up;
mod capture;
pub mod daemon;
pub mod host;
pub mod http;
pub mod metrics_http;
mod paths;
pub mod server;
pub mod socket;
mod state;
mod tap_test;

pub use server::Dataplane;
pub use socket::ControlSocket;
