//! A node without the lease: stop being primary, follow the right server, rewind where the timelines parted.

use std::time::Duration;

use super::{Needs, Tick, ask};
use crate::cluster::Cluster;
use crate::facts::{Op, RewindCheck, UpstreamCheck};
use crate::job::{DemoteMode, Job, Upstream};
use crate::memory::Rewind;
use crate::server::{Postmaster, Role, Running};
use crate::verdict::{Level, Verdict};

/// How often pg_rewind is tried in a row before only an operator's hand, or the switch that allows a new clone, helps.
const REWIND_ATTEMPTS: u32 = 5;

/// The pause before a rewind that was put off is tried again.
const REWIND_PAUSE: Duration = Duration::from_secs(1);

impl Tick<'_> {
    pub(super) fn follow(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        demoted: Verdict,
        following: Verdict,
    ) -> Needs<Verdict> {
        let upstream = self.upstream(cluster);
        if self.settings.paused {
            if let Some(verdict) = self.follow_in_pause(cluster, running, &upstream) {
                return Ok(verdict);
            }
        } else if !running.wal.is_standby() {
            let mode = if self.is_standby_cluster() { DemoteMode::Offline } else { DemoteMode::ImmediateNolock };
            self.demote(mode);
            return Ok(demoted);
        }
        if self.memory.role != Role::StandbyLeader || !self.has_lock(cluster) {
            self.memory.role = Role::Replica;
        }
        self.look_for_divergence(cluster);
        if let Some(verdict) = self.rewind_or_reinitialize(cluster)? {
            return Ok(verdict);
        }
        self.follow_upstream(cluster, upstream, following)
    }

    /// `None`: paused, and there is somebody to follow.
    fn follow_in_pause(&mut self, cluster: &Cluster, running: &Running, upstream: &Upstream) -> Option<Verdict> {
        let rewind = self.memory.rewind == Rewind::Needed && self.rewind_allowed();
        if rewind && !cluster.is_unlocked() {
            return None;
        }
        if !running.wal.is_standby() {
            self.memory.role = Role::Primary;
            return Some(Verdict::PrimaryWithoutLock);
        }
        (*upstream == Upstream::None).then(|| Verdict::NoAction(self.me().clone()))
    }

    fn follow_upstream(&mut self, cluster: &Cluster, upstream: Upstream, verdict: Verdict) -> Needs<Verdict> {
        if upstream == Upstream::None && !self.settings.tags.nostream() {
            // Nobody to follow for now: what is set stays, so that replication goes on if the old leader lives.
            return Ok(verdict);
        }
        match ask(&self.facts.answers.upstream, || Op::CheckUpstream(upstream.clone()))?.clone() {
            Ok(UpstreamCheck::UpToDate) => {}
            Ok(check) => {
                self.note(Level::Info, "primary_conninfo has to change");
                if self.memory.rewind != Rewind::Needed && !cluster.is_unlocked() {
                    self.memory.rewind = Rewind::Check;
                }
                self.start(Job::Follow { upstream, restart: check == UpstreamCheck::Restart });
            }
            Err(why) => self.note(Level::Warning, format!("cannot find out what PostgreSQL follows: {why}")),
        }
        Ok(verdict)
    }

    /// The leader is on a later timeline than this node was ever seen on: did we branch off before it?
    fn look_for_divergence(&mut self, cluster: &Cluster) {
        let leader = cluster.leader_member().filter(|member| member.name != *self.me());
        let theirs = leader.and_then(|member| member.data.timeline);
        if let (Some(mine), Some(theirs)) = (self.memory.timeline, theirs)
            && mine < theirs
            && matches!(self.memory.rewind, Rewind::Unknown | Rewind::NotNeeded)
        {
            self.memory.rewind = Rewind::Check;
        }
    }

    fn rewind_allowed(&self) -> bool {
        self.settings.rewind.use_pg_rewind || self.settings.rewind.remove_data_directory_on_diverged_timelines
    }

    /// Compares with the leader where there is reason to, and starts what follows from it. `None`: nothing stands in
    /// the way of following.
    pub(super) fn rewind_or_reinitialize(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        if let Rewind::Postponed(at) = self.memory.rewind {
            let left = REWIND_PAUSE.saturating_sub(self.facts.now.boot.since(at));
            if let (false, Some(leader)) = (left.is_zero(), cluster.leader_name()) {
                self.wake_after = left;
                return Ok(Some(Verdict::RewindWaiting(leader.clone())));
            }
            self.memory.rewind = Rewind::Needed;
        }
        if let Rewind::Failed(at, attempts) = self.memory.rewind {
            return Ok(self.after_failed_rewind(cluster, at, attempts));
        }
        if !self.rewind_allowed() || !matches!(self.memory.rewind, Rewind::Check | Rewind::Needed) {
            return Ok(None);
        }
        let Some(source) = cluster.leader_member().and_then(|leader| self.upstream_member(leader)) else {
            return Ok(None);
        };
        if self.is_standby_cluster() {
            // The leader is a standby itself; the remote primary is compared by a later issue's rules.
            return Ok(None);
        }
        match ask(&self.facts.answers.rewind, || Op::CheckRewind(source.clone()))?.clone() {
            RewindCheck::NotNeeded => {
                self.memory.rewind = Rewind::NotNeeded;
                let theirs = cluster.leader_member().and_then(|leader| leader.data.timeline);
                self.memory.timeline = self.memory.timeline.max(theirs);
                Ok(None)
            }
            RewindCheck::Unclear(why) => {
                self.note(Level::Info, format!("cannot compare timelines with {}: {why}", source.name));
                self.memory.rewind = Rewind::Check;
                self.wake_after = self.wake_after.min(Duration::from_secs(1));
                Ok(None)
            }
            RewindCheck::Needed(possible) => {
                self.memory.rewind = Rewind::Needed;
                Ok(self.resolve_divergence(cluster, source, possible))
            }
        }
    }

    fn resolve_divergence(
        &mut self,
        cluster: &Cluster,
        source: crate::job::UpstreamMember,
        possible: Result<(), String>,
    ) -> Option<Verdict> {
        let name = source.name.clone();
        let why = match possible {
            Ok(()) if self.settings.rewind.use_pg_rewind => {
                if self.needs_clean_shutdown() && self.memory.crash_recovery_since.is_none() {
                    return Some(self.start_crash_recovery());
                }
                self.start(Job::Rewind { source });
                return Some(Verdict::Rewinding(name));
            }
            Ok(()) => "use_pg_rewind is off".to_owned(),
            Err(why) => why,
        };
        if self.settings.rewind.remove_data_directory_on_diverged_timelines
            && let Some(source) = self.clone_from(cluster)
        {
            let follow = self.upstream(cluster);
            self.start(Job::Reinitialize { source, follow });
            return Some(Verdict::ReinitializingDiverged);
        }
        self.note(
            Level::Warning,
            format!(
                "this node diverged from {name} and cannot follow it: {why}. Run `patronictl reinit {} {}` to clone \
                 it anew",
                self.settings.scope, self.settings.name
            ),
        );
        None
    }

    /// pg_rewind refuses a standby that died in recovery.
    fn needs_clean_shutdown(&self) -> bool {
        matches!(
            &self.facts.server.postmaster,
            Postmaster::Stopped(Some(control)) if control.state == crate::server::ControlState::InArchiveRecovery
        )
    }

    pub(super) fn start_crash_recovery(&mut self) -> Verdict {
        self.memory.crash_recovery_since = Some(self.facts.now.boot);
        self.start(Job::CrashRecovery);
        Verdict::CrashRecovery
    }

    fn after_failed_rewind(&mut self, cluster: &Cluster, at: crate::time::Moment, attempts: u32) -> Option<Verdict> {
        if self.settings.rewind.remove_data_directory_on_rewind_failure
            && let Some(source) = self.clone_from(cluster)
        {
            let follow = self.upstream(cluster);
            self.start(Job::Reinitialize { source, follow });
            return Some(Verdict::ReinitializingFailedRewind);
        }
        if attempts >= REWIND_ATTEMPTS {
            self.note(
                Level::Error,
                format!(
                    "pg_rewind failed {attempts} times. Run `patronictl reinit {} {}` to clone this node anew, or set \
                     remove_data_directory_on_rewind_failure",
                    self.settings.scope, self.settings.name
                ),
            );
            return Some(Verdict::NotRunning);
        }
        if self.facts.now.boot.since(at) >= self.settings.loop_wait {
            self.memory.rewind = Rewind::Needed;
            self.wake_after = Duration::ZERO;
        }
        let leader = cluster.leader_name()?.clone();
        Some(Verdict::RewindWaiting(leader))
    }
}
