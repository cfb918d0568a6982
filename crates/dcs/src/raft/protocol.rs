//! What is said between members of the store, and between members and those who use it from outside.
//!
//! Texts are MessagePack with named fields: a field that is not known is skipped, a request that is not known is
//! refused. [`VERSION`] changes when that is not enough.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::admin::{Backup, StoreStatus};
use super::state::{Content, Event, Reply, RequestId, Revision, Transaction};

/// The version of the protocol that this program speaks.
pub const VERSION: u16 = 2;
/// The oldest it still understands: what came before forward secrecy.
pub const OLDEST_VERSION: u16 = 1;

/// A cluster of the store, named at random by the member that founded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub u64);

/// A member of the store. A member that lost its disk is another one when it comes back: it must not vote again on what
/// it voted on before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(pub u64);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a client asks of any member. A member that does not lead passes it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// All keys that begin with this, linearizable.
    Read {
        /// The beginning of the keys.
        prefix: String,
    },
    /// Changes, at most once for each id.
    Transact {
        /// The same for each attempt.
        id: RequestId,
        /// The changes.
        transaction: Transaction,
    },
    /// From now on [`Answer::Events`] for all keys that begin with this. Answered by the member that is asked.
    Watch {
        /// The beginning of the keys.
        prefix: String,
    },
    /// The state of the store as the member that is asked sees it.
    Status,
    /// A node that has no store yet asks to be taken in; or somebody asks it for the node at this address.
    Add {
        /// `host:port` under which the other members reach it.
        address: String,
    },
    /// A member is gone for good.
    Remove {
        /// Its `host:port`.
        address: String,
    },
    /// The member that is asked is about to end: if it leads, another one is to lead.
    HandOver,
    /// The contents, for safekeeping.
    Backup,
    /// The contents are replaced.
    Restore(Backup),
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Read`].
    Contents {
        /// Revision of the contents.
        revision: Revision,
        /// The keys.
        keys: BTreeMap<String, Content>,
    },
    /// To [`Request::Transact`].
    Reply(Reply),
    /// To [`Request::Watch`]: first an empty one, then one after each change. `None`: some were missed.
    Events(Option<Vec<Event>>),
    /// To [`Request::Status`].
    Status(Box<StoreStatus>),
    /// To [`Request::Backup`].
    Backup(Backup),
    /// It is done.
    Done,
    /// It was not done, and will not be.
    Refused(String),
    /// It was surely not done; another member, or another try, may do it.
    Failed(String),
    /// It may have been done, or be done later.
    Unknown(String),
}
