//! The receiving sockets as the control plane sees them: whom the kernel lets through.
//!
//! A packet of a stranger costs a worker as much as one of a peer, and takes its place in the receive
//! buffer. Where there are many, the kernel refuses them by a filter on each socket, in classic BPF
//! (Documentation/networking/filter.rst), which needs no right:
//!
//! ```text
//! A = source ─▶ search among ranges of numbers ─▶ refuse
//!                                              └▶ what the socket filters anyway
//! ```
//!
//! The filter may let through more than peers, never less: who it lets through is judged by a worker as
//! before. So an IPv6 address is folded to 32 bits, and where there are more addresses than a program has
//! room for, near ones are one range.

use std::io;
use std::net::IpAddr;

use socket2::{SockFilter, Socket};

use super::sys;
use crate::dataplane::packet::Family;
use crate::dataplane::steering::cbpf::{ALL, jump, op};
use crate::dataplane::steering::socket_cbpf;

/// Most ranges of a program: six instructions each, and the kernel takes 4096.
const MOST: usize = 512;
/// Offsets from here on count from the network header, wherever a socket's packets begin (linux/filter.h).
const NETWORK: u32 = (-0x10_0000_i32).cast_unsigned();
/// Where the source is in an IPv4 header, and in an IPv6 header.
const SOURCE4: u32 = 12;
const SOURCE6: u32 = 8;

/// A receiving socket of a worker.
#[derive(Debug)]
pub struct Door {
    socket: Socket,
    family: Family,
    /// The share of the packets that it takes, where there are others.
    share: Option<Share>,
}

/// One of several shares of what comes to a raw socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Whether packets begin with their outer header.
    pub outer: bool,
    /// Which one.
    pub index: u16,
    /// Of how many.
    pub of: u16,
}

impl Share {
    /// The filter that lets through this share.
    pub(super) fn filter(self) -> Vec<SockFilter> {
        socket_cbpf::share(self.outer, self.index, self.of)
    }
}

/// First and last address of those who may send.
pub type Range = (IpAddr, IpAddr);

impl Door {
    /// The door that `socket` is, for outer packets of this family.
    pub(super) fn new(socket: &Socket, family: Family, share: Option<Share>) -> io::Result<Self> {
        Ok(Self { socket: socket.try_clone()?, family, share })
    }

    /// Lets only `allowed` through from now on. The kernel exchanges the programs between two packets.
    ///
    /// # Errors
    /// The kernel's.
    pub fn close(&self, allowed: &[Range]) -> io::Result<()> {
        let of_family = allowed.iter().filter(|(first, _)| Family::of(*first) == self.family);
        match of_family.map(|range| numbers(*range)).collect::<Option<Vec<_>>>() {
            Some(numbers) => self.socket.attach_filter(&self.program(coarse(numbers))),
            None => self.open(),
        }
    }

    /// Lets everybody through.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> io::Result<()> {
        match self.share {
            Some(share) => self.socket.attach_filter(&share.filter()),
            // ENOENT: there is none.
            None => self.socket.detach_filter().or_else(|error| {
                if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) }
            }),
        }
    }

    /// Packets that the kernel did not put into the buffer so far, modulo 2^32: it was full, or, for UDP, the
    /// filter refused them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drops(&self) -> io::Result<u32> {
        sys::drops(&self.socket)
    }

    fn program(&self, ranges: Vec<(u32, u32)>) -> Vec<SockFilter> {
        let mut steps: Vec<Step> = source(self.family).into_iter().map(Step::Do).collect();
        search(&ranges, &mut steps);
        let len = steps.len();
        let step = |(place, step)| match step {
            Step::Do(instruction) => instruction,
            Step::Pass => over(len - 1 - place),
        };
        let mut program: Vec<SockFilter> = steps.into_iter().enumerate().map(step).collect();
        match self.share {
            Some(share) => program.extend(share.filter()),
            None => program.push(op(libc::BPF_RET | libc::BPF_K, ALL)),
        }
        program
    }
}

/// One instruction, or the way to what comes behind the search.
enum Step {
    Do(SockFilter),
    Pass,
}

/// A = the number of the outer source.
fn source(family: Family) -> Vec<SockFilter> {
    let word = |offset| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NETWORK.wrapping_add(offset));
    match family {
        Family::V4 => vec![word(SOURCE4)],
        Family::V6 => {
            let mut program = vec![word(SOURCE6)];
            for offset in [4, 8, 12] {
                program.push(op(libc::BPF_MISC | libc::BPF_TAX, 0));
                program.push(word(SOURCE6 + offset));
                program.push(op(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0));
            }
            program
        }
    }
}

/// A range of addresses as one of numbers; `None` where that cannot be said.
fn numbers((first, last): Range) -> Option<(u32, u32)> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits(), last.to_bits())),
        (IpAddr::V6(address), _) if first == last => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<4>();
            let folded = words.iter().fold(0, |all, word| all ^ u32::from_be_bytes(*word));
            Some((folded, folded))
        }
        _ => None,
    }
}

/// At most [`MOST`] ranges, sorted and apart, that hold all of `ranges`: the widest gaps stay.
fn coarse(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut apart: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for (low, high) in ranges {
        match apart.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => apart.push((low, high)),
        }
    }
    let mut gaps: Vec<(u32, usize)> =
        apart.windows(2).zip(1..).map(|(pair, place)| (pair[1].0 - pair[0].1, place)).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    let mut cuts: Vec<usize> = gaps.into_iter().take(MOST - 1).map(|(_, place)| place).collect();
    cuts.sort_unstable();
    let begins = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([apart.len()]);
    let parts = begins.zip(ends).filter_map(|(begin, end)| apart.get(begin..end));
    parts.filter_map(|part| Some((part.first()?.0, part.last()?.1))).collect()
}

