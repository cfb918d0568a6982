//! What an agent asks its server, and tells it, about synchronous standbys.

use std::time::Duration;

use patroni_core::facts::{Facts, Outcome};
use patroni_core::lsn::Lsn;
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::plan::JobOrder;
use patroni_core::settings::SynchronousMode;
use patroni_core::sync::{Inspection, StandbyNames};
use patroni_tick::driver::Limit;

use crate::synchronous::names_of;
use crate::universe::{Event, Universe};
use crate::world::{SimWorld, pause, until};

/// How long a reload is waited for.
const RELOAD_LIMIT: Duration = Duration::from_secs(2);

impl SimWorld {
    /// As production does: the flushed position, which a standby does not have, is asked for after the rest.
    pub(crate) async fn inspect_synchronous(&self, limit: Limit) -> Result<Inspection, String> {
        let budget = limit.within(Duration::from_secs(3), self.moment());
        if self.shared.borrow().nodes[self.node].postgres.hung {
            pause(&self.shared, self.node, budget).await;
        }
        let answers = |universe: &Universe| universe.nodes[self.node].postgres.serves();
        if !answers(&self.shared.borrow()) {
            return Err("it does not answer".into());
        }
        let mut inspection = self.shared.borrow().look_at_synchronous(self.node);
        let between = self.shared.borrow_mut().random.mostly(1..4);
        pause(&self.shared, self.node, between).await;
        let universe = self.shared.borrow();
        let Some(data) = universe.nodes[self.node].postgres.data().filter(|_| answers(&universe)) else {
            return Err("it died".into());
        };
        inspection.flushed = if data.standby { Lsn(u64::MAX) } else { data.wal.end };
        Ok(inspection)
    }

    /// Writes the setting, has it read, and sees it shown.
    pub(crate) async fn set_standby_names(&self, setting: &SynchronousStandbyNames, limit: Limit) -> Outcome<()> {
        let wanted = names_of(setting);
        {
            let mut universe = self.shared.borrow_mut();
            let node = &universe.nodes[self.node];
            if node.job.is_some() || !node.knows_server {
                return Outcome::Failed("an action is in progress".into());
            }
            universe.nodes[self.node].postgres.sync.file = wanted.clone();
            if universe.random.percent(2) {
                return Outcome::Unknown("the signal could not be sent".into());
            }
            universe.reload(self.node);
        }
        let end = self.time() + limit.within(RELOAD_LIMIT, self.moment());
        self.shared.borrow_mut().at(end, Event::Wake(self.node));
        let shown = until(&self.shared, |universe| {
            let server = &universe.nodes[self.node].postgres;
            let shown = server.serves() && server.sync.shown == wanted;
            (shown || universe.now >= end).then_some(shown)
        })
        .await;
        if !shown {
            return Outcome::Unknown("PostgreSQL does not show it".into());
        }
        let mut universe = self.shared.borrow_mut();
        if universe.nodes[self.node].postgres.is_primary() {
            universe.append(self.node, 60); // Something for standbys to confirm.
        }
        Outcome::Done(())
    }

    /// An agent takes over a server that it finds, or files of one that does not run.
    pub(crate) fn adopt(&self, facts: &Facts) {
        let universe = &mut *self.shared.borrow_mut();
        let node = &mut universe.nodes[self.node];
        // A job that was just ordered takes the server over itself.
        let ordered = !matches!(node.order, None | Some(JobOrder::Keep));
        if node.knows_server || node.job.is_some() || ordered {
            return;
        }
        let wanted = self.settings.synchronous.mode != SynchronousMode::Off;
        let published = facts.cluster.as_ref().is_ok_and(|cluster| cluster.sync.leader.is_some());
        let up = node.postgres.serves();
        if !up && !matches!(facts.server.postmaster, patroni_core::server::Postmaster::Stopped(_)) {
            return;
        }
        node.knows_server = true;
        let keeps = up && (wanted || published);
        let file = if keeps { node.postgres.sync.shown.clone() } else { StandbyNames::default() };
        node.postgres.sync.file = file;
        if up {
            universe.reload(self.node);
        }
    }
}
