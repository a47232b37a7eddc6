//! The table of requests: every path and method of the API, what answers it, and what is documented
//! of it. The router, the texts of 404 and 405, `Allow` and the OpenAPI document are made from it.

use super::backend::Backend;
use super::operation::Operation;
use super::request::Request;
use super::request::Verb::{Delete, Get, Post, Put};
use super::{capture, changes, connections, endpoints, listing, policies, reading};
use crate::api::{
    self, CniFacts, ConnectionEntry, ConnectionsFlushed, Drops, Endpoint, EndpointDeleted, ErrorCode,
    NewPeer, PeerDeleted, PeerStatus, PolicyEntry, PolicyTrace, Reloaded, RouteChanges, RouteEntry,
    RoutesChanged, Status,
};

/// Every request of the API.
pub(super) fn table<B: Backend>() -> Vec<Request<B>> {
    let mut table = reads();
    table.extend(changes());
    table.extend(pods());
    table.extend(policy());
    table
}

fn pods<B: Backend>() -> Vec<Request<B>> {
    use ErrorCode::{Full, NotFound};
    let about = Operation::new;
    vec![
        Request::new(
            Get,
            api::CNI,
            endpoints::facts::<B>,
            about("cni", "What it takes to make the interface of a pod").answers::<CniFacts>(),
        ),
        Request::new(
            Get,
            api::ENDPOINTS,
            endpoints::list::<B>,
            about("list_endpoints", "The pods of this node").answers_list::<Endpoint>(),
        ),
        Request::new(
            Put,
            api::ENDPOINT,
            endpoints::put::<B>,
            about("put_endpoint", "Tell of a pod of this node")
                .at::<endpoints::Id>()
                .takes::<Endpoint>()
                .answers::<Endpoint>()
                .fails(&[Full]),
        ),
        Request::new(
            Delete,
            api::ENDPOINT,
            endpoints::delete::<B>,
            about("delete_endpoint", "Tell that a pod of this node is gone")
                .at::<endpoints::Id>()
                .answers::<EndpointDeleted>()
                .fails(&[NotFound]),
        ),
    ]
}

fn policy<B: Backend>() -> Vec<Request<B>> {
    use ErrorCode::{Busy, NotFound};
    let about = Operation::new;
    vec![
        Request::new(
            Get,
            api::POLICIES,
            policies::list::<B>,
            about("list_policies", "The policies in the order in which they are looked at")
                .answers_list::<PolicyEntry>()
                .fails(&[NotFound]),
        ),
        Request::new(
            Get,
            api::POLICY_TRACE,
            policies::trace::<B>,
            about("trace_policy", "What policies say of the first packet of a connection, and why")
                .query::<policies::Asked>()
                .answers::<PolicyTrace>()
                .fails(&[NotFound]),
        ),
        Request::new(
            Get,
            api::CONNECTIONS,
            connections::list::<B>,
            about("list_connections", "The connections that policies follow")
                .query::<connections::Listing>()
                .answers_list::<ConnectionEntry>()
                .fails(&[NotFound, Busy]),
        ),
        Request::new(
            Delete,
            api::CONNECTIONS,
            connections::flush::<B>,
            about("flush_connections", "Forget connections, so that their next packets are judged anew")
                .query::<connections::Flush>()
                .answers::<ConnectionsFlushed>()
                .fails(&[NotFound, Busy]),
        ),
    ]
}

fn reads<B: Backend>() -> Vec<Request<B>> {
    let about = Operation::new;
    vec![
        Request::new(
            Get,
            api::STATUS,
            reading::status::<B>,
            about("status", "The whole daemon at a glance").answers::<Status>(),
        ),
        Request::new(
            Get,
            api::ROUTES,
            listing::routes::<B>,
            about("list_routes", "All routes, or all of one source")
                .query::<listing::Listing>()
                .answers_list::<RouteEntry>()
                .answers_text(),
        ),
        Request::new(
            Get,
            api::ROUTE_GET,
            reading::route_get::<B>,
            about("get_route", "The route that packets to an address take, and why")
                .query::<reading::Destination>()
                .answers::<RouteEntry>()
                .fails(&[ErrorCode::NoRoute]),
        ),
        Request::new(
            Get,
            api::PEERS,
            reading::peers::<B>,
            about("list_peers", "The other nodes").answers_list::<PeerStatus>(),
        ),
        Request::new(
            Get,
            api::DROPS,
            reading::drops::<B>,
            about("drops", "Packets not delivered, by reason").answers::<Drops>(),
        ),
        Request::new(
            Get,
            api::CAPTURE,
            capture::capture::<B>,
            about("capture", "Packets as a pcapng stream while they pass")
                .query::<capture::Query>()
                .answers_as(capture::PCAPNG)
                .fails(&[ErrorCode::NotFound, ErrorCode::Conflict]),
        ),
        Request::new(
            Get,
            api::OPENAPI,
            reading::document::<B>,
            about("openapi", "This document").answers_as("application/json"),
        ),
    ]
}

fn changes<B: Backend>() -> Vec<Request<B>> {
    use ErrorCode::{Busy, Conflict, Full, NotFound, TooLarge, UnknownPeer};
    let about = Operation::new;
    vec![
        Request::new(
            Post,
            api::ROUTES,
            changes::edit::<B>,
            about("change_routes", "Change control routes, all of them or none")
                .query::<changes::Edit>()
                .takes::<RouteChanges>()
                .takes_text("10.9.0.0/24 via node-b\ndel 10.8.0.0/24\n")
                .answers::<RoutesChanged>()
                .fails(&[NotFound, UnknownPeer, Conflict, Full]),
        ),
        Request::new(
            Put,
            api::ROUTES,
            changes::replace::<B>,
            about("replace_routes", "Replace all control routes")
                .query::<changes::Wait>()
                .takes_text("10.9.0.0/24 via node-b\n")
                .answers::<RoutesChanged>()
                .fails(&[UnknownPeer, Conflict, Full]),
        ),
        Request::new(
            Delete,
            api::ROUTES,
            changes::delete::<B>,
            about("delete_route", "Delete a control route")
                .query::<changes::Delete>()
                .answers::<RoutesChanged>()
                .fails(&[NotFound, Conflict, Full, Busy]),
        ),
        Request::new(
            Post,
            api::PEERS,
            changes::add_peer::<B>,
            about("add_peer", "Make a node known until the daemon ends")
                .query::<changes::AddPeer>()
                .takes::<NewPeer>()
                .answers::<PeerStatus>()
                .fails(&[Conflict, Full]),
        ),
        Request::new(
            Delete,
            api::PEER,
            changes::delete_peer::<B>,
            about("delete_peer", "Forget a node and its routes")
                .at::<changes::Name>()
                .query::<changes::Wait>()
                .answers::<PeerDeleted>()
                .fails(&[NotFound, Conflict, Full]),
        ),
        Request::new(
            Post,
            api::RELOAD,
            changes::reload::<B>,
            about("reload", "Read the configuration file again and follow it")
                .query::<changes::Wait>()
                .answers::<Reloaded>()
                .fails(&[Conflict, Full, TooLarge]),
        ),
    ]
}
