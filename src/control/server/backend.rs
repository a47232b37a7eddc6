//! What the API shows and changes, as its handlers see it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::{
    CniFacts, Endpoint, NewPeer, PeerStatus, PolicyEntry, PolicyTrace, Reloaded, RouteEntry, RoutesChanged,
    Status,
};
use crate::control::engine::Page;
use crate::control::engine::edits::batch::Batch;
use crate::control::engine::refusal::Refusal;
use crate::dataplane::observe::capture::Hub;
use crate::dataplane::policy::{Answer, Connection, Filter};
use crate::net::Prefix;
use crate::policy::Question;

/// A question to one worker about its connections.
#[derive(Debug)]
pub struct Ask {
    /// The number of the worker.
    pub worker: usize,
    /// Where to begin: 0, or [`Answer::next`].
    pub from: usize,
    /// Which connections.
    pub filter: Filter,
    /// Whether they are to be forgotten.
    pub flush: bool,
    /// Room for the answer; what does not fit into it is left out.
    pub room: Vec<Connection>,
}

/// What the API shows of the daemon, and what it changes.
///
/// Reads come from memory and wait for no change. With `wait` a change is answered only when packets
/// see it.
pub trait Backend: Send + Sync + 'static {
    /// The whole daemon at a glance.
    fn status(&self) -> Status;
    /// A page of routes, in the order in which they are to be listed, and where the next page
    /// begins; `None` behind the last.
    fn routes(&self, page: Page) -> (Vec<RouteEntry>, Option<Prefix>);
    /// The same page as text, in the form in which routes are added.
    fn route_lines(&self, page: Page) -> (String, Option<Prefix>);
    /// The route a packet to `address` takes; `None` when it would be dropped as `no_route`.
    fn route_get(&self, address: IpAddr) -> Option<RouteEntry>;
    /// The other nodes.
    fn peers(&self) -> Vec<PeerStatus>;
    /// The largest number of routes that changes may lead to.
    fn most_routes(&self) -> usize;
    /// The largest number of changes in one request.
    fn most_changes(&self) -> usize {
        self.most_routes()
    }
    /// Makes all changes of `batch` to the control routes.
    ///
    /// # Errors
    /// When one of them cannot be made; none is then.
    fn edit_routes(
        &self,
        batch: Batch,
        wait: bool,
    ) -> impl Future<Output = Result<RoutesChanged, Refusal>> + Send;
    /// Replaces all control routes by those of `batch`.
    ///
    /// # Errors
    /// When one of them cannot be; nothing has changed then.
    fn replace_routes(
        &self,
        batch: Batch,
        wait: bool,
    ) -> impl Future<Output = Result<RoutesChanged, Refusal>> + Send;
    /// Makes a node known; with `replace` also where one of that name is known already.
    ///
    /// # Errors
    /// When something speaks against it.
    fn add_peer(
        &self,
        peer: NewPeer,
        replace: bool,
        wait: bool,
    ) -> impl Future<Output = Result<Option<PeerStatus>, Refusal>> + Send;
    /// Forgets a node and its routes.
    ///
    /// # Errors
    /// When there is no such node.
    fn delete_peer(&self, name: String, wait: bool) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// What it takes to make the interface of a pod.
    fn cni(&self) -> CniFacts;
    /// The pods of this node.
    fn endpoints(&self) -> Vec<Endpoint>;
    /// Takes an endpoint, in place of what was known of it before.
    ///
    /// # Errors
    /// When it cannot be one, or there are too many.
    fn put_endpoint(&self, endpoint: Endpoint) -> Result<(), Refusal>;
    /// Forgets an endpoint.
    ///
    /// # Errors
    /// When there is no such endpoint.
    fn delete_endpoint(&self, id: &str) -> Result<(), Refusal>;
    /// The policies, in the order in which they are looked at.
    ///
    /// # Errors
    /// When policies are off.
    fn policies(&self) -> Result<Vec<PolicyEntry>, Refusal>;
    /// What policies say of the first packet of a connection.
    ///
    /// # Errors
    /// When policies are off, or there is no packet that is meant.
    fn trace(&self, question: &Question) -> Result<PolicyTrace, Refusal>;
    /// The number of workers that can be asked for their connections.
    ///
    /// # Errors
    /// When policies are off.
    fn connection_workers(&self) -> Result<usize, Refusal>;
    /// A few connections of one worker.
    ///
    /// # Errors
    /// When it does not answer in time.
    fn connections(&self, ask: Ask) -> impl Future<Output = Result<Answer, Refusal>> + Send;
    /// Whether programs in the kernel carry packets of a connection.
    fn carries(&self, _connection: &Connection) -> bool {
        false
    }
    /// Reads the configuration file again and follows it.
    ///
    /// # Errors
    /// Everything that speaks against it; nothing has changed then.
    fn reload(&self, wait: bool) -> impl Future<Output = Result<Reloaded, Refusal>> + Send;
    /// Where packets can be captured and the UDP ports of VXLAN, here and at the peers; `None` where there are none.
    fn capture(&self) -> Option<(Arc<Hub>, Vec<u16>)> {
        None
    }
    /// A capture has begun: what others carry past the workers is theirs again.
    fn captures(&self) {}
}
