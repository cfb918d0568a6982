//! What servers do by themselves: stream, start, stop, leave recovery, die.
//!
//! Nothing here needs the agent: what a job has begun goes on when the agent is frozen or dead.

use std::rc::Rc;
use std::time::Duration;

use patroni_core::lsn::Lsn;
use patroni_core::server::{ControlState, Replication};

use crate::ambush::Worst;
use crate::clients::Write;
use crate::postgres::{CHECKPOINT, Process};
use crate::synchronous::WalSender;
use crate::universe::{Event, Universe};
use crate::wal::Wal;

impl Universe {
    /// Adds to the log of a primary, and sends it to whoever streams.
    pub(crate) fn append(&mut self, node: usize, bytes: u64) -> Option<Write> {
        let data = self.nodes[node].postgres.data_mut()?;
        data.wal.end.0 += bytes;
        let write = Write { branch: data.wal.last().id, end: data.wal.end, kept: false };
        self.stream_out(node);
        Some(write)
    }

    /// Sends the log to whoever streams from this server.
    pub(crate) fn stream_out(&mut self, node: usize) {
        let epoch = self.nodes[node].postgres.epoch;
        let standbys: Vec<(usize, u64)> = (0..self.nodes.len())
            .filter(|&other| {
                matches!(self.nodes[other].postgres.process, Process::Up { stream: Some(from), .. } if from == (node, epoch))
            })
            .map(|other| (other, self.nodes[other].postgres.epoch))
            .collect();
        let Some(data) = self.nodes[node].postgres.data() else { return };
        let wal = Rc::new(data.wal.clone());
        for to in standbys {
            self.send(node, to.0, Event::Wal { to, from: (node, epoch), wal: Rc::clone(&wal) });
        }
    }

    pub(crate) fn wal_arrives(&mut self, to: (usize, u64), from: (usize, u64), wal: &Wal) {
        let server = &mut self.nodes[to.0].postgres;
        let current = matches!(server.process, Process::Up { primary: false, stream: Some(source) } if source == from);
        if server.epoch != to.1 || !current || server.hung || server.disk_full {
            return;
        }
        let Some(data) = server.data_mut() else { return };
        if wal.end > data.wal.end || wal.branches.len() > data.wal.branches.len() {
            data.wal.clone_from(wal);
            data.checkpoint_timeline = data.wal.timeline();
            self.stream_out(to.0);
        }
        self.confirm(to.0, from);
    }

    /// A standby asks the server it follows for WAL, as walreceiver does: by timeline and position.
    pub(crate) fn connect(&mut self, node: usize, epoch: u64) {
        let server = &self.nodes[node].postgres;
        let waiting = matches!(server.process, Process::Up { primary: false, stream: None });
        let Some(mine) = server.data().filter(|_| waiting && server.epoch == epoch) else { return };
        let Some(source) = mine.follows.as_ref().and_then(|name| self.node_named(name)) else { return };
        let upstream = &self.nodes[source].postgres;
        let reachable = source != node && !self.is_cut(node, source) && !self.is_cut(source, node);
        let theirs = upstream.data().filter(|_| reachable && upstream.serves() && !server.hung);
        let fits = theirs.is_some_and(|theirs| theirs.system == mine.system && mine.wal.seems_prefix_of(&theirs.wal));
        if !fits {
            let again = self.random.millis(4000..6000);
            self.after(again, Event::Connect { node, epoch });
            return;
        }
        let source_epoch = upstream.epoch;
        let really = theirs.is_some_and(|theirs| mine.wal.is_prefix_of(&theirs.wal));
        if !really {
            // PostgreSQL cannot tell; neither could anybody who looks at timelines and positions alone.
            self.ambiguous = true;
        }
        self.nodes[node].postgres.process = Process::Up { primary: false, stream: Some((source, source_epoch)) };
        self.log(node, || "streams".into());
        let sync = &mut self.nodes[source].postgres.sync;
        let sender = WalSender { epoch, goes_by: sync.shown.clone(), confirmed: None };
        sync.senders.insert(node, sender);
        let wal = self.nodes[source].postgres.data().map(|data| Rc::new(data.wal.clone()));
        if let Some(wal) = wal {
            self.send(source, node, Event::Wal { to: (node, epoch), from: (source, source_epoch), wal });
        }
    }

