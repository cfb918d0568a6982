//! What a store of keys has to be able to do, one key at a time, so that [`Semantics`](crate::semantics::Semantics) makes
//! Patroni's store of it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::time::Moment;
use tokio::time::Instant;

use crate::attempts::Failure;
use crate::wire::RawKey;
use crate::{OpenError, Timing};

/// A store that changes one key at a time. Names of keys are those below the prefix of the cluster.
///
/// Every request is tried again inside, until there is an answer or the deadline, and ends as [`Failure::Unknown`] where an
/// attempt may have been carried out. Versions are never used twice for one name; writing what is there already may leave it.
#[async_trait]
pub(crate) trait Primitives: Send + Sync + 'static {
    /// A place in the history of the store, for whoever waits for changes.
    type Cursor: Default + Send;

    /// How log and errors call the store.
    const NAME: &'static str;

    /// Takes over how long leases last.
    fn configure(&self, timing: Timing);

    /// Takes over other credentials and certificates. See [`crate::Dcs::reload`].
    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError>;

    /// Reads all keys of the cluster; the leader key no earlier than the others.
    async fn read(&self, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure>;

    /// Reads one key, as the last completed write left it.
    async fn get(&self, name: &str, deadline: Instant) -> Result<Option<RawKey>, Failure>;

    /// Writes a key that lives until it is deleted.
    async fn put(&self, name: &str, value: &str, when: When, deadline: Instant) -> Result<Swap, Failure>;

    /// Deletes a key of this version.
    async fn delete(&self, name: &str, version: Version, deadline: Instant) -> Result<Swap, Failure>;

    /// Deletes all keys of the cluster.
    async fn delete_all(&self, deadline: Instant) -> Result<(), Failure>;

    /// Creates a key that lives as long as this member's lease, if it is absent.
    async fn claim(&self, name: &str, value: &str, deadline: Instant) -> Result<Claimed, Failure>;

    /// Prolongs the life of a key that has this value. It never creates one that is absent. One that is attached to another lease
    /// of this member (an earlier run's, or that before `ttl` changed) is attached to the present one and stays the same key; where
    /// a store cannot do that, another one takes its place at once, so that nobody else can get it in between.
    async fn prolong(&self, name: &str, value: &str, deadline: Instant) -> Result<Prolonged, Failure>;

    /// Sees to it that a key has this value and lives as long as this member's lease: it is written where it does not, and
    /// kept alive otherwise. `known` is what it was last known to be. What it is now.
    async fn hold(&self, name: &str, value: &str, known: Option<RawKey>, deadline: Instant) -> Result<RawKey, Failure>;

    /// Whether a key with this member's value is that of its present lease.
    fn is_ours(&self, raw: &RawKey) -> bool;

    /// Waits for changes after the cursor, and moves it. The time it takes is bounded; nothing may have happened.
    async fn news(&self, cursor: &mut Self::Cursor) -> Result<News, String>;

    /// What this member's key says now was written.
    async fn member_written(&self, data: &MemberData, deadline: Instant) {
        let _ = (data, deadline);
    }
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Nothing.
    Always,
    /// It is absent.
    Absent,
    /// It has this version.
    Version(Version),
}

/// What became of a change under a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    /// It was made; the version now (of a deleted key: any).
    Done(Version),
    /// The condition did not hold. Where an earlier attempt may have been carried out, that may be the reason.
    Otherwise {
        /// There was such an attempt.
        repeated: bool,
    },
}

/// What became of a key that was to be created for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// It is there for a whole `ttl` from this moment on, which is before the first attempt was sent.
    Ours(Moment),
    /// There is one. Where an earlier attempt may have been carried out, that may be it.
    Otherwise {
        /// There was such an attempt.
        repeated: bool,
    },
}

impl Swap {
    /// For a key whose lease counts from this moment on.
    pub(crate) fn claimed(self, from: Moment) -> Claimed {
        match self {
            Swap::Done(_) => Claimed::Ours(from),
            Swap::Otherwise { repeated } => Claimed::Otherwise { repeated },
        }
    }
}

/// What became of a key that was to be prolonged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prolonged {
    /// It is there for a whole `ttl` from this moment on, which is before the request was sent.
    Ours(Moment),
    /// It is absent, or another member's.
    NotOurs,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// The cursor begins here, with these keys: what happened before is not known.
    Begun(BTreeMap<String, RawKey>),
    /// Keys by name, with what they say now; `None`: it is gone.
    Changed(Vec<(String, Option<Vec<u8>>)>),
}
