//! Long actions on PostgreSQL: what can be ordered, how far one is, how it ended.
//!
//! At most one job exists. It owns the only handle that can start or stop PostgreSQL or write its files; the loop
//! watches it and goes on renewing the lease.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::json;

use crate::JsonMap;
use crate::lsn::{Lsn, Timeline};
use crate::name::MemberName;
use crate::server::{Role, SlotKind};
use crate::time::Moment;

/// Where a standby takes its WAL from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// Nobody: no `primary_conninfo` (only the archive, if there is one).
    None,
    /// Nobody, and no archive either: what it would bring belongs to another history.
    Isolated,
    /// A member of this cluster.
    Member(UpstreamMember),
    /// The remote primary of a standby cluster (its address is in the settings).
    Remote,
}

/// A member to stream from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamMember {
    /// Its name.
    pub name: MemberName,
    /// Its `conn_url`.
    pub conn_url: String,
    /// The replication slot to use there, if slots are in use.
    pub slot: Option<String>,
}

/// Why and how a primary is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DemoteMode {
    /// Planned: checkpoint first, fast shutdown, the lease is released when a successor has everything.
    Graceful,
    /// The store cannot be reached and the lease ends: fast shutdown.
    Offline,
    /// Fail over quickly: immediate shutdown, then release the lease.
    Immediate,
    /// The server hangs: its processes are killed, then the lease is released.
    Hung,
    /// The lease is lost: immediate shutdown.
    ImmediateNolock,
    /// The cluster has become a standby cluster: planned shutdown, the last WAL is archived, and the lease is kept.
    DemoteCluster,
}

impl fmt::Display for DemoteMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DemoteMode::Graceful => "graceful",
            DemoteMode::Offline => "offline",
            DemoteMode::Immediate => "immediate",
            DemoteMode::Hung => "hung",
            DemoteMode::ImmediateNolock => "immediate-nolock",
            DemoteMode::DemoteCluster => "demote-cluster",
        })
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// Make a new cluster: initdb (or the custom method), start, users, post_bootstrap.
    Bootstrap,
    /// Make a replica, then start it.
    Clone {
        /// What to copy.
        source: CloneFrom,
        /// Whom to follow afterwards.
        follow: Upstream,
    },
    /// Stop, remove the data directory, and clone.
    Reinitialize {
        /// What to copy.
        source: CloneFrom,
        /// Whom to follow afterwards.
        follow: Upstream,
    },
    /// Start as the role says; `Replica` writes the standby settings first.
    Start {
        /// Primary after a crash, or a standby.
        role: Role,
        /// Whom to follow, as a standby.
        follow: Upstream,
        /// Started again after it died, or after a rewind.
        after_failure: bool,
    },
    /// Restart in the present role.
    Restart {
        /// As a standby of nobody instead: a primary whose clients are held back until its standbys have everything.
        as_standby: bool,
    },
    /// Change what a running standby follows.
    Follow {
        /// Whom.
        upstream: Upstream,
        /// As what: a replica, or the leader of a standby cluster.
        role: Role,
        /// The change needs a restart of PostgreSQL.
        restart: bool,
    },
    /// Become primary.
    Promote,
    /// Stop being primary: stop PostgreSQL. The next ticks start it again as a standby.
    Demote(DemoteMode),
    /// Crash recovery in single-user mode, so that pg_rewind finds a clean shutdown.
    CrashRecovery,
    /// pg_rewind.
    Rewind {
        /// The primary to take pages from.
        source: RewindSource,
    },
    /// Copy logical slots from the primary to this standby, which is restarted for it.
    CopySlots {
        /// The primary.
        source: UpstreamMember,
        /// The slots, as they should be.
        slots: BTreeMap<String, SlotKind>,
    },
    /// Stop PostgreSQL because the agent stops.
    Shutdown,
    /// Stop PostgreSQL that runs on a data directory that is gone, and the like.
    StopImmediate,
}

impl Job {
    /// PostgreSQL is to run when it has ended.
    pub fn brings_up(&self) -> bool {
        match self {
            Job::Bootstrap
            | Job::Clone { .. }
            | Job::Reinitialize { .. }
            | Job::Start { .. }
            | Job::Restart { .. }
            | Job::Follow { .. }
            | Job::CrashRecovery
            | Job::Rewind { .. }
            | Job::CopySlots { .. } => true,
            Job::Promote | Job::Demote(_) | Job::Shutdown | Job::StopImmediate => false,
        }
    }
}

