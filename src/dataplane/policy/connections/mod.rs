//! The connections of one worker: a table of fixed size, so that nobody can make it grow.
//!
//! ```text
//! key ─hash─▶ two buckets of 16 places, each a cache line of tags ─▶ entry, a cache line
//! ```
//!
//! An entry may be in either bucket. Where both are full, what has expired goes, then the oldest connection that
//! nobody has answered, then what is over; one that both ends take part in never does.
#![expect(clippy::cast_possible_truncation, reason = "parts of words are cut out on purpose")]

mod key;
mod state;

pub(super) use key::Key;
pub use state::State;

use super::timeouts::Timeouts;
use super::tuple::Tuple;
use crate::dataplane::segment::flow::among;

/// Places of a bucket.
const PLACES: usize = 16;
/// Words of an entry.
const WORDS: usize = 8;
/// Bytes of a cache line.
const LINE: usize = 64;

/// A place in the table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Place(usize);

/// There is no place left for a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Full;

/// What is kept of a connection beside its ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Entry {
    /// How far it is.
    pub state: State,
    /// Whether its originator is the lower end.
    pub from_lower: bool,
    /// Which ends have sent FIN: 1 the originator, 2 the other.
    pub fins: u8,
    /// The rules that it was judged by.
    pub generation: u32,
    /// The second in which it is forgotten.
    pub expires: u32,
    /// The second in which it began.
    pub since: u32,
}

/// A connection, as it is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// As its originator sends.
    pub tuple: Tuple,
    /// How far it is.
    pub state: State,
    /// Seconds since it began.
    pub age: u32,
    /// Seconds until it is forgotten, unless there are packets.
    pub expires_in: u32,
}

/// The table.
#[derive(Debug)]
pub(super) struct Connections {
    /// A part of the hash for each place that is taken, 0 for others.
    tags: Box<[u32]>,
    words: Box<[u64]>,
    /// Where the first cache line begins in both.
    first_tag: usize,
    first_word: usize,
    /// Number of buckets, two at least.
    buckets: usize,
    seed: [u64; 2],
    /// Places that are taken.
    taken: usize,
    /// The bucket that is swept next.
    next: usize,
}

impl Connections {
    /// An empty table for at least `connections`. The memory is taken when it is used.
    pub(super) fn new(connections: usize, seed: [u64; 2]) -> Self {
        // Two choices among 16 places leave some free while others are full.
        let buckets = (connections / 4 * 5).div_ceil(PLACES).max(2);
        // Zeroed memory comes from the kernel as it is used.
        let tags = vec![0_u32; buckets * PLACES + LINE / size_of::<u32>()].into_boxed_slice();
        let words = vec![0_u64; buckets * PLACES * WORDS + LINE / size_of::<u64>()].into_boxed_slice();
        let first_tag = tags.as_ptr().align_offset(LINE).min(LINE / size_of::<u32>());
        let first_word = words.as_ptr().align_offset(LINE).min(LINE / size_of::<u64>());
        let seed = [seed[0], seed[1] | 1];
        Self { tags, words, first_tag, first_word, buckets, seed, taken: 0, next: 0 }
    }

    /// Connections in it, those that have expired and were not swept yet among them.
    pub(super) fn len(&self) -> usize {
        self.taken
    }

    /// Where a connection is that has not expired.
    #[inline]
    pub(super) fn find(&self, key: &Key, now: u32) -> Option<Place> {
        let hash = key.hash(self.seed);
        let tag = tag(hash);
        self.buckets_of(hash).into_iter().find_map(|bucket| {
            let tags = self.tags_of(bucket);
            (0..PLACES).filter(|at| tags[*at] == tag).find_map(|at| {
                let place = Place(bucket * PLACES + at);
                (self.key(place) == *key && self.entry(place).expires > now).then_some(place)
            })
        })
    }

    /// Makes a place for a connection that is not in it.
    ///
    /// # Errors
    /// Where both of its buckets are full of connections that both ends take part in.
    pub(super) fn insert(&mut self, key: &Key, entry: &Entry, now: u32) -> Result<Place, Full> {
        let hash = key.hash(self.seed);
        let buckets = self.buckets_of(hash);
        let free = |bucket: usize| self.tags_of(bucket).iter().filter(|tag| **tag == 0).count();
        let bucket = if free(buckets[1]) > free(buckets[0]) { buckets[1] } else { buckets[0] };
        let at = self.tags_of(bucket).iter().position(|tag| *tag == 0);
        let place = match at {
            Some(at) => Place(bucket * PLACES + at),
            None => self.evict(buckets, now).ok_or(Full)?,
        };
        self.taken += 1;
        self.tags[self.first_tag + place.0] = tag(hash);
        let words = self.words_mut(place);
        for (index, address) in key.addresses.iter().enumerate() {
            (words[2 * index], words[2 * index + 1]) = ((address >> 64) as u64, *address as u64);
        }
        words[4] = u64::from(key.numbers) << 16 | u64::from(key.protocol) << 8 | u64::from(key.kind);
        self.set(place, entry);
        Ok(place)
    }

