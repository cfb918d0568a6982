//! The local PostgreSQL server as an inspection finds it.

use std::collections::BTreeMap;
use std::fmt;

use crate::JsonMap;
use crate::lsn::{Lsn, Timeline};
use crate::name::SystemId;

/// Data directory and postmaster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// What lies in the data directory.
    pub data_dir: DataDir,
    /// What the postmaster does.
    pub postmaster: Postmaster,
    /// The data directory bears the mark of one that holds other WAL than the primary did on the same timeline.
    pub other_wal: bool,
}

impl Server {
    /// What it says, if it answers.
    pub fn running(&self) -> Option<&Running> {
        match &self.postmaster {
            Postmaster::Running(running) => Some(running),
            Postmaster::Stopped(_) | Postmaster::Starting | Postmaster::Stopping | Postmaster::Unreachable(_) => None,
        }
    }

    /// It answers, and is in recovery.
    pub fn is_standby(&self) -> bool {
        self.running().is_some_and(|running| running.wal.is_standby())
    }

    /// It answers, and accepts writes.
    pub fn is_primary(&self) -> bool {
        self.running().is_some_and(|running| !running.wal.is_standby())
    }
}

/// The state of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataDir {
    /// Missing or empty.
    Empty,
    /// Cannot be read: the system refuses it. The text says why.
    Inaccessible(String),
    /// It was not found out: it did not answer in time, or the machine had no room to look. Nothing follows from that.
    Unknown(String),
    /// Not empty, but no system identifier can be read from it; the text says why.
    Invalid(String),
    /// A database system.
    Present(SystemId),
}

/// The state of the postmaster.
#[allow(clippy::large_enum_variant)] // There is one at a time; a box would only hide it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Postmaster {
    /// No postmaster on this data directory. The content of `pg_control`, where it can be read.
    Stopped(Option<ControlData>),
    /// Alive, not yet accepting connections.
    Starting,
    /// Alive, being shut down.
    Stopping,
    /// Alive and answering.
    Running(Running),
    /// Alive, and it should answer, but it does not; the text says why.
    Unreachable(String),
}

/// What `pg_controldata` knows of a stopped server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ControlData {
    /// "Database cluster state".
    pub state: ControlState,
    /// "Latest checkpoint location": where the last checkpoint record begins.
    pub checkpoint: Lsn,
    /// "Latest checkpoint's TimeLineID".
    pub checkpoint_timeline: Timeline,
    /// "Minimum recovery ending location".
    pub min_recovery_end: Lsn,
    /// "Min recovery ending loc's timeline"; 0 where there is none.
    pub min_recovery_timeline: Timeline,
    /// `standby.signal` or `recovery.signal` is there: it would start as a standby.
    pub standby_signal: bool,
    /// `backup_label` is there: restored from a base backup and not yet recovered.
    pub backup_label: bool,
    /// pg_rewind was begun on it and did not end well: neither what it was nor what it should be. Not started before a rewind
    /// or a clone has succeeded.
    pub torn: bool,
}

/// "Database cluster state" of `pg_controldata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlState {
    /// `starting up`
    StartingUp,
    /// `shut down`: a primary, stopped cleanly.
    ShutDown,
    /// `shut down in recovery`: a standby, stopped cleanly.
    ShutDownInRecovery,
    /// `shutting down`
    ShuttingDown,
    /// `in crash recovery`
    InCrashRecovery,
    /// `in archive recovery`: a standby, or it died as one.
    InArchiveRecovery,
    /// `in production`: a primary, or it died as one.
    InProduction,
    /// `unrecognized status code`, or a text that this version does not know.
    Unrecognized,
}

/// A server that answers queries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Running {
    /// Start of the postmaster, as Patroni prints it: `2024-08-28 19:39:26.352526+00:00`.
    pub start_time: String,
    /// `server_version_num`, such as 150018.
    pub server_version: u32,
    /// When the statistics of its background processes were last reset, which PostgreSQL does whenever it recovers from a crash: so
    /// crashes are noticed that it overcame by itself. `None` where it does not say.
    pub statistics_reset: Option<String>,
    /// Primary or standby, and where its WAL is.
    pub wal: Wal,
    /// The timeline: of the WAL written (primary) or received (standby; `None` while that is not known).
    pub timeline: Option<Timeline>,
    /// The timeline by `pg_control_checkpoint()`.
    pub control_timeline: Option<Timeline>,
    /// `pg_stat_replication`, as far as it is used.
    pub replication: Vec<Replication>,
    /// `pg_replication_slots`, by name.
    pub slots: BTreeMap<String, Slot>,
    /// Settings that wait for a restart, by name: `{"old_value": ..., "new_value": ...}`.
    pub pending_restart: JsonMap,
}

