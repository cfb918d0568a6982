//! What the dynamic configuration says about the cluster as a whole, for those who have no settings of their own or
//! look at a newer snapshot: the REST API and patronictl.

use serde_json::Value;

use super::{Cluster, Member, SyncState};
use crate::JsonMap;
use crate::python::PythonText;
use crate::settings::SynchronousMode;
use crate::tags::truthy;
use crate::units::parse_bool;

/// The settings that change what is shown, and what can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `pause`
    pub paused: bool,
    /// `synchronous_mode`; off in a standby cluster.
    pub synchronous: SynchronousMode,
    /// `standby_cluster` says where to replicate from.
    pub standby_cluster: bool,
    /// `loop_wait` in seconds, where set.
    pub loop_wait: Option<u64>,
}

impl Flags {
    /// Reads them from `/config`.
    pub fn of(cluster: &Cluster) -> Self {
        let get = |name: &str| settings(cluster).and_then(|config| config.get(name));
        let is_on = |name: &str| get(name).and_then(parse_bool) == Some(true);
        let standby_cluster = get("standby_cluster").and_then(Value::as_object).is_some_and(|section| {
            ["host", "port", "restore_command"].iter().any(|key| section.get(*key).is_some_and(truthy))
        });
        let quorum = get("synchronous_mode").is_some_and(|mode| mode.python_text().to_lowercase() == "quorum");
        let synchronous = match (standby_cluster, quorum) {
            (true, _) => SynchronousMode::Off,
            (false, true) => SynchronousMode::Quorum,
            (false, false) if is_on("synchronous_mode") => SynchronousMode::On,
            (false, false) => SynchronousMode::Off,
        };
        let loop_wait = get("loop_wait").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        Flags { paused: is_on("pause"), synchronous, standby_cluster, loop_wait }
    }

    /// The role of a member by the word of the store: `leader`, `standby_leader`, `sync_standby`, `quorum_standby` or
    /// `replica`.
    pub fn role(self, cluster: &Cluster, member: &Member) -> &'static str {
        if cluster.leader_name() == Some(&member.name) {
            return if self.standby_cluster { "standby_leader" } else { "leader" };
        }
        match self.synchronous {
            SynchronousMode::On if is_synchronous(&cluster.sync, member.name.as_str()) => "sync_standby",
            SynchronousMode::Quorum if is_synchronous(&cluster.sync, member.name.as_str()) => "quorum_standby",
            SynchronousMode::On | SynchronousMode::Quorum | SynchronousMode::Off => "replica",
        }
    }
}

/// The content of `/config`.
pub fn settings(cluster: &Cluster) -> Option<&JsonMap> {
    cluster.config.as_ref()?.data.as_ref()
}

/// The member is among the synchronous standbys. PostgreSQL compares their names without regard to case.
pub fn is_synchronous(sync: &SyncState, name: &str) -> bool {
    let name = name.to_lowercase();
    sync.leader.is_some() && sync.standbys.iter().any(|standby| standby.as_str().to_lowercase() == name)
}
