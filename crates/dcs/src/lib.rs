//! The distributed store: one trait, one place for key names and JSON ([`wire`]), a backend per module.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests write where nobody else does"))]

#[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
mod attempts;
mod boot_time;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "etcd3")]
pub mod etcd3;
#[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
mod http;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod memory;
mod noticed;
mod open;
#[cfg(any(feature = "consul", feature = "etcd", feature = "zookeeper"))]
mod primitives;
pub mod raft;
#[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
mod section;
#[cfg(any(feature = "consul", feature = "etcd", feature = "zookeeper"))]
mod semantics;
pub mod wire;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use open::{OpenError, check, open, open_for_agent};
#[cfg(any(feature = "consul", feature = "etcd", feature = "kubernetes", feature = "zookeeper"))]
pub use section::SectionError;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{Cluster, MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;

/// A store that holds the keys of one cluster and the lease of its leader.
///
/// Every operation ends within the time budget last given to [`Dcs::configure`]; retries happen inside it. None is
/// blocking, and dropping the future of a write leaves that write undecided (as [`Outcome::Unknown`] would say).
#[async_trait]
pub trait Dcs: Send + Sync {
    /// Sets how long leases last and how long an operation may be retried.
    fn configure(&self, timing: Timing);

    /// Takes over what the configuration says now about access to the store: credentials and certificates. What else
    /// changed takes effect when the agent is started again, and is reported in the log.
    ///
    /// # Errors
    /// The section of this store is missing or has an error; the settings before stay in force.
    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        let _ = configuration;
        Ok(())
    }

    /// Reads all keys of the cluster, by their names below its prefix: as the last completed write left them, the leader key no
    /// earlier than the others.
    ///
    /// # Errors
    /// There was no answer in time, or none that the keys are in.
    async fn read(&self) -> Result<BTreeMap<String, wire::RawKey>, Unread>;

    /// [`Dcs::read`], and what the keys say.
    ///
    /// # Errors
    /// As of [`Dcs::read`]: no content of a key is an error.
    async fn load(&self) -> Result<Cluster, Unread> {
        Ok(wire::cluster(&self.read().await?))
    }

    /// Creates `/leader` with this member's name, if it is absent. `Refused`: somebody else has it.
    /// The moment is the one before the request was sent; the lease is valid until then plus `ttl`.
    async fn acquire(&self) -> Outcome<Moment>;

    /// Prolongs the lease of `/leader`, which this member must hold, and writes `/status` and `/failsafe` with it
    /// where they changed. `Refused`: the key is absent or another member's. The moment is as for [`Dcs::acquire`].
    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment>;

    /// Deletes `/leader` if this member holds it, after writing the last position to `/status` if one is given. Whether it is
    /// late or was sent twice, it does not hit a `/leader` that this member created later.
    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()>;

    /// Writes the key of this member, attached to a lease of `ttl`, or keeps it alive where nothing changed.
    async fn touch_member(&self, data: &MemberData) -> Outcome<()>;

    /// Writes a key if its present version is the expected one. Done: its new version.
    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version>;

    /// Deletes a key if its present version is the expected one. Deleting an absent key is done, unless a version
    /// was expected.
    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()>;

    /// Deletes every key of the cluster (`patronictl remove`).
    async fn delete_cluster(&self) -> Outcome<()>;

    /// This process is about to end. What it does for the store itself, as a member that leads it, another one takes over, so that nobody waits
    /// for the store meanwhile. Where that cannot be arranged, it ends all the same. Takes a second at most.
    async fn hand_over(&self) {}

    /// A counter that grows whenever a key of the cluster changed, except renewals, this member's own key, `/status`
    /// and `/failsafe`. It carries no data: whoever is woken reads the whole state.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Why the store could not be read. A read changes nothing, so that nothing more has to be known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unread(pub String);

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Length of a lease.
    pub ttl: Duration,
    /// Length of a pause between two ticks.
    pub loop_wait: Duration,
    /// How long an operation may be retried before it fails.
    pub retry_timeout: Duration,
}

/// What the leader tells about itself when it renews its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderUpdate {
    /// The position of its WAL; `None` leaves `/status` alone.
    pub last_lsn: Option<Lsn>,
    /// Positions of slots, for `/status`.
    pub slots: BTreeMap<String, Lsn>,
    /// Member slots to keep, for `/status`.
    pub retain_slots: Vec<String>,
    /// Names and REST addresses for `/failsafe`; `None` leaves the key alone.
    pub failsafe: Option<BTreeMap<MemberName, String>>,
}

/// A key that is written as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `/config`
    Config,
    /// `/failover`
    Failover,
    /// `/history`
    History,
    /// `/initialize`
    Initialize,
    /// `/status`; written by the leader with each renewal ([`Dcs::renew`]), and as a whole only into an unused store.
    Status,
    /// `/sync`
    Sync,
}

/// What must be true of a key for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expected {
    /// Nothing.
    Anything,
    /// It is absent.
    Absent,
    /// It has this version.
    Version(Version),
}

/// The key is as it was found: absent, or of that version.
impl From<Option<Version>> for Expected {
    fn from(found: Option<Version>) -> Self {
        found.map_or(Expected::Absent, Expected::Version)
    }
}
