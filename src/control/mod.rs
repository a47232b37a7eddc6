//! The control plane's face to the outside: the API on a Unix socket and the metrics endpoint.
//!
//! `socket` makes the socket file, `http` accepts and polices connections, `server` answers the
//! API in the types of `api`, and `metrics_http` answers scrapers. All of it runs on tokio and
//! reads the dataplane only through the [`Dataplane`] trait, never touching the packet path.

pub mod api;
pub mod daemon;
pub mod http;
pub mod metrics_http;
pub mod server;
pub mod socket;

pub use server::Dataplane;
pub use socket::ControlSocket;
