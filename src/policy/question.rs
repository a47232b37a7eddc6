//! A question about a packet, as people ask it: addresses or endpoints, and a protocol by its name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::model::Name;
use super::world::World;
use crate::dataplane::policy::Tuple;
use crate::net::words::clip;
use crate::wire::protocol;

/// The source port of a packet whose question names none: the first that no service has (RFC 6335 §6).
const SOURCE_PORT: u16 = 49152;
/// The namespace of an endpoint that is named without one, as for `kubectl`.
const NAMESPACE: &str = "default";
/// Type of an echo request (RFC 792), and for IPv6 (RFC 4443).
const ECHO: [u8; 2] = [8, 128];

/// The words for protocols, in the API and on the command line.
const PROTOCOLS: [(&str, u8); 5] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("sctp", protocol::SCTP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
];

/// The word for a protocol: its name where it has one here, else its number.
pub fn protocol_word(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, named)| *named == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// The protocol that a word means, in any letter case; `icmp6` is the same as `icmpv6`.
///
/// # Errors
/// What to write instead.
pub fn protocol_number(word: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    let also = word.eq_ignore_ascii_case("icmp6").then_some(protocol::ICMPV6);
    named.map(|(_, number)| *number).or(also).or_else(|| word.parse().ok()).ok_or_else(|| {
        let word = clip(word);
        format!("protocol: \"{word}\" is none of tcp, udp, sctp, icmp, icmpv6 or a number from 0 to 255")
    })
}

/// One end of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// An address.
    Address(IpAddr),
    /// An endpoint, whichever of its addresses.
    Endpoint(Name),
}

impl FromStr for End {
    type Err = String;

    /// `10.244.1.2`, `shop/web-0`, or `web-0` in the namespace `default`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let (namespace, name) = text.split_once('/').unwrap_or((NAMESPACE, text));
        let fine = |part: &str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=253).contains(&part.len()) && part.bytes().all(known)
        };
        if !fine(namespace) || !fine(name) {
            return Err(format!(
                "\"{}\" is neither an address nor NAMESPACE/NAME of an endpoint",
                clip(text)
            ));
        }
        Ok(Self::Endpoint(Name::inside(namespace, name)))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Endpoint(name) => name.fmt(f),
        }
    }
}

/// The first packet of a connection, as somebody asks about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    /// Who sends it.
    pub source: End,
    /// Whom it is for.
    pub destination: End,
    /// Upper-layer protocol.
    pub protocol: u8,
    /// Destination port.
    pub port: Option<u16>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Type of ICMP.
    pub icmp_type: Option<u8>,
    /// Code of ICMP.
    pub icmp_code: Option<u8>,
}

/// Why there is no packet that a question could be about.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear {
    /// It does not fit together.
    #[error("{0}")]
    Malformed(String),
    /// It names an endpoint that is not known.
    #[error("{0}")]
    Unknown(String),
}

impl Question {
    /// The packet that is meant, among endpoints that are known. An endpoint stands for its first address that the
    /// other end and the protocol have a counterpart for.
    ///
    /// # Errors
    /// See [`Unclear`].
    pub fn tuple(&self, world: &World) -> Result<Tuple, Unclear> {
        let (ports, icmp) = self.numbers()?;
        let (source, destination) =
            (addresses(&self.source, world, "source")?, addresses(&self.destination, world, "destination")?);
        let is_v4 = match self.protocol {
            protocol::ICMP => Some(true),
            protocol::ICMPV6 => Some(false),
            _ => None,
        };
        let fits = |from: &IpAddr| is_v4.is_none_or(|is_v4| from.is_ipv4() == is_v4);
        let pair = source.iter().filter(|from| fits(from)).find_map(|from| {
            let to = destination.iter().find(|to| to.is_ipv4() == from.is_ipv4())?;
            Some((*from, *to))
        });
        let (source, destination) = pair.ok_or_else(|| {
            let word = protocol_word(self.protocol);
            let both = format!("{} and {}", self.source, self.destination);
            Unclear::Malformed(match is_v4 {
                Some(true) => format!("{both} have no IPv4 addresses for {word}; IPv6 has icmpv6"),
                Some(false) => format!("{both} have no IPv6 addresses for {word}; IPv4 has icmp"),
                None => format!("{both} have no addresses of the same version of IP"),
            })
        })?;
        Ok(Tuple { source, destination, protocol: self.protocol, ports, icmp })
    }

