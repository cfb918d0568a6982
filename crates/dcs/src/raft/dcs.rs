//! The store of an agent on the embedded store. Keys and their meaning are those of the other stores.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use patroni_core::JsonMap;
use patroni_core::cluster::{MemberData, Version};
use patroni_core::facts::Outcome;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::time::Moment;
use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Failure, RaftClient};
use super::protocol::{Answer, Request};
use super::state::{Change, Condition, Content, Event, Keep, LeaseId, Reply, Revision, Transaction};
use crate::boot_time::boot_time;
use crate::noticed::{Changes, Filter};
use crate::wire::{self, ClusterPath, RawKey};
use crate::{Dcs, Expected, Key, LeaderUpdate, OpenError, Timing, Unread};

/// The handle of one member of the cluster.
pub struct Raft {
    shared: Arc<Shared>,
    changes: Changes,
}

struct Shared {
    client: Arc<RaftClient>,
    name: MemberName,
    prefix: String,
    member_key: String,
    state: Mutex<State>,
}

struct State {
    timing: Timing,
    lease: Option<Lease>,
    /// Revision of the contents that the following are from.
    revision: Revision,
    status: Option<Vec<u8>>,
    failsafe: Option<Vec<u8>>,
    /// Content and lease of the own member key.
    member: Option<(Vec<u8>, Option<LeaseId>)>,
}

#[derive(Clone, Copy)]
struct Lease {
    id: LeaseId,
    ttl: Duration,
    kept: Option<Instant>,
}

/// A transaction that was carried out, or what is there instead.
enum Swap {
    Done(Revision),
    Otherwise(BTreeMap<String, Content>),
}

type Done<T> = Result<Outcome<T>, Failure>;

impl Raft {
    /// A handle for a member; needs a tokio runtime as soon as it is used.
    pub fn open(client: Arc<RaftClient>, path: &ClusterPath, name: MemberName, timing: Timing) -> Arc<dyn Dcs> {
        let prefix = path.prefix();
        let state = State { timing, lease: None, revision: Revision(0), status: None, failsafe: None, member: None };
        let shared = Shared {
            client,
            member_key: format!("{prefix}{}{name}", wire::MEMBERS),
            name,
            prefix,
            state: Mutex::new(state),
        };
        Arc::new(Raft { shared: Arc::new(shared), changes: Changes::new() })
    }
}

fn outcome<T>(result: Done<T>) -> Outcome<T> {
    match result {
        Ok(outcome) => outcome,
        Err(Failure::NotDone(why) | Failure::Refused(why)) => Outcome::Failed(why),
        Err(Failure::Unknown(why)) => Outcome::Unknown(why),
    }
}

#[async_trait]
impl Dcs for Raft {
    fn configure(&self, timing: Timing) {
        self.shared.state().timing = timing;
    }

    fn reload(&self, configuration: &JsonMap) -> Result<(), OpenError> {
        let options = crate::open::raft_options(configuration)?;
        let changed = self.shared.client.started().map(|started| started.changed(&options)).unwrap_or_default();
        if !changed.is_empty() {
            tracing::warn!(
                "raft: changed and not in force before the agent is started again: {}. Until then the embedded store goes on with what it was \
                 started with; in pause a restart of the agent leaves PostgreSQL alone",
                changed.join(", ")
            );
        }
        Ok(())
    }

    async fn read(&self) -> Result<BTreeMap<String, RawKey>, Unread> {
        let read = self.shared.read(&self.shared.prefix, self.shared.deadline()).await;
        read.map_err(|(Failure::NotDone(why) | Failure::Unknown(why) | Failure::Refused(why))| Unread(why))
    }

    async fn acquire(&self) -> Outcome<Moment> {
        outcome(self.shared.acquire().await)
    }

    async fn renew(&self, update: &LeaderUpdate) -> Outcome<Moment> {
        outcome(self.shared.renew(update).await)
    }

    async fn release(&self, last_lsn: Option<Lsn>) -> Outcome<()> {
        outcome(self.shared.release(last_lsn).await)
    }

