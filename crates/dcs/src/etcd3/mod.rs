//! The store on etcd 3, through gRPC. Keys, leases and transactions are those of Patroni 4.1, so that its nodes and
//! ours can be members of one cluster.

mod client;
mod endpoints;
mod failure;
mod leader;
mod lease;
mod requests;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;
use tokio::time::Instant;

use self::client::messages::{Compare, Header, KeyValue, RequestOp, Response, TxnRequest, TxnResponse};
use self::endpoints::Endpoints;
use self::lease::Lease;
use self::requests::Attempt;
use crate::attempts::Failure;
pub use crate::etcd::EtcdOptions;
use crate::noticed::Changes;
use crate::wire::{self, ClusterPath, RawKey};
use crate::{Dcs, Expected, Key, LeaderUpdate, OpenError, Timing, Unread};

/// The backend. Nothing is sent, and etcd need not be up, until an operation is asked for; a lease is taken only by
/// operations that need one, so a handle that only reads (`patronictl`) leaves no trace.
pub struct Etcd3 {
    shared: Arc<Shared>,
    changes: Changes,
}

/// What operations and the watching task share.
struct Shared {
    endpoints: Endpoints,
    name: MemberName,
    prefix: String,
    member_key: String,
    state: Mutex<State>,
}

struct State {
    timing: Timing,
    lease: Option<Lease>,
    /// When the leader key was created that this member holds: a delayed release must not hit a later one.
    leader_created: Option<i64>,
    /// Revision of the answer that the following are from.
    revision: i64,
    status: Option<Vec<u8>>,
    failsafe: Option<Vec<u8>>,
    /// Content and lease of the own member key.
    member: Option<(Vec<u8>, i64)>,
}

impl Etcd3 {
    /// Makes a handle for a member; needs a tokio runtime as soon as it is used.
    pub fn connect(options: EtcdOptions, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
        let prefix = path.prefix();
        let state = State {
            timing,
            lease: None,
            leader_created: None,
            revision: 0,
            status: None,
            failsafe: None,
            member: None,
        };
        let shared = Shared {
            endpoints: Endpoints::new(options),
            member_key: format!("{prefix}{}{name}", wire::MEMBERS),
            name,
            prefix,
            state: Mutex::new(state),
        };
        Arc::new(Etcd3 { shared: Arc::new(shared), changes: Changes::new() })
    }
}

#[async_trait]
impl Dcs for Etcd3 {
    fn configure(&self, timing: Timing) {
        self.shared.state().timing = timing;
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        let options = crate::open::etcd3_options(configuration)?;
        if !self.shared.endpoints.reconfigure(options) {
            tracing::warn!("other addresses of etcd take effect when the agent is started again");
        }
        Ok(())
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        self.shared.read().await.map_err(Failure::unread)
    }

    async fn acquire(&self) -> Outcome<Moment> {
        self.shared.acquire().await.unwrap_or_else(Failure::outcome)
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        self.shared.renew(update).await.unwrap_or_else(Failure::outcome)
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        self.shared.release(last_lsn).await.unwrap_or_else(Failure::outcome)
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        self.shared.touch_member(data).await.unwrap_or_else(Failure::outcome)
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        self.shared.write(key, value, expected).await.unwrap_or_else(Failure::outcome)
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        self.shared.delete(key, expected).await.unwrap_or_else(Failure::outcome)
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        let prefix = self.shared.prefix.as_str();
        let delete = |attempt: Attempt| async move { attempt.client.delete_prefix(prefix).await };
        match self.shared.endpoints.request(self.shared.deadline(), delete).await {
            Ok(_) => Outcome::Done(()),
            Err(failure) => failure.outcome(),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe(|changes| watcher::watch_changes(self.shared.clone(), changes))
    }
}

impl Shared {
    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Failure> {
        let prefix = self.prefix.as_str();
        let get = |attempt: Attempt| async move { attempt.client.get_prefix(prefix).await };
        let seen = self.state().revision;
        let answer = self.endpoints.request(self.deadline(), get).await?;
        let keys: BTreeMap<String, RawKey> = answer.kvs.iter().map(|kv| (self.short_name(kv), raw_key(kv))).collect();
        let revision = revision(&answer.header);
        if revision < seen {
            // What is remembered of it would keep keys from being written that are missing there.
            tracing::warn!("etcd is at revision {revision}, and was at {seen}: its contents were restored or replaced");
            self.state().revision = revision;
        }
        self.remember(revision, |state| {
            let value = |name: &str| keys.get(name).map(|raw| raw.value.clone());
            state.status = value(wire::STATUS);
            state.failsafe = value(wire::FAILSAFE);
            let own = answer.kvs.iter().find(|kv| kv.key == self.member_key.as_bytes());
            state.member = own.map(|kv| (kv.value.clone(), kv.lease));
        });
        Ok(keys)
    }

