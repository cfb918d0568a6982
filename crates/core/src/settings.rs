//! The settings a decision depends on: typed, complete, immutable for the length of a tick.
//!
//! [`Dynamic`] reads the key `/config`, for everybody. `patroni-config` adds what comes from the configuration file and the
//! environment.

mod disk;
mod dynamic;
mod reader;
mod timing;

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::JsonMap;
use crate::cluster::Version;
use crate::disk::Threshold;
use crate::name::MemberName;
use crate::tags::Tags;

pub use disk::{disk_free_warning, full_wal_switchover};
pub use dynamic::{Dynamic, Reading};
pub use reader::Unusable;
pub use timing::{Adjustment, Timing};

/// Settings of the agent, of the cluster, and of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// `scope`: the name of the cluster.
    pub scope: String,
    /// `name`: the name of this member.
    pub name: MemberName,
    /// The version of `/config` these settings were made from; `None` before it was read for the first time.
    pub config_version: Option<Version>,
    /// The settings that the whole cluster shares, which can be read as if they stood here.
    pub dynamic: Dynamic,
    /// What the key `/config` says and cannot be used, for people: `ttl is "abc", but must be ...`.
    pub unusable: Vec<String>,
    /// `tags` of this member.
    pub tags: Tags,
    /// There is a `bootstrap` section: this node may initialize a new cluster.
    pub can_bootstrap: bool,
    /// A replica can be made without a leader (a `create_replica_methods` entry with `no_leader`).
    pub can_clone_without_leader: bool,
    /// What to do with a former primary that diverged.
    pub rewind: RewindSettings,
}

/// `disk_free_warning` and `full_wal_switchover` (neither is in Patroni).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DiskSettings {
    /// `disk_free_warning`: less free room than this is reported.
    pub warning: Threshold,
    /// `full_wal_switchover`.
    pub switchover: FullWalSwitchover,
}

/// `full_wal_switchover`: when a leader without room for WAL hands over to a standby that has room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FullWalSwitchover {
    /// `off`: never.
    Off,
    /// `crash`: when PostgreSQL has crashed, so that it is known that it cannot write.
    #[default]
    Crash,
    /// `on`: as soon as the next segment does not fit.
    On,
}

impl Deref for Settings {
    type Target = Dynamic;

    fn deref(&self) -> &Dynamic {
        &self.dynamic
    }
}

impl DerefMut for Settings {
    fn deref_mut(&mut self) -> &mut Dynamic {
        &mut self.dynamic
    }
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