    async fn touch_member(&self, data: &MemberData) -> Outcome<()> {
        outcome(self.shared.touch_member(data).await)
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Outcome<Version> {
        outcome(self.shared.write(key, value, expected).await)
    }

    async fn delete(&self, key: Key, expected: Expected) -> Outcome<()> {
        outcome(self.shared.delete(key, expected).await)
    }

    async fn delete_cluster(&self) -> Outcome<()> {
        let shared = &self.shared;
        let all = vec![Change::DeletePrefix(shared.prefix.clone())];
        outcome(shared.swap(None, vec![], all, shared.deadline()).await.map(|_| Outcome::Done(())))
    }

    async fn hand_over(&self) {
        self.shared.client.hand_over().await;
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe(|changes| keep_up(self.shared.clone(), changes))
    }
}

impl Shared {
    async fn read(&self, prefix: &str, deadline: Instant) -> Result<BTreeMap<String, RawKey>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Request::Read { prefix: prefix.to_owned() };
        let Answer::Contents { revision, keys } = self.client.ask(&request, left).await? else {
            return Err(Failure::NotDone("a member answered something else".to_owned()));
        };
        if prefix == self.prefix {
            let value = |name: &str| keys.get(&self.full_name(name)).map(|content| content.value.clone());
            self.remember(revision, |state| {
                state.status = value(wire::STATUS);
                state.failsafe = value(wire::FAILSAFE);
                state.member = keys.get(&self.member_key).map(|content| (content.value.clone(), content.lease));
            });
        }
        let short = |key: String| key.strip_prefix(&self.prefix).map_or(key.clone(), str::to_owned);
        Ok(keys.into_iter().map(|(key, content)| (short(key), raw_key(content))).collect())
    }

    /// Takes the leader key, if there is none.
    async fn acquire(&self) -> Done<Moment> {
        let (asked, lease) = (boot_time(), self.lease()?);
        let key = self.full_name(wire::LEADER);
        let put = Change::Put { key: key.clone(), value: self.own_name(), lease: Some(lease.id) };
        match self.swap(Some(lease), vec![Condition::Absent(key.clone())], vec![put], self.deadline()).await? {
            Swap::Done(_) => Ok(Outcome::Done(asked)),
            Swap::Otherwise(present) => {
                let ours = |content: &Content| content.value == self.own_name() && content.lease == Some(lease.id);
                Ok(if present.get(&key).is_some_and(ours) { Outcome::Done(asked) } else { Outcome::Refused })
            }
        }
    }

    async fn renew(&self, update: &LeaderUpdate) -> Done<Moment> {
        let (asked, lease) = (boot_time(), self.lease()?);
        let key = self.full_name(wire::LEADER);
        let leader = Change::Put { key: key.clone(), value: self.own_name(), lease: Some(lease.id) };
        let mut changes = vec![leader.clone()];
        let (mut status, mut failsafe) = (wire::status(update), update.failsafe.as_ref().map(wire::failsafe));
        {
            let state = self.state();
            let texts = [(wire::STATUS, &status, &state.status), (wire::FAILSAFE, &failsafe, &state.failsafe)];
            for (name, text, present) in texts {
                if let Some(text) = text.as_ref().filter(|text| present.as_deref() != Some(text.as_bytes())) {
                    let (key, value) = (self.full_name(name), text.clone().into_bytes());
                    changes.push(Change::Put { key, value, lease: None });
                }
            }
        }
        let (condition, deadline) = (vec![Condition::Value(key, self.own_name())], self.deadline());
        let swapped = match self.swap(Some(lease), condition.clone(), changes, deadline).await {
            // There is no room for them. The lease is worth more than they are.
            Err(Failure::Refused(why)) => {
                let renewed = self.swap(Some(lease), condition, vec![leader], deadline).await?;
                tracing::warn!("the leader key is renewed, /status and /failsafe cannot be written: {why}");
                (status, failsafe) = (None, None);
                renewed
            }
            other => other?,
        };
        match swapped {
            Swap::Otherwise(_) => Ok(Outcome::Refused),
            Swap::Done(revision) => {
                self.remember(revision, |state| {
                    state.status = status.map(String::into_bytes).or(state.status.take());
                    state.failsafe = failsafe.map(String::into_bytes).or(state.failsafe.take());
                });
                Ok(Outcome::Done(asked))
            }
        }
    }

