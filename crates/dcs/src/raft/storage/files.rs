//! The files of one member: where they are, how they are opened, and what happens to damaged ones.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use openraft::{LogId, SnapshotMeta, Vote};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::records::{FileError, Records};
use crate::raft::protocol::{ClusterId, MemberId};
use crate::raft::state::State;
use crate::raft::types::{Entry, Node};

/// Damaged files that are kept.
const MOST_ASIDE: usize = 5;

/// Who this member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Random, and new with new files.
    pub(crate) member: MemberId,
    /// The only cluster that it will ever belong to.
    pub(crate) cluster: Option<ClusterId>,
    /// It founded that cluster.
    pub(crate) founder: bool,
    /// It was told that it is no member any more.
    pub(crate) removed: bool,
}

/// What the log consists of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Record {
    Identity(Identity),
    Vote(Vote<u64>),
    Entry(Box<Entry>),
    /// Entries from this index on do not count.
    Truncated(u64),
    /// Entries up to this one are in the snapshot.
    Purged(LogId<u64>),
}

impl Record {
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        rmp_serde::to_vec_named(self).map_err(|error| error.to_string())
    }
}

/// What the log says.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    pub(super) identity: Identity,
    pub(super) vote: Option<Vote<u64>>,
    pub(super) purged: Option<LogId<u64>>,
    pub(super) entries: std::collections::BTreeMap<u64, Entry>,
}

impl Logged {
    fn take(&mut self, record: Record) {
        match record {
            Record::Identity(identity) => self.identity = identity,
            Record::Vote(vote) => self.vote = Some(vote),
            Record::Entry(entry) => {
                self.entries.insert(entry.log_id.index, *entry);
            }
            Record::Truncated(index) => drop(self.entries.split_off(&index)),
            Record::Purged(log_id) => {
                self.entries = self.entries.split_off(&(log_id.index + 1));
                self.purged = Some(log_id);
            }
        }
    }

    /// The fewest records that say the same.
    pub(super) fn encode(&self) -> Result<Vec<Vec<u8>>, String> {
        let head =
            [Some(Record::Identity(self.identity)), self.vote.map(Record::Vote), self.purged.map(Record::Purged)];
        let entries = self.entries.values().map(|entry| Record::Entry(Box::new(entry.clone())));
        head.into_iter().flatten().chain(entries).map(|record| record.encode()).collect()
    }
}

/// A snapshot as it is stored and sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) meta: SnapshotMeta<u64, Node>,
    pub(crate) state: State,
}

/// The files of one member, which nobody else uses as long as this lives.
#[derive(Debug)]
pub(crate) struct Files {
    log: PathBuf,
    snapshot: PathBuf,
    _lock: File,
}

/// What the files hold.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) records: Records,
    pub(crate) logged: Logged,
    pub(crate) snapshot: Option<Snapshot>,
    /// There were none.
    pub(crate) new: bool,
}

impl Files {
    /// The files of the member with this address. They are not looked at yet.
    ///
    /// # Errors
    /// The directory cannot be used, or another process uses the files.
    pub(crate) fn claim(directory: &Path, address: &str) -> Result<Self, FileError> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(FileError::io(directory))?;
        let path = |ending: &str| directory.join(format!("{address}.{ending}"));
        let lock_path = path("lock");
        let lock = patroni_files::append(&lock_path).map_err(FileError::io(&lock_path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let text = "another process uses this store: give each its own raft.data_dir or raft.self_addr";
            FileError::Io { path: lock_path, source: std::io::Error::other(text) }
        })?;
        Ok(Files { log: path("log"), snapshot: path("snapshot"), _lock: lock })
    }

    /// Reads the files, and makes new ones where there are none, for a member with this id.
    pub(crate) fn open(&self, new_member: MemberId) -> Result<Opened, FileError> {
        let snapshot = self.read_snapshot()?;
        let damaged = |reason: &str| FileError::damaged(&self.log, reason);
        let (logged, new) = match Records::read(&self.log)? {
            None if snapshot.is_some() => return Err(damaged("it is missing, but there is a snapshot")),
            None => (logged_by(Identity { member: new_member, cluster: None, founder: false, removed: false }), true),
            Some(records) => (read_log(&records).map_err(|reason| damaged(&reason))?, false),
        };
        let covered = snapshot.as_ref().and_then(|snapshot| snapshot.meta.last_log_id).map(|id| id.index);
        if logged.purged.map(|id| id.index) > covered {
            return Err(FileError::damaged(&self.snapshot, "it lacks entries that the log no longer has"));
        }
        let first = logged.purged.map_or(0, |id| id.index + 1);
        if !logged.entries.keys().copied().eq((first..).take(logged.entries.len())) {
            return Err(damaged("entries are missing in it"));
        }
        let records = self.rewrite(&logged)?;
        Ok(Opened { records, logged, snapshot, new })
    }

    /// Puts a log that says just this in the place of the present one.
    pub(super) fn rewrite(&self, logged: &Logged) -> Result<Records, FileError> {
        let records = logged.encode().map_err(|reason| FileError::damaged(&self.log, reason))?;
        Records::replace(&self.log, records.iter().map(Vec::as_slice))
    }

    /// Keeps damaged files under other names, so that the member begins anew. Returns the name of the log.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, FileError> {
        let name = |path: &Path, i: usize| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".damaged.{i}"));
            PathBuf::from(name)
        };
        let free = (1..=MOST_ASIDE).find(|i| !name(&self.log, *i).exists() && !name(&self.snapshot, *i).exists());
        let Some(i) = free else {
            let text = format!("{MOST_ASIDE} damaged ones are kept already: look at the disk, then remove them");
            return Err(FileError::Io { path: self.log.clone(), source: std::io::Error::other(text) });
        };
        // The log goes last: without it and with a snapshot the files count as damaged still.
        for path in [&self.snapshot, &self.log] {
            match std::fs::rename(path, name(path, i)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(FileError::io(path)(error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(name(&self.log, i))
    }

    /// Stores a snapshot. It is on disk when this returns.
    pub(super) fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), FileError> {
        let encoded = rmp_serde::to_vec_named(snapshot);
        let encoded = encoded.map_err(|error| FileError::damaged(&self.snapshot, error.to_string()))?;
        Records::replace(&self.snapshot, std::iter::once(encoded.as_slice())).map(drop)
    }

    fn read_snapshot(&self) -> Result<Option<Snapshot>, FileError> {
        let damaged = |reason: String| FileError::damaged(&self.snapshot, reason);
        let Some(records) = Records::read(&self.snapshot)? else { return Ok(None) };
        let [record] = records.as_slice() else { return Err(damaged("it is not one record".to_owned())) };
        rmp_serde::from_slice(record).map(Some).map_err(|error| damaged(error.to_string()))
    }
}

fn logged_by(identity: Identity) -> Logged {
    Logged { identity, vote: None, purged: None, entries: std::collections::BTreeMap::new() }
}

fn read_log(records: &[Vec<u8>]) -> Result<Logged, String> {
    let mut decoded = records.iter().map(|record| rmp_serde::from_slice::<Record>(record));
    let Some(Ok(Record::Identity(identity))) = decoded.next() else {
        return Err("it does not begin with who the member is".to_owned());
    };
    let mut logged = logged_by(identity);
    for record in decoded {
        logged.take(record.map_err(|error| error.to_string())?);
    }
    Ok(logged)
}
