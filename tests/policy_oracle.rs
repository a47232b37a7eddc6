//! The policy engine decides what an independent evaluator says: `tests/policy/oracle.py`, written from the
//! specifications of Kubernetes and of Calico, over the cases of `tests/policy/generate.py`.
//!
//! `UNDERPASS_POLICY_CASES` and `UNDERPASS_POLICY_SEED` choose others than the usual cases.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use underpass::dataplane::packet::Direction;
use underpass::dataplane::policy::{Decision, Ruleset, Tuple};
use underpass::policy::{Object, World, compile};

const CASES: &str = "3000";
/// So many of the cases that differ are printed; the first one is printed whole.
const SHOWN: usize = 30;

/// A line of the generator.
#[derive(Deserialize)]
struct Case {
    name: String,
    objects: Vec<Value>,
    probes: Vec<Probe>,
}

/// The first packet of a connection, and what the oracle says of it.
#[derive(Deserialize, Serialize)]
struct Probe {
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    egress: bool,
    ingress: bool,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Protocol {
    Number(u8),
    Name(String),
}

impl Probe {
    fn tuple(&self) -> Tuple {
        let protocol = match &self.protocol {
            Protocol::Number(number) => *number,
            Protocol::Name(name) => match name.as_str() {
                "tcp" => 6,
                "udp" => 17,
                "sctp" => 132,
                "icmp" if self.source.is_ipv4() => 1,
                "icmp" => 58,
                other => panic!("no protocol: {other}"),
            },
        };
        Tuple {
            source: self.source,
            destination: self.destination,
            protocol,
            ports: self.source_port.zip(self.destination_port),
            icmp: self.icmp_type.zip(self.icmp_code),
        }
    }
}

/// The rules of a case; what is wrong with it, in words, where the engine does not take it.
fn rules(case: &Case) -> Result<std::sync::Arc<Ruleset>, String> {
    let mut world = World::default();
    for value in &case.objects {
        world.set(Object::read(value).map_err(|faults| format!("refused: {faults:?}: {value}"))?);
    }
    let compiled = compile(&world, 1, None).map_err(|error| format!("not compiled: {error}"))?;
    match compiled.left_out.is_empty() {
        true => Ok(compiled.ruleset),
        false => Err(format!("left out: {:?}", compiled.left_out)),
    }
}

/// Where the engine decides otherwise: what both say, and the rule that decided.
fn difference(rules: &Ruleset, probe: &Probe) -> Option<String> {
    if probe.source == probe.destination {
        // What an endpoint sends to itself never comes to the rules.
        return None;
    }
    let tuple = probe.tuple();
    let ask = |direction| rules.decide(direction, &tuple, |_| {});
    let decided =
        [("egress", Direction::Outbound, probe.egress), ("ingress", Direction::Inbound, probe.ingress)]
            .map(|(end, direction, expected)| (end, ask(direction), expected));
    let mut text = String::new();
    for (end, decision, expected) in
        decided.iter().filter(|(_, decision, expected)| decision.allowed != *expected)
    {
        let _ = writeln!(
            text,
            "{end}: the oracle says {}, the engine {}, by {}",
            word(*expected),
            word(decision.allowed),
            rule(rules, *decision)
        );
    }
    (!text.is_empty()).then_some(text)
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

fn rule(rules: &Ruleset, decision: Decision) -> String {
    let Some(origin) = decision.by else { return "no rule".to_owned() };
    let policy = rules.policy(origin).map_or("a policy that is not there", |policy| &policy.name);
    match origin.rule {
        Some(number) => format!("rule {number} of {policy}"),
        None => format!("the end of the tier of {policy}"),
    }
}

/// The objects of a case, a line each.
fn whole(case: &Case) -> String {
    case.objects.iter().map(|object| format!("{object}\n")).collect()
}

#[test]
fn agrees_with_the_oracle() {
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (cases, seed) = (variable("UNDERPASS_POLICY_CASES", CASES), variable("UNDERPASS_POLICY_SEED", "1"));
    let mut generator = Command::new("/usr/bin/python3")
        .args(["-B", "tests/policy/generate.py", "--cases", &cases, "--seed", &seed])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let (mut count, mut probes, mut differing, mut first) = (0_usize, 0_usize, Vec::new(), None);
    for line in BufReader::new(generator.stdout.take().expect("piped")).lines() {
        let case: Case = serde_json::from_str(&line.expect("lines")).expect("cases as JSON");
        count += 1;
        probes += case.probes.len();
        let found = match rules(&case) {
            Err(reason) => Some(reason),
            Ok(rules) => case.probes.iter().find_map(|probe| {
                let said = difference(&rules, probe)?;
                Some(format!("{}\n{said}", serde_json::to_string(probe).expect("a probe")))
            }),
        };
        if let Some(about) = found {
            first.get_or_insert_with(|| whole(&case));
            differing.push(format!("{}\n{about}", case.name));
        }
    }
    assert!(generator.wait().expect("the generator's end").success(), "the generator failed");
    assert_eq!(Ok(count), cases.parse(), "the generator made other cases than asked for");
    assert!(probes > 100 * count, "{probes} probes of {count} cases");
    if let Some(first) = first {
        let shown = differing.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
        panic!("{} of {count} cases differ:\n{shown}\nthe first of them:\n{first}", differing.len());
    }
}
