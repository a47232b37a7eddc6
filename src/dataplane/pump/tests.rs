//! A worker whose device fails.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lane, Pump};
use crate::dataplane::encap::ecn::Marking;
use crate::dataplane::forward::{Compiler, Forwarding, Inputs, TunLink, Underlay};
use crate::dataplane::observe::Counters;
use crate::dataplane::packet::{Delivery, Device};
use crate::dataplane::segment::merge::Rules;
use crate::dataplane::underlay::{Setup, Sockets};
use crate::net::{DropReason, Mac, Vni};
use crate::route::{EncapPolicy, Rib};
use crate::sync::Published;
use crate::wire::VnetHdr;
use crate::wire::testing::Spec;

/// What reads are answered with: an error number, or a packet. Nothing waits behind that.
struct Answers(VecDeque<Result<Vec<u8>, i32>>);

impl Device for Answers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)> {
        let answer = self.0.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let packet = answer.map_err(io::Error::from_raw_os_error)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok((VnetHdr::default(), packet.len()))
    }

    fn write(&mut self, _: &Delivery<'_>) -> io::Result<()> {
        Ok(())
    }

    fn takes_offloads(&self) -> bool {
        false
    }

    fn fd(&self) -> Option<RawFd> {
        None
    }
}

/// Tables without a route.
fn tables() -> Arc<Published<Forwarding>> {
    let underlay = Underlay {
        uplink: 0,
        address: None,
        address6: None,
        vtep_mac: Mac([2; 6]),
        vni: Vni::CALICO,
        mtu: 1500,
        vxlan_port: 4789,
        marking: Marking::fixed(0),
        tun: TunLink::default(),
        tap: None,
    };
    let (policy, rib) = (EncapPolicy::default(), Rib::default());
    let inputs = Inputs { underlay, peers: &[], policy: &policy, rib: &rib };
    Arc::new(Published::new(Compiler::default().compile(inputs).unwrap()))
}

/// A pump of one worker whose reads of the device are answered so.
fn pump(answers: Vec<Result<Vec<u8>, i32>>, counters: &Counters) -> Pump {
    let device = Box::new(Answers(answers.into()));
    let sockets = Sockets::open(&Setup { workers: 1, ..Setup::default() }, 1).unwrap();
    Pump::start(
        vec![Lane { device, sockets }],
        Rules { tcp: false, udp: false },
        None,
        Duration::ZERO,
        &tables(),
        counters,
    )
    .unwrap()
}

#[test]
fn reads_that_fail_are_counted_and_made_again() {
    let counters = Counters::new(1);
    let packet = Spec::tcp4(&[1; 100]).build();
    let begin = Instant::now();
    let pump = pump(vec![Err(libc::EIO), Err(libc::EFAULT), Ok(packet), Err(libc::EIO)], &counters);
    while counters.device_read_errors() < 3 {
        assert!(begin.elapsed() < Duration::from_secs(10), "{} errors", counters.device_read_errors());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(begin.elapsed() >= Duration::from_millis(20), "it does not try all the time");
    let totals = counters.totals();
    assert_eq!(totals.device.rx_packets, 1);
    assert_eq!(DropReason::ALL.iter().map(|reason| totals.drops(*reason)).sum::<u64>(), 1);
    assert!(pump.failures().is_empty());
}

#[test]
fn a_device_that_is_gone_ends_its_worker() {
    for errno in [libc::EBADFD, libc::EBADF, libc::ENODEV, libc::ENXIO] {
        let counters = Counters::new(1);
        let pump = pump(vec![Err(errno)], &counters);
        let failure = pump.failures().recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(failure.to_string().starts_with("worker 0 stopped: "), "{failure}");
        assert_eq!(counters.device_read_errors(), 0);
    }
}