/// Position in the WAL, by role.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wal {
    /// Not in recovery.
    Primary {
        /// `pg_current_wal_lsn()` (flushed position).
        location: Lsn,
    },
    /// In recovery.
    Standby {
        /// Position received by the WAL receiver.
        received: Option<Lsn>,
        /// Position replayed.
        replayed: Option<Lsn>,
        /// Time of the last transaction replayed, as Patroni prints it.
        replayed_timestamp: Option<String>,
        /// Replay is paused.
        paused: bool,
        /// The last end of WAL the sender told about (`latest_end_lsn` of the WAL receiver): how far the primary was.
        latest_end: Option<Lsn>,
        /// `streaming`, `in archive recovery`; `None` while neither is known.
        replication_state: Option<String>,
    },
}

impl Wal {
    /// The position that counts in an election: written, or the larger of received and replayed.
    pub fn position(&self) -> Lsn {
        match self {
            Wal::Primary { location } => *location,
            Wal::Standby { received, replayed, .. } => received.unwrap_or_default().max(replayed.unwrap_or_default()),
        }
    }

    /// In recovery.
    pub fn is_standby(&self) -> bool {
        matches!(self, Wal::Standby { .. })
    }
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replication {
    /// `usename`
    pub user: String,
    /// `application_name`: the member's name.
    pub application_name: String,
    /// `client_addr`
    pub client_addr: Option<String>,
    /// `state`: `streaming`, `catchup`, `backup`, ...
    pub state: String,
    /// `sync_state`: `async`, `sync`, `quorum`, `potential`.
    pub sync_state: String,
    /// `sync_priority`
    pub sync_priority: i64,
    /// `flush_lsn`
    pub flush_lsn: Option<Lsn>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Physical, or logical with its plugin and database.
    pub kind: SlotKind,
    /// In use by a connection.
    pub active: bool,
    /// `restart_lsn`
    pub restart_lsn: Option<Lsn>,
    /// `confirmed_flush_lsn` (logical)
    pub confirmed_flush_lsn: Option<Lsn>,
    /// `xmin` is set.
    pub holds_xmin: bool,
    /// `catalog_xmin`
    pub catalog_xmin: Option<Xid>,
    /// `wal_status` is `lost`.
    pub lost: bool,
    /// Created for PostgreSQL's own synchronisation of slots (17 and later).
    pub failover: bool,
    /// Synchronised by the server itself (17 and later).
    pub synced: bool,
    /// Since when nobody has used it (17 and later).
    pub inactive_since: Option<String>,
}

impl Slot {
    /// PostgreSQL itself brings it to the standbys: nothing is done to it here.
    pub fn is_of_postgresql(&self) -> bool {
        self.failover || self.synced
    }
}

/// A transaction number. They go round: which of two is older is known as long as they are less than 2^31 apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xid(pub u32);

impl Xid {
    /// Not older than `other`.
    pub fn reaches(self, other: Xid) -> bool {
        self.0.wrapping_sub(other.0) < 1 << 31
    }
}

impl std::str::FromStr for Xid {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Xid)
    }
}

/// What a slot is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// Physical replication.
    Physical,
    /// Logical decoding.
    Logical {
        /// Output plugin.
        plugin: String,
        /// Database.
        database: String,
    },
}

/// The role a member announces. Displayed in Patroni's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// No data directory yet.
    Uninitialized,
    /// Follows.
    Replica,
    /// Accepts writes.
    Primary,
    /// Told to become primary, not yet out of recovery.
    Promoted,
    /// Was primary and is being, or has been, stopped.
    Demoted,
    /// Leader of a standby cluster.
    StandbyLeader,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Uninitialized => "uninitialized",
            Role::Replica => "replica",
            Role::Primary => "primary",
            Role::Promoted => "promoted",
            Role::Demoted => "demoted",
            Role::StandbyLeader => "standby_leader",
        })
    }
}

/// The state of PostgreSQL a member announces. Displayed in Patroni's words; the numbers are those of its metric
/// `patroni_postgres_state` and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// `initdb` runs.
    Initdb = 0,
    /// `initdb` failed.
    InitdbFailed = 1,
    /// A custom bootstrap script runs.
    CustomBootstrap = 2,
    /// The custom bootstrap script failed.
    CustomBootstrapFailed = 3,
    /// A replica is being cloned.
    CreatingReplica = 4,
    /// Up and accepting connections.
    Running = 5,
    /// Started, not yet accepting connections.
    Starting = 6,
    /// Started by a bootstrap, not yet accepting connections.
    BootstrapStarting = 7,
    /// The start failed.
    StartFailed = 8,
    /// A restart is under way.
    Restarting = 9,
    /// The restart failed.
    RestartFailed = 10,
    /// Being stopped.
    Stopping = 11,
    /// Not running.
    Stopped = 12,
    /// The stop failed.
    StopFailed = 13,
    /// Died.
    Crashed = 14,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Initdb => "initializing new cluster",
            State::InitdbFailed => "initdb failed",
            State::CustomBootstrap => "running custom bootstrap script",
            State::CustomBootstrapFailed => "custom bootstrap failed",
            State::CreatingReplica => "creating replica",
            State::Running => "running",
            State::Starting => "starting",
            State::BootstrapStarting => "starting after custom bootstrap",
            State::StartFailed => "start failed",
            State::Restarting => "restarting",
            State::RestartFailed => "restart failed",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::StopFailed => "stop failed",
            State::Crashed => "crashed",
        })
    }
}
