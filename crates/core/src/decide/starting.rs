//! PostgreSQL is on its way up, or down, by itself.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::Cluster;
use crate::facts::Outcome;
use crate::job::DemoteMode;
use crate::memory::{Rewind, Starting};
use crate::server::{Role, State};
use crate::time::Moment;
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    pub(super) fn starting(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        let now = self.facts.now.boot;
        self.memory.state = State::Starting;
        if self.memory.starting.is_none() {
            self.memory.stalled = None;
        }
        let starting = *self.memory.starting.get_or_insert(Starting { since: now, timeout: None });
        self.wake_after = self.settings.loop_wait.min(Duration::from_millis(500));
        if !self.has_lock(cluster) {
            return self.starting_without_lock(cluster, starting.since);
        }
        match self.renew()? {
            Outcome::Done(()) => {}
            Outcome::Refused if self.settings.paused => return Ok(Verdict::PrimaryRenewFailed),
            Outcome::Refused => {
                self.note(Level::Info, "Lost lock while starting up. Demoting self.");
                self.demote(DemoteMode::ImmediateNolock);
                return Ok(Verdict::StartLostLock);
            }
            Outcome::Failed(why) | Outcome::Unknown(why) => return self.store_failure(&why),
        }
        if self.is_standby_cluster()
            && let Some(verdict) = self.compare_while_starting(cluster, starting.since)?
        {
            return Ok(verdict);
        }
        let limit = starting.timeout.unwrap_or(self.settings.primary_start_timeout);
        let left = limit.saturating_sub(now.since(starting.since));
        if self.settings.paused || !left.is_zero() {
            if let Some(verdict) = self.handover_from_leader(cluster, None)? {
                return Ok(verdict);
            }
            return Ok(Verdict::Starting(left.as_secs()));
        }
        if !self.failover_possible(cluster, Bar::WithinMaximumLag, false)? {
            return Ok(Verdict::StartTimedOutAlone);
        }
        self.note(Level::Info, "Demoting self because primary startup is taking too long");
        self.demote(DemoteMode::Immediate);
        Ok(Verdict::StartTimedOut)
    }

    fn starting_without_lock(&mut self, cluster: &Cluster, since: Moment) -> Needs<Verdict> {
        if !self.settings.paused && matches!(self.memory.role, Role::Primary | Role::Promoted) {
            self.demote(DemoteMode::ImmediateNolock);
            return Ok(Verdict::DemotedNoLock);
        }
        self.note(Level::Info, "Still starting up as a standby.");
        if let Some(verdict) = self.compare_while_starting(cluster, since)? {
            return Ok(verdict);
        }
        // It may lack WAL to become consistent, and was started when nobody led, or another node.
        let upstream = self.upstream(cluster);
        self.follow_upstream(cluster, upstream, Verdict::Secondary(self.me().clone(), cluster.leader_name().cloned()))
    }

    /// A standby that diverged, or that lacks WAL, may never reach consistency: it is compared while it starts.
    fn compare_while_starting(&mut self, cluster: &Cluster, since: Moment) -> Needs<Option<Verdict>> {
        if self.settings.paused {
            return Ok(None);
        }
        if self.memory.rewind == Rewind::Unknown {
            self.memory.rewind = Rewind::Check;
        }
        self.look_for_stall_while_starting(cluster, since);
        self.rewind_or_reinitialize(cluster)
    }

    /// Somebody stops PostgreSQL behind our back.
    pub(super) fn stopping(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        self.wake_after = self.settings.loop_wait.min(Duration::from_secs(1));
        if self.has_lock(cluster) {
            match self.renew()? {
                Outcome::Done(()) | Outcome::Refused => {}
                Outcome::Failed(why) | Outcome::Unknown(why) => return self.store_failure(&why),
            }
        }
        Ok(Verdict::JobInProgress("stop".to_owned()))
    }
}
