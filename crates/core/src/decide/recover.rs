//! PostgreSQL does not run: bring it back, as what it may be.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::Cluster;
use crate::facts::{JobFact, Outcome};
use crate::job::{Job, Upstream};
use crate::memory::Rewind;
use crate::plan::Callback;
use crate::server::{ControlData, ControlState, Role, State};
use crate::verdict::{Level, Verdict};

/// How long a node that stepped down lets others take the lease before it starts PostgreSQL again.
const STEP_BACK: Duration = Duration::from_secs(2);

/// How long PostgreSQL stays down when somebody else has stopped it: `pg_ctl stop` looks ten times a second whether it is gone, and
/// `pg_ctl restart` starts it then.
const OUTSIDERS_MOMENT: Duration = Duration::from_secs(1);

impl Tick<'_> {
    pub(super) fn recover(&mut self, cluster: &Cluster, control: Option<&ControlData>) -> Needs<Verdict> {
        let may_lead = self.has_lock(cluster) && !self.is_kept_out();
        if may_lead && let Some(verdict) = self.handover_after_job(cluster)? {
            return Ok(verdict);
        }
        if self.settings.paused
            && let Some(verdict) = self.not_running_in_pause(cluster)?
        {
            return Ok(verdict);
        }
        if let Some(left) = self.step_back(cluster) {
            self.wake_after = left;
            return Ok(Verdict::AwaitingNewLeader);
        }
        if matches!(self.memory.state, State::Running | State::Starting | State::Restarting) {
            self.notice_outsider(control);
            self.memory.state = State::Crashed;
            if matches!(self.memory.role, Role::Primary | Role::Promoted) && self.memory.stopped_by_outsider.is_none() {
                self.count_failure();
            }
        }
        if self.has_lock(cluster) {
            if may_lead && let Some(verdict) = self.recover_leader(cluster, control)? {
                return Ok(verdict);
            }
        } else if let Some(verdict) = self.outsiders_moment() {
            return Ok(verdict);
        }
        // It will start as a standby: nothing to guard until it is promoted.
        self.disable_watchdog = true;
        if let Some(verdict) = self.crash_recovery(cluster, control) {
            return Ok(verdict);
        }
        self.start_as_standby(cluster, control.is_some_and(|control| control.torn))
    }

    /// `None`: paused, but a rewind that was under way goes on.
    fn not_running_in_pause(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        self.memory.state = State::Stopped;
        if self.has_lock(cluster) {
            self.release(None)?;
            return Ok(Some(Verdict::NotRunningReleased));
        }
        // What this node began is finished: a rewind, the handover of a leader that has to come back as a standby, and a
        // promotion that was ended because the lease was lost.
        let unfinished = matches!(self.memory.rewind, Rewind::Needed | Rewind::Done)
            || matches!(self.memory.role, Role::Demoted | Role::Promoted);
        Ok((!unfinished).then_some(Verdict::NotRunning))
    }

    /// It ran, and was shut down in good order, not by a job of this agent.
    fn notice_outsider(&mut self, control: Option<&ControlData>) {
        let in_order =
            |control: &ControlData| matches!(control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        if self.memory.state == State::Running && self.facts.job == JobFact::Idle && control.is_some_and(in_order) {
            self.memory.stopped_by_outsider = Some(self.facts.now.boot);
            let text = "PostgreSQL was shut down, and not by this agent, which starts it again. To keep it down, pause the cluster first: \
                        `patronictl pause`";
            self.note(Level::Warning, text);
        }
    }

    fn outsiders_moment(&mut self) -> Option<Verdict> {
        let passed = self.facts.now.boot.since(self.memory.stopped_by_outsider?);
        let left = OUTSIDERS_MOMENT.checked_sub(passed).filter(|left| !left.is_zero())?;
        self.wake_after = left;
        Some(Verdict::StoppedByOutsider)
    }

    fn step_back(&self, cluster: &Cluster) -> Option<Duration> {
        let stepped_down = self.memory.stepped_down.filter(|_| cluster.is_unlocked())?;
        let passed = self.facts.now.boot.since(stepped_down.at);
        (passed < STEP_BACK).then(|| STEP_BACK - passed)
    }

    /// A leader whose PostgreSQL died: start it again, or make way. `None`: it cannot go on as primary.
    fn recover_leader(&mut self, cluster: &Cluster, control: Option<&ControlData>) -> Needs<Option<Verdict>> {
        match self.renew()? {
            Outcome::Done(()) => {}
            Outcome::Refused => return Ok(None),
            Outcome::Failed(why) | Outcome::Unknown(why) => {
                return self.store_failure(&why).map(Some);
            }
        }
        if let Some(verdict) = self.outsiders_moment() {
            return Ok(Some(verdict));
        }
        if let Some(verdict) = self.make_way_for_room(cluster)? {
            return Ok(Some(verdict));
        }
        // A start that fails costs the role, unless the leader stays for lack of room elsewhere.
        let crashed_primary =
            matches!(self.memory.state, State::Crashed | State::StartFailed) && self.memory.role == Role::Primary;
        if self.settings.primary_start_timeout.is_zero()
            && self.failover_possible(cluster, Bar::WithinMaximumLag, false)?
        {
            return self.fail_over_after_crash().map(Some);
        }
        let was_primary = control.is_some_and(|control| {
            !control.standby_signal
                && !control.torn
                && matches!(
                    control.state,
                    ControlState::InProduction
                        | ControlState::InCrashRecovery
                        | ControlState::ShuttingDown
                        | ControlState::ShutDown
                )
        });
        if crashed_primary && was_primary && !self.is_standby_cluster() && !self.holds_clients(cluster) {
            self.memory.recovering = true;
            self.start(Job::Start { role: Role::Primary, follow: Upstream::None, after_failure: true });
            return Ok(Some(Verdict::StartingPrimary));
        }
        Ok(None)
    }

    /// PostgreSQL stays down, and somebody else takes over.
    pub(super) fn fail_over_after_crash(&mut self) -> Needs<Verdict> {
        self.note(Level::Info, "Primary crashed. Failing over.");
        self.disable_watchdog = true;
        self.memory.rewind = Rewind::Check;
        self.memory.role = Role::Demoted;
        self.release(None)?;
        self.wake_after = Duration::ZERO;
        Ok(Verdict::CrashFailover)
    }

    /// A primary that died, or was killed while it stopped, is recovered first: pg_rewind and an election need to know
    /// where its WAL ends.
    fn crash_recovery(&mut self, cluster: &Cluster, control: Option<&ControlData>) -> Option<Verdict> {
        let control = control?;
        let unclean = matches!(
            control.state,
            ControlState::InProduction | ControlState::ShuttingDown | ControlState::InCrashRecovery
        );
        if !unclean {
            return None;
        }
        if control.backup_label {
            self.note(
                Level::Info,
                "Skipping single-user crash recovery because backup_label exists; PostgreSQL will handle it during \
                 normal startup",
            );
            return None;
        }
        // A standby that is held has to open for its own standbys, and does so in any case after a clean shutdown only.
        let held = self.has_lock(cluster) && self.holds_clients(cluster);
        let worth_it = cluster.is_unlocked() || self.settings.rewind.use_pg_rewind || held;
        (worth_it && self.memory.crash_recovery_since.is_none()).then(|| self.start_crash_recovery())
    }

    fn start_as_standby(&mut self, cluster: &Cluster, torn: bool) -> Needs<Verdict> {
        let leader_here = self.has_lock(cluster);
        if leader_here && (torn || self.is_kept_out() && !self.is_standby_cluster()) {
            self.release(None)?;
            return Ok(Verdict::NotRunningReleased);
        }
        let verdict = if leader_here && !self.is_standby_cluster() {
            self.memory.rewind = Rewind::Unknown;
            Verdict::StartingReadonly
        } else {
            if matches!(self.memory.rewind, Rewind::Unknown | Rewind::NotNeeded) {
                self.memory.rewind = Rewind::Check;
            }
            if let Some(verdict) = self.rewind_or_reinitialize(cluster)? {
                return Ok(verdict);
            }
            if torn {
                // Also where nobody is there to rewind from.
                return Ok(Verdict::RewindUnfinished);
            }
            if let Some(verdict) = self.wait_for_comparison(cluster) {
                return Ok(verdict);
            }
            match (leader_here, self.is_standby_cluster() && cluster.is_unlocked()) {
                (true, _) => Verdict::StartingStandbyLeader,
                (false, true) => Verdict::StartingRemote,
                (false, false) => Verdict::StartingSecondary,
            }
        };
        let role = if leader_here && self.is_standby_cluster() { Role::StandbyLeader } else { Role::Replica };
        let alone = verdict == Verdict::StartingReadonly || self.waits_for_comparison(cluster);
        let follow = if alone { self.nobody() } else { self.upstream(cluster) };
        self.memory.recovering = true;
        self.memory.comparison_awaited_since = None;
        self.start(Job::Start { role, follow, after_failure: true });
        Ok(verdict)
    }

    /// A former primary gains by waiting until the new one can be compared with: started too early it would only have
    /// to be stopped again for pg_rewind.
    fn wait_for_comparison(&mut self, cluster: &Cluster) -> Option<Verdict> {
        let leader = cluster.leader_name()?;
        let worth_it = self.settings.rewind.use_pg_rewind && !self.is_standby_cluster();
        if self.memory.rewind != Rewind::Check || !worth_it || self.awaited_for_long() {
            return None;
        }
        self.wake_after = self.wake_after.min(Duration::from_millis(500));
        Some(Verdict::RewindWaiting(leader.to_string()))
    }

    /// A start that was ordered did not bring PostgreSQL up. `None`: the lease is kept, and the ordinary rules go on.
    pub(super) fn start_failed(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        self.memory.state = State::StartFailed;
        if !self.has_lock(cluster) {
            self.disable_watchdog = true;
            return Ok(Some(Verdict::StartFailed));
        }
        self.count_failure();
        if self.stays_without_room(cluster)? {
            return Ok(None);
        }
        self.disable_watchdog = true;
        if matches!(self.memory.role, Role::Primary | Role::StandbyLeader) {
            self.memory.role = Role::Demoted;
            self.callbacks.push(Callback::OnRoleChange);
        }
        self.release(None)?;
        Ok(Some(Verdict::StartFailedReleased))
    }
}
