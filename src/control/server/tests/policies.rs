//! Policies and connections over the socket.

use serde_json::{Value, json};

use super::{Limits, Refusal, Server};
use crate::api::{PolicyTrace, TraceDecision, TraceSide};
use crate::control::engine::refusal::Kind;
use crate::control::server::backend::Ask;
use crate::dataplane::policy::{Answer, Connection, State, Tuple};
use crate::policy::{End, Question};

/// Connections in one answer.
const AT_ONCE: usize = 10;

/// What two or more workers know.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// The connections of each; what is flushed goes.
    pub(super) known: Vec<Vec<Connection>>,
    /// The worker that does not answer, from where on.
    pub(super) stuck: Option<(usize, usize)>,
}

impl Workers {
    pub(super) fn answer(&mut self, ask: Ask) -> Result<Answer, Refusal> {
        let Ask { worker, from, filter, flush, mut room } = ask;
        if self.stuck.is_some_and(|stuck| (worker, from) >= stuck) {
            return Err(Refusal::new(Kind::Busy, format!("worker {worker} did not answer")));
        }
        let known = &mut self.known[worker];
        let end = known.len().min(from + AT_ONCE);
        let matching = known[from..end].iter().filter(|one| filter.matches(one)).copied();
        room.extend(matching.take(room.capacity()));
        let next = (end < known.len()).then_some(end);
        if flush {
            known.iter_mut().for_each(|one| {
                if room.contains(one) {
                    one.state = State::Closed;
                }
            });
        }
        Ok(Answer { connections: room, next })
    }
}

/// The answer to any question.
pub(super) fn traced(question: &Question) -> PolicyTrace {
    let address = |end: &End| match end {
        End::Address(address) => *address,
        End::Endpoint(_) => [10, 1, 0, 9].into(),
    };
    let side = |address| TraceSide {
        address,
        endpoint: None,
        labels: [].into(),
        node: None,
        network_sets: Vec::new(),
        tiers: Vec::new(),
        decided: TraceDecision::default(),
        reason: String::new(),
        allowed: true,
        enforced_here: false,
        enforced_by: None,
        enforcement: String::new(),
    };
    let (source, destination) = (address(&question.source), address(&question.destination));
    PolicyTrace {
        source,
        destination,
        protocol: question.protocol.to_string(),
        source_port: question.source_port,
        destination_port: question.port,
        icmp_type: question.icmp_type,
        icmp_code: question.icmp_code,
        allowed: true,
        egress: side(source),
        ingress: side(destination),
    }
}

/// So many connections to port 80, of TCP and UDP in turn.
fn connections(worker: u8, count: u16) -> Vec<Connection> {
    let one = |port: u16| Connection {
        tuple: Tuple {
            source: [10, 1, 0, worker].into(),
            destination: [10, 2, 0, 1].into(),
            protocol: if port.is_multiple_of(2) { 6 } else { 17 },
            ports: Some((port, 80)),
            icmp: None,
        },
        state: State::Established,
        age: 5,
        expires_in: 60,
    };
    (0..count).map(one).collect()
}

fn server(stuck: Option<(usize, usize)>) -> Server {
    let server = Server::start(Limits::default());
    let known = vec![connections(0, 35), Vec::new(), connections(2, 20)];
    *server.backend.workers.lock().unwrap() = Some(Workers { known, stuck });
    server
}

#[tokio::test]
async fn without_policies_nothing_is_there() {
    let server = Server::start(Limits::default());
    for target in [
        "/v1/policies",
        "/v1/policies/trace?source=10.1.0.1&destination=10.1.0.2&protocol=tcp&port=80",
        "/v1/connections",
    ] {
        let (status, body) = server.get(target).await;
        assert_eq!((status, &body["code"]), (404, &json!("not_found")), "{target}");
    }
    let (status, body) = server.send("DELETE", "/v1/connections?all=true", "", "").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
}

