//! Hosts that die at the worst moment: right after what they began, when nothing of it is finished.
//!
//! Faults that come at any time hardly ever meet the few milliseconds in which a change is half made.

use crate::faults::Fault;
use crate::random::Random;
use crate::universe::{Event, STORE, Universe};

/// A moment after which a host may die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worst {
    /// It took the lease.
    Acquired,
    /// It wrote `/sync`.
    SyncWritten,
    /// Its PostgreSQL shows another `synchronous_standby_names`.
    NamesShown,
    /// Its PostgreSQL became primary.
    Promoted,
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
            Worst::Acquired,
            Worst::SyncWritten,
            Worst::NamesShown,
            Worst::Promoted,
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
        if !lies_in_wait || self.random.percent(50) {
            return;
        }
        if let Some(ambush) = &mut self.ambush {
            ambush.left -= 1;
        }
        let (after, blow) = (self.random.mostly(0..100), self.blow(moment, node));
        self.after(after, Event::Fault(blow));
        let back = self.random.mostly(1_000..12_000);
        self.after(after + back, Event::Fault(Fault::AgentStarts(node)));
        self.after(after + back, Event::Fault(Fault::Rejoins(node)));
    }

    /// Who took the lease may also not hear of it.
    fn blow(&mut self, moment: Worst, node: usize) -> Fault {
        match moment {
            Worst::Acquired if self.random.percent(50) => Fault::Cut(STORE, node),
            Worst::Acquired
            | Worst::SyncWritten
            | Worst::NamesShown
            | Worst::Promoted
            | Worst::SyncLost
            | Worst::ModeChanged => Fault::HostDies(node),
        }
    }

    /// The same for whoever leads.
    pub(crate) fn worst_for_leader(&mut self, moment: Worst) {
        if let Some(leader) = self.store.cluster().leader_name().and_then(|name| self.node_named(name)) {
            self.worst(moment, leader);
        }
    }
}
