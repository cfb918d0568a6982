//! What another member answered to `GET /patroni`.

use crate::lsn::{Lsn, Timeline};
use crate::tags::Tags;

/// The answer of a peer, or that there was none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// No answer in time, or none that could be read; the text says why.
    Unreachable(String),
    /// It answered.
    Status(PeerStatus),
}

/// The part of a peer's status that elections look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerStatus {
    /// Runs as a standby. A primary, or a node that says it is one, is not.
    pub in_recovery: bool,
    /// The larger of its received and replayed position; 0 where PostgreSQL does not run.
    pub wal_position: Lsn,
    /// Its timeline, where known.
    pub timeline: Option<Timeline>,
    /// `replication_state` (`streaming`, ...).
    pub replication_state: Option<String>,
    /// Its tags.
    pub tags: Tags,
    /// A watchdog is required there and does not work.
    pub watchdog_failed: bool,
}

impl PeerStatus {
    /// Its PostgreSQL runs, as far as its position tells.
    pub fn is_running(&self) -> bool {
        !self.in_recovery || self.wal_position > Lsn(0)
    }
}
