//! What the dynamic configuration says about the cluster as a whole.

use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, SyncState};
use patroni_core::python::PythonText;
use patroni_core::settings::SynchronousMode;
use patroni_core::tags::truthy;
use patroni_core::units::parse_bool;
use serde_json::Value;

/// The settings that change what commands do and show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// `pause`
    pub(crate) paused: bool,
    /// `synchronous_mode`; off in a standby cluster.
    pub(crate) synchronous: SynchronousMode,
    /// `standby_cluster` says where to replicate from.
    pub(crate) standby_cluster: bool,
    /// `loop_wait` in seconds, where set.
    pub(crate) loop_wait: Option<u64>,
}

impl Flags {
    /// Reads them from `/config`.
    pub(crate) fn of(cluster: &Cluster) -> Self {
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
}

/// The content of `/config`.
pub(crate) fn settings(cluster: &Cluster) -> Option<&JsonMap> {
    cluster.config.as_ref()?.data.as_ref()
}

/// The member is among the synchronous standbys. PostgreSQL compares their names without regard to case.
pub(crate) fn is_synchronous(sync: &SyncState, name: &str) -> bool {
    let name = name.to_lowercase();
    sync.leader.is_some() && sync.standbys.iter().any(|standby| standby.as_str().to_lowercase() == name)
}
