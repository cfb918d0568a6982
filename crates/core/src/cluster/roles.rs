//! The roles of members by the word of the store.

use super::{Cluster, Member, SyncState};
use crate::settings::{Dynamic, SynchronousMode};

impl Cluster {
    /// The role of a member: `leader`, `standby_leader`, `sync_standby`, `quorum_standby` or `replica`.
    pub fn role_of(&self, member: &Member, dynamic: &Dynamic) -> &'static str {
        if self.leader_name() == Some(&member.name) {
            return if dynamic.standby_cluster.is_some() { "standby_leader" } else { "leader" };
        }
        match dynamic.synchronous.mode {
            SynchronousMode::On if is_synchronous(&self.sync, member.name.as_str()) => "sync_standby",
            SynchronousMode::Quorum if is_synchronous(&self.sync, member.name.as_str()) => "quorum_standby",
            SynchronousMode::On | SynchronousMode::Quorum | SynchronousMode::Off => "replica",
        }
    }
}

/// The member is among the synchronous standbys. PostgreSQL compares their names without regard to case.
pub fn is_synchronous(sync: &SyncState, name: &str) -> bool {
    let name = name.to_lowercase();
    sync.leader.is_some() && sync.standbys.iter().any(|standby| standby.as_str().to_lowercase() == name)
}
