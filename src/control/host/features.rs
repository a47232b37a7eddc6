//! What an interface segments itself, as `ethtool -k` shows it: read through the ethtool netlink family
//! (Documentation/networking/ethtool-netlink.rst, ETHTOOL_MSG_FEATURES_GET), which needs no right.
//!
//! Only active features count: what `ethtool -K` was asked for but the driver could not do is not there.

use std::time::Duration;

use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolHandle, EthtoolHeader, EthtoolMessage};
use futures_util::TryStreamExt;
use tokio::time::timeout;

use crate::control::engine::ways::{Features, IP_IN_IPV4, TCP, UDP_TUNNEL};

/// How long the kernel may take to answer: it holds its RTNL lock for others meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads features in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct FeatureReader(EthtoolHandle);

impl FeatureReader {
    /// Opens a netlink socket and serves it by a task on the current tokio runtime, which ends when
    /// this is dropped.
    ///
    /// # Errors
    /// The kernel's, when it refuses the socket.
    pub fn connect() -> std::io::Result<Self> {
        let (connection, handle, _unsolicited) = ethtool::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The features of the interface called `name`, whose index is `index`.
    ///
    /// # Errors
    /// Why they are not known, in words: the kernel has no ethtool netlink (before Linux 5.6), or the
    /// name is another interface's by now.
    pub async fn read(&mut self, name: &str, index: u32) -> Result<Features, String> {
        let answer = timeout(PATIENCE, self.ask(name)).await.map_err(|_| "no answer".to_owned())??;
        let message = answer.ok_or("no answer")?;
        parse(&message, index).ok_or_else(|| "the answer is about another interface".to_owned())
    }

    async fn ask(&mut self, name: &str) -> Result<Option<EthtoolMessage>, String> {
        let answers = self.0.feature().get(Some(name)).execute().await.map_err(|error| error.to_string())?;
        let mut answers = std::pin::pin!(answers);
        let answer = answers.try_next().await.map_err(|error| error.to_string())?;
        Ok(answer.map(|message| message.payload))
    }
}

/// The features in an answer that is about the interface `index`; `None` when it is about another one
/// or has no features.
fn parse(message: &EthtoolMessage, index: u32) -> Option<Features> {
    let (mut found, mut about) = (None, false);
    for attribute in &message.nlas {
        match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Header(header)) => {
                about |= header.contains(&EthtoolHeader::DevIndex(index));
            }
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => {
                let active = |name| bits.iter().any(|bit| bit.value && bit.name == name);
                found = Some(Features {
                    udp_tunnel: active(UDP_TUNNEL),
                    ip_in_ipv4: active(IP_IN_IPV4),
                    tcp: active(TCP),
                });
            }
            _ => {}
        }
    }
    found.filter(|_| about)
}

#[cfg(test)]
mod tests {
    use ethtool::{
        EthtoolAttr, EthtoolCmd, EthtoolFeatureAttr, EthtoolFeatureBit, EthtoolHeader, EthtoolMessage,
    };

    use super::{FeatureReader, Features, TCP, UDP_TUNNEL, parse};

    fn bits(names: &[(&str, bool)]) -> Vec<EthtoolFeatureBit> {
        let bit = |(name, value): &(&str, bool)| EthtoolFeatureBit {
            index: 7,
            name: (*name).to_owned(),
            value: *value,
        };
        names.iter().map(bit).collect()
    }

    fn answer(attributes: Vec<EthtoolFeatureAttr>) -> EthtoolMessage {
        let nlas = attributes.into_iter().map(EthtoolAttr::Feature).collect();
        EthtoolMessage { cmd: EthtoolCmd::FeatureGetReply, nlas }
    }

    #[test]
    fn only_active_features_of_that_interface_count() {
        let header = |index| EthtoolFeatureAttr::Header(vec![EthtoolHeader::DevIndex(index)]);
        let active = EthtoolFeatureAttr::Active(bits(&[(TCP, true), (UDP_TUNNEL, false), ("new", true)]));
        let wanted = EthtoolFeatureAttr::Wanted(bits(&[(UDP_TUNNEL, true)]));
        let expected = Features { tcp: true, ..Features::default() };
        let message = answer(vec![wanted.clone(), header(3), active.clone()]);
        assert_eq!(parse(&message, 3), Some(expected));
        assert_eq!(parse(&message, 4), None);
        assert_eq!(parse(&answer(vec![active]), 3), None);
        assert_eq!(parse(&answer(vec![header(3), wanted]), 3), None);
        assert_eq!(parse(&answer(Vec::new()), 3), None);
    }

    /// The loopback is everywhere, and its software segments TCP unless somebody forbids it.
    #[tokio::test]
    async fn the_kernel_answers_anybody() {
        let mut reader = FeatureReader::connect().unwrap();
        let found = reader.read("lo", 1).await;
        assert!(found.is_ok(), "{found:?}");
        assert!(reader.read("lo", 2).await.unwrap_err().contains("another interface"));
        assert!(reader.read("no-such-device", 1).await.is_err());
    }
}
