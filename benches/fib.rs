//! Longest prefix match: the forwarding table beside the crates that do the same.
//!
//! Ids are `fib/lookup/<family>-<mix>-<routes>/<implementation>`. Mixes of routes: `random`, lengths as
//! in the global tables, anywhere; `blocks`, the blocks of a cluster with exceptions for single hosts.
//! Destinations are hosts inside routes, every route as often; with `_zipf` behind the mix, some routes
//! far more often than others; with `_any`, any address of the family's unicast space or the cluster,
//! most of which have no route in IPv6. All implementations answer
//! the same question, an address to a next hop, and are checked against each other before they are
//! measured. `fib/update` is the change of one route among that many.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::{Ipv4Net, Ipv6Net};
use poptrie::Poptrie;
use prefix_trie::PrefixMap;
use underpass::net::{Mode, Prefix};
use underpass::route::{FibEditor, NextHop, PeerId, Via, Ways};

const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
/// Destinations, enough to miss every cache that real traffic would miss.
const DESTINATIONS: usize = 1 << 20;
/// Lookups of one iteration.
const BATCH: usize = 1 << 12;
const PEERS: u64 = 1000;

/// SplitMix64: every run measures the same tables.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Evenly below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

/// Routes of one family and mix, in order.
type Routes = BTreeMap<Prefix, PeerId>;

#[derive(Clone, Copy)]
struct Mix {
    name: &'static str,
    v4: bool,
    blocks: bool,
}

const MIXES: [Mix; 4] = [
    Mix { name: "ipv4-random", v4: true, blocks: false },
    Mix { name: "ipv4-blocks", v4: true, blocks: true },
    Mix { name: "ipv6-random", v4: false, blocks: false },
    Mix { name: "ipv6-blocks", v4: false, blocks: true },
];

impl Mix {
    /// Some address of the space the routes are in.
    fn address(self, random: &mut Random) -> IpAddr {
        let bits = u128::from(random.next()) << 64 | u128::from(random.next());
        match (self.v4, self.blocks) {
            (true, false) => Ipv4Addr::from_bits(bits as u32).into(),
            // 10.0.0.0/8
            (true, true) => Ipv4Addr::from_bits(10 << 24 | bits as u32 >> 8).into(),
            // 2000::/3
            (false, false) => Ipv6Addr::from_bits(1 << 125 | bits >> 3).into(),
            // fd00::/16, one node a /64, pods in the last 16 bits: as clusters number them.
            (false, true) => {
                let node = (bits >> 64) as u16;
                Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(node) << 64 | bits & 0xffff).into()
            }
        }
    }

    /// A length; shares of the global tables, roughly.
    fn length(self, random: &mut Random) -> u8 {
        let (share, spread) = (random.below(100), random.below(8) as u8);
        match (self.v4, self.blocks) {
            (true, false) => match share {
                0..55 => 24,
                55..90 => 16 + spread,
                90..94 => 8 + spread,
                _ => 25 + spread,
            },
            (true, true) => [26, 26, 26, 32][random.below(4) as usize],
            (false, false) => match share {
                0..50 => 48,
                50..65 => 32,
                65..80 => 40 + spread,
                80..90 => 29 + spread,
                90..97 => 56 + spread,
                _ => 64 + 8 * spread,
            },
            (false, true) => [122, 122, 122, 128][random.below(4) as usize],
        }
    }

    fn routes(self, count: usize, random: &mut Random) -> Routes {
        let mut routes = Routes::new();
        while routes.len() < count {
            let prefix = Prefix::containing(self.address(random), self.length(random));
            routes.insert(prefix.expect("a length of the family"), PeerId(random.below(PEERS) as u16));
        }
        routes
    }
}

/// Hosts inside routes, every route as often.
fn uniform(routes: &Routes, random: &mut Random) -> Vec<IpAddr> {
    let prefixes: Vec<Prefix> = routes.keys().copied().collect();
    let one = |random: &mut Random| prefixes[random.below(prefixes.len() as u64) as usize];
    (0..DESTINATIONS).map(|_| host(one(random), random)).collect()
}

