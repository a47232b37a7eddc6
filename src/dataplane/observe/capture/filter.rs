//! The filter of a capture: a small language over the IP headers of a packet.
//!
//! ```text
//! expression  = all { "or" all }
//! all         = one { "and" one }
//! one         = "not" one | "(" expression ")" | test
//! test        = "host" ADDRESS | "net" PREFIX | "port" NUMBER | [ "proto" ] PROTOCOL
//! PROTOCOL    = "tcp" | "udp" | "icmp" | "icmp6" | "ipip" | "gre" | NUMBER (with "proto")
//! ```
//!
//! A test holds when it holds of any IP header in the packet: the outermost, or one inside
//! IP-in-IP or VXLAN. So `host 10.244.2.7` finds a pod's packets at every point, inside tunnels
//! too. IPv6 extension headers are not looked behind.

use std::net::IpAddr;

use crate::net::Prefix;
use crate::wire::{be16, ethernet, ipv4, ipv6, protocol, udp, vxlan};

/// Most tests in one filter, and most levels of `not` and parentheses.
const MOST_TESTS: usize = 64;
const MOST_LEVELS: usize = 16;
/// Most IP headers of a packet that are looked at.
const MOST_HEADERS: usize = 3;

/// A parsed filter. Judging a packet allocates nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Filter {
    text: String,
    expression: Expression,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Expression {
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
    Host(IpAddr),
    Net(Prefix),
    Port(u16),
    Proto(u8),
}

/// Why a filter cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("filter: {0}")]
pub struct FilterError(String);

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser { words: &words, tests: 0, level: 0 };
        let expression = parser.expression()?;
        match parser.words.first() {
            None => Ok(Self { text: text.to_owned(), expression }),
            Some(word) => Err(FilterError(format!("expected \"and\" or \"or\", found \"{}\"", clip(word)))),
        }
    }
}

impl Filter {
    /// Whether a packet that begins with `head` is wanted; `head` may end anywhere. UDP to one of
    /// `vxlan_ports` is VXLAN.
    pub fn matches(&self, head: &[u8], vxlan_ports: &[u16]) -> bool {
        let mut headers = [None; MOST_HEADERS];
        let mut rest = head;
        for header in &mut headers {
            let Some((found, inner)) = Header::read(rest, vxlan_ports) else { break };
            *header = Some(found);
            rest = inner;
        }
        self.expression.holds(&headers)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Expression {
    fn holds(&self, headers: &[Option<Header>]) -> bool {
        let any = |test: &dyn Fn(&Header) -> bool| headers.iter().flatten().any(test);
        match self {
            Self::Any(list) => list.iter().any(|one| one.holds(headers)),
            Self::All(list) => list.iter().all(|one| one.holds(headers)),
            Self::Not(one) => !one.holds(headers),
            Self::Host(address) => any(&|header| header.addresses.contains(address)),
            Self::Net(prefix) => any(&|header| header.addresses.iter().any(|a| prefix.contains(*a))),
            Self::Port(port) => any(&|header| header.ports.is_some_and(|ports| ports.contains(port))),
            Self::Proto(number) => any(&|header| header.protocol == *number),
        }
    }
}

/// What tests ask of one IP header and the ports behind it.
#[derive(Clone, Copy, Debug)]
struct Header {
    addresses: [IpAddr; 2],
    protocol: u8,
    ports: Option<[u16; 2]>,
}

impl Header {
    /// The header at the start of `bytes`, and what is inside it if it is a tunnel's.
    fn read<'a>(bytes: &'a [u8], vxlan_ports: &[u16]) -> Option<(Self, &'a [u8])> {
        let (addresses, protocol, rest) = match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; ipv4::LEN] = bytes.first_chunk()?;
                let address =
                    |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
                let later = be16(header, 6) & 0x1fff != 0;
                let rest = bytes.get(usize::from(header[0] & 15) * 4..).filter(|_| !later);
                ([address(12), address(16)], header[9], rest.unwrap_or_default())
            }
            6 => {
                let header: &[u8; ipv6::LEN] = bytes.first_chunk()?;
                let address = |at: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&header[at..at + 16]);
                    IpAddr::from(octets)
                };
                ([address(8), address(24)], header[6], &bytes[ipv6::LEN..])
            }
            _ => return None,
        };
        let has_ports = matches!(protocol, protocol::TCP | protocol::UDP) && rest.len() >= 4;
        let ports = has_ports.then(|| [be16(rest, 0), be16(rest, 2)]);
        let inner = match protocol {
            protocol::IPIP | protocol::IPV6 => rest,
            protocol::UDP if ports.is_some_and(|[_, to]| vxlan_ports.contains(&to)) => {
                rest.get(udp::LEN + vxlan::LEN + ethernet::LEN..).unwrap_or_default()
            }
            _ => &[],
        };
        Some((Self { addresses, protocol, ports }, inner))
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    tests: usize,
    level: usize,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<Expression, FilterError> {
        let mut list = vec![self.all()?];
        while self.take("or") {
            list.push(self.all()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::Any(list) })
    }

    fn all(&mut self) -> Result<Expression, FilterError> {
        let mut list = vec![self.one()?];
        while self.take("and") {
            list.push(self.one()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expression::All(list) })
    }

    fn one(&mut self) -> Result<Expression, FilterError> {
        self.level += 1;
        if self.level > MOST_LEVELS {
            return Err(FilterError(format!("more than {MOST_LEVELS} levels of \"not\" and parentheses")));
        }
        let one = if self.take("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.expression()?;
            if !self.take(")") {
                return Err(FilterError("a parenthesis is not closed".to_owned()));
            }
            inner
        } else {
            self.test()?
        };
        self.level -= 1;
        Ok(one)
    }

    fn test(&mut self) -> Result<Expression, FilterError> {
        self.tests += 1;
        if self.tests > MOST_TESTS {
            return Err(FilterError(format!("more than {MOST_TESTS} tests")));
        }
        let word = self.next("a test: host, net, port, proto, tcp, udp, icmp")?;
        match word {
            "host" => value(self.next("an address")?, "an address").map(Expression::Host),
            "net" => value(self.next("a prefix")?, "a prefix").map(Expression::Net),
            "port" => value(self.next("a port")?, "a port").map(Expression::Port),
            "proto" => {
                let word = self.next("a protocol")?;
                let number = number_of(word).map_or_else(|| value(word, "a protocol"), Ok)?;
                Ok(Expression::Proto(number))
            }
            word => match number_of(word) {
                Some(number) => Ok(Expression::Proto(number)),
                None => Err(FilterError(format!(
                    "\"{}\" is no test; there are host, net, port, proto, tcp, udp, icmp, icmp6, ipip, gre",
                    clip(word)
                ))),
            },
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        self.words = &self.words[usize::from(found)..];
        found
    }

    fn next(&mut self, wanted: &str) -> Result<&'a str, FilterError> {
        let (first, rest) = self
            .words
            .split_first()
            .ok_or_else(|| FilterError(format!("it ends where {wanted} should be")))?;
        self.words = rest;
        Ok(first)
    }
}