    /// Deletes the leader key as it was found: a release that is late does not hit a later acquisition.
    async fn release(&self, last_lsn: Option<Lsn>) -> Done<()> {
        let deadline = self.deadline();
        let keys = self.read(&self.prefix, deadline).await.map_err(before_write)?;
        let Some(leader) = keys.get(wire::LEADER).filter(|raw| raw.value == self.own_name()) else {
            return Ok(Outcome::Refused);
        };
        let key = self.full_name(wire::LEADER);
        let conditions = vec![
            Condition::Value(key.clone(), self.own_name()),
            Condition::Created(key.clone(), Revision(leader.created)),
        ];
        let present = keys.get(wire::STATUS).map(|raw| raw.value.as_slice());
        let status = last_lsn.map(|lsn| Change::Put {
            key: self.full_name(wire::STATUS),
            value: wire::status_with_lsn(present, lsn).into_bytes(),
            lease: None,
        });
        let changes = status.into_iter().chain([Change::Delete(key)]).collect();
        self.state().status = None;
        match self.swap(None, conditions, changes, deadline).await? {
            Swap::Done(_) => Ok(Outcome::Done(())),
            Swap::Otherwise(_) => Ok(Outcome::Refused),
        }
    }

    async fn touch_member(&self, data: &MemberData) -> Done<()> {
        let (lease, deadline) = (self.lease()?, self.deadline());
        let text = wire::member(data).into_bytes();
        let (present, fresh) = {
            let state = self.state();
            let present = state.member.as_ref().is_some_and(|(value, id)| *value == text && *id == Some(lease.id));
            let fresh = lease.kept.is_some_and(|kept| kept.elapsed() < state.timing.loop_wait / 2);
            (present, fresh)
        };
        if present && fresh {
            return Ok(Outcome::Done(()));
        }
        let key = self.member_key.clone();
        if present {
            let same = vec![Condition::Value(key.clone(), text.clone())];
            if let Swap::Done(_) = self.swap(Some(lease), same, vec![], deadline).await? {
                return Ok(Outcome::Done(()));
            }
        }
        let put = Change::Put { key, value: text.clone(), lease: Some(lease.id) };
        self.state().member = None;
        match self.swap(Some(lease), vec![], vec![put], deadline).await? {
            Swap::Otherwise(_) => Err(Failure::NotDone("the lease ended as it was taken".to_owned())),
            Swap::Done(revision) => {
                self.remember(revision, |state| state.member = Some((text, Some(lease.id))));
                Ok(Outcome::Done(()))
            }
        }
    }

    async fn write(&self, key: Key, value: &str, expected: Expected) -> Done<Version> {
        let name = self.full_name(wire::key_name(key));
        let deadline = self.deadline();
        loop {
            let condition = self.condition(&name, expected, deadline).await?;
            let put = Change::Put { key: name.clone(), value: value.as_bytes().to_vec(), lease: None };
            match self.swap(None, vec![condition], vec![put], deadline).await? {
                Swap::Done(revision) => return Ok(Outcome::Done(Version(revision.0))),
                Swap::Otherwise(_) if expected == Expected::Anything => {}
                Swap::Otherwise(_) => return Ok(Outcome::Refused),
            }
        }
    }

    async fn delete(&self, key: Key, expected: Expected) -> Done<()> {
        let name = self.full_name(wire::key_name(key));
        let deadline = self.deadline();
        loop {
            let condition = self.condition(&name, expected, deadline).await?;
            match self.swap(None, vec![condition], vec![Change::Delete(name.clone())], deadline).await? {
                Swap::Done(_) => return Ok(Outcome::Done(())),
                Swap::Otherwise(_) if expected == Expected::Anything => {}
                Swap::Otherwise(_) => return Ok(Outcome::Refused),
            }
        }
    }

    /// The condition of a write. For `Anything` the key is read first: an attempt that is delayed on its way then
    /// cannot undo what others write later.
    async fn condition(&self, name: &str, expected: Expected, deadline: Instant) -> Result<Condition, Failure> {
        let name = name.to_owned();
        Ok(match expected {
            Expected::Absent => Condition::Absent(name),
            Expected::Version(version) => Condition::Modified(name, Revision(version.0)),
            Expected::Anything => {
                let keys = self.read(&name, deadline).await.map_err(before_write)?;
                let short = name.strip_prefix(&self.prefix).unwrap_or(&name);
                match keys.get(short) {
                    Some(raw) => Condition::Modified(name, Revision(raw.modified)),
                    None => Condition::Absent(name),
                }
            }
        })
    }

