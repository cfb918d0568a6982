//! The agent was told to stop: PostgreSQL stops with it, and the lease goes to somebody who has everything.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::Cluster;
use crate::facts::{JobFact, Outcome};
use crate::job::{DemoteMode, Job, JobOutcome, Stage};
use crate::lsn::Lsn;
use crate::plan::Exit;
use crate::server::{ControlState, Postmaster};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// `cluster`: `None` while the store does not answer. PostgreSQL is stopped all the same.
    pub(super) fn shutdown(&mut self, cluster: Option<&Cluster>) -> Needs<Verdict> {
        self.disable_watchdog = true;
        if self.settings.paused {
            self.note(Level::Info, "Leader key is not deleted and Postgresql is not stopped due paused state");
            self.exit = Some(Exit::Clean);
            return Ok(Verdict::ShutDown);
        }
        self.wake_after = Duration::from_millis(50);
        if let Some(cluster) = cluster
            && self.hangs(cluster)?.is_some()
        {
            return Ok(Verdict::ShuttingDown);
        }
        match &self.facts.job {
            // Its lease is not prolonged meanwhile.
            JobFact::Running(view) if view.job == Job::Demote(DemoteMode::Hung) => Ok(Verdict::ShuttingDown),
            JobFact::Running(view) if matches!(view.job, Job::Shutdown) => {
                let stage = view.stage.clone();
                self.memory.leaving_sync = self.leaving_sync;
                self.shutting_down(cluster, &stage)
            }
            JobFact::Running(_) => {
                self.start(Job::Shutdown);
                Ok(Verdict::ShuttingDown)
            }
            JobFact::Ended(Job::Shutdown, JobOutcome::Failed(_)) => {
                self.note(Level::Error, "PostgreSQL shutdown failed, leader key not removed.");
                self.exit = Some(Exit::Fatal);
                Ok(Verdict::ShutDown)
            }
            JobFact::Idle | JobFact::Ended(..) => self.shut_down(cluster),
        }
    }

    fn shutting_down(&mut self, cluster: Option<&Cluster>, stage: &Stage) -> Needs<Verdict> {
        let Some(cluster) = cluster.filter(|cluster| self.has_lock(cluster)) else {
            return Ok(Verdict::ShuttingDown);
        };
        let Stage::ShutDown { checkpoint, previous, exited } = stage else {
            if let Outcome::Failed(why) | Outcome::Unknown(why) = self.renew()? {
                self.note(Level::Warning, format!("failed to update leader lock: {why}"));
            }
            return Ok(Verdict::ShuttingDown);
        };
        self.wake_after = Duration::from_millis(20);
        // The postmaster may still be archiving: whoever has the shutdown checkpoint need not wait for that.
        if *exited || self.failover_possible(cluster, Bar::Received(*checkpoint), false)? {
            self.release(Some(*previous))?;
        }
        Ok(Verdict::ShuttingDown)
    }

    /// Nothing runs any more, or nothing was started yet.
    fn shut_down(&mut self, cluster: Option<&Cluster>) -> Needs<Verdict> {
        if cluster.is_some_and(|cluster| self.has_lock(cluster)) && self.was_killed() {
            self.release(None)?;
            self.exit = Some(Exit::Clean);
            return Ok(Verdict::ShutDown);
        }
        let Postmaster::Stopped(control) = &self.facts.server.postmaster else {
            if cluster.is_some_and(|cluster| self.leaves_synchronous(cluster)) {
                return Ok(Verdict::ShuttingDown);
            }
            self.start(Job::Shutdown);
            return Ok(Verdict::ShuttingDown);
        };
        if cluster.is_some_and(|cluster| self.has_lock(cluster)) {
            let last: Option<Lsn> = control
                .as_ref()
                .filter(|control| control.state == ControlState::ShutDown)
                .map(|control| control.checkpoint);
            self.release(last)?;
        }
        self.exit = Some(Exit::Clean);
        Ok(Verdict::ShutDown)
    }
}
