//! The JSON of the control API, shared by the server and its clients: types, paths and error codes.
//!
//! Fields are only ever added. The reader ignores what it does not know and most fields have a
//! default, so that a command line works with a daemon one version older or newer.

mod capture;
mod connections;
mod endpoints;
mod error;
mod peers;
mod policies;
mod routes;
mod status;

pub use capture::CapturePoint;
pub use connections::{ConnectionEntry, ConnectionsFlushed};
pub use endpoints::{CniFacts, Endpoint, EndpointDeleted};
pub use error::{ErrorBody, ErrorCode};
pub use peers::{DirectPathStatus, NewPeer, PeerDeleted, PeerStatus, PeerTraffic, PeerUplink, PeerWay};
pub use policies::{
    PolicyEntry, PolicyStatus, PolicyTrace, TraceDecision, TracePolicy, TraceRule, TraceSide, TraceTier,
};
pub use routes::{CandidateRoute, NewRoute, NextHop, RouteChanges, RouteEntry, RouteMode, RoutesChanged};
pub use status::{
    DirectStatus, Drops, EdgeCounters, IcmpErrors, KernelPathStatus, Missing, Reloaded, SourceRefusal,
    SourceStatus, Status, Traffic, TunnelControl, TunnelStatus,
};

/// Path of [`Status`].
pub const STATUS: &str = "/v1/status";
/// Path of the list of all [`RouteEntry`]s.
pub const ROUTES: &str = "/v1/routes";
/// Path of the one [`RouteEntry`] for `?address=`.
pub const ROUTE_GET: &str = "/v1/routes/get";
/// Path that a reload of the configuration file is asked for at.
pub const RELOAD: &str = "/v1/reload";
/// Path of the list of all peers.
pub const PEERS: &str = "/v1/peers";
/// Path of one peer.
pub const PEER: &str = "/v1/peers/{name}";
/// Path of the list of all [`Endpoint`]s.
pub const ENDPOINTS: &str = "/v1/endpoints";
/// Path of one of them.
pub const ENDPOINT: &str = "/v1/endpoints/{id}";
/// Path of [`CniFacts`].
pub const CNI: &str = "/v1/cni";
/// Path of the list of all [`PolicyEntry`]s.
pub const POLICIES: &str = "/v1/policies";
/// Path of the [`PolicyTrace`] of one packet.
pub const POLICY_TRACE: &str = "/v1/policies/trace";
/// Path of the list of [`ConnectionEntry`]s.
pub const CONNECTIONS: &str = "/v1/connections";
/// Path of [`Drops`].
pub const DROPS: &str = "/v1/drops";
/// Path of a capture: a pcapng stream.
pub const CAPTURE: &str = "/v1/capture";
/// Path of the OpenAPI document of all these.
pub const OPENAPI: &str = "/v1/openapi.json";
