//! From an empty data directory to a member of the cluster.

use std::time::Duration;

use super::{Needs, Tick};
use crate::cluster::{Cluster, Initialize};
use crate::facts::{InitializeWrite, Op, Outcome};
use crate::job::{CloneFrom, CloneSource, DemoteMode, Job};
use crate::plan::Callback;
use crate::server::{Role, State};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// Bootstraps, clones, or waits.
    pub(super) fn create_data_dir(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        if let Some(left) = self.creation_backoff() {
            self.wake_after = left;
            return Ok(Verdict::CreationBackoff(left.as_secs_f64().ceil() as u64));
        }
        self.clear_stale_initialize(cluster)?;
        if cluster.is_unlocked()
            && cluster.initialize == Initialize::Absent
            && self.settings.can_bootstrap
            && !self.settings.tags.nofailover()
        {
            return self.begin_bootstrap();
        }
        if let Some(source) = self.clone_from(cluster) {
            return Ok(self.clone_replica(cluster, source));
        }
        if self.settings.can_clone_without_leader && !matches!(cluster.initialize, Initialize::InProgress(_)) {
            return Ok(self.clone_replica(cluster, CloneFrom::Backup));
        }
        Ok(Verdict::WaitingForLeader { standby: self.is_standby_cluster() })
    }

    fn clone_replica(&mut self, cluster: &Cluster, source: CloneFrom) -> Verdict {
        let from = source.to_string();
        let follow = self.upstream_of_copy(cluster);
        self.memory.state = State::CreatingReplica;
        self.start(Job::Clone { source, follow });
        Verdict::Cloning(from)
    }

    /// An agent that died while it made a new cluster leaves an empty `/initialize` behind. Where no member has said
    /// for a whole `ttl` that it is at it, the key is removed and the race begins anew.
    pub(super) fn clear_stale_initialize(&mut self, cluster: &Cluster) -> Needs<()> {
        let somebody_is_at_it = cluster.members.values().any(|m| m.name != *self.me() && m.data.is_bootstrapping());
        let abandoned = match &cluster.initialize {
            Initialize::InProgress(version) if cluster.is_unlocked() && !somebody_is_at_it => Some(*version),
            Initialize::Absent | Initialize::InProgress(_) | Initialize::Done(_) | Initialize::Invalid(..) => None,
        };
        let since = self.memory.initialize_stale_since.take();
        let Some(version) = abandoned else { return Ok(()) };
        let now = self.facts.now.boot;
        // Of another version: somebody has begun anew since, and may not have said so yet.
        let since = since.filter(|(of, _)| *of == version).map_or(now, |(_, since)| since);
        if now.since(since) < self.settings.ttl {
            self.memory.initialize_stale_since = Some((version, since));
            return Ok(());
        }
        self.note(
            Level::Warning,
            "the node that was making a new cluster is gone: removing its initialize key to try again",
        );
        let outcome = self.initialize(InitializeWrite::Cancel)?;
        self.note_failure("remove the initialize key", &outcome);
        self.wake_after = Duration::ZERO;
        Ok(())
    }

    fn creation_backoff(&self) -> Option<Duration> {
        let failed_at = self.memory.creation_failed_at?;
        let until = failed_at + self.settings.loop_wait;
        (until > self.facts.now.boot).then(|| until.since(self.facts.now.boot))
    }

    fn begin_bootstrap(&mut self) -> Needs<Verdict> {
        match self.initialize(InitializeWrite::Begin)? {
            Outcome::Done(()) if self.is_standby_cluster() => Ok(self.bootstrap_standby_leader()),
            Outcome::Done(()) => {
                self.memory.bootstrapping = true;
                self.memory.state = State::Initdb;
                self.start(Job::Bootstrap);
                Ok(Verdict::Bootstrapping)
            }
            Outcome::Refused => Ok(Verdict::BootstrapLost),
            other => {
                // An unknown outcome may have left an empty key behind; nobody would ever remove it but an operator.
                self.note_failure("create the initialize key", &other);
                Ok(Verdict::BootstrapLost)
            }
        }
    }

    /// The member to clone: a running one with the tag `clonefrom`, else the leader. Several nodes spread over several
    /// sources by their names. The leader of a standby cluster copies the remote primary.
    pub(super) fn clone_from(&self, cluster: &Cluster) -> Option<CloneFrom> {
        if self.copies_remote(cluster) {
            return Some(CloneFrom::Remote);
        }
        let leader = cluster.leader_name().filter(|leader| *leader != self.me())?;
        let offered: Vec<_> = cluster
            .members
            .values()
            .filter(|m| m.data.tags.clonefrom() && m.data.is_running() && m.data.conn_url.is_some())
            .filter(|m| m.name != *self.me() && m.name != *leader)
            .collect();
        let spread: usize = self.me().as_str().bytes().map(usize::from).sum();
        let member = match offered.len() {
            0 => cluster.leader_member()?,
            n => offered[spread % n],
        };
        Some(CloneFrom::Member(CloneSource {
            name: member.name.clone(),
            conn_url: member.data.conn_url.clone()?,
            is_leader: member.name == *leader,
        }))
    }

    /// The bootstrap job made a running primary: now it becomes the cluster.
    pub(super) fn finish_bootstrap(&mut self, cluster: &Cluster) -> Needs<Verdict> {
        let Some(id) = self.system_id() else {
            return self.cancel_bootstrap("the new data directory cannot be read");
        };
        let initialized = self.initialize(InitializeWrite::Finish(id))?;
        if initialized == Outcome::Refused {
            // This node's data is of no cluster now; the check of the system identifier takes it from here.
            self.note(Level::Error, "another node initialized the cluster");
            self.memory.bootstrapping = false;
            self.wake_after = Duration::ZERO;
            return Ok(Verdict::BootstrapLost);
        }
        if !initialized.is_done() {
            self.note_failure("write the initialize key", &initialized);
            return Ok(Verdict::JobInProgress("bootstrap".to_owned()));
        }
        let version = cluster.config.as_ref().map(|config| config.version);
        let config = super::ask(&self.facts.answers.config, || Op::WriteConfig(version))?.clone();
        self.note_failure("write the dynamic configuration", &config);
        if !self.activate_watchdog()? {
            self.note(Level::Error, "Cancelling bootstrap because watchdog activation failed");
            self.memory.bootstrapping = false;
            return Ok(Verdict::WatchdogNotPromoting);
        }
        match self.acquire()? {
            Outcome::Done(()) => {}
            Outcome::Refused => {
                self.memory.bootstrapping = false;
                self.demote(DemoteMode::ImmediateNolock);
                return Ok(Verdict::DemotedLostRace);
            }
            other => {
                self.note_failure("take the leader key", &other);
                // With the lease others may copy this node, and one of them is elected when it ends: from here on the
                // ordinary rules go for this primary.
                self.memory.bootstrapping = !matches!(other, Outcome::Unknown(_));
                return Ok(Verdict::JobInProgress("bootstrap".to_owned()));
            }
        }
        self.memory.bootstrapping = false;
        self.memory.role = Role::Primary;
        self.memory.state = State::Running;
        self.memory.started = true;
        self.callbacks.push(Callback::OnStart);
        self.wake_after = Duration::ZERO;
        Ok(Verdict::Initialized)
    }

    /// The bootstrap failed; the job has stopped PostgreSQL and moved the data directory out of the way.
    pub(super) fn cancel_bootstrap(&mut self, why: &str) -> Needs<Verdict> {
        self.note(Level::Error, format!("Failed to bootstrap cluster: {why}"));
        self.note(Level::Info, "removing initialize key after failed attempt to bootstrap the cluster");
        let outcome = super::ask(&self.facts.answers.initialize, || Op::Initialize(InitializeWrite::Cancel))?.clone();
        self.note_failure("remove the initialize key", &outcome);
        self.memory.bootstrapping = false;
        self.memory.creation_failed_at = Some(self.facts.now.boot);
        self.memory.role = Role::Uninitialized;
        Ok(Verdict::BootstrapFailed)
    }
}
