//! docs/control-api.md against the code.

use serde_json::{Value, json};
use underpass::api::{
    CandidateRoute, ConnectionsFlushed, ErrorCode, NextHop, RouteEntry, RouteMode, RoutesChanged,
};
use underpass::control::server::backend::Backend;
use underpass::control::server::refusal::status_of;
use underpass::net::DropReason;

use super::daemon::{self, Fixed};

#[test]
fn the_api_document_names_everything() {
    let document = include_str!("../../docs/control-api.md");
    // Some words are codes of errors as well.
    let (_, reasons) = document.split_once("### Drop reasons").unwrap();
    for reason in DropReason::ALL {
        let row = format!("| `{}` | ", reason.name());
        assert_eq!(reasons.matches(&row).count(), 1, "{row}");
    }
    let mut status = serde_json::to_value(Fixed.status()).unwrap();
    status["offloads"] = json!({});
    let mut names = Vec::new();
    collect_names(&status, &mut names);
    collect_names(&serde_json::to_value(everything()).unwrap(), &mut names);
    collect_names(&serde_json::to_value(RoutesChanged::default()).unwrap(), &mut names);
    collect_names(&serde_json::to_value(ConnectionsFlushed::default()).unwrap(), &mut names);
    let daemon = daemon::Daemon::start();
    for path in ["/v1/policies", "/v1/policies/trace?source=a&destination=b&protocol=icmp", "/v1/connections"]
    {
        collect_names(&daemon.get(path), &mut names);
    }
    // Labels are the users' words.
    names.retain(|name| name != "app");
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name} is not documented");
    }
}

#[test]
fn the_api_document_names_every_request() {
    let document = include_str!("../../docs/control-api.md");
    let openapi = daemon::Daemon::start().get("/v1/openapi.json");
    let paths = openapi["paths"].as_object().unwrap();
    assert!(paths.len() > 5);
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let request = format!(
                "| `{} {}",
                method.to_uppercase(),
                path.replace("{name}", "NAME").replace("{id}", "ID")
            );
            let rows = document
                .lines()
                .filter(|line| line.strip_prefix(&request).is_some_and(|rest| rest.starts_with(['`', '?'])));
            assert_eq!(rows.count(), 1, "{request}");
        }
    }
}

#[test]
fn the_api_document_names_every_error() {
    let document = include_str!("../../docs/control-api.md");
    for code in ErrorCode::ALL {
        let row = format!("| `{}` | {} | ", code.name(), status_of(code).as_u16());
        assert_eq!(document.matches(&row).count(), 1, "{row}");
    }
}

/// A route with every field.
fn everything() -> RouteEntry {
    let address = "192.0.2.2".parse().unwrap();
    let hop = NextHop { peer: String::new(), address, mode: RouteMode::Ipip, mtu: 1480 };
    let candidate = CandidateRoute { source: String::new(), peer: None, peers: Vec::new(), age_seconds: 0 };
    RouteEntry {
        mtu_limit: Some(1400),
        via: Some(String::new()),
        via_reason: Some(String::new()),
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
