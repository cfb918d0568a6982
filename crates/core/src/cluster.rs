//! The cluster as the store shows it: one consistent snapshot of all keys below `/service/SCOPE/`.
//!
//! `patroni-dcs` reads and writes these types; their JSON lives in its module `wire` and nowhere else.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::JsonMap;
use crate::lsn::{Lsn, Timeline};
use crate::name::{MemberName, SystemId};
use crate::peer::DIVERGED;
use crate::tags::Tags;
use crate::time::WallTime;

mod address;
mod roles;

pub use address::Address;
pub use roles::is_synchronous;

/// The version of one key (etcd: its mod revision). Compare-and-swap writes name the version they replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// One snapshot of the cluster's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// `/initialize`: who or what the cluster is.
    pub initialize: Initialize,
    /// `/config`: the dynamic configuration, if it has been written.
    pub config: Option<ClusterConfig>,
    /// `/leader`: who holds the lease.
    pub leader: Option<Leader>,
    /// `/members/*`, by name.
    pub members: BTreeMap<MemberName, Member>,
    /// `/status`: the last position of the leader and its slots.
    pub status: Status,
    /// `/failover`: the request for a switchover or failover.
    pub failover: Option<FailoverRequest>,
    /// `/sync`: who has all that was acknowledged.
    pub sync: SyncState,
    /// `/history`: the timelines so far.
    pub history: Option<History>,
    /// `/failsafe`: names and REST addresses of the members known at the last renewal of the lease.
    pub failsafe: Option<BTreeMap<MemberName, String>>,
}

impl Cluster {
    /// The holder of the leader key.
    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    /// The member object of the leader; `None` without a leader or while its member key is gone.
    pub fn leader_member(&self) -> Option<&Member> {
        self.members.get(self.leader_name()?)
    }

    /// The dynamic configuration as it is stored; [`crate::settings::Dynamic`] reads it.
    pub fn settings(&self) -> Option<&JsonMap> {
        self.config.as_ref()?.data.as_ref()
    }

    /// Nobody holds the leader key.
    pub fn is_unlocked(&self) -> bool {
        self.leader.is_none()
    }

    /// The timeline of the last known primary by `/history`: 0 where unknown, 1 where the history is empty.
    pub fn timeline(&self) -> Timeline {
        let Some(history) = &self.history else {
            return Timeline(0);
        };
        match (history.lines.last(), history.raw == "[]") {
            (Some(line), _) => line.timeline().map_or(Timeline(0), |t| Timeline(t.0 + 1)),
            (None, true) => Timeline(1),
            (None, false) => Timeline(0),
        }
    }
}

/// The key `/initialize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Initialize {
    /// No key: nobody has started a bootstrap.
    #[default]
    Absent,
    /// An empty value: some node is bootstrapping right now. The version tells one from the next.
    InProgress(Version),
    /// The system identifier of the cluster.
    Done(SystemId),
    /// Something that is no system identifier.
    Invalid(String, Version),
}

/// The key `/leader`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    /// The member that holds the lease.
    pub name: MemberName,
    /// Version of the key; changes only when the key is created anew (its creation, not its renewal, in etcd).
    pub version: Version,
    /// The lease or session the key is attached to, as the backend knows it.
    pub session: Option<String>,
}

/// A key below `/members/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The last part of the key.
    pub name: MemberName,
    /// Version of the key.
    pub version: Version,
    /// The lease or session the key is attached to.
    pub session: Option<String>,
    /// The content of the key.
    pub data: MemberData,
}

impl Member {
    /// Its name and the address of its REST API, if it has one.
    pub fn address(&self) -> Option<(MemberName, String)> {
        Some((self.name.clone(), self.data.api_url.clone()?))
    }
}