    /// Streams from or to this server, or over this link, break.
    pub(crate) fn break_streams(&mut self, broken: impl Fn(usize, usize) -> bool) {
        for node in 0..self.nodes.len() {
            let server = &mut self.nodes[node].postgres;
            if let Process::Up { primary: false, stream: Some((source, _)) } = server.process
                && broken(source, node)
            {
                server.process = Process::Up { primary: false, stream: None };
                let epoch = server.epoch;
                let again = self.random.millis(500..5500);
                self.after(again, Event::Connect { node, epoch });
                self.notice_of_standbys(source);
            }
        }
    }

    /// The postmaster begins to start.
    pub(crate) fn start_postgres(&mut self, node: usize) -> bool {
        let clean = match self.nodes[node].postgres.data() {
            None => return false,
            Some(data) => matches!(data.control, ControlState::ShutDown | ControlState::ShutDownInRecovery),
        };
        let takes = if clean { self.random.mostly(100..800) } else { self.random.mostly(200..1500) };
        self.nodes[node].started_at = self.now;
        let server = &mut self.nodes[node].postgres;
        server.epoch += 1;
        server.birth += 1;
        server.process = Process::Starting;
        let epoch = server.epoch;
        self.after(takes, Event::Started { node, epoch });
        true
    }

    pub(crate) fn started(&mut self, node: usize, epoch: u64) {
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || server.process != Process::Starting {
            return;
        }
        // What recovery writes may fit into the segment that is there: then it is the first client that finds the disk full.
        let stuck = server.disk_full && self.random.percent(50);
        let server = &mut self.nodes[node].postgres;
        if stuck {
            self.crash_postgres(node, "dies: no space left on device");
            return;
        }
        let Some(data) = server.data_mut() else { return };
        let primary = !data.standby;
        data.control = if primary { ControlState::InProduction } else { ControlState::InArchiveRecovery };
        server.process = Process::Up { primary, stream: None };
        server.sync.start();
        if primary {
            self.check_promises(node);
            self.checkpoint(node, epoch);
        } else {
            self.after(Duration::from_millis(10), Event::Connect { node, epoch });
        }
        self.log(node, || format!("PostgreSQL runs as {}", if primary { "primary" } else { "standby" }));
        self.wake(node);
    }

    pub(crate) fn checkpoint(&mut self, node: usize, epoch: u64) {
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || !server.is_primary() {
            return;
        }
        let Some(data) = server.data_mut() else { return };
        data.checkpoint = (data.wal.end, Lsn(data.wal.end.0 - CHECKPOINT));
        data.checkpoint_timeline = data.wal.timeline();
        self.append(node, CHECKPOINT);
    }

    /// `pg_ctl promote`: whatever becomes of the agent, the server goes on with it.
    pub(crate) fn signal_promote(&mut self, node: usize) {
        self.worst(Worst::Promoting, node);
        self.nodes[node].promoted_by = self.nodes[node].life;
        let long = std::mem::take(&mut self.nodes[node].replays_long);
        let takes = if long { self.random.millis(5_000..60_000) } else { self.random.mostly(30..600) };
        let epoch = self.nodes[node].postgres.epoch;
        self.after(takes, Event::Promoted { node, epoch });
    }

    pub(crate) fn promoted(&mut self, node: usize, epoch: u64) {
        let id = self.unique();
        let first_checkpoint = self.random.mostly(50..2000);
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || !matches!(server.process, Process::Up { primary: false, .. }) {
            return;
        }
        if server.disk_full && self.random.percent(50) {
            // The first segment of the new timeline does not fit.
            self.crash_postgres(node, "dies while it is promoted: no space left on device");
            return;
        }
        self.promoted_under_lease(node);
        let server = &mut self.nodes[node].postgres;
        server.epoch += 1;
        let epoch = server.epoch;
        let Some(data) = server.data_mut() else { return };
        // What is shown after clients were held back is there to stay.
        let shown = Write { branch: data.wal.last().id, end: data.wal.end, kept: true };
        data.wal.fork(id);
        data.standby = false;
        data.control = ControlState::InProduction;
        let (timeline, other_wal) = (data.wal.timeline(), data.other_wal);
        server.process = Process::Up { primary: true, stream: None };
        server.sync.senders.clear();
        if other_wal {
            self.violation(node, "is promoted although it holds other WAL on the same timeline".into());
        }
        self.check_promises(node);
        if std::mem::take(&mut self.nodes[node].shows_all) {
            self.writes.push(shown);
        }
        self.worst(Worst::Promoted, node);
        self.append(node, CHECKPOINT);
        self.break_streams(|source, _| source == node);
        self.after(first_checkpoint, Event::Checkpoint { node, epoch });
        self.log(node, || format!("PostgreSQL is primary on timeline {timeline}"));
        self.wake(node);
    }

