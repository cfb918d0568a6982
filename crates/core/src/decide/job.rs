//! A long action: what the loop does while it runs, and what its end means.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick, title};
use crate::cluster::Cluster;
use crate::facts::{JobFact, Outcome};
use crate::health;
use crate::job::{CloneFrom, DemoteMode, Job, JobOutcome, JobView, RewindSource, Stage, Upstream};
use crate::memory::{Rewind, RewindRefusal, Starting};
use crate::plan::JobOrder;
use crate::request::Answer;
use crate::server::{Postmaster, Role, State};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    pub(super) fn job_in_progress(&mut self, cluster: &Cluster, view: &JobView) -> Needs<Verdict> {
        self.announce_job(view);
        if !self.has_lock(cluster) {
            return Ok(self.job_without_lock(cluster, view));
        }
        if let Some(verdict) = self.handed_over(cluster, view)? {
            return Ok(verdict);
        }
        if view.job == Job::Demote(DemoteMode::Hung) {
            // Whatever becomes of it, the lease ends: it is given up when the server is dead, or runs out.
            return Ok(Verdict::JobInProgress(view.title.clone()));
        }
        match self.renew()? {
            Outcome::Done(()) => {}
            Outcome::Refused => return Ok(self.job_without_lock(cluster, view)),
            Outcome::Failed(why) | Outcome::Unknown(why) => return self.store_failure(&why),
        }
        if view.job == Job::CrashRecovery && self.crash_recovery_is_too_slow(cluster)? {
            self.note(Level::Info, "Demoting self because crash recovery is taking too long");
            self.demote(DemoteMode::Immediate);
            return Ok(Verdict::CrashRecoveryTimeout);
        }
        Ok(Verdict::JobWithLock(view.title.clone()))
    }

    /// State and role that others see while a job runs.
    fn announce_job(&mut self, view: &JobView) {
        let up = matches!(self.facts.server.postmaster, Postmaster::Running(_));
        let memory = &mut self.memory;
        match &view.job {
            Job::Clone { .. } | Job::Reinitialize { .. } if !up => {
                memory.state = State::CreatingReplica;
                if matches!(view.stage, Stage::Committed(_) | Stage::Copying(_)) {
                    // What was there is gone, whatever becomes of the copy: half a copy is no data directory.
                    memory.role = Role::Uninitialized;
                    memory.rewind = Rewind::Unknown;
                    memory.rewind_attempts = 0;
                    memory.rewind_refusal = None;
                }
            }
            Job::Bootstrap => memory.state = health::bootstrap_state(&view.stage),
            Job::Restart { .. } => memory.state = State::Restarting,
            Job::Demote(_) | Job::Shutdown | Job::StopImmediate => {
                let stopped = matches!(self.facts.server.postmaster, Postmaster::Stopped(_));
                memory.state = if stopped { State::Stopped } else { State::Stopping };
            }
            Job::Promote
                if matches!(memory.role, Role::Replica | Role::StandbyLeader)
                    && matches!(view.stage, Stage::Committed(_)) =>
            {
                memory.role = Role::Promoted;
            }
            Job::CopySlots { .. } if !up => memory.state = State::Restarting,
            Job::Start { .. } if !up => memory.state = State::Starting,
            Job::Clone { .. }
            | Job::Reinitialize { .. }
            | Job::Promote
            | Job::Start { .. }
            | Job::Follow { .. }
            | Job::CrashRecovery
            | Job::CopySlots { .. }
            | Job::Rewind { .. } => {}
        }
    }

    /// A primary is being stopped: the lease goes to others as soon as that is safe. `None`: not yet.
    fn handed_over(&mut self, cluster: &Cluster, view: &JobView) -> Needs<Option<Verdict>> {
        let (Job::Demote(mode), Stage::ShutDown { checkpoint, previous, exited }) = (&view.job, &view.stage) else {
            return Ok(None);
        };
        match mode {
            DemoteMode::Graceful => self.handover_stopped(cluster, *checkpoint, *previous, *exited).map(Some),
            DemoteMode::Immediate if *exited => {
                self.release(None)?;
                Ok(Some(Verdict::AwaitingNewLeader))
            }
            DemoteMode::Immediate
            | DemoteMode::Hung
            | DemoteMode::Offline
            | DemoteMode::ImmediateNolock
            | DemoteMode::DemoteCluster => Ok(None),
        }
    }

    fn crash_recovery_is_too_slow(&mut self, cluster: &Cluster) -> Needs<bool> {
        let since = self.memory.crash_recovery_since.unwrap_or(self.facts.now.boot);
        let spent = self.facts.now.boot.since(since);
        if spent < self.settings.primary_start_timeout {
            return Ok(false);
        }
        self.failover_possible(cluster, Bar::WithinMaximumLag, false)
    }

    /// Somebody else leads, or nobody: make sure that no primary comes out of this.
    fn job_without_lock(&mut self, cluster: &Cluster, view: &JobView) -> Verdict {
        self.memory.lease_until = None;
        if cluster.is_unlocked() {
            self.note(Level::Info, "not healthy enough for leader race");
        }
        if view.job == Job::Promote && view.stage == Stage::Revocable {
            self.job = JobOrder::Cancel;
            return Verdict::LostBeforePromote;
        }
        if self.memory.bootstrapping || self.settings.paused && !self.primary_is_being_made() {
            return Verdict::JobInProgress(view.title.clone());
        }
        match &view.job {
            Job::Demote(_) | Job::Shutdown | Job::StopImmediate => Verdict::JobInProgress(view.title.clone()),
            Job::Promote
            | Job::Restart { .. }
            | Job::Start { .. }
            | Job::Follow { .. }
            | Job::CrashRecovery
            | Job::Rewind { .. }
            | Job::CopySlots { .. }
            | Job::Bootstrap
            | Job::Clone { .. }
            | Job::Reinitialize { .. } => self.demote_during(cluster, view),
        }
    }

    fn demote_during(&mut self, cluster: &Cluster, view: &JobView) -> Verdict {
        let promoting = view.job == Job::Promote;
        if !promoting && !self.is_or_may_become_primary() {
            if self.starts_to_follow_another(cluster, &view.job) {
                self.job = JobOrder::Cancel;
            } else if let Some(job) = self.copy_of_better_source(cluster, &view.job) {
                self.job = JobOrder::Replace(job);
            }
            return Verdict::JobInProgress(view.title.clone());
        }
        self.note(Level::Info, format!("Demoting primary during {}", view.title));
        self.demote(DemoteMode::ImmediateNolock);
        Verdict::LostDuring(view.title.clone())
    }

    /// A standby that was started when nobody led, or another node, may wait for WAL for ever: its start is not waited for, so that it is
    /// told whom to follow now.
    fn starts_to_follow_another(&self, cluster: &Cluster, job: &Job) -> bool {
        let Job::Start { role: Role::Replica | Role::StandbyLeader, follow, .. } = job else { return false };
        let upstream = self.upstream(cluster);
        upstream != Upstream::None && upstream != *follow
    }

    /// A copy of a node that turned out to hold other WAL than the primary would have to be kept out like that node: it is made anew
    /// from another one.
    fn copy_of_better_source(&mut self, cluster: &Cluster, job: &Job) -> Option<Job> {
        let (Job::Clone { source: CloneFrom::Member(copied), .. }
        | Job::Reinitialize { source: CloneFrom::Member(copied), .. }) = job
        else {
            return None;
        };
        cluster.members.get(&copied.name).filter(|member| member.data.is_kept_out())?;
        let source = self.clone_from(cluster)?;
        self.note(
            Level::Warning,
            format!("{} has other WAL than the primary: the copy of it is given up", copied.name),
        );
        Some(Job::Reinitialize { source, follow: self.upstream_of_copy(cluster) })
    }

    /// What the end of a job means, as far as no operation is needed to know it.
    pub(super) fn end_of_job(&mut self) {
        self.answer_for_replaced();
        let JobFact::Ended(job, outcome) = &self.facts.job else {
            return;
        };
        if let JobOutcome::Failed(why) = outcome {
            self.note(Level::Error, format!("{}: {why}", title(job)));
            if job.brings_up() {
                self.memory.failure = Some(format!("{}: {why}", title(job)));
            }
        }
        self.answer_for(job, outcome);
        let done = *outcome == JobOutcome::Done;
        let now = self.facts.now.boot;
        let memory = &mut self.memory;
        match job {
            Job::Promote if done => {
                memory.role = Role::Primary;
                memory.timeline = None;
                self.wake_after = Duration::ZERO;
            }
            Job::Promote | Job::CrashRecovery | Job::Bootstrap => {}
            Job::Demote(_) | Job::Shutdown | Job::StopImmediate => {
                memory.state = if done { State::Stopped } else { State::StopFailed };
            }
            Job::Restart { as_standby } => {
                if *as_standby && done {
                    memory.role = Role::Replica;
                }
                if *outcome == JobOutcome::StillStarting {
                    let timeout = memory.starting.and_then(|starting| starting.timeout);
                    memory.starting = Some(Starting { since: now, timeout });
                }
            }
            Job::Start { role, .. } => {
                memory.role = *role;
                if done {
                    // It has answered. If it does not now, that is no start any more.
                    memory.state = State::Running;
                }
                // One that is still starting is announced by the handle that started it.
                memory.started = done || *outcome == JobOutcome::StillStarting;
            }
            Job::Clone { .. } | Job::Reinitialize { .. } => {
                memory.timeline = None;
                memory.started = done;
                memory.rewind = Rewind::Unknown;
                memory.role = if done { Role::Replica } else { Role::Uninitialized };
                memory.creation_failed_at = (!done).then_some(now);
            }
            Job::Rewind { source } => self.after_rewind(source, outcome),
            Job::CopySlots { .. } => self.after_copy(outcome),
            Job::Follow { .. } => {}
        }
    }

    /// A restart that gave way to another job did not happen.
    fn answer_for_replaced(&mut self) {
        let restarts = match &self.facts.job {
            JobFact::Running(view) => matches!(view.job, Job::Restart { .. }),
            JobFact::Ended(job, _) => matches!(job, Job::Restart { .. }),
            JobFact::Idle => false,
        };
        if !restarts && let Some(id) = self.memory.answering.take() {
            self.replies.insert(id, Answer::Failed("restart was interrupted by another action".to_owned()));
        }
    }

    fn answer_for(&mut self, job: &Job, outcome: &JobOutcome) {
        if !matches!(job, Job::Restart { .. }) {
            return;
        }
        let Some(id) = self.memory.answering.take() else {
            return;
        };
        let answer = match outcome {
            JobOutcome::Done => Answer::Done("restarted successfully".to_owned()),
            JobOutcome::StillStarting => Answer::Failed("postgres is still starting".to_owned()),
            JobOutcome::Failed(why) => Answer::Failed(format!("restart failed: {why}")),
            JobOutcome::Rewound(_) | JobOutcome::Refused(_) | JobOutcome::PrePromoteFailed | JobOutcome::Cancelled => {
                Answer::Failed("restart failed".to_owned())
            }
        };
        self.replies.insert(id, answer);
    }

    /// What the end of a job calls for. `None`: the ordinary rules go on.
    pub(super) fn after_job(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        if self.memory.bootstrapping {
            return self.after_bootstrap(cluster).map(Some);
        }
        let JobFact::Ended(job, outcome) = &self.facts.job else {
            return Ok(None);
        };
        match (job, outcome) {
            (Job::Promote, JobOutcome::PrePromoteFailed) if !self.is_or_may_become_primary() => {
                self.note(Level::Warning, "Releasing the leader key voluntarily because the pre-promote script failed");
                self.memory.promotion_refused_at = Some(self.facts.now.boot);
                self.memory.role = Role::Replica;
                self.release(None)?;
                Ok(Some(Verdict::PrePromoteFailed))
            }
            (Job::Demote(DemoteMode::Immediate), _)
                if self.has_lock(cluster) && matches!(self.facts.server.postmaster, Postmaster::Stopped(_)) =>
            {
                self.release(None)?;
                self.wake_after = Duration::ZERO;
                Ok(Some(Verdict::AwaitingNewLeader))
            }
            (Job::Demote(DemoteMode::Hung), _) if self.has_lock(cluster) && self.was_killed() => {
                self.release(None)?;
                self.wake_after = Duration::ZERO;
                Ok(Some(Verdict::AwaitingNewLeader))
            }
            (Job::Start { .. } | Job::Restart { .. }, JobOutcome::Failed(_))
                if matches!(self.facts.server.postmaster, Postmaster::Stopped(_)) =>
            {
                self.start_failed(cluster)
            }
            _ => Ok(None),
        }
    }

    fn after_bootstrap(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        match (&self.facts.job, &self.facts.server.postmaster) {
            (JobFact::Ended(Job::Bootstrap | Job::Clone { .. }, JobOutcome::Failed(why)), _) => {
                self.cancel_bootstrap(&why.clone())
            }
            (_, Postmaster::Running(running)) if !running.wal.is_standby() => self.finish_bootstrap(cluster),
            (_, Postmaster::Running(_)) if self.is_standby_cluster() => self.finish_standby_bootstrap(cluster),
            (_, Postmaster::Running(_) | Postmaster::Starting) => {
                self.wake_after = Duration::from_secs(1);
                Ok(Verdict::JobInProgress("waiting for end of recovery after bootstrap".to_owned()))
            }
            (_, Postmaster::Stopped(_) | Postmaster::Stopping | Postmaster::Unreachable(_)) => {
                self.cancel_bootstrap("PostgreSQL does not run")
            }
        }
    }

    fn after_rewind(&mut self, source: &RewindSource, outcome: &JobOutcome) {
        let now = self.facts.now.boot;
        let memory = &mut self.memory;
        memory.timeline = None;
        let refused = memory.rewind_refusal.take();
        match outcome {
            JobOutcome::Done | JobOutcome::Rewound(_) => {
                memory.rewind_attempts = 0;
                memory.rewind = Rewind::Done;
                memory.compared_with = match (source, outcome) {
                    (RewindSource::Leader(leader), JobOutcome::Rewound(Some(timeline))) => {
                        Some((leader.name.clone(), *timeline))
                    }
                    _ => None,
                };
            }
            JobOutcome::Cancelled => {
                memory.rewind_refusal = refused;
                memory.rewind = Rewind::Postponed(now);
            }
            JobOutcome::Refused(why) => {
                memory.rewind = Rewind::Refused(now);
                let times = refused.map_or(1, |refused| refused.times.saturating_add(1));
                memory.rewind_refusal = Some(RewindRefusal { why: why.as_str().into(), times });
                if times == 1 {
                    let text = format!("pg_rewind would stop half-way, and is not begun. Nothing was changed: {why}");
                    self.note(Level::Error, text);
                }
            }
            JobOutcome::Failed(_) | JobOutcome::StillStarting | JobOutcome::PrePromoteFailed => {
                memory.rewind_attempts += 1;
                memory.rewind = Rewind::Failed(now, memory.rewind_attempts);
            }
        }
    }
}
