//! The state machine and its snapshots, as `openraft` wants them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership,
};
use tokio::sync::broadcast;

use super::files::{Files, Snapshot};
use crate::raft::state::{Content, Event, Revision, State, Time};
use crate::raft::types::{Action, Applied, Entry, Node, TypeConfig};

/// How many changes a watcher may be behind before it is told that it missed some.
const BEHIND: usize = 256;

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct Machine {
    files: Arc<Files>,
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<Arc<Vec<Event>>>,
}

#[derive(Default)]
struct Inner {
    state: State,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Node>,
    snapshot: Option<Snapshot>,
}

type Failure = StorageError<u64>;

impl Machine {
    /// The state of the snapshot; the log brings the rest.
    pub(crate) fn new(
        files: Arc<Files>,
        snapshot: Option<Snapshot>,
        events: broadcast::Sender<Arc<Vec<Event>>>,
    ) -> Self {
        let mut inner = Inner::default();
        if let Some(snapshot) = snapshot {
            inner.load(snapshot);
        }
        Machine { files, inner: Arc::new(Mutex::new(inner)), events }
    }

    /// Where changes are told.
    pub(crate) fn channel() -> broadcast::Sender<Arc<Vec<Event>>> {
        broadcast::Sender::new(BEHIND)
    }

    /// All keys that begin with this, as far as this member knows.
    pub(crate) fn range(&self, prefix: &str) -> (Revision, BTreeMap<String, Content>) {
        let inner = self.inner();
        (inner.state.revision(), inner.state.range(prefix))
    }

    /// The time of the last entry, and when the next lease ends.
    pub(crate) fn times(&self) -> (Time, Option<Time>) {
        let inner = self.inner();
        (inner.state.now(), inner.state.next_end())
    }

    /// Revision and number of keys.
    pub(crate) fn size(&self) -> (Revision, usize) {
        let inner = self.inner();
        (inner.state.revision(), inner.state.key_count())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a snapshot, away from the thread of the elections.
    async fn store(&self, snapshot: Snapshot) -> Result<Snapshot, Failure> {
        let files = Arc::clone(&self.files);
        let signature = snapshot.meta.signature();
        let written = tokio::task::spawn_blocking(move || files.write_snapshot(&snapshot).map(|()| snapshot)).await;
        let error = match written {
            Ok(Ok(snapshot)) => return Ok(snapshot),
            Ok(Err(error)) => std::io::Error::other(error),
            Err(error) => std::io::Error::other(error),
        };
        Err(StorageIOError::write_snapshot(Some(signature), &error).into())
    }
}

impl Inner {
    fn load(&mut self, snapshot: Snapshot) {
        self.state = snapshot.state.clone();
        self.applied = snapshot.meta.last_log_id;
        self.membership = snapshot.meta.last_membership.clone();
        self.snapshot = Some(snapshot);
    }

    fn apply(&mut self, entry: Entry, events: &mut Vec<Event>) -> Applied {
        self.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Applied(None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied(None)
            }
            EntryPayload::Normal(command) => {
                // A stamp of another reign is by another clock.
                if command.reign == entry.log_id.leader_id.into() {
                    self.state.advance(command.time, events);
                }
                match command.action {
                    Action::Tick => Applied(None),
                    Action::Transact { id, transaction } => {
                        Applied(Some(self.state.transact(id, &transaction, events)))
                    }
                }
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Node>), Failure> {
        let inner = self.inner();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, Failure>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut events = Vec::new();
        let replies = {
            let mut inner = self.inner();
            entries.into_iter().map(|entry| inner.apply(entry, &mut events)).collect()
        };
        if !events.is_empty() {
            // Nobody may be listening.
            let _ = self.events.send(Arc::new(events));
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Vec<u8>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta<u64, Node>, bytes: Box<Vec<u8>>) -> Result<(), Failure> {
        let state = rmp_serde::from_slice(&bytes);
        let state = state.map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), &error))?;
        let snapshot = self.store(Snapshot { meta: meta.clone(), state }).await?;
        let missed: Vec<Event> = {
            let mut inner = self.inner();
            let before = inner.state.range("");
            inner.load(snapshot);
            let after = inner.state.range("");
            let gone = before.keys().filter(|key| !after.contains_key(*key));
            let gone = gone.map(|key| Event { key: key.clone(), value: None });
            let new = after.iter().filter(|(key, content)| before.get(*key) != Some(content));
            gone.chain(new.map(|(key, content)| Event { key: key.clone(), value: Some(content.value.clone()) }))
                .collect()
        };
        let _ = self.events.send(Arc::new(missed));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<openraft::Snapshot<TypeConfig>>, Failure> {
        let Some(snapshot) = self.inner().snapshot.clone() else { return Ok(None) };
        let sent = as_sent(&snapshot);
        Ok(Some(sent.map_err(|error| StorageIOError::read_snapshot(Some(snapshot.meta.signature()), &error))?))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<openraft::Snapshot<TypeConfig>, Failure> {
        let snapshot = {
            let inner = self.inner();
            let index = inner.applied.map_or(0, |id| id.index);
            let meta = SnapshotMeta {
                last_log_id: inner.applied,
                last_membership: inner.membership.clone(),
                snapshot_id: format!("{index}-{}", inner.state.now().0),
            };
            Snapshot { meta, state: inner.state.clone() }
        };
        let snapshot = self.store(snapshot).await?;
        let sent = as_sent(&snapshot);
        let sent = sent.map_err(|error| StorageIOError::read_snapshot(Some(snapshot.meta.signature()), &error))?;
        let mut inner = self.inner();
        // One that was received meanwhile reaches further.
        if inner.snapshot.as_ref().is_none_or(|present| present.meta.last_log_id <= snapshot.meta.last_log_id) {
            inner.snapshot = Some(snapshot);
        }
        Ok(sent)
    }
}

fn as_sent(snapshot: &Snapshot) -> Result<openraft::Snapshot<TypeConfig>, rmp_serde::encode::Error> {
    let bytes = rmp_serde::to_vec_named(&snapshot.state)?;
    Ok(openraft::Snapshot { meta: snapshot.meta.clone(), snapshot: Box::new(bytes) })
}
