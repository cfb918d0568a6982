//! A standby cluster: its leader holds a lease as any leader does, and follows a remote primary instead of being one.

use std::time::Duration;

use super::candidates::Bar;
use super::{Needs, Tick};
use crate::cluster::{Cluster, FailoverRequest, Initialize};
use crate::facts::{InitializeWrite, Outcome};
use crate::job::{CloneFrom, Job, RewindSource, Upstream};
use crate::memory::Rewind;
use crate::server::{Role, Running, State, Wal};
use crate::verdict::{Action, Level, Verdict};

impl Tick<'_> {
    pub(super) fn is_standby_cluster(&self) -> bool {
        self.settings.standby_cluster.is_some()
    }

    /// There is a remote server to connect to, not only an archive.
    fn has_remote_address(&self) -> bool {
        self.settings.standby_cluster.as_ref().is_some_and(|section| section.host.is_some() || section.port.is_some())
    }

    /// Holding the lease: follow the remote primary.
    pub(super) fn lead_standby_cluster(
        &mut self,
        cluster: &Cluster,
        running: &Running,
        verdict: Verdict,
    ) -> Needs<Verdict> {
        self.follow(cluster, running, Verdict::DemotedStandbyCluster, verdict)
    }

    /// The role of this standby, told by a callback where nothing else tells it.
    pub(super) fn take_standby_role(&mut self, cluster: &Cluster) {
        let leads = self.is_standby_cluster() && self.has_lease(cluster);
        let role = if leads { Role::StandbyLeader } else { Role::Replica };
        let changes = [Role::StandbyLeader, Role::Replica].contains(&self.memory.role) && self.memory.role != role;
        self.memory.role = role;
        if changes && self.memory.started {
            self.callbacks.push(crate::plan::Callback::OnRoleChange);
        }
    }

    /// By the snapshot, or won in this tick; and not given up in it.
    fn has_lease(&self, cluster: &Cluster) -> bool {
        let answers = &self.facts.answers;
        let won = answers.acquire.as_ref().is_some_and(Outcome::is_done);
        (self.has_lock(cluster) || won) && answers.release.is_none()
    }

    /// A new cluster that begins as a copy of the remote primary.
    pub(super) fn bootstrap_standby_leader(&mut self) -> Verdict {
        self.memory.bootstrapping = true;
        self.memory.state = State::CreatingReplica;
        self.start(Job::Clone { source: CloneFrom::Remote, follow: Upstream::Remote });
        Verdict::BootstrappingStandbyLeader
    }

    /// The copy runs: it becomes the cluster.
    pub(super) fn finish_standby_bootstrap(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        let Some(id) = self.system_id() else {
            return self.cancel_bootstrap("the new data directory cannot be read");
        };
        let initialized = self.initialize(InitializeWrite::Finish(id))?;
        if !initialized.is_done() && initialized != Outcome::Refused {
            self.note_failure("write the initialize key", &initialized);
            return Ok(Verdict::JobInProgress("bootstrap_standby_leader".to_owned()));
        }
        // From here on it is a standby like any other. The race for the lease, the dynamic configuration and a system
        // identifier that somebody else has written are for the ordinary rules.
        self.memory.bootstrapping = false;
        self.memory.started = true;
        self.wake_after = Duration::ZERO;
        if initialized == Outcome::Refused {
            self.note(Level::Error, "another node initialized the cluster");
            return Ok(Verdict::BootstrapLost);
        }
        match self.acquire()? {
            Outcome::Done(()) => self.take_standby_role(cluster),
            other => self.note_failure("take the leader key", &other),
        }
        Ok(Verdict::Initialized)
    }

    /// No other member of the standby cluster has a claim to be the one to copy.
    pub(super) fn copies_remote(&self, cluster: &Cluster) -> bool {
        let alone = || cluster.members.keys().all(|name| name == self.me());
        let left = cluster.is_unlocked() && matches!(cluster.initialize, Initialize::Done(_)) && alone();
        self.is_standby_cluster() && (self.has_lock(cluster) || left)
    }

    /// Whom to compare with: in a standby cluster always the remote primary, because its leader is a standby itself.
    pub(super) fn rewind_source(&self, cluster: &Cluster) -> Option<RewindSource> {
        if self.is_standby_cluster() {
            return self.has_remote_address().then_some(RewindSource::Remote);
        }
        let leader = cluster.leader_member()?;
        self.upstream_member(leader).map(RewindSource::Leader)
    }

    /// The remote primary was asked, without a result, less than a `loop_wait` ago. It may be far away, or gone for long:
    /// it is not asked in every tick.
    pub(super) fn remote_was_just_asked(&self, source: &RewindSource) -> bool {
        let recent = |asked| self.facts.now.boot.since(asked) < self.settings.loop_wait;
        *source == RewindSource::Remote && self.memory.remote_asked_at.is_some_and(recent)
    }

    pub(super) fn remember_asking(&mut self, source: &RewindSource) {
        if *source == RewindSource::Remote {
            self.memory.remote_asked_at = Some(self.facts.now.boot);
        }
    }

    /// A standby that diverged from the remote primary, or whose leader was rewound, cannot stream. Whoever streams need not
    /// be compared.
    pub(super) fn look_for_remote_divergence(&mut self, cluster: &Cluster, running: &Running) {
        let Wal::Standby { replication_state, .. } = &running.wal else { return };
        let streams = replication_state.as_deref() == Some("streaming");
        if self.is_standby_cluster()
            && self.has_remote_address()
            && self.upstream(cluster) != Upstream::None
            && !streams
            && matches!(self.memory.rewind, Rewind::Unknown | Rewind::NotNeeded)
        {
            self.memory.rewind = Rewind::Check;
        }
    }

    /// A standby leader writes nothing: there is no last WAL to wait for, and nothing to stop.
    pub(super) fn hand_over_standby_cluster(
        &mut self,
        cluster: &Cluster,
        request: &FailoverRequest,
        running: Option<&Running>,
        what: Action,
    ) -> Needs<Option<Verdict>> {
        if !self.failover_possible(cluster, Bar::WithinMaximumLag, false)? {
            return self.refuse_handover(request, what).map(|()| None);
        }
        self.release(running.map(|running| running.wal.position()))?;
        self.memory.handover = None;
        self.memory.role = Role::Replica;
        if self.memory.started {
            self.callbacks.push(crate::plan::Callback::OnRoleChange);
        }
        self.wake_after = Duration::from_millis(500);
        Ok(Some(Verdict::AwaitingNewLeader))
    }
}