/// Goes on behind the search where A is in one of the ranges, which are sorted; refuses everything else.
fn search(ranges: &[(u32, u32)], steps: &mut Vec<Step>) {
    let refuse = || Step::Do(op(libc::BPF_RET | libc::BPF_K, 0));
    match *ranges {
        [] => steps.push(refuse()),
        [(low, high)] => {
            steps.push(Step::Do(jump(libc::BPF_JGE, low, 0, 2)));
            steps.push(Step::Do(jump(libc::BPF_JGT, high, 1, 0)));
            steps.push(Step::Pass);
            steps.push(refuse());
        }
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let mut below = Vec::new();
            search(lower, &mut below);
            steps.push(Step::Do(jump(libc::BPF_JGE, upper[0].0, 0, 1)));
            steps.push(Step::Do(over(below.len())));
            steps.extend(below);
            search(upper, steps);
        }
    }
}

/// Over so many instructions, of which no program has more than 4096.
fn over(instructions: usize) -> SockFilter {
    op(libc::BPF_JMP | libc::BPF_JA, u32::try_from(instructions).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

    use socket2::Socket;

    use super::{Door, MOST, Share, coarse};
    use crate::dataplane::packet::Family;

    fn pair(own: &str) -> (Socket, Door, SocketAddr) {
        let address: IpAddr = own.parse().unwrap();
        let socket = Socket::from(UdpSocket::bind((address, 0)).unwrap());
        socket.set_nonblocking(true).unwrap();
        let door = Door::new(&socket, Family::of(address), None).unwrap();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, door, to)
    }

    /// Whether a datagram from `source` comes through.
    fn passes(socket: &Socket, to: SocketAddr, source: &str) -> bool {
        let from = UdpSocket::bind((source.parse::<IpAddr>().unwrap(), 0)).unwrap();
        from.send_to(b"x", to).unwrap();
        socket.recv(&mut [std::mem::MaybeUninit::uninit(); 8]).is_ok()
    }

    #[test]
    fn only_who_is_allowed_comes_through_and_the_kernel_counts() {
        let (socket, door, to) = pair("127.0.0.1");
        let range = |first: &str, last: &str| (first.parse().unwrap(), last.parse().unwrap());
        let allowed =
            [range("127.0.2.1", "127.0.2.1"), range("127.1.0.0", "127.1.255.255"), range("::1", "::1")];
        door.open().unwrap();
        assert!(passes(&socket, to, "127.0.0.9"));
        door.close(&allowed).unwrap();
        for (source, expected) in [
            ("127.0.2.1", true),
            ("127.0.2.0", false),
            ("127.0.2.2", false),
            ("127.1.0.0", true),
            ("127.1.255.255", true),
            ("127.2.0.0", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(passes(&socket, to, source), expected, "{source}");
        }
        assert_eq!(door.drops().unwrap(), 4);
        door.close(&[]).unwrap();
        assert!(!passes(&socket, to, "127.0.2.1"));
        door.open().unwrap();
        assert!(passes(&socket, to, "127.0.0.9"));
        door.open().unwrap();
    }

    #[test]
    fn ipv6_addresses_are_told_apart() {
        let (socket, door, to) = pair("::1");
        let one = |text: &str| (text.parse().unwrap(), text.parse().unwrap());
        door.close(&[one("2001:db8::1"), one("192.0.2.1")]).unwrap();
        assert!(!passes(&socket, to, "::1"));
        door.close(&[one("2001:db8::1"), one("::1")]).unwrap();
        assert!(passes(&socket, to, "::1"));
        // A prefix cannot be folded: everybody comes through.
        door.close(&[("2001:db8::".parse().unwrap(), "2001:db8::ffff".parse().unwrap())]).unwrap();
        assert!(passes(&socket, to, "::1"));
    }

    #[test]
    fn many_addresses_are_fewer_ranges() {
        assert_eq!(coarse(vec![(5, 5), (1, 2), (3, 3), (9, 20), (10, 12)]), [(1, 3), (5, 5), (9, 20)]);
        assert_eq!(coarse(vec![]), []);
        assert_eq!(coarse(vec![(0, u32::MAX), (3, 4)]), [(0, u32::MAX)]);
        let many: Vec<(u32, u32)> =
            (0..40_000).map(|n| (n * 7 + n / 100 * 1000, n * 7 + n / 100 * 1000)).collect();
        let ranges = coarse(many.clone());
        assert!(ranges.len() <= MOST && ranges.is_sorted(), "{}", ranges.len());
        for (number, _) in many {
            assert!(ranges.iter().any(|(low, high)| (low..=high).contains(&&number)), "{number}");
        }
        // The kernel takes the largest program, and in front of what is filtered anyway.
        let (socket, door, to) = pair("127.0.0.1");
        let door = Door { share: Some(Share { outer: true, index: 0, of: 8 }), ..door };
        let far = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n * 100_003));
        let allowed: Vec<_> = (1..30_000).map(|n| (far(n), far(n))).collect();
        door.close(&allowed).unwrap();
        assert!(!passes(&socket, to, "127.0.0.1") || allowed.len() > MOST);
        door.open().unwrap();
    }
}
