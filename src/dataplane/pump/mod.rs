//! The packet pump: worker threads, each with one TUN queue and its own sockets.

mod capture_tap;
mod handover;
mod lane;
mod worker;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::dataplane::forward::Forwarding;
use crate::dataplane::observe::Counters;
use crate::dataplane::policy::Query;
use crate::dataplane::segment::merge::Rules;
use crate::sync::Published;
pub use handover::KernelCarrier;
pub use lane::Lane;
use worker::WorkerThread;

/// How long a worker may take to its end, and from one look at it to the next.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);
/// Questions that wait for one worker, at most.
const QUERIES: usize = 4;

/// A worker that ended without being stopped.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The TUN or a socket is gone for good.
    #[error("worker {worker} stopped: {error}; is the TUN device gone?")]
    Io {
        /// Which one.
        worker: usize,
        /// Why; part of the text already, so not its source.
        error: io::Error,
    },
    /// It does not come by its edges although it is woken.
    #[error("worker {worker} has made no progress for {seconds} s")]
    Stuck {
        /// Which one.
        worker: usize,
        /// For how long.
        seconds: u64,
    },
}

/// Wakes the workers that sleep.
#[derive(Clone, Debug, Default)]
pub struct Wakers(Vec<Arc<mio::Waker>>);

impl Wakers {
    /// Has each worker come by its edges.
    pub fn wake(&self) {
        for waker in &self.0 {
            // A worker that cannot be woken has ended already.
            let _ = waker.wake();
        }
    }
}

/// Running workers.
pub struct Pump {
    threads: Vec<JoinHandle<()>>,
    wakers: Wakers,
    queries: Vec<Sender<Query>>,
    stop: Arc<AtomicBool>,
    failures: Receiver<Failure>,
}

/// Where workers are asked for their connections; by default there are none.
#[derive(Clone, Debug, Default)]
pub struct Queries {
    workers: Vec<Sender<Query>>,
    wakers: Wakers,
}

impl Queries {
    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Asks worker `index`; returns whether there is such a worker and it can be asked now.
    pub fn ask(&self, index: usize, query: Query) -> bool {
        let asked = self.workers.get(index).is_some_and(|worker| worker.try_send(query).is_ok());
        self.wakers.wake();
        asked
    }
}

impl Pump {
    /// Starts one worker for each lane, which looks for packets for so long behind the last one before it sleeps.
    ///
    /// # Errors
    /// When a thread or a poll instance cannot be made.
    pub fn start(
        lanes: Vec<Lane>,
        rules: Rules,
        kernel: Option<&KernelCarrier>,
        busy_poll: Duration,
        forwarding: &Arc<Published<Forwarding>>,
        counters: &Counters,
    ) -> io::Result<Self> {
        let (report, failures) = unbounded();
        let mut pump = Self {
            threads: Vec::new(),
            wakers: Wakers(Vec::new()),
            queries: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            failures,
        };
        for (index, lane) in lanes.into_iter().enumerate() {
            let (ask, asked) = bounded(QUERIES);
            let (mut worker, waker) =
                WorkerThread::new(lane, rules, kernel.cloned(), asked, index, counters.clone(), busy_poll)?;
            pump.queries.push(ask);
            pump.wakers.0.push(Arc::new(waker));
            let forwarding = Arc::clone(forwarding);
            let (stop, report): (_, Sender<Failure>) = (Arc::clone(&pump.stop), report.clone());
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                if let Err(error) = worker.run(&forwarding, &stop) {
                    // The channel is closed only while the pump is being torn down.
                    let _ = report.send(Failure::Io { worker: index, error });
                }
            })?;
            pump.threads.push(thread);
        }
        Ok(pump)
    }

    /// Where workers report that they ended on their own.
    pub fn failures(&self) -> Receiver<Failure> {
        self.failures.clone()
    }

    /// Where the workers are asked for their connections.
    pub fn queries(&self) -> Queries {
        Queries { workers: self.queries.clone(), wakers: self.wakers.clone() }
    }

    /// What wakes the workers.
    pub fn wakers(&self) -> Wakers {
        self.wakers.clone()
    }

    /// Lets every worker finish its batch, and waits for all of them that make progress; dropping does the same.
    pub fn stop(self) {}
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wakers.wake();
        let patience = Instant::now() + PATIENCE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < patience {
                std::thread::sleep(PAUSE);
            }
            // One that is stuck ends with the process.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests;