#[tokio::test]
async fn policies_are_listed_and_packets_traced() {
    let server = server(None);
    let (status, policies) = server.get("/v1/policies").await;
    assert_eq!((status, &policies[0]["name"]), (200, &json!("web")));
    let (status, trace) = server
        .get("/v1/policies/trace?source=shop%2Fweb-0&destination=10.2.0.1&protocol=TCP&port=80&source_port=7")
        .await;
    assert_eq!(status, 200, "{trace}");
    assert_eq!(
        [&trace["source"], &trace["destination"], &trace["protocol"]],
        [&json!("10.1.0.9"), &json!("10.2.0.1"), &json!("6")]
    );
    assert_eq!([&trace["destination_port"], &trace["source_port"]], [&json!(80), &json!(7)]);
    for (query, part) in [
        ("", "give ?source="),
        ("source=a&destination=b", "protocol"),
        ("source=a&destination=b&protocol=quic", "\"quic\" is none of tcp"),
        ("source=a%20b&destination=b&protocol=tcp", "source: \"a b\" is neither"),
        ("source=a&destination=10.1.0.0%2F16%2F&protocol=tcp", "destination: "),
        ("source=a&destination=b&protocol=tcp&port=65536", "port"),
        ("source=a&destination=b&protocol=icmp&icmp_type=256", "icmp_type"),
    ] {
        let (status, body) = server.get(&format!("/v1/policies/trace?{query}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("malformed")), "{query}");
        assert!(body["error"].as_str().unwrap().contains(part), "{query}: {body}");
    }
}

#[tokio::test]
async fn connections_of_all_workers_are_one_list() {
    let server = server(None);
    let list = async |query: &str| {
        let (status, list) = server.get(&format!("/v1/connections{query}")).await;
        assert_eq!(status, 200, "{query}: {list}");
        list.as_array().unwrap().clone()
    };
    let all = list("").await;
    let of = |worker: usize| all.iter().filter(|one| one["worker"] == worker).count();
    assert_eq!((all.len(), of(0), of(1), of(2)), (55, 35, 0, 20));
    assert_eq!(
        all[0],
        json!({"protocol": "tcp", "source": "10.1.0.0", "source_port": 0, "destination": "10.2.0.1",
            "destination_port": 80, "icmp_type": null, "state": "established", "age_seconds": 5,
            "expires_in_seconds": 60, "worker": 0, "in_kernel": false})
    );
    for (query, count) in [
        ("?limit=1", 1),
        ("?limit=40", 40),
        ("?limit=1000", 55),
        ("?protocol=udp", 27),
        ("?source=10.1.0.2", 20),
        ("?source=10.1.0.0/24&protocol=tcp&limit=3", 3),
        ("?address=10.2.0.1", 55),
        ("?destination=10.1.0.0", 0),
        ("?port=34", 1),
        ("?state=established", 55),
        ("?state=closed", 0),
    ] {
        assert_eq!(list(query).await.len(), count, "{query}");
    }
    for (query, part) in [
        ("?limit=0", "limit"),
        ("?limit=-1", "limit"),
        ("?state=open", "\"open\" is none of unanswered"),
        ("?address=web", "address: \"web\" is neither"),
        ("?source=10.1.0.1/24", "source: "),
        ("?protocol=x", "protocol: "),
    ] {
        let (status, body) = server.get(&format!("/v1/connections{query}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("malformed")), "{query}");
        assert!(body["error"].as_str().unwrap().contains(part), "{query}: {body}");
    }
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_named_and_a_list_that_ends_early_is_no_list() {
    let server = server(Some((2, 0)));
    let (status, body) = server.get("/v1/connections").await;
    assert_eq!((status, &body["code"]), (503, &json!("busy")));
    assert_eq!(body["error"], "worker 2 did not answer");
    // It stops when the list has begun.
    server.backend.with_workers(|workers| workers.stuck = Some((2, 10))).unwrap();
    let (status, body) = server.ask(b"GET /v1/connections HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(["", "HTTP/1.1 200 OK"].contains(&&*status), "{status}");
    assert!(serde_json::from_str::<Value>(&body).is_err(), "{body}");
    server.assert_lively().await;
}

#[tokio::test]
async fn connections_are_forgotten_as_the_filter_says() {
    let server = server(None);
    let flush = async |query: &str| server.send("DELETE", &format!("/v1/connections{query}"), "", "").await;
    for (query, part) in [
        ("", "give ?all=true"),
        ("?all=false", "give ?all=true"),
        ("?all=true&protocol=tcp", "contradict"),
        ("?protocol=x", "protocol: "),
    ] {
        let (status, body) = flush(query).await;
        assert_eq!((status, &body["code"]), (400, &json!("malformed")), "{query}");
        assert!(body["error"].as_str().unwrap().contains(part), "{query}: {body}");
    }
    assert_eq!(flush("?protocol=udp&source=10.1.0.2").await, (200, json!({"flushed": 10})));
    assert_eq!(flush("?state=established").await, (200, json!({"flushed": 45})));
    assert_eq!(flush("?all=true").await, (200, json!({"flushed": 55})));
    server.backend.with_workers(|workers| workers.stuck = Some((2, 10))).unwrap();
    let (status, body) = flush("?all=true").await;
    assert_eq!((status, &body["code"]), (503, &json!("busy")));
    assert_eq!(body["error"], "worker 2 did not answer; 45 connections are forgotten, others may be known");
}
