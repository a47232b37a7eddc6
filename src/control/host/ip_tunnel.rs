//! The kernel's own devices that take IP-in-IP packets: each of them, and not only `tunl0`, delivers what it takes
//! beside us, so that it arrives twice.

use rtnetlink::packet_route::IpProtocol;
use rtnetlink::packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use crate::control::engine::port::KernelTunnel;

/// A device that takes packets of protocol 4 or 41 with an IP packet inside, if the message is about one that is up.
pub(super) fn tunnel(message: &LinkMessage) -> Option<KernelTunnel> {
    if !message.header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let (mut name, mut kind, mut about) = (None, None, &[][..]);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(is) => name = Some(is.clone()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(is) => kind = Some(is),
                        LinkInfo::Data(InfoData::IpTunnel(is)) => about = is,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let ipv6 = match kind? {
        InfoKind::IpIp | InfoKind::SitTun => false,
        InfoKind::Ip6Tnl => true,
        _ => return None,
    };
    let (mut local, mut remote) = (None, None);
    for info in about {
        match info {
            InfoIpTunnel::Local(is) => local = Some(*is).filter(|is| !is.is_unspecified()),
            InfoIpTunnel::Remote(is) => remote = Some(*is).filter(|is| !is.is_unspecified()),
            // One for MPLS takes none of ours.
            InfoIpTunnel::Protocol(IpProtocol::Mpls) => return None,
            _ => {}
        }
    }
    Some(KernelTunnel { name: name?, ipv6, local, remote })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::IpProtocol;
    use rtnetlink::packet_route::link::{
        InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    };

    use super::{KernelTunnel, tunnel};

    fn link(kind: InfoKind, about: Vec<InfoIpTunnel>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName("t1".to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(InfoData::IpTunnel(about))]),
        ];
        message
    }

    #[test]
    fn devices_that_take_ip_in_ip() {
        let (own, far) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let any = InfoIpTunnel::Local("0.0.0.0".parse().unwrap());
        let expected = KernelTunnel { name: "t1".to_owned(), ipv6: false, local: None, remote: Some(far) };
        let told = tunnel(&link(InfoKind::IpIp, vec![any, InfoIpTunnel::Remote(far)]));
        assert_eq!(told, Some(expected.clone()));
        let sit = |protocol| tunnel(&link(InfoKind::SitTun, vec![InfoIpTunnel::Protocol(protocol)]));
        for protocol in [IpProtocol::Hopopts, IpProtocol::Ipip, IpProtocol::Ipv6] {
            assert_eq!(sit(protocol), Some(KernelTunnel { remote: None, ..expected.clone() }));
        }
        assert_eq!(sit(IpProtocol::Mpls), None);
        let six = tunnel(&link(InfoKind::Ip6Tnl, vec![InfoIpTunnel::Local(own)]));
        assert_eq!(six, Some(KernelTunnel { ipv6: true, local: Some(own), remote: None, ..expected }));
        assert_eq!(tunnel(&link(InfoKind::Dummy, Vec::new())), None);
        let mut down = link(InfoKind::IpIp, Vec::new());
        down.header.flags = LinkFlags::empty();
        assert_eq!(tunnel(&down), None);
    }
}
