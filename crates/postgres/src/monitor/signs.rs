//! What tells a server that hangs from a slow one. Facts only: what follows from them is decided in `core`.
#![expect(clippy::disallowed_methods, reason = "what blocks is called by way of `blocking`")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use patroni_core::hang::{Activity, Answer, Process, Signs};
use patroni_core::lsn::Lsn;
use tokio::time::timeout;

use super::Monitor;
use crate::blocking;
use crate::processes;
use crate::sql::{Connection, DEFAULT_OPTIONS, Row, SqlError};

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// A server that is well has answered by then.
const SOON: Duration = Duration::from_millis(250);

/// How far WAL is on disk; and where some waits for that, who is writing it.
const QUERY: &str = "SELECT f, CASE WHEN i > f THEN (SELECT pg_catalog.string_agg(pid::text, ' ') FROM \
     pg_catalog.pg_stat_get_activity(NULL) WHERE wait_event_type = 'IO' AND wait_event ILIKE 'wal%') END FROM (SELECT \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END AS f, \
     CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END AS i) p";

/// Looks at one server again and again, over a connection that it holds.
#[derive(Debug)]
pub struct Pulse {
    monitor: Monitor,
    held: Option<Connection>,
    /// The disk with the WAL, once it is known.
    disk: OnceLock<String>,
}

impl Pulse {
    /// Nothing was looked at yet.
    pub fn new(monitor: Monitor) -> Self {
        Pulse { monitor, held: None, disk: OnceLock::new() }
    }

    /// One look. It takes about three seconds at most, and less than one where the server answers. Where it does not answer at once, what
    /// is seen meanwhile goes to `meanwhile`: it says nothing yet, and it does so from then on.
    pub async fn look(&mut self, meanwhile: impl FnOnce(Signs)) -> Signs {
        let sight = self.sight();
        let answer = {
            let mut asked = pin!(self.ask());
            match timeout(SOON, &mut asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    meanwhile(sight.look(None).await);
                    asked.await
                }
            }
        };
        if answer.as_ref().is_some_and(|answer| answer.writing_wal.is_empty()) {
            self.learn_disk().await;
            return Signs { answer, ..Signs::default() };
        }
        self.sight().look(answer).await
    }

    fn sight(&self) -> Sight {
        let alive = self.monitor.cached().filter(|postmaster| postmaster.is_alive());
        Sight { postmaster: alive.map(|postmaster| postmaster.pid()), disk: self.disk.get().cloned() }
    }

    /// On the connection that is held, then on a new one. The server may say no: that is an answer.
    async fn ask(&mut self) -> Option<Answer> {
        if let Some(held) = &self.held {
            match timeout(LIMIT, held.query_within(QUERY, LIMIT)).await {
                Ok(Ok(rows)) => return Some(rows.first().map(answer).unwrap_or_default()),
                Ok(Err(error)) if is_answer(&error) => return Some(Answer::default()),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        self.held = None;
        let options = self.monitor.options();
        let asked = async {
            let new = options.connect(None, "Patroni pulse", DEFAULT_OPTIONS).await?;
            let rows = new.query_within(QUERY, LIMIT).await?;
            Ok::<_, SqlError>((new, rows))
        };
        match timeout(LIMIT, asked).await {
            Ok(Ok((new, rows))) => {
                self.held = Some(new);
                Some(rows.first().map(answer).unwrap_or_default())
            }
            Ok(Err(error)) if is_answer(&error) => Some(Answer::default()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// While all is well, so that the disk need not be asked when it hangs.
    async fn learn_disk(&mut self) {
        if self.disk.get().is_none() {
            let wal = self.monitor.options().data_dir.join("pg_wal");
            let disk = blocking::within(LIMIT, "looking for the disk", move || {
                Ok(fs::metadata(&wal).map(|wal| statistics_of(wal.dev())).ok())
            });
            if let Ok(Some(disk)) = disk.await {
                let _ = self.disk.set(disk);
            }
        }
    }
}

/// Whom and what to look at.
struct Sight {
    postmaster: Option<i32>,
    disk: Option<String>,
}

impl Sight {
    async fn look(self, answer: Option<Answer>) -> Signs {
        let Sight { postmaster, disk } = self;
        let seen = blocking::within(LIMIT, "looking at processes", move || {
            Ok((postmaster.map(processes_of).unwrap_or_default(), disk.and_then(|disk| completed_writes(&disk))))
        });
        let (processes, disk_writes) = seen.await.unwrap_or_default();
        Signs { answer, processes, disk_writes }
    }
}

/// PostgreSQL itself said something, and if it is that it has no room.
fn is_answer(error: &SqlError) -> bool {
    error.code().is_some() && !error.is_timeout()
}

fn answer(row: &Row) -> Answer {
    let writing = row.get(1).unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok());
    Answer { flushed: row.parse::<Lsn>(0), writing_wal: writing.collect::<BTreeSet<i32>>() }
}

fn processes_of(postmaster: i32) -> BTreeMap<i32, Process> {
    let all = processes::tree(postmaster).into_iter().map(|(pid, stat)| {
        let activity = match stat.state {
            'R' => Activity::Runs,
            'D' => Activity::Blocked,
            _ => Activity::Rests,
        };
        (pid, Process { used: processes::nanoseconds(pid).unwrap_or(stat.ticks), activity })
    });
    all.collect()
}

/// The statistics of a disk, by its number.
fn statistics_of(device: u64) -> String {
    format!("/sys/dev/block/{}:{}/stat", rustix::fs::major(device), rustix::fs::minor(device))
}

/// Reads, merged, sectors, time; then the writes. `None`: no disk of this machine, such as NFS.
fn completed_writes(statistics: &str) -> Option<u64> {
    fs::read_to_string(statistics).ok()?.split_whitespace().nth(4)?.parse().ok()
}