    async fn swap(
        &self,
        keep: Option<Lease>,
        when: Vec<Condition>,
        then: Vec<Change>,
        deadline: Instant,
    ) -> Result<Swap, Failure> {
        let asked = Instant::now();
        let milliseconds = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let kept = keep.map(|lease| Keep { lease: lease.id, ttl: milliseconds(lease.ttl) });
        let transaction = Transaction { keep: kept, when, then };
        let left = deadline.saturating_duration_since(asked);
        let reply = self.client.transact(transaction, left).await?;
        if let Some(lease) = keep {
            let mut state = self.state();
            if let Some(own) = state.lease.as_mut().filter(|own| own.id == lease.id) {
                own.kept = own.kept.max(Some(asked));
            }
        }
        match reply {
            Reply::Done(revision) => Ok(Swap::Done(revision)),
            Reply::Refused(present) => Ok(Swap::Otherwise(present)),
            Reply::Full(why) => Err(Failure::Refused(why)),
        }
    }

    /// The lease of this member; another one where `ttl` changed.
    fn lease(&self) -> Result<Lease, Failure> {
        let mut state = self.state();
        let ttl = state.timing.ttl;
        if let Some(lease) = state.lease.filter(|lease| lease.ttl == ttl) {
            return Ok(lease);
        }
        let mut bytes = [0; 8];
        let random = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        random.map_err(|error| Failure::NotDone(format!("there are no random numbers: {error}")))?;
        let lease = Lease { id: LeaseId(u64::from_le_bytes(bytes)), ttl, kept: None };
        state.lease = Some(lease);
        Ok(lease)
    }

    /// Applies what an answer of this revision tells, unless a later one was seen already.
    fn remember(&self, revision: Revision, apply: impl FnOnce(&mut State)) {
        let mut state = self.state();
        if revision >= state.revision {
            state.revision = revision;
            apply(&mut state);
        }
    }

    fn own_name(&self) -> Vec<u8> {
        self.name.as_str().as_bytes().to_vec()
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.state().timing.retry_timeout
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a step before the write: the write itself was surely not done.
fn before_write(failure: Failure) -> Failure {
    match failure {
        Failure::NotDone(why) | Failure::Unknown(why) => Failure::NotDone(why),
        Failure::Refused(why) => Failure::Refused(why),
    }
}

fn raw_key(content: Content) -> RawKey {
    RawKey {
        value: content.value,
        modified: content.modified.0,
        created: content.created.0,
        session: content.lease.map(|lease| lease.0.to_string()),
    }
}

/// Keeps up with the store. Runs until it is dropped.
async fn keep_up(shared: Arc<Shared>, changes: watch::Sender<u64>) {
    tokio::join!(watch_changes(&shared, changes), learn_members(&shared));
}

/// Members come and go. Those that are known are the ways to the store when the one in this process, or the configured
/// ones, are in trouble.
async fn learn_members(shared: &Shared) {
    const PAUSE: Duration = Duration::from_secs(2);
    loop {
        shared.client.learn().await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Counts the changes that matter.
async fn watch_changes(shared: &Shared, changes: watch::Sender<u64>) {
    const PAUSE: Duration = Duration::from_secs(1);
    let mut filter = Filter::new(&shared.member_key);
    loop {
        match shared.client.watch(&shared.prefix).await {
            Ok(mut watch) => {
                // What happened in between was missed.
                filter.forget();
                changes.send_modify(|count| *count += 1);
                loop {
                    match watch.next().await {
                        Ok(Some(events)) => {
                            let ours = events.iter().filter(|event| event.key.starts_with(&shared.prefix));
                            // Every event has to be looked at, because the filter remembers them.
                            let matters =
                                |event: &&Event| filter.matters(&shared.prefix, &event.key, event.value.as_deref());
                            if ours.filter(matters).count() > 0 {
                                changes.send_modify(|count| *count += 1);
                            }
                        }
                        Ok(None) => {
                            filter.forget();
                            changes.send_modify(|count| *count += 1);
                        }
                        Err(why) => {
                            tracing::debug!("the watch of the embedded store ended: {why}");
                            break;
                        }
                    }
                }
            }
            Err(why) => tracing::debug!("cannot watch the embedded store: {why}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
