//! The server of the leader hangs: it makes way.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::Cluster;
use crate::facts::JobFact;
use crate::hang::Hung;
use crate::job::{DemoteMode, Job, JobOutcome};
use crate::server::Postmaster;
use crate::verdict::{Level, Verdict};

/// At least so long between two ticks that look whether it goes on hanging.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Tick<'_> {
    /// A leader whose server has hung for `primary_hang_timeout` kills it, and gives the lease up when nothing of it can run any more. Its
    /// lease is not prolonged meanwhile. `None`: it does not hang, or nobody could take over.
    pub(super) fn hangs(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        let Some(standstill) = self.facts.standstill.filter(|_| self.time_to_hang().is_some_and(|left| left.is_zero()))
        else {
            return Ok(None);
        };
        if !self.has_lock(cluster) || self.settings.paused || self.memory.bootstrapping || !self.may_be_killed() {
            return Ok(None);
        }
        let lasted = standstill.lasted.as_secs();
        let what = match standstill.what {
            Hung::Server => {
                "PostgreSQL hangs: it answers neither the connection that is held nor a new one, and none of its processes does anything"
            }
            Hung::Storage => {
                "The storage of PostgreSQL hangs: a process that writes WAL waits for the disk, which writes nothing"
            }
        };
        self.note(Level::Error, format!("{what}, for {lasted} seconds now"));
        if !self.failover_possible(cluster, Bar::WithinMaximumLag, false)? {
            self.note(Level::Warning, "PostgreSQL is not killed, because nobody could take over");
            return Ok(None);
        }
        self.demote(DemoteMode::Hung);
        Ok(Some(Verdict::HungServer))
    }

    /// How much longer it has to stand still. `None`: it does not, or that is no reason for anything.
    pub(super) fn time_to_hang(&self) -> Option<Duration> {
        let limit = self.settings.hang_limit()?;
        self.facts.standstill.map(|standstill| limit.saturating_sub(standstill.lasted))
    }

    /// The next tick comes when the time is over. After that nothing is urgent: either it is being killed, or nobody could take over.
    pub(super) fn look_whether_it_hangs(&mut self) {
        if let Some(left) = self.time_to_hang().filter(|left| !left.is_zero()) {
            self.wake_after = self.wake_after.min(left.max(LOOK_AGAIN));
        }
    }

    /// Nothing of the server can run any more, even where it has not gone yet: what sleeps in the kernel goes when it wakes up.
    pub(super) fn was_killed(&self) -> bool {
        let killed = matches!(&self.facts.job, JobFact::Ended(Job::Demote(DemoteMode::Hung), JobOutcome::Done));
        killed && matches!(self.facts.server.postmaster, Postmaster::Stopped(_) | Postmaster::Stopping)
    }

    /// Nothing is at work on the data directory but the server itself, and it was not killed already.
    fn may_be_killed(&self) -> bool {
        match &self.facts.job {
            JobFact::Idle => true,
            JobFact::Ended(job, outcome) => *job != Job::Demote(DemoteMode::Hung) || *outcome != JobOutcome::Done,
            JobFact::Running(view) => match &view.job {
                Job::Demote(mode) => *mode != DemoteMode::Hung,
                Job::Restart { .. }
                | Job::Start { .. }
                | Job::Follow { .. }
                | Job::Promote
                | Job::CopySlots { .. }
                | Job::StopImmediate
                | Job::Shutdown => true,
                Job::Bootstrap
                | Job::Clone { .. }
                | Job::Reinitialize { .. }
                | Job::CrashRecovery
                | Job::Rewind { .. } => false,
            },
        }
    }
}
