//! The store does not answer.

use std::time::Duration;

use super::{Needs, Tick};
use crate::facts::JobFact;
use crate::fence::makes_a_primary;
use crate::job::{DemoteMode, Job, Stage};
use crate::plan::JobOrder;
use crate::server::{Postmaster, Role, Running};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// Outside pause, a primary without a store is stopped, unless all members agree that it goes on: its lease cannot be renewed. `load` and `renew` have used
    /// up `retry_timeout` by now, or what was left of the lease.
    pub(super) fn store_failure(&mut self, why: &str) -> Needs<Verdict> {
        self.note(Level::Error, format!("Error communicating with DCS: {why}"));
        self.sync_slots = self.moves_slots_by_agreement();
        if self.may_serve_readers() {
            self.memory.recovering = true;
            self.start(Job::Start { role: Role::Replica, follow: self.nobody(), after_failure: false });
            return Ok(Verdict::StoreFailed);
        }
        if let JobFact::Running(view) = &self.facts.job
            && view.job == Job::Promote
            && view.stage == Stage::Revocable
        {
            // Nothing is lost by taking it back, and nobody knows for how long the lease can be prolonged.
            self.job = JobOrder::Cancel;
            return Ok(Verdict::StoreFailed);
        }
        // The primary of a cluster that nobody else has a copy of waits for the store to take it in.
        let left_alone = self.settings.paused && !self.primary_is_being_made();
        if left_alone || self.memory.bootstrapping || !self.is_or_may_become_primary() {
            self.wake_after = self.settings.loop_wait.min(self.settings.retry_timeout);
            return Ok(Verdict::StoreFailed);
        }
        if let JobFact::Running(view) = &self.facts.job
            && matches!(view.job, Job::Demote(_) | Job::Shutdown | Job::StopImmediate | Job::Bootstrap)
        {
            return Ok(Verdict::StoreFailed);
        }
        if self.agreed_failsafe()? {
            self.sync_slots = matches!(self.facts.job, JobFact::Idle | JobFact::Ended(..));
            return Ok(Verdict::Failsafe);
        }
        self.memory.lease_until = None;
        self.note(Level::Info, "demoting self because DCS is not accessible and I was a leader");
        self.demote(DemoteMode::Offline);
        self.wake_after = Duration::from_secs(1);
        Ok(Verdict::DemotedStoreFailed)
    }

    /// The primary that goes on tells where its slots are: those of a standby that agreed to it hold no more WAL than they have to.
    fn moves_slots_by_agreement(&self) -> bool {
        let idle = matches!(self.facts.job, JobFact::Idle | JobFact::Ended(..));
        let standby = self.facts.server.running().is_some_and(|running| running.wal.is_standby());
        idle && standby && self.failsafe_leader().is_some() && !self.is_kept_out()
    }

    /// A primary that was stopped because of the store goes on as a standby of nobody.
    fn may_serve_readers(&self) -> bool {
        let idle = matches!(self.facts.job, JobFact::Idle | JobFact::Ended(..));
        let stopped = matches!(self.facts.server.postmaster, Postmaster::Stopped(Some(_)));
        idle && stopped && !self.settings.paused && self.memory.role == Role::Demoted
    }

    /// A job works on it, and PostgreSQL is no primary yet for all that is known. In pause, too, nothing becomes a primary without the
    /// lease: what is left alone there is a primary that is one.
    pub(super) fn primary_is_being_made(&self) -> bool {
        let made = matches!(&self.facts.job, JobFact::Running(view) if makes_a_primary(&view.job));
        made && !self.facts.server.is_primary()
    }

    /// It was told to become primary, and is still in recovery: it may come to that by itself, when no job waits for it any more.
    pub(super) fn promotion_may_come(&self) -> bool {
        self.memory.role == Role::Promoted && self.facts.server.is_standby()
    }

    /// It was down when this job began, and has `standby.signal` before it runs. The role is that of its former life until the job ends.
    fn standby_is_brought_up(&self) -> bool {
        let JobFact::Running(view) = &self.facts.job else { return false };
        matches!(&view.job, Job::Start { role, .. } if *role != Role::Primary) || matches!(view.job, Job::Clone { .. })
    }

    /// PostgreSQL accepts writes, or is on its way there.
    pub(super) fn is_or_may_become_primary(&self) -> bool {
        let was_primary = matches!(self.memory.role, Role::Primary | Role::Promoted);
        if let JobFact::Running(view) = &self.facts.job {
            match view.job {
                Job::Promote | Job::Start { role: Role::Primary, .. } => return true,
                Job::Restart { .. } if was_primary => return true,
                Job::Restart { .. }
                | Job::Bootstrap
                | Job::Clone { .. }
                | Job::Reinitialize { .. }
                | Job::Start { .. }
                | Job::Follow { .. }
                | Job::Demote(_)
                | Job::CrashRecovery
                | Job::Rewind { .. }
                | Job::CopySlots { .. }
                | Job::Shutdown
                | Job::StopImmediate => {}
            }
        }
        match &self.facts.server.postmaster {
            Postmaster::Running(Running { wal, .. }) => !wal.is_standby(),
            Postmaster::Starting | Postmaster::Unreachable(_) => was_primary && !self.standby_is_brought_up(),
            Postmaster::Stopped(_) | Postmaster::Stopping => false,
        }
    }
}
