//! What the host should look like, compared with what it does look like: the difference is mended, or
//! shown with the command that mends it.
//!
//! ```text
//! observation ──▶ devices, routes ──▶ differences ──▶ requests, where there is the right to
//!                                               └───▶ requirements, where there is not
//! ```
//!
//! Nothing is remembered as "already sent": a difference is there for as long as looks show it.

pub(super) mod devices;
mod host_look;
mod host_routes;
pub(super) mod host_side;
pub(super) mod kernel_cover;
pub(super) mod looks;
pub(super) mod mender;
mod nat;
mod pod_rules;
pub(super) mod requirements;
pub(super) mod routes;
