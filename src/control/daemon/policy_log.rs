//! The packets that rules want logged: taken from the workers once a second and written to the log, so many a second
//! and no more. What is too much is counted, so that the log says what it does not show.

use std::net::SocketAddr;

use crate::dataplane::observe::{Counters, LoggedPacket};
use crate::policy::{RuleNumber, protocol_word};

/// Lines for packets in one look, which is a second.
const MOST: usize = 20;

/// What was logged so far.
#[derive(Default)]
pub(super) struct PolicyLogger {
    /// Packets that found no room, or no line, as of the last look.
    lost: u64,
}

impl PolicyLogger {
    /// Logs what has come since the last look. Bounded: the workers' queue has room for a few hundred packets.
    pub(super) fn tell(&mut self, counters: &Counters) {
        let Some(log) = counters.policy_log() else { return };
        for packet in std::iter::from_fn(|| log.pop()).take(MOST) {
            tracing::info!("{}", words(&packet));
        }
        log.pass_over();
        let lost = log.lost();
        let more = lost.saturating_sub(std::mem::replace(&mut self.lost, lost));
        if more > 0 {
            tracing::info!("and {more} more packets that rules of policies want logged");
        }
    }
}

/// The policy and its rule, and the packet.
fn words(packet: &LoggedPacket) -> String {
    let LoggedPacket { policy, rule, egress, source, destination, protocol, ports } = packet;
    let number = RuleNumber { egress: *egress, rule: *rule };
    let packet = match ports {
        Some((from, to)) => {
            format!("{} > {}", SocketAddr::new(*source, *from), SocketAddr::new(*destination, *to))
        }
        None => format!("{source} > {destination}"),
    };
    format!("policy {policy} logs by {number}: {} {packet}", protocol_word(*protocol))
}

#[cfg(test)]
mod tests {
    use super::{MOST, PolicyLogger, words};
    use crate::dataplane::observe::{Counters, LoggedPacket};

    fn packet() -> LoggedPacket {
        LoggedPacket {
            policy: "shop/web".into(),
            rule: Some(2),
            egress: false,
            source: "10.1.0.2".parse().unwrap(),
            destination: "10.1.0.3".parse().unwrap(),
            protocol: 6,
            ports: Some((4000, 80)),
        }
    }

    #[test]
    fn a_line_names_policy_rule_and_packet() {
        assert_eq!(words(&packet()), "policy shop/web logs by ingress[2]: tcp 10.1.0.2:4000 > 10.1.0.3:80");
        let six = LoggedPacket {
            source: "fd00::1".parse().unwrap(),
            destination: "fd00::2".parse().unwrap(),
            egress: true,
            ..packet()
        };
        assert_eq!(words(&six), "policy shop/web logs by egress[2]: tcp [fd00::1]:4000 > [fd00::2]:80");
        let none = LoggedPacket { protocol: 47, ports: None, ..packet() };
        assert_eq!(words(&none), "policy shop/web logs by ingress[2]: 47 10.1.0.2 > 10.1.0.3");
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let (counters, mut logger) = (Counters::new(1), PolicyLogger::default());
        let log = counters.policy_log().unwrap();
        for _ in 0..MOST {
            log.push(packet());
        }
        logger.tell(&counters);
        assert_eq!((log.lost(), log.pop()), (0, None));
        for _ in 0..1000 {
            log.push(packet());
        }
        logger.tell(&counters);
        assert_eq!((log.lost(), log.pop()), (1000 - MOST as u64, None));
        assert_eq!(logger.lost, log.lost());
    }
}