/// Hosts inside routes, the n-th route with a probability like 1/n.
fn zipf(routes: &Routes, random: &mut Random) -> Vec<IpAddr> {
    let mut prefixes: Vec<Prefix> = routes.keys().copied().collect();
    for place in (1..prefixes.len()).rev() {
        prefixes.swap(place, random.below(place as u64 + 1) as usize);
    }
    let count = prefixes.len() as f64;
    let rank = |random: &mut Random| {
        let uniform = random.below(1 << 32) as f64 / (1_u64 << 32) as f64;
        (count.powf(uniform) - 1.0) as usize
    };
    (0..DESTINATIONS).map(|_| host(prefixes[rank(random).min(prefixes.len() - 1)], random)).collect()
}

fn host(prefix: Prefix, random: &mut Random) -> IpAddr {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    match prefix.address() {
        IpAddr::V4(first) => {
            let behind = u32::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
            Ipv4Addr::from_bits(first.to_bits() | bits as u32 & behind).into()
        }
        IpAddr::V6(first) => {
            let behind = u128::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
            Ipv6Addr::from_bits(first.to_bits() | bits & behind).into()
        }
    }
}

fn next_hop(peer: PeerId) -> NextHop {
    NextHop::Peer(Via { peer, mode: Mode::Vxlan, mtu: 1450 })
}

fn ways(peer: PeerId) -> Ways {
    Ways::Peers { peers: [(peer, Mode::Vxlan)].into(), mtu: None }
}

fn editor(routes: &Routes) -> FibEditor {
    let mut editor = FibEditor::default();
    editor.replace(routes.iter().map(|(prefix, peer)| (*prefix, ways(*peer)))).expect("few next hops");
    editor
}

