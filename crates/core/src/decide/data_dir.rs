//! What lies in the data directory, before anything is done with it.

use std::time::Duration;

use super::{Needs, Tick};
use crate::cluster::{Cluster, Initialize};
use crate::facts::InitializeWrite;
use crate::job::{DemoteMode, Job};
use crate::name::SystemId;
use crate::plan::Exit;
use crate::server::{DataDir, Postmaster, Role, Running};
use crate::verdict::{Level, Verdict};

impl Tick<'_> {
    /// `None`: a data directory of this cluster; go on.
    pub(super) fn data_dir(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        match &self.facts.server.data_dir {
            DataDir::Empty => self.no_data_dir(cluster, None).map(Some),
            DataDir::Inaccessible(why) => self.no_data_dir(cluster, Some(why.clone())).map(Some),
            DataDir::Unknown(why) => Ok(self.data_dir_not_seen(why)),
            DataDir::Invalid(why) => {
                self.note(Level::Error, format!("cannot read the system identifier: {why}"));
                self.system_id_not_seen(cluster)
            }
            DataDir::Present(id) => self.check_system_id(cluster, *id),
        }
    }

    /// A server that runs is judged by what it says. One that does not run cannot be started now. Its lease is not prolonged: either the
    /// data directory answers before it ends, or somebody else takes over.
    fn data_dir_not_seen(&mut self, why: &str) -> Option<Verdict> {
        if !matches!(self.facts.server.postmaster, Postmaster::Stopped(_)) {
            return None;
        }
        self.wake_after = Duration::from_secs(1);
        Some(Verdict::DataDirInaccessible(why.to_owned()))
    }

    /// A primary with the lease is the one that was there when its identifier could be read; 4.1.5 does not read it again. Without the lease it
    /// may be any. What is not a primary cannot become one of this cluster: others get the lease.
    fn system_id_not_seen(&mut self, cluster: &Cluster) -> Needs<Option<Verdict>> {
        let may_write = self.is_or_may_become_primary() || self.promotion_may_come();
        match (may_write, self.has_lock(cluster)) {
            (true, true) => return Ok(None),
            (true, false) if !self.settings.paused => {
                self.demote(DemoteMode::ImmediateNolock);
                return Ok(Some(Verdict::DemotedNoLock));
            }
            (false, true) => _ = self.release(None)?,
            (_, false) => {}
        }
        Ok(Some(Verdict::DataDirInvalid))
    }

    fn no_data_dir(&mut self, cluster: &Cluster, inaccessible: Option<String>) -> Needs<Verdict> {
        self.memory.role = Role::Uninitialized;
        self.memory.started = false;
        self.memory.timeline = None;
        self.disable_watchdog = true;
        // The lease is given up when nothing runs any more: until then this may be a primary that accepts writes.
        if self.stop_orphan() {
            let what = inaccessible.map_or_else(|| "is gone".to_owned(), |why| format!("is not accessible ({why})"));
            self.note(
                Level::Warning,
                format!("the data directory {what}, but PostgreSQL is still running: stopping it"),
            );
            return Ok(Verdict::DataDirInaccessible("PostgreSQL still runs on it".to_owned()));
        }
        if self.has_lock(cluster) {
            self.release(None)?;
            return Ok(Verdict::DataDirReleased { empty: inaccessible.is_none() });
        }
        match inaccessible {
            Some(why) => Ok(Verdict::DataDirInaccessible(why)),
            None if self.settings.paused => Ok(Verdict::DataDirEmptyPaused),
            None => self.create_data_dir(cluster),
        }
    }

    /// Stops a server that lost its data directory.
    fn stop_orphan(&mut self) -> bool {
        if matches!(self.facts.server.postmaster, Postmaster::Stopped(_)) {
            return false;
        }
        self.wake_after = Duration::ZERO;
        self.start(Job::StopImmediate);
        true
    }

    /// Nothing of another cluster is left running without an agent.
    fn stop_foreign(&mut self) -> bool {
        if matches!(self.facts.server.postmaster, Postmaster::Stopped(_)) {
            return false;
        }
        self.wake_after = Duration::ZERO;
        self.start(Job::Shutdown);
        true
    }

    fn check_system_id(&mut self, cluster: &Cluster, local: SystemId) -> Needs<Option<Verdict>> {
        match &cluster.initialize {
            Initialize::Done(id) if *id == local => Ok(None),
            Initialize::Done(id) => self.foreign_system(cluster, *id, local).map(Some),
            Initialize::Absent | Initialize::Invalid(..)
                if cluster.is_unlocked() && !self.settings.paused && !self.memory.started =>
            {
                self.adopt_existing(local)
            }
            Initialize::InProgress(_) => {
                self.clear_stale_initialize(cluster)?;
                if cluster.is_unlocked() && !self.settings.paused && !self.memory.bootstrapping {
                    if self.is_or_may_become_primary() {
                        self.demote(DemoteMode::ImmediateNolock);
                        return Ok(Some(Verdict::DemotedNoLock));
                    }
                    return Ok(Some(Verdict::WaitingForLeader { standby: self.is_standby_cluster() }));
                }
                Ok(None)
            }
            Initialize::Absent | Initialize::Invalid(..) => Ok(None),
        }
    }

    fn foreign_system(&mut self, cluster: &Cluster, id: SystemId, local: SystemId) -> Needs<Verdict> {
        let mismatch = Verdict::SystemIdMismatch { cluster: id, local };
        if !self.settings.paused {
            self.note(
                Level::Critical,
                format!(
                    "system ID mismatch, node {} belongs to a different cluster: {id} != {local}",
                    self.settings.name
                ),
            );
            self.note(
                Level::Critical,
                "If this data directory is of no use any more, remove it and start again: it will be cloned. \
                 If it is the right one, remove the stale cluster from the store with patronictl remove.",
            );
            if self.stop_foreign() {
                return Ok(mismatch);
            }
            if self.has_lock(cluster) {
                self.release(None)?;
            }
            self.exit = Some(Exit::Fatal);
            return Ok(mismatch);
        }
        self.note(
            Level::Warning,
            format!(
                "system ID has changed while in paused mode. Patroni will exit when resuming unless system ID is \
                 reset: {id} != {local}"
            ),
        );
        if self.has_lock(cluster) {
            self.release(None)?;
            return Ok(Verdict::SystemIdReleased);
        }
        Ok(mismatch)
    }

    /// A data directory from before the cluster was in the store: it becomes the cluster, unless it is a standby, which
    /// only a standby cluster can begin with.
    fn adopt_existing(&mut self, local: SystemId) -> Needs<Option<Verdict>> {
        if let Postmaster::Running(Running { wal, .. }) = &self.facts.server.postmaster
            && wal.is_standby()
            && !self.is_standby_cluster()
        {
            self.note(Level::Error, "No initialize key in DCS and PostgreSQL is running as replica, aborting start");
            self.note(Level::Error, "Please first start Patroni on the node running as primary");
            self.exit = Some(Exit::Fatal);
            return Ok(Some(Verdict::StandbyWithoutCluster));
        }
        let outcome = self.initialize(InitializeWrite::Finish(local))?;
        self.note_failure("write the initialize key", &outcome);
        if outcome.is_done() {
            return Ok(None);
        }
        // Another node may have been faster: look again before anything is started under a wrong assumption.
        self.wake_after = Duration::from_secs(1);
        Ok(Some(Verdict::BootstrapLost))
    }
}
