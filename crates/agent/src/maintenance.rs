//! What a running server needs beside decisions: the first checkpoint of a new primary, what waits for a restart, answers to
//! questions. What may take long runs in the background, under a limit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use patroni_core::JsonMap;
use patroni_core::cluster::Cluster;
use patroni_core::facts::{Facts, RewindCheck, UpstreamCheck};
use patroni_core::history::{NewTimeline, cluster_history, parse_history};
use patroni_core::job::{RewindSource, Upstream};
use patroni_core::lsn::Timeline;
use patroni_core::server::{DataDir, Postmaster, Running, Server};
use patroni_core::settings::Settings;
use patroni_core::units::in_words;
use patroni_postgres::conf::RunningRecovery;
use patroni_postgres::monitor::Monitor;
use patroni_postgres::sql::{Connection, UNLIMITED};
use patroni_postgres::{data_dir, other_wal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::jobs::Jobs;
use crate::rewind;

/// How long the checkpoint of a new primary may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(3600);

/// How long writing a small file may take.
const MARK_LIMIT: Duration = Duration::from_secs(1);

/// The background work of one node.
pub struct Maintenance {
    monitor: Monitor,
    checkpoint: Option<JoinHandle<()>>,
    /// What waits for a restart of the server that was started at this time.
    pending: Option<(String, JsonMap)>,
    /// For questions to the server that are asked in a tick.
    connection: Option<Connection>,
}

impl Maintenance {
    /// Nothing is under way.
    pub fn new(monitor: Monitor) -> Self {
        Maintenance { monitor, checkpoint: None, pending: None, connection: None }
    }

    /// Remembers what waits for a restart of this server.
    pub fn set_pending_restart(&mut self, running: &Running, pending: JsonMap) {
        self.pending = Some((running.start_time.clone(), pending));
    }

    /// A server was found running: what its start raised above the configuration waits for its next restart. True: that is news.
    pub fn note_start(&mut self, running: &Running, raised: &JsonMap) -> bool {
        let known = self.pending.as_ref().is_some_and(|(start_time, _)| *start_time == running.start_time);
        if !known {
            self.set_pending_restart(running, raised.clone());
        }
        !known && !raised.is_empty()
    }

    /// The server as inspected, with what is known to wait for its restart.
    pub fn with_pending_restart(&self, mut server: Server) -> Server {
        if let Postmaster::Running(running) = &mut server.postmaster
            && let Some((start_time, pending)) = &self.pending
            && *start_time == running.start_time
        {
            running.pending_restart.extend(pending.clone());
        }
        server
    }

    /// The value `/history` should have; `None`: it has it.
    ///
    /// # Errors
    /// The history file cannot be read.
    pub async fn history(
        &self,
        timeline: Timeline,
        cluster: &Cluster,
        settings: &Settings,
    ) -> Result<Option<String>, String> {
        let stored = cluster.history.as_ref().map_or(&[][..], |history| &history.lines);
        let (text, time) = if timeline == Timeline(1) {
            (String::new(), String::new())
        } else {
            let read = data_dir::timeline_history(&self.monitor.options().data_dir, timeline).await;
            let (text, modified) = read.map_err(|error| error.to_string())?;
            (text, iso_time(modified))
        };
        let new = NewTimeline { time: &time, leader: settings.name.as_str() };
        Ok(cluster_history(stored, timeline, &parse_history(&text), &new, settings.max_timelines_history))
    }

    /// Compares timeline and position with those of a primary.
    pub async fn check_rewind(
        &self,
        jobs: &mut Jobs,
        source: &RewindSource,
        facts: &Facts,
        limit: Duration,
    ) -> RewindCheck {
        let Some(control) = jobs.control() else { return RewindCheck::Unclear("an action is in progress".to_owned()) };
        let system_id = match &facts.server.data_dir {
            DataDir::Present(id) => Some(*id),
            DataDir::Empty | DataDir::Inaccessible(_) | DataDir::Unknown(_) | DataDir::Invalid(_) => None,
        };
        match timeout(limit, rewind::check(control, source, &facts.settings, system_id)).await {
            Ok(check) => check,
            Err(_) => RewindCheck::Unclear(format!("no answer within {}", in_words(limit))),
        }
    }

    /// Leaves, or removes, the mark of a data directory with other WAL than the primary. What failed is tried again in the next tick.
    pub async fn mark_other_wal(&self, present: bool) {
        let options = self.monitor.options();
        match timeout(MARK_LIMIT, other_wal::mark(&options.data_dir, present)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the mark of a diverged data directory: {error}"),
            Err(_) => {
                tracing::error!("the mark of a diverged data directory: no answer within {}", in_words(MARK_LIMIT))
            }
        }
    }

    /// Compares what the standby follows with what it should follow. One that `starts` cannot be asked.
    ///
    /// # Errors
    /// The server does not tell, or an action is in progress.
    pub async fn check_upstream(
        &mut self,
        jobs: &mut Jobs,
        upstream: &Upstream,
        starts: bool,
        limit: Duration,
    ) -> Result<UpstreamCheck, String> {
        if starts {
            let control = jobs.control().ok_or("an action is in progress")?;
            return Ok(control.conf().check_written_upstream(upstream).await);
        }
        let connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.monitor.connect("restapi").await.map_err(|error| error.to_string())?,
        };
        let recovery = RunningRecovery::read(&connection, limit).await.map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        let Some(control) = jobs.control() else { return Err("an action is in progress".to_owned()) };
        control.conf().check_upstream(upstream, &recovery).await.map_err(|error| error.to_string())
    }

    /// Starts the first checkpoint of a new primary, unless it is being written.
    pub fn start_checkpoint(&mut self, woken: &Arc<Notify>) {
        if self.checkpoint.as_ref().is_none_or(JoinHandle::is_finished) {
            self.checkpoint = Some(tokio::spawn(checkpoint(self.monitor.clone(), Arc::clone(woken))));
        }
    }
}

/// Writes the first checkpoint of a new primary: until then pg_rewind takes it for what it was before.
async fn checkpoint(monitor: Monitor, woken: Arc<Notify>) {
    let work = async {
        let connection = monitor.options().connect(None, "Patroni checkpoint", UNLIMITED).await?;
        connection.query_within("CHECKPOINT", CHECKPOINT_LIMIT).await?;
        Ok::<(), patroni_postgres::Error>(())
    };
    match work.await {
        Ok(()) => woken.notify_one(),
        Err(error) => {
            tracing::warn!("CHECKPOINT after the promotion failed: {error}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// ISO 8601 with the offset of this machine, as Python's `isoformat` prints it.
fn iso_time(time: std::time::SystemTime) -> String {
    let Ok(timestamp) = Timestamp::try_from(time) else { return String::new() };
    timestamp.to_zoned(TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string()
}