/// An implementation by name.
type Implementation = (&'static str, Box<dyn Lookup>);

/// Answers for a batch of destinations, so that the call of the trait object costs nothing each.
trait Lookup {
    fn one(&self, address: IpAddr) -> Option<NextHop>;
    fn batch(&self, addresses: &[IpAddr]);
}

impl<F: Fn(IpAddr) -> Option<NextHop>> Lookup for F {
    fn one(&self, address: IpAddr) -> Option<NextHop> {
        self(address)
    }

    fn batch(&self, addresses: &[IpAddr]) {
        for address in addresses {
            black_box(self(*address));
        }
    }
}

fn implementations(mix: Mix, routes: &Routes) -> Vec<Implementation> {
    let fib = editor(routes).fib(|_, _| 1450);
    let underpass: Box<dyn Lookup> = Box::new(move |address| fib.lookup(address));
    let others: [Implementation; 3] = if mix.v4 { others_v4(routes) } else { others_v6(routes) };
    [("underpass", underpass)].into_iter().chain(others).collect()
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

fn others_v4(routes: &Routes) -> [Implementation; 3] {
    let routes = || routes.iter().map(|(prefix, peer)| (v4(prefix.address()), prefix.len(), next_hop(*peer)));
    let poptrie: Poptrie<(u32, u8), NextHop> =
        routes().map(|(address, len, hop)| ((address.to_bits(), len), hop)).collect();
    let prefix_trie: PrefixMap<Ipv4Net, NextHop> =
        routes().map(|(address, len, hop)| (Ipv4Net::new_assert(address, len), hop)).collect();
    let mut treebitmap = IpLookupTable::new();
    for (address, len, hop) in routes() {
        treebitmap.insert(address, len.into(), hop);
    }
    [
        ("poptrie", Box::new(move |address| poptrie.lookup(v4(address).to_bits()).copied())),
        (
            "prefix-trie",
            Box::new(move |address| Some(*prefix_trie.get_lpm(&Ipv4Net::new_assert(v4(address), 32))?.1)),
        ),
        ("treebitmap", Box::new(move |address| Some(*treebitmap.longest_match(v4(address))?.2))),
    ]
}

fn others_v6(routes: &Routes) -> [Implementation; 3] {
    let routes = || routes.iter().map(|(prefix, peer)| (v6(prefix.address()), prefix.len(), next_hop(*peer)));
    let poptrie: Poptrie<(u128, u8), NextHop> =
        routes().map(|(address, len, hop)| ((address.to_bits(), len), hop)).collect();
    let prefix_trie: PrefixMap<Ipv6Net, NextHop> =
        routes().map(|(address, len, hop)| (Ipv6Net::new_assert(address, len), hop)).collect();
    let mut treebitmap = IpLookupTable::new();
    for (address, len, hop) in routes() {
        treebitmap.insert(address, len.into(), hop);
    }
    [
        ("poptrie", Box::new(move |address| poptrie.lookup(v6(address).to_bits()).copied())),
        (
            "prefix-trie",
            Box::new(move |address| Some(*prefix_trie.get_lpm(&Ipv6Net::new_assert(v6(address), 128))?.1)),
        ),
        ("treebitmap", Box::new(move |address| Some(*treebitmap.longest_match(v6(address))?.2))),
    ]
}

/// All implementations agree on a sample of the destinations.
fn check(implementations: &[Implementation], destinations: &[IpAddr]) {
    let (_, first) = &implementations[0];
    for (name, other) in &implementations[1..] {
        for address in destinations.iter().step_by(37) {
            assert_eq!(first.one(*address), other.one(*address), "{name} disagrees on {address}");
        }
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    lookup(&mut criterion);
    update(&mut criterion);
    criterion.final_summary();
}

fn lookup(c: &mut Criterion) {
    for mix in MIXES {
        for size in SIZES {
            let mut random = Random(size as u64);
            let routes = mix.routes(size, &mut random);
            let implementations = implementations(mix, &routes);
            let any = (0..DESTINATIONS).map(|_| mix.address(&mut random)).collect();
            let (uniform, zipf) = (uniform(&routes, &mut random), zipf(&routes, &mut random));
            for (suffix, destinations) in [("", uniform), ("_zipf", zipf), ("_any", any)] {
                check(&implementations, &destinations);
                let mut group = c.benchmark_group(format!("fib/lookup/{}{suffix}-{size}", mix.name));
                group.throughput(Throughput::Elements(BATCH as u64));
                for (name, implementation) in &implementations {
                    measure(&mut group, name, implementation.as_ref(), &destinations);
                }
            }
        }
    }
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, of: &dyn Lookup, destinations: &[IpAddr]) {
    let mut batches = destinations.chunks_exact(BATCH).cycle();
    group.bench_function(BenchmarkId::from_parameter(name), |b| {
        b.iter(|| of.batch(batches.next().unwrap_or(&[])));
    });
}

/// One route there and back, each time published: what a change costs the writer.
fn update(c: &mut Criterion) {
    for mix in MIXES {
        for size in SIZES {
            let mut random = Random(size as u64);
            let routes = mix.routes(size, &mut random);
            let mut editor = editor(&routes);
            let mut published = editor.fib(|_, _| 1450);
            let mut group = c.benchmark_group(format!("fib/update/{}-{size}", mix.name));
            group.throughput(Throughput::Elements(2));
            group.bench_function("underpass", |b| {
                b.iter(|| {
                    let prefix = Prefix::containing(mix.address(&mut random), mix.length(&mut random));
                    let prefix = prefix.expect("a length of the family");
                    let before = routes.get(&prefix).map(|peer| ways(*peer));
                    editor.apply([(prefix, Some(ways(PeerId(1))))]).expect("few next hops");
                    published = editor.fib(|_, _| 1450);
                    editor.apply([(prefix, before)]).expect("few next hops");
                    published = editor.fib(|_, _| 1450);
                });
            });
            drop(published);
        }
    }
}