    /// A fast shutdown: sessions end now, the rest takes its time.
    pub(crate) fn begin_stop(&mut self, node: usize) {
        let takes = self.random.mostly(50..1500);
        let server = &mut self.nodes[node].postgres;
        let epoch = server.epoch;
        match server.process {
            Process::Down | Process::Stopping => {}
            Process::Starting => self.crash_postgres(node, "is stopped while it starts"),
            Process::Up { .. } => {
                server.process = Process::Stopping;
                // Commits that wait are not acknowledged: their clients are told that the wait was cancelled.
                server.sync.waiting.clear();
                server.shutdown = None;
                self.log(node, || "PostgreSQL is stopping".into());
                self.after(takes, Event::Stop { node, epoch, checkpointed: None });
            }
        }
    }

    pub(crate) fn stop_goes_on(&mut self, node: usize, epoch: u64, checkpointed: Option<Duration>) {
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || server.process != Process::Stopping {
            return;
        }
        let hung = server.hung;
        let Some(data) = server.data_mut() else { return };
        if hung {
            return self.after(Duration::from_millis(500), Event::Stop { node, epoch, checkpointed });
        }
        if data.standby {
            data.control = ControlState::ShutDownInRecovery;
            return self.crash_postgres(node, "has stopped");
        }
        let Some(since) = checkpointed else {
            self.write_shutdown_checkpoint(node);
            self.wake(node);
            let checkpointed = Some(self.now);
            return self.after(Duration::from_millis(5), Event::Stop { node, epoch, checkpointed });
        };
        if self.standbys_have_everything(node) || self.now - since > Duration::from_secs(5) {
            return self.crash_postgres(node, "has stopped");
        }
        self.after(Duration::from_millis(20), Event::Stop { node, epoch, checkpointed });
    }

    /// The server is gone without a word.
    pub(crate) fn crash_postgres(&mut self, node: usize, how: &str) {
        if self.nodes[node].postgres.process == Process::Down {
            return;
        }
        self.nodes[node].postgres.die();
        self.break_streams(|source, _| source == node);
        self.log(node, || format!("PostgreSQL {how}"));
        self.wake(node);
    }

    /// The shutdown checkpoint is written; the connected standbys will get it.
    fn write_shutdown_checkpoint(&mut self, node: usize) {
        let Some(data) = self.nodes[node].postgres.data_mut() else { return };
        let previous = Lsn(data.wal.end.0 - 50);
        data.checkpoint = (data.wal.end, previous);
        data.checkpoint_timeline = data.wal.timeline();
        data.control = ControlState::ShutDown;
        let checkpoint = data.checkpoint;
        self.nodes[node].postgres.shutdown = Some(checkpoint);
        self.append(node, CHECKPOINT);
    }

    /// Everybody who streams from this server has everything.
    pub(crate) fn standbys_have_everything(&self, node: usize) -> bool {
        let server = &self.nodes[node].postgres;
        let Some(data) = server.data() else { return true };
        self.nodes.iter().all(|other| match other.postgres.process {
            Process::Up { stream: Some(from), .. } if from == (node, server.epoch) => {
                other.postgres.data().is_none_or(|theirs| theirs.wal.end >= data.wal.end)
            }
            Process::Up { .. } | Process::Down | Process::Starting | Process::Stopping => true,
        })
    }

    /// Rows of `pg_stat_replication`.
    pub(crate) fn replication(&self, node: usize) -> Vec<Replication> {
        let epoch = self.nodes[node].postgres.epoch;
        self.nodes
            .iter()
            .filter(|other| {
                matches!(other.postgres.process, Process::Up { stream: Some(from), .. } if from == (node, epoch))
            })
            .map(|other| Replication {
                user: "replicator".into(),
                application_name: other.name.to_string(),
                client_addr: None,
                state: "streaming".into(),
                sync_state: "async".into(),
                sync_priority: 0,
                flush_lsn: other.postgres.data().map(|data| data.wal.end),
            })
            .collect()
    }
}
