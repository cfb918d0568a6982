//! Somebody holds the lease: its holder renews it and leads, the others follow.

use std::time::Duration;

use super::{Needs, Tick, ask};
use crate::cluster::Cluster;
use crate::facts::{Op, Outcome};
use crate::job::{DemoteMode, Job};
use crate::lsn::Timeline;
use crate::memory::Rewind;
use crate::server::{Role, Running};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    pub(super) fn healthy_cluster(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        self.memory.request_awaited_since = None;
        let owner = cluster.leader_name().cloned();
        self.note(
            Level::Info,
            format!("Lock owner: {}; I am {}", owner.as_ref().map_or("None", |n| n.as_str()), self.me()),
        );
        if self.has_lock(cluster) {
            return self.leader(cluster, running);
        }
        let me = self.me().clone();
        if self.is_standby_cluster() {
            return self.follow(cluster, running, Verdict::DemotedStandbyCluster, Verdict::StandbySecondary(me, owner));
        }
        self.follow(cluster, running, Verdict::DemotedNoLock, Verdict::Secondary(me, owner))
    }

    fn leader(&mut self, cluster: &Cluster, running: &Running) -> Needs<Verdict> {
        if self.settings.paused && running.wal.is_standby() && !self.promotion_may_come() {
            if cluster.failover.as_ref().is_some_and(|r| r.candidate.as_ref() == Some(self.me())) {
                return Ok(Verdict::AwaitingPromotion);
            }
            if !self.is_standby_cluster() {
                if self.lease_is_of_an_earlier_agent() {
                    return Ok(Verdict::NotPrimaryWaiting);
                }
                self.release(None)?;
                return Ok(Verdict::NotPrimaryReleased);
            }
        }
        match self.renew()? {
            Outcome::Done(()) => {}
            Outcome::Refused => return Ok(self.renewal_refused(running)),
            Outcome::Failed(why) | Outcome::Unknown(why) => return self.store_failure(&why),
        }
        if let Some(verdict) = self.handover_from_leader(cluster, Some(running))? {
            return Ok(verdict);
        }
        if let Some(verdict) = self.hand_over_for_room(cluster, running)? {
            return Ok(verdict);
        }
        let me = self.me().clone();
        if self.is_standby_cluster() {
            let verdict = match self.memory.role {
                Role::StandbyLeader => Verdict::StandbyLeader(me),
                Role::Uninitialized | Role::Replica | Role::Primary | Role::Promoted | Role::Demoted => {
                    Verdict::StandbyLeaderPromoted { acquired: false }
                }
            };
            return self.lead_standby_cluster(cluster, running, verdict);
        }
        self.lead(cluster, running, Verdict::Leader(me), Verdict::PromotedByHaving)
    }

    /// That agent may have told PostgreSQL to become primary, and the promotion goes on without it. Whoever took the lease meanwhile
    /// would be a second primary; its guard ends the promotion before the lease does.
    fn lease_is_of_an_earlier_agent(&self) -> bool {
        self.memory.lease_until.is_none()
    }

    /// Whoever has the lease next would be a second primary, if this standby became one: it is stopped first where it was told to.
    fn give_up_lead(&mut self) -> Needs<()> {
        if self.promotion_may_come() {
            self.demote(DemoteMode::Immediate);
        } else {
            self.release(None)?;
        }
        Ok(())
    }

    /// The store says for sure that the lease is gone: no time to lose.
    fn renewal_refused(&mut self, running: &Running) -> Verdict {
        self.note(Level::Error, "failed to update leader lock");
        if running.wal.is_standby() {
            if self.promotion_may_come() && !self.settings.paused {
                self.demote(DemoteMode::ImmediateNolock);
            }
            return Verdict::NotPromotingRenewFailed;
        }
        if self.settings.paused {
            return Verdict::PrimaryRenewFailed;
        }
        self.demote(DemoteMode::ImmediateNolock);
        Verdict::DemotedRenewFailed
    }

    /// Holding a lease that was won or renewed in this tick: be primary, or become it.
    pub(super) fn lead(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        as_primary: Verdict,
        promoting: Verdict,
    ) -> Needs<Verdict> {
        if running.wal.is_standby()
            && let Some(leader) = self.failsafe_leader()
        {
            self.note(Level::Info, format!("this node agreed that {leader} goes on as primary without the store"));
            self.give_up_lead()?;
            return Ok(Verdict::FollowingNotHealthiest);
        }
        if running.wal.is_standby() && self.is_kept_out() {
            self.note_kept_out();
            self.give_up_lead()?;
            return Ok(Verdict::KeptOut(self.me().clone()));
        }
        if running.wal.is_standby()
            && let Some(held) = self.hold_clients(cluster, running)?
        {
            return Ok(held);
        }
        if running.wal.is_standby()
            && let Some(verdict) = self.await_room()
        {
            return Ok(verdict);
        }
        if !self.settings.paused && !self.activate_watchdog()? {
            if !running.wal.is_standby() {
                self.demote(DemoteMode::Immediate);
                return Ok(Verdict::WatchdogDemoted);
            }
            self.give_up_lead()?;
            return Ok(Verdict::WatchdogNotPromoting);
        }
        if !running.wal.is_standby() {
            self.memory.role = Role::Primary;
            self.memory.rewind = Rewind::Unknown;
            // Somebody else may have promoted it while its clients were held back: an agent before this one, or people.
            self.memory.holding = None;
            self.write_history_if_due(cluster, running)?;
            self.keep_synchronous(cluster)?;
            return Ok(as_primary);
        }
        if !self.synchronous_before_promotion(cluster, running)? {
            self.give_up_lead()?;
            return Ok(Verdict::PromotionPostponed);
        }
        self.memory.rewind = Rewind::Unknown;
        self.memory.checkpoint_pending = true;
        self.wake_after = self.settings.loop_wait;
        self.start(Job::Promote);
        Ok(promoting)
    }

    pub(super) fn activate_watchdog(&self) -> Needs<bool> {
        ask(&self.facts.answers.watchdog, || Op::ActivateWatchdog).copied()
    }

    /// `/history` ends with the timeline before the present one.
    fn write_history_if_due(&mut self, cluster: &Cluster, running: &Running) -> Needs<()> {
        let Some(timeline) = running.timeline else {
            return Ok(());
        };
        let last = cluster.history.as_ref().and_then(|history| history.lines.last());
        let due = if timeline == Timeline(1) {
            last.is_some()
        } else {
            last.is_none_or(|line| line.timeline().map(|t| t.0 + 1) != Some(timeline.0) || line.0.len() != 5)
        };
        if due {
            let outcome = ask(&self.facts.answers.history, || Op::WriteHistory)?.clone();
            self.note_failure("write the history", &outcome);
        }
        Ok(())
    }

    /// PostgreSQL is alive and does not answer. A primary keeps its lease as long as it is alive: whether a server
    /// that hangs should make way is for `primary_start_timeout` to say.
    pub(super) fn unreachable(&mut self, cluster: &Cluster, why: &str) -> Needs<Verdict> {
        self.note(Level::Warning, format!("PostgreSQL does not answer: {why}"));
        self.wake_after = self.settings.loop_wait.min(Duration::from_secs(2));
        if !self.has_lock(cluster) {
            if !self.settings.paused && self.is_or_may_become_primary() {
                self.demote(DemoteMode::ImmediateNolock);
                return Ok(Verdict::DemotedNoLock);
            }
            return Ok(Verdict::Unreachable);
        }
        match self.renew()? {
            Outcome::Done(()) => Ok(Verdict::Unreachable),
            Outcome::Refused if self.settings.paused => Ok(Verdict::PrimaryRenewFailed),
            Outcome::Refused => {
                self.demote(DemoteMode::ImmediateNolock);
                Ok(Verdict::DemotedRenewFailed)
            }
            Outcome::Failed(why) | Outcome::Unknown(why) => self.store_failure(&why),
        }
    }
}