    async fn touch_member(&self, data: &MemberData) -> Result<Outcome<()>, Failure> {
        let text = wire::member(data);
        let deadline = self.deadline();
        let max_age = self.timing().loop_wait / 2;
        for _ in 0..2 {
            let lease = self.lease(deadline, max_age).await.map_err(Failure::before_write)?;
            let present =
                self.state().member.as_ref().is_some_and(|(value, id)| *value == text.as_bytes() && *id == lease.id);
            if present {
                return Ok(Outcome::Done(()));
            }
            let (key, value) = (self.member_key.as_str(), text.as_str());
            let put = |attempt: Attempt| async move { attempt.client.put(key, value, lease.id).await };
            match self.endpoints.request(deadline, put).await {
                Ok(answer) => {
                    self.remember(revision(&answer.header), |state| {
                        state.member = Some((text.as_bytes().to_vec(), lease.id))
                    });
                    return Ok(Outcome::Done(()));
                }
                Err(Failure::LeaseNotFound) => self.forget_lease(lease.id),
                Err(failure) => {
                    self.state().member = None;
                    return Err(failure);
                }
            }
        }
        Err(Failure::LeaseNotFound)
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Result<Outcome<Version>, Failure> {
        let name = self.full_name(wire::key_name(key));
        let deadline = self.deadline();
        loop {
            let expected_revision = self.expected_revision(&name, expected, deadline).await?;
            let put = RequestOp::put(&name, value, 0);
            let (answer, repeated) = self.swap(&name, expected_revision, put, deadline).await?;
            if answer.succeeded {
                return Ok(Outcome::Done(Version(unsigned(revision(&answer.header)))));
            }
            let present = first_key(&answer);
            match (expected, present, repeated) {
                (Expected::Anything, _, false) => {}
                // The same value, written after our first attempt: ours, or as good as ours. A key that was absent
                // is another matter: creating it decides a race.
                (Expected::Anything | Expected::Version(_), Some(kv), true) if kv.value == value.as_bytes() => {
                    return Ok(Outcome::Done(Version(unsigned(kv.mod_revision))));
                }
                (_, _, true) => return Err(undecided(&name)),
                (Expected::Absent | Expected::Version(_), _, false) => return Ok(Outcome::Refused),
            }
        }
    }

    async fn delete(&self, key: Key, expected: Expected) -> Result<Outcome<()>, Failure> {
        let name = self.full_name(wire::key_name(key));
        let deadline = self.deadline();
        loop {
            let revision = self.expected_revision(&name, expected, deadline).await?;
            let delete = RequestOp::delete(&name);
            let (answer, repeated) = self.swap(&name, revision, delete, deadline).await?;
            let gone = first_key(&answer).is_none();
            match (expected, answer.succeeded, repeated) {
                (_, true, _) => return Ok(Outcome::Done(())),
                (Expected::Anything | Expected::Version(_), false, true) if gone => return Ok(Outcome::Done(())),
                (_, false, true) => return Err(undecided(&name)),
                (Expected::Anything, false, false) => {}
                (Expected::Absent | Expected::Version(_), false, false) => return Ok(Outcome::Refused),
            }
        }
    }

    /// The revision to compare with; 0 stands for absent. For `Anything` it is read first: an attempt that is
    /// delayed on its way then cannot undo what others write later.
    async fn expected_revision(&self, name: &str, expected: Expected, deadline: Instant) -> Result<i64, Failure> {
        match expected {
            Expected::Absent => return Ok(0),
            Expected::Version(version) => return Ok(i64::try_from(version.0).unwrap_or(i64::MAX)),
            Expected::Anything => {}
        }
        let get = |attempt: Attempt| async move { attempt.client.get_revisions(name).await };
        let answer = self.endpoints.request(deadline, get).await.map_err(Failure::before_write)?;
        Ok(answer.kvs.first().map_or(0, |kv| kv.mod_revision))
    }

    /// Carries out `action` if the key has the revision, and reads the key otherwise. The second part of the result
    /// tells that an earlier attempt may have been carried out.
    async fn swap(
        &self,
        name: &str,
        revision: i64,
        action: RequestOp,
        deadline: Instant,
    ) -> Result<(TxnResponse, bool), Failure> {
        let txn = TxnRequest {
            compare: vec![Compare::mod_revision(name, revision)],
            success: vec![action],
            failure: vec![RequestOp::get(name)],
        };
        self.transact(txn, deadline).await
    }

    async fn transact(&self, txn: TxnRequest, deadline: Instant) -> Result<(TxnResponse, bool), Failure> {
        let txn = &txn;
        let send = |attempt: Attempt| async move { Ok((attempt.client.txn(txn.clone()).await?, attempt.repeated)) };
        self.endpoints.request(deadline, send).await
    }

    /// Applies what an answer of the given revision tells, unless a later one was seen already.
    fn remember(&self, revision: i64, apply: impl FnOnce(&mut State)) {
        let mut state = self.state();
        if revision >= state.revision {
            state.revision = revision;
            apply(&mut state);
        }
    }

    fn short_name(&self, kv: &KeyValue) -> String {
        let key = String::from_utf8_lossy(&kv.key);
        key.strip_prefix(&self.prefix).unwrap_or(&key).to_owned()
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn timing(&self) -> Timing {
        self.state().timing
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timing().retry_timeout
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn undecided(name: &str) -> Failure {
    Failure::Unknown(format!("{name} changed while it was not known whether our change of it was carried out"))
}

/// The key that a transaction read.
fn first_key(answer: &TxnResponse) -> Option<KeyValue> {
    let read = answer.responses.iter().find_map(|action| match &action.response {
        Some(Response::Range(range)) => Some(range),
        Some(Response::Put(_) | Response::Delete(_)) | None => None,
    });
    read?.kvs.first().cloned()
}

fn raw_key(kv: &KeyValue) -> RawKey {
    RawKey {
        value: kv.value.clone(),
        modified: unsigned(kv.mod_revision),
        created: unsigned(kv.create_revision),
        session: Lease::session(kv.lease),
    }
}

/// The revision of the store that an answer is from. etcd always says it.
fn revision(header: &Option<Header>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

/// Revisions of etcd are never negative.
fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