    /// Ports, or type and code.
    #[expect(clippy::type_complexity, reason = "these are two fields of a tuple")]
    fn numbers(&self) -> Result<(Option<(u16, u16)>, Option<(u8, u8)>), Unclear> {
        let word = protocol_word(self.protocol);
        let (has_ports, is_icmp) = (protocol::has_ports(self.protocol), protocol::is_icmp(self.protocol));
        let malformed = |text: String| Err(Unclear::Malformed(text));
        if !has_ports && (self.port.is_some() || self.source_port.is_some()) {
            return malformed(format!("{word} has no ports; tcp, udp and sctp have"));
        }
        if !is_icmp && (self.icmp_type.is_some() || self.icmp_code.is_some()) {
            return malformed(format!("{word} has no types and codes; icmp and icmpv6 have"));
        }
        match (self.port, self.icmp_type, self.icmp_code) {
            (None, ..) if has_ports => malformed(format!("give the port, such as {word}/80")),
            (Some(port), ..) => Ok((Some((self.source_port.unwrap_or(SOURCE_PORT), port)), None)),
            (None, None, Some(_)) => malformed("an ICMP code means nothing without its type".to_owned()),
            (None, kind, code) if is_icmp => {
                let echo = ECHO[usize::from(self.protocol == protocol::ICMPV6)];
                Ok((None, Some((kind.unwrap_or(echo), code.unwrap_or(0)))))
            }
            _ => Ok((None, None)),
        }
    }
}

