//! The log and the vote, as `openraft` wants them: in memory, and flushed to the file before it goes on.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote};
use patroni_core::units::in_words;

use super::files::{Files, Identity, Logged, Record};
use super::records::Records;
use crate::raft::types::{Entry, TypeConfig};

/// Records that no longer count may take this much before the file is written anew.
const MOST_WASTE: u64 = 256 * 1024;
/// A flush that takes longer is told.
const SLOW: Duration = Duration::from_millis(500);

/// Clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    memory: Arc<Mutex<Logged>>,
    disk: Arc<Mutex<Disk>>,
    bytes: Arc<AtomicU64>,
}

struct Disk {
    files: Arc<Files>,
    records: Records,
    /// Bytes of the file when it was last written anew.
    fresh: u64,
    /// After a failure nothing is known about the file: it is opened again before anything else is written.
    failed: bool,
}

type Failure = StorageError<u64>;

impl LogStore {
    /// The log that was opened.
    pub(crate) fn new(files: Arc<Files>, records: Records, logged: Logged) -> Self {
        let bytes = records.length();
        LogStore {
            memory: Arc::new(Mutex::new(logged)),
            disk: Arc::new(Mutex::new(Disk { files, records, fresh: bytes, failed: false })),
            bytes: Arc::new(AtomicU64::new(bytes)),
        }
    }

    /// Who this member is.
    pub(crate) fn identity(&self) -> Identity {
        self.memory().identity
    }

    /// Writes down who this member is. It is on disk when this returns.
    pub(crate) async fn set_identity(&self, identity: Identity) -> io::Result<()> {
        self.flush(vec![Record::Identity(identity)]).await?;
        self.memory().identity = identity;
        Ok(())
    }

    /// Bytes of the log on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Adds records to the file, away from the thread of the elections.
    async fn flush(&self, records: Vec<Record>) -> io::Result<()> {
        let (disk, bytes) = (Arc::clone(&self.disk), Arc::clone(&self.bytes));
        let work = move || {
            let encoded: Result<Vec<Vec<u8>>, String> = records.iter().map(Record::encode).collect();
            let encoded = encoded.map_err(io::Error::other)?;
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.usable()?;
            let began = Instant::now();
            let added = disk.records.add(encoded.iter().map(Vec::as_slice));
            disk.failed = added.is_err();
            bytes.store(disk.records.length(), Ordering::Relaxed);
            let took = began.elapsed();
            if took >= SLOW {
                tracing::warn!("writing the log of the embedded store took {}: its disk is busy", in_words(took));
            }
            added
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    /// Writes the file anew where too much of it no longer counts.
    async fn shrink(&self) -> io::Result<()> {
        let (logged, disk, bytes) = (self.memory().clone(), Arc::clone(&self.disk), Arc::clone(&self.bytes));
        let work = move || {
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.usable()?;
            if disk.records.length() < disk.fresh + MOST_WASTE {
                return Ok(());
            }
            let rewritten = disk.files.rewrite(&logged).map_err(io::Error::other);
            disk.failed = rewritten.is_err();
            disk.records = rewritten?;
            disk.fresh = disk.records.length();
            bytes.store(disk.fresh, Ordering::Relaxed);
            Ok(())
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    fn memory(&self) -> MutexGuard<'_, Logged> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn usable(&self) -> io::Result<()> {
        if self.failed { Err(io::Error::other("an earlier write to the log failed")) } else { Ok(()) }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, Failure> {
        Ok(self.memory().entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, Failure> {
        let memory = self.memory();
        let last = memory.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: last.or(memory.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failure> {
        self.flush(vec![Record::Vote(*vote)]).await.map_err(|error| StorageIOError::write_vote(&error))?;
        self.memory().vote = Some(*vote);
        Ok(())
    }

    /// Asked for once, at the start. A member that led then does not go on leading, as `openraft` would have it: it does not know
    /// any more how far it had committed, and would answer reads with what it had when it was elected. It is elected anew.
    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failure> {
        Ok(self.memory().vote.map(|vote| Vote { committed: false, ..vote }))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.memory().entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
        let records = entries.into_iter().map(|entry| Record::Entry(Box::new(entry))).collect();
        callback.log_io_completed(self.flush(records).await);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), Failure> {
        drop(self.memory().entries.split_off(&log_id.index));
        let flushed = self.flush(vec![Record::Truncated(log_id.index)]).await;
        Ok(flushed.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), Failure> {
        {
            let mut memory = self.memory();
            memory.entries = memory.entries.split_off(&(log_id.index + 1));
            memory.purged = Some(log_id);
        }
        let flushed = match self.flush(vec![Record::Purged(log_id)]).await {
            Ok(()) => self.shrink().await,
            failed => failed,
        };
        Ok(flushed.map_err(|error| StorageIOError::write_logs(&error))?)
    }
}
