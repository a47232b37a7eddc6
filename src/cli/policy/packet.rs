//! The words of a packet: `tcp/80`, `icmp/8.0`, `47`.

use std::str::FromStr;

/// Protocol, and port or type and code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Words {
    /// As it was given.
    pub(super) protocol: String,
    pub(super) port: Option<u16>,
    pub(super) icmp_type: Option<u8>,
    pub(super) icmp_code: Option<u8>,
}

impl FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, rest) = text.split_once('/').map_or((text, None), |(word, rest)| (word, Some(rest)));
        let mut words = Self { protocol: protocol.to_owned(), port: None, icmp_type: None, icmp_code: None };
        crate::policy::protocol_number(protocol)?;
        let Some(rest) = rest else { return Ok(words) };
        if protocol.to_ascii_lowercase().starts_with("icmp") {
            let (kind, code) = rest.split_once('.').map_or((rest, None), |(kind, code)| (kind, Some(code)));
            let number = |text: &str| {
                text.parse().map_err(|_| format!("\"{rest}\" is no ICMP type or TYPE.CODE, such as 8 or 3.4"))
            };
            words.icmp_type = Some(number(kind)?);
            words.icmp_code = code.map(number).transpose()?;
        } else {
            words.port = Some(rest.parse().map_err(|_| format!("\"{rest}\" is no port; use 0 to 65535"))?);
        }
        Ok(words)
    }
}

#[cfg(test)]
mod tests {
    use super::Words;

    #[test]
    fn words_are_taken_apart() {
        let words = |protocol: &str, port, icmp_type, icmp_code| {
            Ok(Words { protocol: protocol.to_owned(), port, icmp_type, icmp_code })
        };
        assert_eq!("tcp/80".parse(), words("tcp", Some(80), None, None));
        assert_eq!("icmp".parse(), words("icmp", None, None, None));
        assert_eq!("icmp/8".parse(), words("icmp", None, Some(8), None));
        assert_eq!("ICMPv6/1.4".parse(), words("ICMPv6", None, Some(1), Some(4)));
        assert_eq!("47".parse(), words("47", None, None, None));
        for text in ["", "tcp/", "tcp/http", "tcp/65536", "quic/443", "icmp/8.", "icmp/256", "icmp/1.2.3"] {
            assert!(text.parse::<Words>().is_err(), "{text}");
        }
    }
}
