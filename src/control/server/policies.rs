//! Requests about network policy.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::backend::Backend;
use super::body::query_of;
use crate::api::{PolicyEntry, PolicyTrace};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::policy::{End, Question, protocol_number};

/// `GET /v1/policies`
pub(super) async fn list<D: Backend>(
    State(api): State<Arc<Api<D>>>,
) -> Result<Json<Vec<PolicyEntry>>, Refusal> {
    api.backend.policies().map(Json)
}

/// The query of `GET /v1/policies/trace`.
#[derive(Deserialize, IntoParams)]
pub(super) struct Asked {
    /// Who sends: an address, or an endpoint as `NAMESPACE/NAME`.
    #[param(example = "10.244.1.2")]
    source: String,
    /// Whom it is for: an address, or an endpoint as `NAMESPACE/NAME`.
    #[param(example = "10.244.2.7")]
    destination: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a number.
    #[param(example = "tcp")]
    protocol: String,
    /// The destination port, which TCP, UDP and SCTP need.
    #[param(example = 80)]
    port: Option<u16>,
    /// The source port; 49152 without.
    source_port: Option<u16>,
    /// The ICMP type; that of an echo request without.
    icmp_type: Option<u8>,
    /// The ICMP code; 0 without.
    icmp_code: Option<u8>,
}

const ADVICE: &str = "give ?source=, &destination= and &protocol=, and &port= of tcp, udp and sctp; there are \
                      &source_port=, &icmp_type= and &icmp_code=";

/// `GET /v1/policies/trace`
pub(super) async fn trace<D: Backend>(
    State(api): State<Arc<Api<D>>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<PolicyTrace>, Refusal> {
    let asked = query_of(query, ADVICE)?;
    api.backend.trace(&asked.question()?).map(Json)
}

impl Asked {
    fn question(&self) -> Result<Question, Refusal> {
        let malformed = |text| Refusal::new(Kind::Malformed, text);
        let end = |which: &str, text: &str| {
            text.parse::<End>().map_err(|reason| malformed(format!("{which}: {reason}")))
        };
        Ok(Question {
            source: end("source", &self.source)?,
            destination: end("destination", &self.destination)?,
            protocol: protocol_number(&self.protocol).map_err(malformed)?,
            port: self.port,
            source_port: self.source_port,
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
        })
    }
}