fn value<T: std::str::FromStr>(word: &str, what: &str) -> Result<T, FilterError> {
    word.parse().map_err(|_| FilterError(format!("\"{}\" is not {what}", clip(word))))
}

fn number_of(word: &str) -> Option<u8> {
    Some(match word {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "icmp" => protocol::ICMP,
        "icmp6" => protocol::ICMPV6,
        "ipip" => protocol::IPIP,
        "gre" => protocol::GRE,
        _ => return None,
    })
}

/// The beginning of a word, for a message.
fn clip(word: &str) -> String {
    word.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::Filter;
    use crate::dataplane::encap::ipip;
    use crate::wire::testing::{Spec, Transport};

    fn matches(filter: &str, packet: &[u8]) -> bool {
        filter.parse::<Filter>().unwrap_or_else(|error| panic!("{error}")).matches(packet, &[4789])
    }

    #[test]
    fn tests_look_at_every_header() {
        let inner = Spec::udp4(b"x").build();
        let mut ipip = ipip::template([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), 4).to_vec();
        ipip::patch(&mut ipip, 0, inner.len());
        let outer = [&ipip[..], &inner].concat();
        let vxlan = Spec {
            transport: Transport::Udp(50000, 4789),
            payload: [&[8, 0, 0, 0, 0, 0x10, 0, 0][..], &[0; 12], &[8, 0], &inner].concat(),
            source: [192, 0, 2, 1].into(),
            destination: [192, 0, 2, 2].into(),
            ..Spec::udp4(b"")
        };
        for packet in [outer, vxlan.build()] {
            for (filter, expected) in [
                ("host 10.244.1.10", true),
                ("host 192.0.2.2", true),
                ("host 192.0.2.3", false),
                ("net 10.244.2.0/24 and udp", true),
                ("net 10.244.3.0/24 or port 6000", true),
                ("not (host 192.0.2.1 or tcp)", false),
                ("not tcp and not icmp and proto 17", true),
                ("port 5001", false),
                ("net fd00::/8", false),
            ] {
                assert_eq!(matches(filter, &packet), expected, "{filter}");
            }
        }
        let v6 = Spec::tcp6(b"x").build();
        assert!(matches("host fd00:10:244:1::10 and port 80 and proto tcp", &v6));
        for len in 0..40 {
            assert!(!matches("tcp", &v6[..len]), "{len}");
        }
        assert!(matches("not tcp", b""));
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (filter, said) in [
            ("", "filter: it ends where a test: host, net, port, proto, tcp, udp, icmp should be"),
            ("host", "filter: it ends where an address should be"),
            ("host x", "filter: \"x\" is not an address"),
            ("net 10.0.0.1/8", "filter: \"10.0.0.1/8\" is not a prefix"),
            ("port 70000", "filter: \"70000\" is not a port"),
            ("proto foo", "filter: \"foo\" is not a protocol"),
            ("(tcp", "filter: a parenthesis is not closed"),
            ("tcp udp", "filter: expected \"and\" or \"or\", found \"udp\""),
            ("tcp )", "filter: expected \"and\" or \"or\", found \")\""),
            (&"not ".repeat(20), "filter: more than 16 levels of \"not\" and parentheses"),
            (&format!("tcp{}", " or tcp".repeat(64)), "filter: more than 64 tests"),
        ] {
            assert_eq!(filter.parse::<Filter>().unwrap_err().to_string(), said);
        }
        assert!("src 10.0.0.1".parse::<Filter>().unwrap_err().to_string().contains("\"src\" is no test"));
        assert!(format!("tcp{}", " or tcp".repeat(63)).parse::<Filter>().is_ok());
    }
}