/// What a member tells about itself. Everything is optional: the key is written by other versions, and by anybody
/// who can write to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MemberData {
    /// Where PostgreSQL can be reached: `postgres://host:port/database`.
    pub conn_url: Option<String>,
    /// Where the REST API can be reached: `http://host:port/patroni`.
    pub api_url: Option<String>,
    /// A proxy in front of PostgreSQL, for clients.
    pub proxy_url: Option<String>,
    /// State of PostgreSQL; the words of [`crate::server::State`], or others of other versions.
    pub state: Option<String>,
    /// Role; the words of [`crate::server::Role`], or `master` from older versions.
    pub role: Option<String>,
    /// Version of Patroni.
    pub version: Option<String>,
    /// The position of its WAL: written (primary), or the larger of received and replayed (replica).
    pub xlog_location: Option<Lsn>,
    /// Received position (replica).
    pub receive_lsn: Option<Lsn>,
    /// Replayed position (replica).
    pub replay_lsn: Option<Lsn>,
    /// `streaming`, `in archive recovery`, ...
    pub replication_state: Option<String>,
    /// Current timeline.
    pub timeline: Option<Timeline>,
    /// Tags.
    pub tags: Tags,
    /// PostgreSQL has to be restarted for settings to take effect.
    pub pending_restart: bool,
    /// Which settings, from what to what: `{"max_connections": {"old_value": "100", "new_value": "101"}}`.
    pub pending_restart_reason: JsonMap,
    /// A restart that was asked for at a later time: `{"schedule": "...", ...}`.
    pub scheduled_restart: Option<JsonMap>,
    /// False while a new primary has not yet written its first checkpoint (`pg_rewind` must wait for it); absent
    /// otherwise.
    pub checkpoint_after_promote: Option<bool>,
    /// Logical slots that a failover from or to this member would lose, and why. Members of other versions do not tell.
    pub slots_at_risk: BTreeMap<String, String>,
    /// The member saw the cluster paused.
    pub pause: bool,
    /// Keys that this version does not know, kept for display.
    pub extra: JsonMap,
}

impl MemberData {
    /// PostgreSQL is up.
    pub fn is_running(&self) -> bool {
        self.state.as_deref() == Some("running")
    }

    /// Holds other WAL than the primary on the same timeline, by its own word.
    pub fn is_kept_out(&self) -> bool {
        self.replication_state.as_deref() == Some(DIVERGED)
    }

    /// Is making a new cluster.
    pub fn is_bootstrapping(&self) -> bool {
        matches!(
            self.state.as_deref(),
            Some("initializing new cluster" | "running custom bootstrap script" | "starting after custom bootstrap")
        )
    }

    /// Announces itself as primary (`master` in the words of older versions).
    pub fn is_primary(&self) -> bool {
        matches!(self.role.as_deref(), Some("primary" | "master"))
    }
}

/// The key `/config`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterConfig {
    /// Version of the key.
    pub version: Version,
    /// The dynamic configuration; `None` if the value is not a JSON object.
    pub data: Option<JsonMap>,
}

/// The key `/status` (older: `/optime/leader`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status {
    /// The last position of the leader's WAL.
    pub last_lsn: Lsn,
    /// Positions of the slots on the leader.
    pub slots: BTreeMap<String, Lsn>,
    /// Member slots to keep for members that are away: slot names.
    pub retain_slots: Vec<String>,
}

/// The key `/failover`: a request of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FailoverRequest {
    /// Version of the key.
    pub version: Version,
    /// The leader to switch away from. Present: a switchover; absent: a manual failover.
    pub leader: Option<MemberName>,
    /// The member to switch to.
    pub candidate: Option<MemberName>,
    /// When; only for a switchover.
    pub scheduled_at: Option<Schedule>,
}

/// A time that somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// A readable time and its text in ISO 8601.
    At(WallTime, String),
    /// Not a time, or one without offset.
    Invalid(String),
}

/// The key `/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SyncState {
    /// Version of the key; `None` where it is absent.
    pub version: Option<Version>,
    /// The primary that wrote it.
    pub leader: Option<MemberName>,
    /// The synchronous standbys, in the order written.
    pub standbys: Vec<MemberName>,
    /// How many of the others a candidate has to see (quorum commit); 0 otherwise.
    pub quorum: u32,
}

/// The key `/history`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Version of the key.
    pub version: Version,
    /// The value as stored.
    pub raw: String,
    /// Its lines; empty if the value is not a list of lists.
    pub lines: Vec<HistoryLine>,
}

/// One line of the history, as stored: timeline, position, reason, time, new leader. Other versions write fewer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HistoryLine(pub Vec<Value>);

impl HistoryLine {
    /// The timeline that ended.
    pub fn timeline(&self) -> Option<Timeline> {
        let value = self.0.first()?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u32::try_from(number).ok().map(Timeline)
    }

    /// Who was promoted then, where the line says so.
    pub fn leader(&self) -> Option<MemberName> {
        self.0.get(4)?.as_str().filter(|name| !name.is_empty()).map(MemberName::from)
    }

    /// Where it ended.
    pub fn switchpoint(&self) -> Option<Lsn> {
        self.0.get(1)?.as_u64().map(Lsn)
    }
}
