//! The simulated PostgreSQL: what lies on disk, what the process does, whom it streams from.

use std::collections::BTreeMap;
use std::time::Duration;

use patroni_core::disk::{Disks, Place, Room};
use patroni_core::hang::{self, Activity, Answer, Signs};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::server::{
    ControlData, ControlState, DataDir, Postmaster, Replication, Running, Server, Wal as ServerWal,
};

use crate::synchronous::SyncRep;
use crate::wal::Wal;

/// The length of a checkpoint record.
pub(crate) const CHECKPOINT: u64 = 120;

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    /// The data directory.
    pub disk: Disk,
    /// The postmaster.
    pub process: Process,
    /// Grows with every start and end of the process, and every promotion: what was sent to or by an earlier one is void.
    pub epoch: u64,
    /// Grows with every start and end of the process: signals that were sent to an earlier one are void.
    pub birth: u64,
    /// Synchronous replication.
    pub sync: SyncRep,
    /// Alive, and does not answer.
    pub hung: bool,
    /// It was killed while its storage hung: its processes are gone when they are let go.
    pub killed: bool,
    /// Nothing can be written: it dies, and dies again.
    pub disk_full: bool,
    /// The shutdown checkpoint is written: where it begins, and where the record before it begins.
    pub shutdown: Option<(Lsn, Lsn)>,
}

/// The data directory.
#[derive(Clone, Debug)]
pub(crate) enum Disk {
    /// Nothing.
    Empty,
    /// A copy or a rewind was interrupted.
    Torn,
    /// A database system.
    Data(Box<Data>),
}

/// A database system on disk.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    /// Its identifier.
    pub system: SystemId,
    /// Its log.
    pub wal: Wal,
    /// The state in `pg_control`.
    pub control: ControlState,
    /// The last checkpoint record, and the record before it.
    pub checkpoint: (Lsn, Lsn),
    /// The timeline of the last checkpoint.
    pub checkpoint_timeline: Timeline,
    /// It starts as a standby.
    pub standby: bool,
    /// `primary_conninfo`.
    pub follows: Option<MemberName>,
    /// Marked as one with other WAL than the primary.
    pub other_wal: bool,
}

/// The postmaster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// None.
    Down,
    /// Recovers; not yet answering.
    Starting,
    /// Answers.
    Up {
        /// Accepts writes.
        primary: bool,
        /// The server it streams from, and that server's epoch.
        stream: Option<(usize, u64)>,
    },
    /// Shuts down: no sessions any more.
    Stopping,
}

impl Postgres {
    /// A server without data.
    pub(crate) fn empty() -> Self {
        Postgres {
            disk: Disk::Empty,
            process: Process::Down,
            epoch: 0,
            birth: 0,
            sync: SyncRep::default(),
            hung: false,
            killed: false,
            disk_full: false,
            shutdown: None,
        }
    }

    /// What it can lose: the database system.
    pub(crate) fn data(&self) -> Option<&Data> {
        match &self.disk {
            Disk::Data(data) => Some(data),
            Disk::Empty | Disk::Torn => None,
        }
    }

    /// The same, to change it.
    pub(crate) fn data_mut(&mut self) -> Option<&mut Data> {
        match &mut self.disk {
            Disk::Data(data) => Some(data),
            Disk::Empty | Disk::Torn => None,
        }
    }

    /// The room for WAL, as `statvfs` shows it.
    pub(crate) fn disks(&self) -> Disks {
        let room = Room { total: 1000, free: if self.disk_full { 1 } else { 900 }, needed: 16 };
        Disks(BTreeMap::from([(Place::Wal, Ok(room))]))
    }

    /// Clients can write.
    pub(crate) fn accepts_writes(&self) -> bool {
        matches!(self.process, Process::Up { primary: true, .. }) && !self.hung
    }

    /// Others can stream from it.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.process, Process::Up { .. }) && !self.hung
    }

    /// A primary that runs.
    pub(crate) fn is_primary(&self) -> bool {
        matches!(self.process, Process::Up { primary: true, .. })
    }

    /// The process is gone, whatever it did.
    pub(crate) fn die(&mut self) {
        self.process = Process::Down;
        self.hung = false;
        self.killed = false;
        self.epoch += 1;
        self.birth += 1;
        self.sync.waiting.clear();
        self.sync.senders.clear();
    }

    /// What is seen of its processes.
    pub(crate) fn signs(&self) -> Signs {
        if self.process == Process::Down {
            return Signs::default();
        }
        let rests = hang::Process { used: 1, activity: Activity::Rests };
        let answer = (!self.hung).then(Answer::default);
        Signs { answer, processes: [(1, rests)].into(), disk_writes: None }
    }

    /// What an inspection finds.
    pub(crate) fn inspect(&self, replication: Vec<Replication>, started: Duration) -> Server {
        let data_dir = match &self.disk {
            Disk::Empty => DataDir::Empty,
            Disk::Torn => DataDir::Invalid("a copy or a rewind was interrupted".into()),
            Disk::Data(data) => DataDir::Present(data.system),
        };
        let postmaster = match self.process {
            Process::Down => Postmaster::Stopped(self.data().map(control_data)),
            Process::Starting | Process::Stopping | Process::Up { .. } if self.killed => Postmaster::Stopping,
            Process::Starting => Postmaster::Starting,
            Process::Stopping => Postmaster::Stopping,
            Process::Up { .. } if self.hung => Postmaster::Unreachable("canceling statement due to timeout".into()),
            Process::Up { primary, stream } => match self.data() {
                Some(data) => Postmaster::Running(running(data, primary, stream.is_some(), replication, started)),
                None => Postmaster::Unreachable("the data directory is gone".into()),
            },
        };
        let other_wal = self.data().is_some_and(|data| data.other_wal);
        Server { data_dir, postmaster, other_wal }
    }
}

fn control_data(data: &Data) -> ControlData {
    ControlData {
        state: data.control,
        checkpoint: data.checkpoint.0,
        checkpoint_timeline: data.checkpoint_timeline,
        min_recovery_end: data.wal.end,
        min_recovery_timeline: data.wal.timeline(),
        standby_signal: data.standby,
        backup_label: false,
        torn: false,
    }
}

fn running(data: &Data, primary: bool, streams: bool, replication: Vec<Replication>, started: Duration) -> Running {
    let wal = if primary {
        ServerWal::Primary { location: data.wal.end }
    } else {
        ServerWal::Standby {
            received: Some(data.wal.end),
            replayed: Some(data.wal.end),
            replayed_timestamp: None,
            paused: false,
            latest_end: None,
            replication_state: streams.then(|| "streaming".into()),
        }
    };
    Running {
        start_time: format!("{started:?}"),
        statistics_reset: None,
        server_version: 150_018,
        wal,
        timeline: Some(data.wal.timeline()),
        control_timeline: Some(data.checkpoint_timeline),
        replication,
        slots: Default::default(),
        pending_restart: Default::default(),
    }
}
