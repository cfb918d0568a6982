//! `pg_control`, as `pg_controldata` prints it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::SystemId;
use patroni_core::parameters::ControlSettings;
use patroni_core::server::{ControlData, ControlState};

use crate::cancel::Cancel;
use crate::programs::Programs;
use crate::{Error, Result, blocking, data_dir};

/// How long `pg_controldata` may take. It reads one file of 8 kB.
const LIMIT: Duration = Duration::from_secs(5);

/// The state alone, from the file itself: quick enough to be asked every few milliseconds. `None` where the file cannot be read, or the disk
/// does not answer.
pub async fn peek_state(data_dir: &Path) -> Option<ControlState> {
    blocking::at(data_dir, |data_dir| Ok(state(data_dir))).await.ok().flatten()
}

/// The same. In all supported versions the file begins with the system identifier (8 bytes), two version numbers (4 each), and the state
/// (4), in the byte order of the machine. Blocks.
#[expect(clippy::disallowed_methods, reason = "blocks")]
pub(crate) fn state(data_dir: &Path) -> Option<ControlState> {
    let mut head = [0; 20];
    std::fs::File::open(data_dir.join("global/pg_control")).ok()?.read_exact(&mut head).ok()?;
    Some(match u32::from_ne_bytes(head[16..].try_into().ok()?) {
        0 => ControlState::StartingUp,
        1 => ControlState::ShutDown,
        2 => ControlState::ShutDownInRecovery,
        3 => ControlState::ShuttingDown,
        4 => ControlState::InCrashRecovery,
        5 => ControlState::InArchiveRecovery,
        6 => ControlState::InProduction,
        _ => ControlState::Unrecognized,
    })
}

/// All values of `pg_controldata`, by their label without the word `Current `.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlValues(BTreeMap<String, String>);

impl ControlValues {
    /// Runs `pg_controldata` on a data directory.
    ///
    /// # Errors
    /// The program cannot be run, or fails: no database system there, or one of another version.
    pub async fn read(programs: &Programs, data_dir: &Path) -> Result<Self> {
        let mut command = programs.command("pg_controldata");
        command.arg(data_dir).env("LC_ALL", "C").env("LANG", "C");
        let output = programs.capture(command, &Cancel::new(), Some(LIMIT)).await?;
        Ok(Self::parse(&output.success()?.stdout))
    }

    /// Reads the output of `pg_controldata` in the C locale.
    pub fn parse(output: &str) -> Self {
        let pairs = output.lines().filter_map(|line| line.split_once(':'));
        ControlValues(pairs.map(|(k, v)| (k.replacen("Current ", "", 1), v.trim().to_owned())).collect())
    }

    /// The value with a label such as `max_connections setting`.
    pub fn get(&self, label: &str) -> Option<&str> {
        self.0.get(label).map(String::as_str)
    }

    /// `Database system identifier`
    pub fn system_id(&self) -> Option<SystemId> {
        self.parsed("Database system identifier").map(SystemId)
    }

    /// `Database cluster state`
    pub fn state(&self) -> ControlState {
        match self.get("Database cluster state") {
            Some("starting up") => ControlState::StartingUp,
            Some("shut down") => ControlState::ShutDown,
            Some("shut down in recovery") => ControlState::ShutDownInRecovery,
            Some("shutting down") => ControlState::ShuttingDown,
            Some("in crash recovery") => ControlState::InCrashRecovery,
            Some("in archive recovery") => ControlState::InArchiveRecovery,
            Some("in production") => ControlState::InProduction,
            Some(_) | None => ControlState::Unrecognized,
        }
    }

    /// `Latest checkpoint location`
    pub fn checkpoint(&self) -> Option<Lsn> {
        self.parsed("Latest checkpoint location")
    }

    /// `Latest checkpoint's TimeLineID`
    pub fn checkpoint_timeline(&self) -> Option<Timeline> {
        self.parsed("Latest checkpoint's TimeLineID").map(Timeline)
    }

    /// `Bytes per WAL segment`
    pub fn wal_segment_size(&self) -> Option<u64> {
        self.parsed("Bytes per WAL segment").filter(|size| *size > 0)
    }

    /// The part that decisions look at, together with the marker files of the data directory.
    ///
    /// # Errors
    /// A value that every version prints is missing.
    pub fn control_data(&self, marks: data_dir::Marks) -> Result<ControlData> {
        let missing = |label: &str| Error::Unexpected(format!("pg_controldata printed no usable {label:?}"));
        Ok(ControlData {
            state: self.state(),
            checkpoint: self.checkpoint().ok_or_else(|| missing("Latest checkpoint location"))?,
            checkpoint_timeline: self.checkpoint_timeline().ok_or_else(|| missing("Latest checkpoint's TimeLineID"))?,
            min_recovery_end: self.parsed("Minimum recovery ending location").unwrap_or_default(),
            min_recovery_timeline: Timeline(self.parsed("Min recovery ending loc's timeline").unwrap_or(0)),
            standby_signal: marks.standby_signal,
            backup_label: marks.backup_label,
            torn: false,
        })
    }

    /// Rewound, or copied, and not consistent before it has replayed WAL that may not be at hand. Recovery as a primary would end where the
    /// WAL at hand ends, which PostgreSQL refuses after a copy, and not after pg_rewind.
    ///
    /// # Errors
    /// The disk does not answer.
    pub async fn is_inconsistent(&self, data_dir: &Path) -> Result<bool> {
        let has_begun = self.parsed("Backup start location").is_some_and(|start: Lsn| start != Lsn(0));
        let in_recovery = self.state() == ControlState::InArchiveRecovery;
        Ok(in_recovery && (has_begun || data_dir::Marks::read(data_dir).await?.has_label))
    }

    /// The settings of the server that a standby may not be below.
    pub fn settings(&self) -> ControlSettings {
        ControlSettings {
            max_connections: self.parsed("max_connections setting"),
            max_worker_processes: self.parsed("max_worker_processes setting"),
            max_prepared_transactions: self.parsed("max_prepared_xacts setting"),
            max_locks_per_transaction: self.parsed("max_locks_per_xact setting"),
            max_wal_senders: self.parsed("max_wal_senders setting"),
        }
    }

    fn parsed<T: std::str::FromStr>(&self, label: &str) -> Option<T> {
        self.get(label)?.parse().ok()
    }
}
