//! Socket addresses as the kernel reads and writes them.
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::c_int;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A socket address of one of the families we use; the family is the first field of each.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    link: libc::sockaddr_ll,
}

impl Address {
    /// `to`, and how many bytes of it count.
    pub(super) fn of(to: SocketAddr) -> (Self, libc::socklen_t) {
        match to {
            SocketAddr::V4(to) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(to) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: 0,
                };
                (Self { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The UDP port.
    pub(super) fn port(&self) -> u16 {
        // SAFETY: as in `ip`. The port is at the same place in both variants (RFC 3493 §3.3).
        u16::from_be(unsafe { self.v4 }.sin_port)
    }

    /// The type of device that a packet socket names; `None` for other families.
    pub(super) fn device_type(&self) -> Option<u16> {
        // SAFETY: as in `ip`.
        let link = unsafe { self.link };
        (c_int::from(link.sll_family) == libc::AF_PACKET).then_some(link.sll_hatype)
    }

    /// The IP address; `None` for other families.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        // SAFETY: all variants are plain old data, valid for all bytes, and all bytes of the largest
        // one are initialised: they were zeroed, and the kernel writes to them.
        let (v4, v6) = unsafe { (self.v4, self.v6) };
        match c_int::from(v4.sin_family) {
            libc::AF_INET => Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into()),
            _ => None,
        }
    }
}
