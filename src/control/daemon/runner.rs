//! The thread that owns the engine: it hands events over and carries effects out.
//!
//! A thread of its own, because an edit of a million routes takes long, and nobody else is to wait for it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::gate::Gate;
use super::kernel_path::Carrier;
use crate::control::engine::port::{HostRequest, Requirement};
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::{Asked, Effect, EffectId, Engine, Event, Reply, RequestId, Snapshot};
use crate::dataplane::forward::Forwarding;
use crate::sync::Published;

/// Events that are followed before readers see what came of them.
const TOGETHER: usize = 64;

type Outcome = Result<Reply, Refusal>;

/// What comes to the engine's thread.
enum Message {
    Event(Event),
    /// Somebody waits for the answer.
    Ask(RequestId, Event, oneshot::Sender<Outcome>),
    /// The end: what takes back everything on the host is the answer.
    Stop(oneshot::Sender<Vec<HostRequest>>),
}

/// The way to the engine.
#[derive(Clone)]
pub struct Inbox {
    sender: Sender<Message>,
    requests: Arc<AtomicU64>,
}

impl Inbox {
    /// Tells the engine of an event.
    pub fn send(&self, event: Event) {
        // It is gone only at the end.
        let _ = self.sender.send(Message::Event(event));
    }

    /// Events that wait for the engine.
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Tells the engine of the event that `event` makes, and waits for its answer.
    ///
    /// # Errors
    /// The engine's refusal; [`Kind::Busy`] when the daemon is ending.
    pub async fn ask(&self, wait: bool, event: impl FnOnce(Asked) -> Event) -> Outcome {
        let id = RequestId(self.requests.fetch_add(1, Relaxed));
        let (answer, answered) = oneshot::channel();
        let _ = self.sender.send(Message::Ask(id, event(Asked { id, wait }), answer));
        let ending = |_| Err(Refusal::new(Kind::Busy, "the daemon is ending"));
        answered.await.unwrap_or_else(ending)
    }

    /// Ends the engine. Returns what takes back everything that was changed on the host.
    pub async fn stop(&self) -> Vec<HostRequest> {
        let (answer, answered) = oneshot::channel();
        let _ = self.sender.send(Message::Stop(answer));
        answered.await.unwrap_or_default()
    }

    /// One to which nobody listens: what is sent stays where it is for as long as the other value.
    #[cfg(test)]
    pub(in crate::control::daemon) fn unheard() -> (Self, impl Sized) {
        let (sender, receiver) = unbounded();
        (Self { sender, requests: Arc::default() }, receiver)
    }
}

/// A wish to have a path probed: the address of the peer, and the bytes of the packet.
pub type ProbeWish = (IpAddr, u16);

/// Where the effects go.
pub struct Ports {
    /// The table of the workers.
    pub forwarding: Arc<Published<Forwarding>>,
    /// Who comes to the workers, which follows the table.
    pub gate: Arc<Gate>,
    /// What the kernel carries, which follows it, too.
    pub carrier: Carrier,
    /// What readers of the API see.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    /// Requests to the host.
    pub host: mpsc::UnboundedSender<(EffectId, HostRequest)>,
    /// Probes of paths over IPv4 and over IPv6.
    pub probes: [mpsc::UnboundedSender<ProbeWish>; 2],
    /// Notified when much memory became free.
    pub shrunk: Arc<Notify>,
}

/// The thread, before there is something for it to do.
pub struct Thread(Sender<(Runner, Receiver<Message>)>);

/// Starts the thread. It waits for its engine, so that nothing is lost with a thread that there cannot be.
///
/// # Errors
/// The kernel's.
pub fn start() -> std::io::Result<Thread> {
    let (hand_over, handed) = bounded::<(Runner, Receiver<Message>)>(1);
    std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
        if let Ok((runner, receiver)) = handed.recv() {
            runner.run(&receiver);
        }
    })?;
    Ok(Thread(hand_over))
}

impl Thread {
    /// Hands the thread its engine, and what that has to do with; returns the way to it.
    pub fn begin(self, engine: Engine, ports: Ports) -> Inbox {
        let (sender, receiver) = unbounded();
        // The thread waits for it.
        let _ = self.0.send((Runner { engine, ports, answers: HashMap::new() }, receiver));
        Inbox { sender, requests: Arc::default() }
    }
}

struct Runner {
    engine: Engine,
    ports: Ports,
    answers: HashMap<RequestId, oneshot::Sender<Outcome>>,
}

impl Runner {
    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let first = match inbox.recv_deadline(self.engine.deadline()) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => Message::Event(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut answers = Vec::new();
            for message in std::iter::once(first).chain(inbox.try_iter().take(TOGETHER)) {
                let event = match message {
                    Message::Event(event) => event,
                    Message::Ask(id, event, answer) => {
                        self.answers.insert(id, answer);
                        event
                    }
                    Message::Stop(answer) => {
                        let _ = answer.send(self.engine.take_down());
                        return;
                    }
                };
                let effects = self.engine.handle(event, Instant::now());
                self.carry_out(effects, &mut answers);
            }
            // Who is answered sees what he has changed.
            self.ports.snapshots.send_replace(Arc::new(self.engine.snapshot()));
            for (id, outcome) in answers {
                if let Some(waiting) = self.answers.remove(&id) {
                    // Who asked may have gone.
                    let _ = waiting.send(outcome);
                }
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, answers: &mut Vec<(RequestId, Outcome)>) {
        for effect in effects {
            match effect {
                Effect::Publish(table) => {
                    self.ports.forwarding.publish(*table);
                    self.ports.gate.follow();
                    self.ports.carrier.follow();
                }
                Effect::Host(id, request) => {
                    let _ = self.ports.host.send((id, request));
                }
                Effect::Answer(id, outcome) => answers.push((id, outcome)),
                Effect::ProbePath { peer, size } => {
                    let [v4, v6] = &self.ports.probes;
                    // Without the right to listen there are no reports either.
                    let _ = if peer.is_ipv4() { v4 } else { v6 }.send((peer, size));
                }
                Effect::Require(requirement) => require(&requirement),
                Effect::Resolved(requirement) => resolved(&requirement),
                Effect::Shrunk => self.ports.shrunk.notify_one(),
            }
        }
    }
}

/// Logs what is left to an administrator.
pub(super) fn require(requirement: &Requirement) {
    tracing::warn!("{}; an administrator can run `{}`", requirement.what, requirement.command);
}

/// Logs what is not any more.
pub(super) fn resolved(requirement: &Requirement) {
    tracing::info!("no longer needed: `{}`", requirement.command);
}
