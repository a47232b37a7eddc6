//! Executing requests, one after the other.

use std::collections::HashSet;

use super::open::{Tap, Tun};
use super::{Host, sysctl};
use crate::control::engine::port::{HostError, HostRequest, HostView};
use crate::control::engine::{EffectId, Event, Failure};
use crate::dataplane::underlay::Sockets;

/// What came of a request.
pub enum Answer {
    /// It is done.
    Done,
    /// The TUN's queues.
    Tun(Tun),
    /// The TAP.
    Tap(Tap),
    /// The sockets of a worker.
    Sockets(Box<Sockets>),
    /// What the host looks like.
    View(Box<HostView>),
}

impl Host {
    /// Does what the engine asks for by `id`, and says what came of it.
    pub async fn answer(&self, id: EffectId, request: HostRequest) -> Event {
        match self.execute(request).await {
            Ok(Answer::View(view)) => Event::Observed(id, view),
            Ok(_) => Event::Ended(id, Vec::new()),
            Err(failures) => Event::Ended(id, failures),
        }
    }

    /// Does what `request` asks for.
    ///
    /// # Errors
    /// What the kernel refuses, for each route of several.
    pub async fn execute(&self, request: HostRequest) -> Result<Answer, Vec<Failure>> {
        let done = match request {
            HostRequest::Routes { index, add, remove } => {
                let mut failures = self.add_routes(index, add).await;
                // What was to take the place of another one, and has not, leaves that where it is.
                let kept: HashSet<_> = failures.iter().filter_map(|failure| failure.route).collect();
                let remove = remove.into_iter().filter(|(prefix, _)| !kept.contains(prefix));
                failures.extend(self.remove_routes(index, remove).await);
                return if failures.is_empty() { Ok(Answer::Done) } else { Err(failures) };
            }
            other => self.execute_one(other).await,
        };
        done.map_err(|error| vec![Failure { route: None, error }])
    }

    async fn execute_one(&self, request: HostRequest) -> Result<Answer, HostError> {
        match request {
            HostRequest::OpenTun { name, origin, queues, backend } => {
                Tun::open(&name, origin, queues, backend).map(Answer::Tun)
            }
            HostRequest::OpenTap { name, queues } => Tap::open(&name, &queues).map(Answer::Tap),
            HostRequest::RemoveTap { index, name } => {
                self.remove_link(index, &name).await.map(|()| Answer::Done)
            }
            HostRequest::OpenSockets { setup, worker } => match Sockets::open(&setup, worker) {
                Ok(sockets) => Ok(Answer::Sockets(Box::new(sockets))),
                Err(error) => Err(self.explain_open(setup.vxlan_port, error).await),
            },
            HostRequest::Link { index, name, change } => {
                self.change_link(index, &name, change).await.map(|()| Answer::Done)
            }
            HostRequest::AddAddress { index, address } => {
                self.add_address(index, address).await.map(|()| Answer::Done)
            }
            HostRequest::RemoveAddress { index, address } => {
                self.remove_address(index, address).await.map(|()| Answer::Done)
            }
            HostRequest::FlushRoutes { index, name } => {
                self.flush_routes(index, &name).await.map(|()| Answer::Done)
            }
            HostRequest::Sysctl { name, sysctl, value } => {
                sysctl::write(&name, sysctl, value).map(|()| Answer::Done)
            }
            HostRequest::Nat { table, rules } => {
                self.set_nat(&table, rules.as_ref()).await.map(|()| Answer::Done)
            }
            HostRequest::PodRule { rule, add } => self.set_pod_rule(&rule, add).await.map(|()| Answer::Done),
            HostRequest::PodRoute { route, add } => {
                self.set_pod_route(route, add).await.map(|()| Answer::Done)
            }
            HostRequest::UseNeighbour { index, address } => {
                self.use_neighbour(index, address).await;
                Ok(Answer::Done)
            }
            HostRequest::Observe(look) => self.observe(&look).await.map(|view| Answer::View(Box::new(view))),
            // Executed above, because several may be refused.
            HostRequest::Routes { .. } => Ok(Answer::Done),
        }
    }
}