/// The addresses that are meant by one end.
fn addresses(end: &End, world: &World, which: &str) -> Result<Vec<IpAddr>, Unclear> {
    let name = match end {
        End::Address(address) => return Ok(vec![*address]),
        End::Endpoint(name) => name,
    };
    let endpoint = world.endpoints().get(name).ok_or_else(|| {
        Unclear::Unknown(format!(
            "{which}: no endpoint is called {name}; give NAMESPACE/NAME of one that policies know, or an address"
        ))
    })?;
    if endpoint.addresses.is_empty() {
        return Err(Unclear::Unknown(format!("{which}: endpoint {name} has no address")));
    }
    Ok(endpoint.addresses.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{End, Question, Unclear, protocol_number, protocol_word};
    use crate::dataplane::policy::Tuple;
    use crate::policy::{Endpoint, Name, Object, World};

    fn world() -> World {
        let endpoint = |name: &str, addresses: &[&str]| {
            Object::Endpoint(Arc::new(Endpoint {
                name: Name::inside("shop", name),
                labels: BTreeMap::new(),
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                ports: Vec::new(),
                service_account: None,
                node: None,
            }))
        };
        vec![
            endpoint("web", &["10.1.0.2", "fd00:1::2"]),
            endpoint("six", &["fd00:1::6"]),
            endpoint("new", &[]),
        ]
        .into()
    }

    fn asked(source: &str, destination: &str, protocol: &str) -> Question {
        Question {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: protocol_number(protocol).unwrap(),
            port: None,
            source_port: None,
            icmp_type: None,
            icmp_code: None,
        }
    }

    #[test]
    fn an_endpoint_stands_for_the_address_that_fits() {
        let world = world();
        let tcp = |source, destination| Question { port: Some(80), ..asked(source, destination, "tcp") };
        let addresses = |question: Question| {
            let Tuple { source, destination, .. } = question.tuple(&world).unwrap();
            [source.to_string(), destination.to_string()]
        };
        assert_eq!(addresses(tcp("shop/web", "10.1.0.9")), ["10.1.0.2", "10.1.0.9"]);
        assert_eq!(addresses(tcp("shop/web", "fd00:1::9")), ["fd00:1::2", "fd00:1::9"]);
        assert_eq!(addresses(tcp("shop/web", "shop/six")), ["fd00:1::2", "fd00:1::6"]);
        assert_eq!(addresses(asked("shop/web", "shop/web", "icmp6")), ["fd00:1::2", "fd00:1::2"]);
        assert_eq!(addresses(asked("shop/web", "shop/web", "icmp")), ["10.1.0.2", "10.1.0.2"]);
        assert_eq!(addresses(asked("::ffff:10.1.0.3", "shop/web", "47")), ["10.1.0.3", "10.1.0.2"]);
    }

    #[test]
    fn numbers_that_nobody_gave_are_the_usual_ones() {
        let numbers = |question: &Question| {
            let Tuple { ports, icmp, .. } = question.tuple(&world()).unwrap();
            (ports, icmp)
        };
        let tcp = Question { port: Some(80), ..asked("10.1.0.2", "10.1.0.3", "TCP") };
        assert_eq!(numbers(&tcp), (Some((49152, 80)), None));
        assert_eq!(numbers(&Question { source_port: Some(53), ..tcp }), (Some((53, 80)), None));
        let icmp = asked("10.1.0.2", "10.1.0.3", "icmp");
        assert_eq!(numbers(&icmp), (None, Some((8, 0))));
        assert_eq!(
            numbers(&Question { icmp_type: Some(3), icmp_code: Some(4), ..icmp }),
            (None, Some((3, 4)))
        );
        assert_eq!(numbers(&asked("fd00::1", "fd00::2", "icmpv6")), (None, Some((128, 0))));
        assert_eq!(numbers(&asked("fd00::1", "fd00::2", "50")), (None, None));
    }

    #[test]
    fn what_fits_nothing_is_said() {
        let world = world();
        let tcp = asked("shop/web", "10.1.0.9", "tcp");
        for (question, part) in [
            (tcp.clone(), "give the port, such as tcp/80"),
            (
                Question { port: Some(80), destination: "shop/new".parse().unwrap(), ..tcp.clone() },
                "no address",
            ),
            (
                Question { port: Some(80), destination: "gone".parse().unwrap(), ..tcp.clone() },
                "destination: no endpoint is called default/gone",
            ),
            (Question { port: Some(80), source: "shop/six".parse().unwrap(), ..tcp.clone() }, "same version"),
            (Question { port: Some(80), icmp_type: Some(8), ..tcp }, "tcp has no types"),
            (Question { port: Some(8), ..asked("10.1.0.2", "10.1.0.3", "icmp") }, "icmp has no ports"),
            (Question { icmp_code: Some(8), ..asked("10.1.0.2", "10.1.0.3", "icmp") }, "without its type"),
            (asked("fd00::1", "fd00::2", "icmp"), "IPv6 has icmpv6"),
            (asked("10.1.0.2", "10.1.0.3", "icmpv6"), "IPv4 has icmp"),
        ] {
            let error = question.tuple(&world).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            let unknown = ["no address", "no endpoint"].iter().any(|word| part.contains(word));
            assert_eq!(matches!(error, Unclear::Unknown(_)), unknown, "{error}");
        }
    }

    #[test]
    fn words_are_read_or_refused() {
        for (word, number) in [("tcp", 6), ("Udp", 17), ("SCTP", 132), ("icmp6", 58), ("47", 47), ("0", 0)] {
            assert_eq!(protocol_number(word), Ok(number), "{word}");
        }
        for word in ["", "256", "tcp/80", "quic", "-1"] {
            assert!(protocol_number(word).unwrap_err().contains("icmpv6 or a number"), "{word}");
        }
        assert_eq!([6, 58, 47].map(protocol_word), ["tcp", "icmpv6", "47"]);
        assert_eq!("web".parse(), Ok(End::Endpoint(Name::inside("default", "web"))));
        for text in ["", "/", "a/", "/a", "a/b/c", "a b", "10.1.0.0/16x y", "1.2.3.4/\u{1b}"] {
            assert!(text.parse::<End>().is_err(), "{text}");
        }
    }
}
