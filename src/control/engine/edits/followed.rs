//! What a source says of routes that the engine does not trust as a whole: what nothing speaks against is followed, and
//! the rest is told back, so that one wrong route is nobody else's.

use crate::control::engine::edits::batch::{Batch, Change, Places};
use crate::control::engine::edits::edit::unknown_peer;
use crate::control::engine::refusal::{Kind, Refusal};
use crate::control::engine::state::State;
use crate::net::Prefix;
use crate::route::{PeerId, Source};

/// A route that is left out, and why.
pub type LeftOut = (Prefix, String);

/// The nodes that each set of a batch names, or what is wrong with it.
type Nodes = (Vec<Vec<PeerId>>, Vec<Option<String>>);

impl State {
    /// Applies what of `batch` nothing speaks against to the routes of `source`. `now` is the second of the daemon's
    /// life that new routes are dated with. Returns what is left out; a route of the same prefix that was followed
    /// before goes with it.
    ///
    /// # Errors
    /// When there is no room for it as a whole; nothing has changed then.
    pub(crate) fn follow_routes(
        &mut self,
        source: Source,
        batch: &mut Batch,
        now: u32,
    ) -> Result<Vec<LeftOut>, Refusal> {
        batch.sort();
        let (nodes, unknown) = self.known_nodes(batch);
        let mut left_out = Vec::new();
        let mut gone = Batch::new(Places::Alone);
        let mut room = self.config.control.max_routes.saturating_sub(self.rib.len());
        let mut before = None;
        batch.retain(|change| {
            // Who is first has it.
            if before.replace(change.prefix) == Some(change.prefix) {
                return false;
            }
            match self.judge_followed(source, &change, (&nodes, &unknown), &mut room) {
                Ok(()) => true,
                Err((Kind::Missing, _)) => false,
                Err((_, reason)) => {
                    if self.rib.get(change.prefix, source).is_some() {
                        gone.del(change.prefix, 0);
                    }
                    left_out.push((change.prefix, reason));
                    false
                }
            }
        });
        self.apply(source, batch, &nodes, now)?;
        self.apply(source, &gone, &[], now)?;
        Ok(left_out)
    }

    fn known_nodes(&self, batch: &Batch) -> Nodes {
        let resolve = |names| {
            let (ids, unknown) = self.nodes(names);
            (ids, unknown.first().map(|name| unknown_peer(name)))
        };
        batch.nodes().iter().map(|nodes| resolve(&nodes.names)).unzip()
    }

    fn judge_followed(
        &self,
        source: Source,
        change: &Change,
        (nodes, unknown): (&[Vec<PeerId>], &[Option<String>]),
        room: &mut usize,
    ) -> Result<(), (Kind, String)> {
        let wrong = change.to.and_then(|to| unknown.get(usize::from(to.nodes))?.clone());
        if let Some(reason) = wrong {
            return Err((Kind::UnknownPeer, reason));
        }
        self.judge_one(source, change, nodes)?;
        if change.to.is_some() && self.rib.exact(change.prefix).is_none() {
            let most = self.config.control.max_routes;
            let full = || format!("there are {most} routes, as many as `max_routes` under [control] allows");
            *room = room.checked_sub(1).ok_or_else(|| (Kind::Full, full()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::control::engine::edits::batch::Batch;
    use crate::control::engine::edits::lines::{Kinds, Reader};
    use crate::control::engine::sample::Node;
    use crate::control::engine::state::State;
    use crate::route::Source;

    const FILE: &str = "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.244.1.0/24\"]\n\
        [[pool]]\ncidr = \"10.244.0.0/16\"\n[[peer]]\nname = \"b\"\naddress = \"192.0.2.2\"\nsubnets = []\n\
        [control]\nmax_routes = 4\n";

    fn batch(text: &str) -> Batch {
        let mut reader = Reader::new(Kinds::All);
        reader.push(text.as_bytes());
        reader.finish().unwrap()
    }

    fn left_out(state: &mut State, text: &str) -> Vec<String> {
        let left_out = state.follow_routes(Source::Kernel, &mut batch(text), 0).unwrap();
        left_out.into_iter().map(|(prefix, reason)| format!("{prefix}: {reason}")).collect()
    }

    fn followed(state: &State) -> Vec<String> {
        let all = state.rib.best().map(|route| route.prefix);
        all.filter(|prefix| state.rib.get(*prefix, Source::Kernel).is_some())
            .map(|prefix| prefix.to_string())
            .collect()
    }

    #[test]
    fn one_wrong_route_is_nobody_elses() {
        let mut node = Node::new(crate::config::parse(FILE, "f").unwrap());
        let text = "10.250.0.0/16 via b\n192.0.2.0/24 via b\n10.251.0.0/16 via x\n10.252.0.0/16 via b,x\n\
                    10.244.1.0/24 via b\ndel 10.9.0.0/16\n10.253.0.0/16 via b\n";
        let found = left_out(&mut node, text);
        assert_eq!(found.len(), 4, "{found:?}");
        for (found, part) in
            found.iter().zip(["own subnet", "\"x\"", "\"x\"", "192.0.2.0/24: 192.0.2.0/24 contains"])
        {
            assert!(found.contains(part), "{found}");
        }
        assert_eq!(followed(&node), ["10.250.0.0/16", "10.253.0.0/16"]);
        // What cannot be followed any more is not what it was before.
        assert_eq!(left_out(&mut node, "10.250.0.0/16 via x\n").len(), 1);
        assert_eq!(followed(&node), ["10.253.0.0/16"]);
    }

    #[test]
    fn there_are_no_more_than_the_configuration_allows() {
        let mut node = Node::new(crate::config::parse(FILE, "f").unwrap());
        let text = "10.1.0.0/16 via b\n10.2.0.0/16 via b\n10.3.0.0/16 via b\n10.4.0.0/16 via b\n";
        let found = left_out(&mut node, text);
        assert!(found.len() == 1 && found[0].starts_with("10.4.0.0/16: there are 4 routes"), "{found:?}");
        assert_eq!(left_out(&mut node, "10.3.0.0/16 via b\ndel 10.1.0.0/16\n"), [""; 0]);
        assert_eq!(left_out(&mut node, "10.4.0.0/16 via b\n"), [""; 0]);
        assert_eq!(followed(&node), ["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]);
    }
}
