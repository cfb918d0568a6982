//! A node without the lease: stop being primary, follow the right server, rewind where the timelines parted.

use std::time::Duration;

use super::{Needs, Tick, ask};
use crate::cluster::Cluster;
use crate::facts::{Op, RewindCheck, UpstreamCheck};
use crate::job::{DemoteMode, Job, RewindSource, Upstream};
use crate::lsn::Lsn;
use crate::memory::{Rewind, Stalled};
use crate::plan::Callback;
use crate::server::{Postmaster, Role, Running, Wal};
use crate::time::Moment;
use crate::verdict::{Level, Verdict};

/// How often pg_rewind is tried in a row before only an operator's hand, or the switch that allows a new clone, helps.
const REWIND_ATTEMPTS: u32 = 5;

/// How long a standby may stand still before that is looked into.
const STALL: Duration = Duration::from_secs(10);

/// After how many refusals in a row the pause before the next attempt, which looks at all files, grows no more.
const GROWING_PAUSES: u32 = 6;

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
        if self.promotion_may_come() {
            self.demote(DemoteMode::ImmediateNolock);
            return Ok(demoted);
        }
        if self.settings.paused {
            let upstream = self.upstream(cluster);
            if let Some(verdict) = self.follow_in_pause(cluster, running, &upstream) {
                return Ok(verdict);
            }
        } else if !running.wal.is_standby() {
            let mode = if self.is_standby_cluster() { DemoteMode::DemoteCluster } else { DemoteMode::ImmediateNolock };
            self.demote(mode);
            return Ok(demoted);
        }
        self.take_standby_role(cluster);
        self.look_for_divergence(cluster);
        self.look_for_stall(cluster, running);
        self.look_for_remote_divergence(cluster, running);
        if let Some(verdict) = self.rewind_or_reinitialize(cluster)? {
            return Ok(verdict);
        }
        self.resume_replay = !self.settings.paused && !self.is_kept_out() && pauses_replay(running);
        let following = if self.is_kept_out() { Verdict::KeptOut(self.me().clone()) } else { following };
        let upstream = self.upstream(cluster);
        self.follow_upstream(cluster, upstream, following)
    }

    /// `None`: paused, and there is somebody to follow.
    fn follow_in_pause(&mut self, cluster: &Cluster, running: &Running, upstream: &Upstream) -> Option<Verdict> {
        let rewind = self.memory.rewind == Rewind::Needed && self.rewind_allowed();
        let standby = running.wal.is_standby();
        if rewind && !cluster.is_unlocked() || self.is_kept_out() && standby {
            return None;
        }
        if !standby {
            self.memory.role = Role::Primary;
            return Some(Verdict::PrimaryWithoutLock);
        }
        (*upstream == Upstream::None).then(|| Verdict::NoAction(self.me().clone()))
    }

    pub(super) fn follow_upstream(
        &mut self,
        cluster: &Cluster,
        upstream: Upstream,
        verdict: Verdict,
    ) -> Needs<Verdict> {
        if upstream == Upstream::None && !self.settings.tags.nostream() {
            // Nobody to follow for now: what is set stays, so that replication goes on if the old leader lives.
            return Ok(verdict);
        }
        match ask(&self.facts.answers.upstream, || Op::CheckUpstream(upstream.clone()))?.clone() {
            Ok(UpstreamCheck::UpToDate) => {}
            Ok(_) if self.waits_for_comparison(cluster) => {
                self.wake_after = self.wake_after.min(REWIND_PAUSE);
                return Ok(Verdict::RewindWaiting(self.leader_words(cluster)));
            }
            Ok(check) => {
                self.note(Level::Info, "primary_conninfo has to change");
                if self.memory.rewind != Rewind::Needed && !cluster.is_unlocked() {
                    self.suspect_divergence();
                }
                // The job tells of a change of the role when it is done.
                self.callbacks.retain(|callback| *callback != Callback::OnRoleChange);
                let role = self.memory.role;
                self.start(Job::Follow { upstream, role, restart: check == UpstreamCheck::Restart });
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

    /// A standby that neither streams nor gets on otherwise: is it still possible?
    fn look_for_stall(&mut self, cluster: &Cluster, running: &Running) {
        let Wal::Standby { replication_state, paused, .. } = &running.wal else { return };
        let streams = replication_state.as_deref() == Some("streaming");
        if streams || *paused || !self.depends_on_rewind_source(cluster) {
            self.memory.stalled = None;
            return;
        }
        self.suspect_stall(Some(running.wal.position()), self.facts.now.boot);
    }

    /// How far a standby that starts has come is not known, only since when it starts.
    pub(super) fn look_for_stall_while_starting(&mut self, cluster: &Cluster, since: Moment) {
        if self.depends_on_rewind_source(cluster) {
            self.suspect_stall(None, since);
        }
    }

    /// What this node lacks has to come from the server that it is compared with. The members of a standby cluster follow their leader, which
    /// may have what the remote primary lacks. In pause nothing is removed, whatever is missing.
    fn depends_on_rewind_source(&self, cluster: &Cluster) -> bool {
        let somebody_leads = || cluster.leader_name().is_some_and(|leader| leader != self.me());
        let follows = if self.is_standby_cluster() { self.has_lock(cluster) } else { somebody_leads() };
        follows && !self.settings.paused && !self.settings.tags.nostream() && self.rewind_source(cluster).is_some()
    }

    fn suspect_stall(&mut self, at: Option<Lsn>, since: Moment) {
        let now = self.facts.now.boot;
        let new = Stalled { at, since, suspect: false, told: false, told_of_standstill: false };
        let stalled = self.memory.stalled.get_or_insert(new);
        if stalled.at != at {
            *stalled = new;
        }
        if now.since(stalled.since) >= STALL.max(self.settings.loop_wait * 2) {
            *stalled = Stalled { since: now, suspect: true, ..*stalled };
            if matches!(self.memory.rewind, Rewind::Unknown | Rewind::NotNeeded) {
                self.memory.rewind = Rewind::Check;
            }
        }
    }

    fn is_suspect(&self) -> bool {
        self.memory.stalled.is_some_and(|stalled| stalled.suspect)
    }

    /// Only a standby that has stood still for a while needs what the primary lacks: it may have an archive. With one, a standby that starts
    /// may be getting on.
    fn wal_is_gone(&mut self, cluster: &Cluster, source: &RewindSource, file: &str, archive: bool) -> Option<Verdict> {
        let stalled = self.memory.stalled.as_mut().filter(|stalled| stalled.suspect)?;
        if stalled.at.is_none() && archive {
            return None;
        }
        let was_told = std::mem::replace(&mut stalled.told, true);
        if self.settings.rewind.remove_data_directory_on_missing_wal
            && let Some(source) = self.clone_from(cluster)
        {
            let follow = self.upstream_of_copy(cluster);
            self.start(Job::Reinitialize { source, follow });
            return Some(Verdict::ReinitializingMissingWal);
        }
        if !was_told {
            let archive = if archive { ", and restore_command does not bring it" } else { "" };
            let remedy = self.clone_anew(cluster);
            let text = format!(
                "WAL file {file}, which this node needs next, is no longer on {source}{archive}. Put it into the archive. If nobody has \
                 it: {remedy}; remove_data_directory_on_missing_wal allows that in advance"
            );
            self.note(Level::Error, text);
        }
        None
    }

    /// Its connection is refused, or it has WAL that it cannot read past: PostgreSQL knows, and says so in its log only.
    fn tell_of_standstill(&mut self, cluster: &Cluster, source: &RewindSource) {
        let Some(stalled) = self.memory.stalled.as_mut().filter(|stalled| stalled.suspect) else { return };
        let Some(at) = stalled.at else { return };
        if !std::mem::replace(&mut stalled.told_of_standstill, true) {
            let remedy = self.clone_anew(cluster);
            let text = format!(
                "this node does not stream and stands still at {at}, and its WAL is no reason not to follow {source}: see what PostgreSQL says in \
                 its log. If nothing else helps: {remedy}"
            );
            self.note(Level::Warning, text);
        }
    }

    pub(super) fn rewind_allowed(&self) -> bool {
        self.settings.rewind.use_pg_rewind || self.settings.rewind.remove_data_directory_on_diverged_timelines
    }

    /// Compares with the leader where there is reason to, and starts what follows from it. `None`: nothing stands in
    /// the way of following.
    pub(super) fn rewind_or_reinitialize(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        if let Rewind::Postponed(at) = self.memory.rewind {
            let left = REWIND_PAUSE.saturating_sub(self.facts.now.boot.since(at));
            if let (false, Some(source)) = (left.is_zero(), self.rewind_source(cluster)) {
                self.wake_after = left;
                return Ok(Some(Verdict::RewindWaiting(source.to_string())));
            }
            self.memory.rewind = Rewind::Needed;
        }
        if let Rewind::Failed(..) | Rewind::GivenUp | Rewind::Refused(_) = self.memory.rewind {
            return Ok(self.after_failed_rewind(cluster));
        }
        self.suspect_other_wal(cluster);
        let wanted =
            self.rewind_allowed() || self.is_suspect() || self.is_kept_out() || self.may_hold_other_wal(cluster);
        if !wanted || !matches!(self.memory.rewind, Rewind::Check | Rewind::Needed | Rewind::OtherWal) {
            return Ok(None);
        }
        let Some(source) = self.rewind_source(cluster).filter(|source| !self.remote_was_just_asked(source)) else {
            return Ok(None);
        };
        match ask(&self.facts.answers.rewind, || Op::CheckRewind(source.clone()))?.clone() {
            RewindCheck::NotNeeded => {
                self.memory.rewind = Rewind::NotNeeded;
                self.remember_asking(&source);
                self.tell_of_standstill(cluster, &source);
                if source != RewindSource::Remote {
                    let theirs = cluster.leader_member().and_then(|leader| leader.data.timeline);
                    self.memory.timeline = self.memory.timeline.max(theirs);
                }
                self.remember_comparison(cluster);
                Ok(None)
            }
            RewindCheck::WalGone { file, archive } => {
                self.memory.rewind = Rewind::NotNeeded;
                self.remember_asking(&source);
                self.remember_comparison(cluster);
                Ok(self.wal_is_gone(cluster, &source, &file, archive))
            }
            RewindCheck::Unclear(why) => {
                self.note(Level::Info, format!("cannot compare timelines with {source}: {why}"));
                self.remember_asking(&source);
                if self.is_kept_out() {
                    return Ok(None);
                }
                if self.is_suspect() {
                    // Looked into again after a while.
                    self.memory.rewind = Rewind::Unknown;
                    return Ok(None);
                }
                self.memory.rewind = Rewind::Check;
                if source != RewindSource::Remote {
                    self.wake_after = self.wake_after.min(Duration::from_secs(1));
                }
                Ok(None)
            }
            RewindCheck::Impossible(why) => {
                self.note(Level::Info, format!("timelines are not compared with {source}: {why}"));
                self.remember_asking(&source);
                if !self.is_kept_out() {
                    self.memory.rewind = Rewind::Unknown;
                }
                Ok(None)
            }
            RewindCheck::OtherWal(why) => {
                self.remember_asking(&source);
                Ok(self.keep_out(cluster, &source, &why))
            }
            RewindCheck::Needed(possible) => {
                self.memory.rewind = Rewind::Needed;
                if possible.is_err() {
                    self.remember_asking(&source);
                }
                Ok(self.resolve_divergence(cluster, source, possible))
            }
        }
    }

    fn resolve_divergence(
        &mut self,
        cluster: &Cluster,
        source: RewindSource,
        possible: Result<(), String>,
    ) -> Option<Verdict> {
        let name = source.to_string();
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
        if let Some(verdict) = self.reinitialize_diverged(cluster) {
            return Some(verdict);
        }
        let remedy = self.clone_anew(cluster);
        self.note(Level::Warning, format!("this node diverged from {name} and cannot follow it: {why}. {remedy}"));
        None
    }

    /// Where that was allowed in advance.
    pub(super) fn reinitialize_diverged(&mut self, cluster: &Cluster) -> Option<Verdict> {
        // The members of a standby cluster are copies of a standby: only the remote primary would be worth copying.
        let allowed = self.settings.rewind.remove_data_directory_on_diverged_timelines && !self.is_standby_cluster();
        let source = self.clone_from(cluster).filter(|_| allowed)?;
        let follow = self.upstream_of_copy(cluster);
        self.start(Job::Reinitialize { source, follow });
        Some(Verdict::ReinitializingDiverged)
    }

    /// What people can do where this node may not.
    pub(super) fn clone_anew(&self, cluster: &Cluster) -> String {
        if self.has_lock(cluster) {
            // The leader of a standby cluster: no member can be copied.
            return "Stop this node, remove its data directory and start it again to copy the remote primary"
                .to_owned();
        }
        format!("Run `patronictl reinit {} {}` to clone it anew", self.settings.scope, self.settings.name)
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

    fn after_failed_rewind(&mut self, cluster: &Cluster) -> Option<Verdict> {
        if self.settings.rewind.remove_data_directory_on_rewind_failure
            && let Some(source) = self.clone_from(cluster)
        {
            let follow = self.upstream_of_copy(cluster);
            self.start(Job::Reinitialize { source, follow });
            return Some(Verdict::ReinitializingFailedRewind);
        }
        if let Rewind::Refused(at) = self.memory.rewind {
            return self.after_refused_rewind(cluster, at);
        }
        let Rewind::Failed(at, attempts) = self.memory.rewind else { return Some(Verdict::RewindUnfinished) };
        if attempts >= REWIND_ATTEMPTS {
            self.memory.rewind = Rewind::GivenUp;
            let remedy = self.clone_anew(cluster);
            self.note(
                Level::Error,
                format!("pg_rewind failed {attempts} times. {remedy}, or set remove_data_directory_on_rewind_failure"),
            );
            return Some(Verdict::RewindUnfinished);
        }
        if self.facts.now.boot.since(at) >= self.settings.loop_wait {
            self.memory.rewind = Rewind::Needed;
            self.wake_after = Duration::ZERO;
        }
        let source = self.rewind_source(cluster)?;
        Some(Verdict::RewindWaiting(source.to_string()))
    }

    /// What is in the way may have been taken out of it.
    fn after_refused_rewind(&mut self, cluster: &Cluster, at: Moment) -> Option<Verdict> {
        self.rewind_source(cluster)?;
        let refusal = self.memory.rewind_refusal.clone()?;
        let pause = self.settings.loop_wait * refusal.times.min(GROWING_PAUSES);
        if self.facts.now.boot.since(at) >= pause {
            self.memory.rewind = Rewind::Needed;
            self.wake_after = Duration::ZERO;
        }
        Some(Verdict::RewindRefused(refusal.why))
    }
}

/// A standby whose settings are smaller than those of its primary pauses at the record that says so (14 and later; earlier
/// ones shut down). When it is told to go on it shuts down, and is started with larger ones.
fn pauses_replay(running: &Running) -> bool {
    running.server_version >= 140_000 && matches!(running.wal, Wal::Standby { paused: true, .. })
}
