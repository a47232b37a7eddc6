//! docs/control-api.md against the code.

use serde_json::{Value, json};
use underpass::api::{CandidateRoute, NextHop, RouteEntry, RouteMode, RoutesChanged};
use underpass::control::server::backend::Backend;
use underpass::net::DropReason;

use super::daemon::Fixed;

#[test]
fn the_api_document_names_everything() {
    let document = include_str!("../../docs/control-api.md");
    for reason in DropReason::ALL {
        let row = format!("| `{}` | ", reason.name());
        assert_eq!(document.matches(&row).count(), 1, "{row}");
    }
    let mut status = serde_json::to_value(Fixed.status()).unwrap();
    status["offloads"] = json!({});
    let mut names = Vec::new();
    collect_names(&status, &mut names);
    collect_names(&serde_json::to_value(everything()).unwrap(), &mut names);
    collect_names(&serde_json::to_value(RoutesChanged::default()).unwrap(), &mut names);
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name} is not documented");
    }
    for request in [
        "GET /v1/status",
        "GET /v1/routes",
        "GET /v1/routes/get?address=ADDR",
        "GET /v1/peers",
        "GET /v1/drops",
        "POST /v1/routes",
        "PUT /v1/routes",
        "DELETE /v1/routes?prefix=PREFIX",
        "POST /v1/peers",
        "DELETE /v1/peers/NAME",
    ] {
        assert!(document.contains(&format!("`{request}`")), "{request}");
    }
}

/// A route with every field.
fn everything() -> RouteEntry {
    let address = "192.0.2.2".parse().unwrap();
    let hop = NextHop { peer: String::new(), address, mode: RouteMode::Ipip, mtu: 1480 };
    let candidate = CandidateRoute { source: String::new(), peer: None, peers: Vec::new(), age_seconds: 0 };
    RouteEntry {
        mtu_limit: Some(1400),
        next_hops: vec![hop],
        candidates: vec![candidate],
        ..RouteEntry::default()
    }
}

/// Every key of every object in `value`.
fn collect_names(value: &Value, names: &mut Vec<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        names.push(name.clone());
        collect_names(inner, names);
    }
    value.as_array().into_iter().flatten().for_each(|inner| collect_names(inner, names));
}