/// The primary with which a node is compared, and from which it is rewound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RewindSource {
    /// The leader of this cluster.
    Leader(UpstreamMember),
    /// The remote primary of a standby cluster (its address is in the settings).
    Remote,
}

impl fmt::Display for RewindSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RewindSource::Leader(member) => member.name.fmt(f),
            RewindSource::Remote => f.write_str("the remote primary"),
        }
    }
}

/// What a replica is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CloneFrom {
    /// A member of this cluster.
    Member(CloneSource),
    /// The remote primary of a standby cluster.
    Remote,
    /// A backup: by methods that need no connection to a server (`no_leader`).
    Backup,
}

impl fmt::Display for CloneFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloneFrom::Member(source) => {
                write!(f, "from {} '{}'", if source.is_leader { "leader" } else { "replica" }, source.name)
            }
            CloneFrom::Remote => f.write_str("from remote primary"),
            CloneFrom::Backup => f.write_str("(without leader)"),
        }
    }
}

/// The member that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CloneSource {
    /// Its name.
    pub name: MemberName,
    /// Its `conn_url`.
    pub conn_url: String,
    /// It is the leader, not a replica.
    pub is_leader: bool,
}

/// The job that runs, as the loop and the REST API see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobView {
    /// Which.
    pub job: Job,
    /// Patroni's words for it: `bootstrap from leader 'a'`, `restarting after failure`, `promote`, ...
    pub title: String,
    /// When it began.
    pub since: Moment,
    /// How far it is.
    pub stage: Stage,
}

impl JobView {
    /// As `/patroni` and the member's key show it.
    pub fn shown(&self) -> JsonMap {
        let mut shown = JsonMap::from_iter([("title".to_owned(), self.title.as_str().into())]);
        match &self.stage {
            Stage::Committed(text) => _ = shown.insert("progress".to_owned(), text.as_str().into()),
            Stage::Copying(copied) => {
                shown.insert("progress".to_owned(), copied.to_string().into());
                shown.insert("bytes".to_owned(), json!(copied.bytes));
                shown.extend(copied.total.map(|total| ("total_bytes".to_owned(), json!(total))));
                shown.extend(copied.percent().map(|percent| ("percent".to_owned(), json!(percent))));
            }
            Stage::Revocable | Stage::ShutDown { .. } => {}
        }
        shown
    }
}

/// How far a copy of a data directory, whole or in parts, is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Copied {
    /// Whom it comes from.
    pub from: String,
    /// How much there is.
    pub bytes: u64,
    /// How much it will be, where that is known. An estimate: the source goes on writing.
    pub total: Option<u64>,
    /// Since when it runs.
    pub took: Duration,
}

impl Copied {
    /// Of the whole; at most 100.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total.filter(|total| *total > 0)?;
        Some((u128::from(self.bytes) * 100 / u128::from(total)).min(100) as u64)
    }
}

impl fmt::Display for Copied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "copied {} MB", self.bytes >> 20)?;
        if let (Some(total), Some(percent)) = (self.total, self.percent()) {
            write!(f, " of {} MB ({percent} %)", total >> 20)?;
        }
        let per_second = self.bytes / self.took.as_secs().max(1);
        write!(f, " from {}, {} MB/s", self.from, per_second >> 20)
    }
}

/// How far a job is. Progress that people read is in the text; what the decision needs has a variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Can still be taken back without a trace (a promotion still in pre_promote, a start not yet made).
    Revocable,
    /// Under way, no return. The text says what it is doing: `running pg_rewind from a`.
    Committed(String),
    /// The same, while it copies.
    Copying(Copied),
    /// PostgreSQL has written its shutdown checkpoint, and the postmaster is gone or about to be.
    ShutDown {
        /// Where the shutdown checkpoint record begins.
        checkpoint: Lsn,
        /// Where the record before it begins (what a successor that replayed everything before it has).
        previous: Lsn,
        /// The postmaster has exited.
        exited: bool,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JobOutcome {
    /// As ordered.
    Done,
    /// Stopped on request before the point of no return.
    Cancelled,
    /// pg_rewind is done: the node has the WAL of the primary in that timeline, where it is known.
    Rewound(Option<Timeline>),
    /// It failed; the text says why and what to do.
    Failed(String),
    /// It was not begun, because it would have failed half-way; nothing was changed. The text says why and what to do.
    Refused(String),
    /// It started PostgreSQL, which has not yet become ready.
    StillStarting,
    /// The pre_promote script refused the promotion.
    PrePromoteFailed,
}
