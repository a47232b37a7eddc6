//! docs/control-api.md against the code.

use serde_json::{Value, json};
use underpass::control::Dataplane;
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
    collect_names(&serde_json::to_value(Fixed.routes()).unwrap(), &mut names);
    for name in names {
        assert!(document.contains(&format!("`{name}`")), "{name} is not documented");
    }
    for path in ["/v1/status", "/v1/routes", "/v1/routes/get?address=ADDR", "/v1/drops"] {
        assert!(document.contains(&format!("`GET {path}`")), "{path}");
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