    /// Takes away what may go first of these buckets.
    fn evict(&mut self, buckets: [usize; 2], now: u32) -> Option<Place> {
        let places =
            buckets.into_iter().flat_map(|bucket| (0..PLACES).map(move |at| Place(bucket * PLACES + at)));
        let worth = |place: Place| {
            let entry = self.entry(place);
            match entry.state {
                _ if entry.expires <= now => Some((0, entry.expires)),
                state if state.is_unanswered() => Some((1, entry.since)),
                state if state.is_over() => Some((2, entry.expires)),
                _ => None,
            }
        };
        let (_, place) =
            places.filter_map(|place| Some((worth(place)?, place))).min_by_key(|(worth, _)| *worth)?;
        self.remove(place);
        Some(place)
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, place: Place) {
        if let Some(tag) = self.tags.get_mut(self.first_tag + place.0)
            && std::mem::take(tag) != 0
        {
            self.taken -= 1;
        }
    }

    /// Forgets what has expired in the next buckets, so many of them.
    pub(super) fn sweep(&mut self, buckets: usize, now: u32) {
        for _ in 0..buckets {
            self.next = (self.next + 1) % self.buckets;
            for at in 0..PLACES {
                let place = Place(self.next * PLACES + at);
                if self.tags[self.first_tag + place.0] != 0 && self.entry(place).expires <= now {
                    self.remove(place);
                }
            }
        }
    }

    /// Shows the connections from bucket `from` on to `show`, for so many buckets; returns where to go on.
    pub(super) fn page(
        &self,
        from: usize,
        buckets: usize,
        now: u32,
        mut show: impl FnMut(Place, Connection),
    ) -> Option<usize> {
        let end = (from + buckets).min(self.buckets);
        for place in (from * PLACES..end * PLACES).map(Place) {
            if self.tags[self.first_tag + place.0] != 0
                && let Some(connection) = self.shown(place, now)
            {
                show(place, connection);
            }
        }
        (end < self.buckets).then_some(end)
    }

    fn shown(&self, place: Place, now: u32) -> Option<Connection> {
        let (key, entry) = (self.key(place), self.entry(place));
        let expires_in = entry.expires.checked_sub(now).filter(|left| *left > 0)?;
        (!key.is_datagram()).then(|| Connection {
            tuple: key.tuple(entry.from_lower),
            state: entry.state,
            age: now.saturating_sub(entry.since),
            expires_in,
        })
    }

    /// What is kept of a connection.
    #[inline]
    pub(super) fn entry(&self, place: Place) -> Entry {
        let words = self.words(place);
        let bits = words[5];
        Entry {
            state: State::from_bits(bits),
            from_lower: bits >> 3 & 1 != 0,
            fins: (bits >> 4 & 3) as u8,
            generation: (bits >> 32) as u32,
            expires: words[6] as u32,
            since: (words[6] >> 32) as u32,
        }
    }

    /// Changes what is kept of it.
    #[inline]
    pub(super) fn set(&mut self, place: Place, entry: &Entry) {
        let words = self.words_mut(place);
        words[5] = entry.state as u64
            | u64::from(entry.from_lower) << 3
            | u64::from(entry.fins) << 4
            | u64::from(entry.generation) << 32;
        words[6] = u64::from(entry.since) << 32 | u64::from(entry.expires);
    }

    /// What its originator sends.
    pub(super) fn tuple(&self, place: Place) -> Tuple {
        self.key(place).tuple(self.entry(place).from_lower)
    }

    fn key(&self, place: Place) -> Key {
        let words = self.words(place);
        let address = |at: usize| u128::from(words[at]) << 64 | u128::from(words[at + 1]);
        Key {
            addresses: [address(0), address(2)],
            numbers: (words[4] >> 16) as u32,
            protocol: (words[4] >> 8) as u8,
            kind: words[4] as u8,
        }
    }

    #[inline]
    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        let first = among(hash as u32, self.buckets);
        // Another one in any case.
        let away = 1 + among((hash.wrapping_mul(self.seed[0] | 1) >> 32) as u32, self.buckets - 1);
        [first, (first + away) % self.buckets]
    }

    #[inline]
    fn tags_of(&self, bucket: usize) -> &[u32] {
        let from = self.first_tag + bucket * PLACES;
        &self.tags[from..from + PLACES]
    }

    #[inline]
    fn words(&self, place: Place) -> &[u64] {
        let from = self.first_word + place.0 * WORDS;
        &self.words[from..from + WORDS]
    }

    #[inline]
    fn words_mut(&mut self, place: Place) -> &mut [u64] {
        let from = self.first_word + place.0 * WORDS;
        &mut self.words[from..from + WORDS]
    }
}

/// The second in which a connection in this state is forgotten, whose last packet came `now`.
pub(super) fn expiry(state: State, key: &Key, timeouts: &Timeouts, now: u32) -> u32 {
    now.saturating_add(state.lifetime(key, timeouts))
}

/// The part of a hash that a place shows; not 0.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}

#[cfg(test)]
mod tests;
