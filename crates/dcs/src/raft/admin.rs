//! Looking after the store: its members, their state, a copy of its contents.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::protocol::{ClusterId, MemberId};
use super::state::Revision;

/// Looks after a store, through any of its members.
#[async_trait]
pub trait Administration {
    /// The state of the store as one living member sees it; the leader where one is known.
    async fn status(&self) -> Result<StoreStatus, AdminError>;

    /// The state as the member at this address sees it.
    async fn status_of(&self, address: &str) -> Result<StoreStatus, AdminError>;

    /// Takes in the node at this address, which must run and have no store yet. Done once it votes.
    async fn add(&self, address: &str) -> Result<(), AdminError>;

    /// Removes a member that is gone for good. Refused where the living members that are left could not decide alone.
    async fn remove(&self, address: &str) -> Result<(), AdminError>;

    /// The contents, for safekeeping.
    async fn backup(&self) -> Result<Backup, AdminError>;

    /// Replaces the contents, all at once, by those of a backup.
    async fn restore(&self, backup: &Backup) -> Result<(), AdminError>;
}

/// Something was not done, or it is not known whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// A member refused it, and says why.
    #[error("{0}")]
    Refused(String),
    /// No member could do it.
    #[error("{0}")]
    Failed(String),
    /// It may have been done: look at the state.
    #[error("{0}; whether it was done is not known: look at the status of the store")]
    Unknown(String),
}

/// The state of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The cluster of the store; `None`: the member that answered belongs to none yet.
    pub cluster: Option<ClusterId>,
    /// The member that answered.
    pub member: MemberId,
    /// Its address.
    pub address: String,
    /// Version of its program.
    pub program: String,
    /// What it does, or waits for.
    pub phase: Phase,
    /// The member it takes for the leader.
    pub leader: Option<MemberId>,
    /// The term of its last vote.
    pub term: u64,
    /// Index of the last entry in its log.
    pub last_log: Option<u64>,
    /// Index of the last entry that is part of its state.
    pub applied: Option<u64>,
    /// Index of the last entry in its snapshot.
    pub snapshot: Option<u64>,
    /// Index of the last entry that it no longer keeps.
    pub purged: Option<u64>,
    /// Bytes of its log on disk.
    pub log_bytes: u64,
    /// Revision of its contents.
    pub revision: Revision,
    /// Number of its keys.
    pub keys: u64,
    /// The members it knows.
    pub members: Vec<MemberStatus>,
}

/// What a node of the store does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has no store and waits to found one or to be taken in. With the addresses it would found one with.
    Waiting(Vec<String>),
    /// It is a member.
    Member,
    /// It was removed.
    Removed,
    /// It cannot use its files. With the reason.
    Broken(String),
}

/// One member of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Which.
    pub id: MemberId,
    /// Its address.
    pub address: String,
    /// It votes; otherwise it is on its way to become a voter.
    pub voter: bool,
    /// Index of the last entry that it is known to have; only the leader knows.
    pub matched: Option<u64>,
    /// How long ago it last answered, in milliseconds; only the leader knows.
    pub silent_ms: Option<u64>,
}

/// The contents of a store, to keep and to put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Version of this format.
    pub format: u32,
    /// The cluster of the store that it is from.
    pub cluster: Option<String>,
    /// Revision of the contents.
    pub revision: Revision,
    /// The keys.
    pub keys: Vec<BackupKey>,
}

/// The format that [`Backup::format`] names.
pub const BACKUP_FORMAT: u32 = 1;

/// One key of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKey {
    /// Its whole name.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// It ends with a lease. Such keys are not put back: who owns them writes them again.
    pub leased: bool,
}
