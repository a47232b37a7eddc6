//! Netlink requests by hand, for the families that the crates have no messages of, and where nothing is asynchronous.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NlasIterator,
};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of `nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Bytes that are read at once.
const BUFFER: usize = 64 * 1024;
/// The shortest time to wait: none at all would be for ever.
const SHORTEST: Duration = Duration::from_millis(1);

/// A connection to one family.
#[derive(Debug)]
pub(super) struct RawNetlink {
    socket: Socket,
    patience: Duration,
    /// Number of the last request.
    sequence: u32,
}

impl RawNetlink {
    /// Connects to the family `protocol` of this network namespace. All answers to one request have to come within
    /// `patience`: the kernel answers at once, this only guards against one that does not.
    ///
    /// # Errors
    /// The kernel's: it may have no such family.
    pub(super) fn connect(protocol: i32, patience: Duration) -> io::Result<Self> {
        let family = Domain::from(libc::AF_NETLINK);
        let socket = Socket::new(family, Type::RAW, Some(Protocol::from(protocol)))?;
        Ok(Self { socket, patience, sequence: 0 })
    }

    /// Has the kernel do what `message` says, and waits until it has.
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN.
    pub(super) fn order(&mut self, kind: u16, flags: u16, message: &impl Emitable) -> io::Result<()> {
        self.ask(kind, NLM_F_ACK | flags, &bytes(message), |_, _| false)
    }

    /// Asks, and gives kind and body of each answer to `take`, until that says that it was the last one, or the kernel
    /// acknowledges the request (NLM_F_ACK).
    ///
    /// # Errors
    /// The kernel's: EPERM without CAP_NET_ADMIN; [`io::ErrorKind::Interrupted`] when what was listed changed meanwhile,
    /// so that the list may lack something.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(u16, &[u8]) -> bool,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + self.patience;
        self.socket.write_all(&request(kind, flags, self.sequence, body))?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left.max(SHORTEST)))?;
            let len = self.socket.read(&mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            let mut rest = &buffer[..len];
            while let Some((kind, body, later)) = message(rest) {
                match kind {
                    // One to an earlier request.
                    _ if sequence(rest) != Some(self.sequence) => {}
                    _ if is_interrupted(rest) => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_ERROR => return outcome(body),
                    NLMSG_DONE => return Ok(()),
                    _ if take(kind, body) => return Ok(()),
                    _ => {}
                }
                rest = later;
            }
        }
    }
}

/// A message as it is sent.
pub(super) fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut request = len.to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    request.extend(body);
    request
}

/// The error in the body of an error message; 0 acknowledges what was asked.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The first message in `bytes`: its kind, its body, and what follows it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    Some((kind, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// Whether the kernel says of the first message in `bytes` that its list is not of one moment.
fn is_interrupted(bytes: &[u8]) -> bool {
    flags(bytes) & NLM_F_DUMP_INTR != 0
}

/// The flags of the first message in `bytes`.
pub(super) fn flags(bytes: &[u8]) -> u16 {
    let flags = bytes.get(6..).and_then(|rest| rest.first_chunk());
    flags.map_or(0, |flags| u16::from_ne_bytes(*flags))
}

/// The number of the request that the first message in `bytes` answers.
fn sequence(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(8..)?.first_chunk()?))
}

/// The value of the first attribute of this kind.
pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut whole = NlasIterator::new(attributes).map_while(Result::ok);
    let found = whole.find(|attribute| attribute.kind() == kind)?;
    let end = found.length().into();
    found.into_inner().get(ATTRIBUTE_HEADER..end)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::{Duration, Instant};

    use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};

    use super::{RawNetlink, find, message, request, sequence};

    /// `RTM_NEWLINK` and `RTM_GETLINK`.
    const NEW_LINK: u16 = 16;
    const GET_LINK: u16 = 18;

    #[test]
    fn odd_lengths_end_the_reading() {
        assert_eq!(message(&[0; 16]), None);
        assert_eq!(message(&[255; 16]), None);
        let mut one = [0; 20];
        one[0] = 18;
        one[4] = 3;
        assert_eq!(message(&one), Some((3, &[0, 0][..], &[][..])));
        for len in 0..16 {
            assert_eq!(message(&request(1, 2, 3, &[])[..len]), None);
        }
        assert_eq!(sequence(&request(1, 2, 3, &[])), Some(3));
        assert_eq!(sequence(&[0; 11]), None);
        assert_eq!(find(&[0, 0, 1, 0, 0, 0], 1), None);
        assert_eq!(find(&[5, 0, 2, 0, 9, 0, 0, 0, 6, 0, 1, 0x80, 7, 8], 1), Some(&[7, 8][..]));
    }

    #[test]
    fn only_answers_to_this_request_count_and_all_have_one_deadline() {
        let mut netlink = RawNetlink::connect(libc::NETLINK_ROUTE, Duration::from_millis(300)).unwrap();
        let mut ask = |flags, body: &[u8], last: bool| {
            let mut kinds = Vec::new();
            let done = netlink.ask(GET_LINK, flags, body, |kind, _| {
                kinds.push(kind);
                last
            });
            (done.map_err(|error| error.kind()), kinds)
        };
        let mut loopback = [0; 16];
        loopback[4] = 1;
        // What says that this was all is still to be read.
        assert_eq!(ask(NLM_F_ACK, &loopback, true), (Ok(()), vec![NEW_LINK]));
        let (done, kinds) = ask(NLM_F_DUMP, &[0; 16], false);
        assert!(done.is_ok() && !kinds.is_empty() && kinds.iter().all(|kind| *kind == NEW_LINK), "{kinds:?}");
        // One answer, and none that ends it.
        let begun = Instant::now();
        let (done, kinds) = ask(0, &loopback, false);
        assert!(matches!(done, Err(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)), "{done:?}");
        assert!(kinds == [NEW_LINK] && begun.elapsed() < Duration::from_secs(2));
        loopback[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        assert!(ask(0, &loopback, false).0.is_err());
    }
}
