//! The settings a decision depends on: typed, complete, immutable for the length of a tick.
//!
//! `patroni-config` makes them from the configuration file, the environment and the key `/config`.

use std::time::Duration;

use crate::JsonMap;
use crate::cluster::Version;
use crate::name::MemberName;
use crate::tags::Tags;

/// Settings of the agent, of the cluster, and of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `scope`: the name of the cluster.
    pub scope: String,
    /// `name`: the name of this member.
    pub name: MemberName,
    /// The version of `/config` these settings were made from; `None` before it was read for the first time.
    pub config_version: Option<Version>,
    /// `ttl`: how long a lease lasts.
    pub ttl: Duration,
    /// `loop_wait`: the longest pause between two ticks.
    pub loop_wait: Duration,
    /// `retry_timeout`: how long an operation on the store or on PostgreSQL may be retried.
    pub retry_timeout: Duration,
    /// `maximum_lag_on_failover`, in bytes.
    pub maximum_lag_on_failover: u64,
    /// `check_timeline`: candidates on an old timeline are refused.
    pub check_timeline: bool,
    /// `primary_start_timeout`: how long a crashed primary may take to come back before others may take over.
    pub primary_start_timeout: Duration,
    /// `primary_stop_timeout`: limit of a stop in synchronous mode; zero for none.
    pub primary_stop_timeout: Duration,
    /// `pause`: nothing is done to PostgreSQL.
    pub paused: bool,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// `synchronous_mode` and what belongs to it.
    pub synchronous: Synchronous,
    /// `standby_cluster`, if it names a host, a port or a restore_command.
    pub standby_cluster: Option<StandbyCluster>,
    /// `slots`, `ignore_slots`, `member_slots_ttl`, `postgresql.use_slots`.
    pub slots: SlotSettings,
    /// `max_timelines_history`; zero for no limit.
    pub max_timelines_history: usize,
    /// `tags` of this member.
    pub tags: Tags,
    /// There is a `bootstrap` section: this node may initialize a new cluster.
    pub can_bootstrap: bool,
    /// A replica can be made without a leader (a `create_replica_methods` entry with `no_leader`).
    pub can_clone_without_leader: bool,
    /// What to do with a former primary that diverged.
    pub rewind: RewindSettings,
}

/// `synchronous_mode` and its companions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Synchronous {
    /// `synchronous_mode`.
    pub mode: SynchronousMode,
    /// `synchronous_mode_strict`.
    pub strict: bool,
    /// `synchronous_node_count`.
    pub node_count: u32,
    /// `maximum_lag_on_syncnode`, in bytes; `None` for no limit.
    pub maximum_lag: Option<u64>,
    /// `synchronous_mode_hold`: a former primary comes back as primary only when its standbys have all it has.
    pub hold: bool,
}

/// `synchronous_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SynchronousMode {
    /// Not managed.
    #[default]
    Off,
    /// `on`: named standbys.
    On,
    /// `quorum`: any of a set.
    Quorum,
}

/// `standby_cluster`: the remote primary and how to follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StandbyCluster {
    /// `host`, possibly several, separated by commas.
    pub host: Option<String>,
    /// `port`, possibly several.
    pub port: Option<String>,
    /// `primary_slot_name`.
    pub primary_slot_name: Option<String>,
    /// `restore_command`.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command`.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay`.
    pub recovery_min_apply_delay: Option<String>,
    /// `create_replica_methods`.
    pub create_replica_methods: Vec<String>,
}

/// Which replication slots are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotSettings {
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `slots` (also `permanent_slots`, `permanent_replication_slots`), as written.
    pub permanent: JsonMap,
    /// `ignore_slots`: each a set of properties that all have to match.
    pub ignore: Vec<JsonMap>,
    /// `member_slots_ttl`: how long the slot of a member is kept after its key is gone; zero for not at all.
    pub member_slots_ttl: Duration,
}

/// `use_pg_rewind` and the two switches that allow a new clone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RewindSettings {
    /// `use_pg_rewind`.
    pub use_pg_rewind: bool,
    /// `remove_data_directory_on_rewind_failure`.
    pub remove_data_directory_on_rewind_failure: bool,
    /// `remove_data_directory_on_diverged_timelines`.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// `remove_data_directory_on_missing_wal`: of a standby whose WAL is gone from the primary (not in Patroni).
    pub remove_data_directory_on_missing_wal: bool,
}
