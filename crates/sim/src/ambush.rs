//! Hosts that die at the worst moment: right after what they began, when nothing of it is finished.
//!
//! Faults that come at any time hardly ever meet the few milliseconds in which a change is half made.

use std::time::Duration;

use crate::faults::Fault;
use crate::random::Random;
use crate::universe::{Event, STORE, Universe};

/// A moment after which a host may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worst {
    /// It leads, and has read the store: its next request rests on what it has read.
    Looked,
    /// It took the lease.
    Acquired,
    /// It wrote `/sync`.
    SyncWritten,
    /// Its PostgreSQL shows another `synchronous_standby_names`.
    NamesShown,
    /// Its PostgreSQL was told to become primary.
    Promoting,
    /// Its PostgreSQL became primary.
    Promoted,
    /// It goes on without the store, by the leave of all others.
    WentOn,
    /// `/sync` was deleted by hand while it leads.
    SyncLost,
    /// The synchronous mode was changed while it leads.
    ModeChanged,
}

/// What waits for such moments.
#[derive(Clone, Debug)]
pub(crate) struct Ambush {
    moment: Worst,
    /// How often it strikes.
    left: u64,
}

impl Ambush {
    /// In two of five clusters.
    pub(crate) fn lay(random: &mut Random) -> Option<Ambush> {
        let moments = [
            Worst::Looked,
            Worst::Acquired,
            Worst::SyncWritten,
            Worst::NamesShown,
            Worst::Promoting,
            Worst::Promoted,
            Worst::WentOn,
            Worst::SyncLost,
            Worst::ModeChanged,
        ];
        let (moment, left) = (moments[random.index(moments.len())], random.within(1..4));
        random.percent(40).then_some(Ambush { moment, left })
    }
}

impl Universe {
    /// One of these moments has come for a node.
    pub(crate) fn worst(&mut self, moment: Worst, node: usize) {
        let lies_in_wait = self.ambush.as_ref().is_some_and(|ambush| ambush.moment == moment && ambush.left > 0);
        let chance = match moment {
            Worst::Looked => 3,
            Worst::WentOn | Worst::Promoting => 90,
            Worst::Acquired
            | Worst::SyncWritten
            | Worst::NamesShown
            | Worst::Promoted
            | Worst::SyncLost
            | Worst::ModeChanged => 50,
        };
        if !lies_in_wait || !self.random.percent(chance) {
            return;
        }
        if let Some(ambush) = &mut self.ambush {
            ambush.left -= 1;
        }
        match moment {
            Worst::Looked => {
                let lasts = self.random.millis(5_000..60_000);
                self.after(Duration::ZERO, Event::Fault(Fault::Freezes(node, lasts)));
                self.after(lasts, Event::Fault(Fault::Thaws(node)));
            }
            Worst::Promoting => self.promotion_takes_long(node),
            // Somebody forgets what it agreed to, and the store comes back.
            Worst::WentOn => {
                let other = self.random.index(self.nodes.len());
                let (after, back) = (self.random.mostly(0..100), self.random.mostly(50..3000));
                if other != node {
                    self.after(after, Event::Fault(Fault::AgentDies(other)));
                    self.after(after + back, Event::Fault(Fault::AgentStarts(other)));
                }
                if self.random.percent(50) {
                    self.after(after, Event::Fault(Fault::Isolated(node)));
                    self.after(after + back * 8, Event::Fault(Fault::Rejoins(node)));
                }
                let up = self.random.mostly(0..5000);
                self.after(up, Event::Fault(Fault::StoreUp));
            }
            // The answer that is on its way is lost too.
            Worst::Acquired if self.random.percent(50) => {
                self.cuts.insert((STORE, node));
                let lasts = self.random.millis(500..15_000);
                self.after(lasts, Event::Fault(Fault::Mended(STORE, node)));
            }
            Worst::Acquired
            | Worst::SyncWritten
            | Worst::NamesShown
            | Worst::Promoted
            | Worst::SyncLost
            | Worst::ModeChanged => {
                let (after, back) = (self.random.mostly(0..100), self.random.mostly(1_000..12_000));
                self.after(after, Event::Fault(Fault::HostDies(node)));
                self.after(after + back, Event::Fault(Fault::AgentStarts(node)));
            }
        }
    }

    /// It has much to replay first, and its lease ends meanwhile: in pause, with an agent that stands still; or because it is cut off from
    /// the store, and its agent dies when it has begun to stop the server.
    fn promotion_takes_long(&mut self, node: usize) {
        self.nodes[node].replays_long = true;
        let (after, lasts) = (self.random.mostly(0..6_000), self.random.millis(20_000..60_000));
        let faults = if self.random.percent(50) {
            self.after(Duration::ZERO, Event::Fault(Fault::Pause));
            self.after(lasts + lasts, Event::Fault(Fault::Resume));
            (Fault::Freezes(node, lasts), Fault::Thaws(node))
        } else {
            self.nodes[node].dies_half_way = true;
            self.after(after + lasts, Event::Fault(Fault::AgentStarts(node)));
            (Fault::Cut(node, STORE), Fault::Mended(node, STORE))
        };
        self.after(after, Event::Fault(faults.0));
        self.after(after + lasts, Event::Fault(faults.1));
    }

    /// The same for whoever leads.
    pub(crate) fn worst_for_leader(&mut self, moment: Worst) {
        if let Some(leader) = self.store.cluster().leader_name().and_then(|name| self.node_named(name)) {
            self.worst(moment, leader);
        }
    }
}
