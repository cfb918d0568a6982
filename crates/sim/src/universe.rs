//! Everything that exists in a simulation, its one clock, and its queue of events.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use patroni_core::job::{Job, JobOutcome, JobView};
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::PeerStatus;
use patroni_core::plan::JobOrder;
use patroni_core::request::{Answer, Request, RequestId};
use patroni_core::server::{ControlState, Replication, Role};
use patroni_core::settings::Settings;

use crate::faults::Fault;
use crate::postgres::{CHECKPOINT, Disk, Postgres, Process};
use crate::random::Random;
use crate::store::{Store, StoreReply, StoreRequest};
use crate::wal::Wal;

/// The universe, shared by everything that runs in it, on one thread.
pub type Shared = Rc<RefCell<Universe>>;

/// The store's place in the network.
pub const STORE: usize = usize::MAX;

/// What can happen.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something this node's agent or job may wait for.
    Wake(usize),
    /// A request arrives at the store.
    ToStore { from: Sender, request: StoreRequest },
    /// Its answer arrives.
    FromStore { to: Sender, reply: StoreReply },
    /// A lease may have ended.
    Expire,
    /// A peer is asked for its status.
    ToPeer { from: Sender, peer: usize },
    /// Its answer arrives.
    FromPeer { to: Sender, name: MemberName, status: PeerStatus },
    /// WAL arrives at a standby.
    Wal { to: (usize, u64), from: (usize, u64), wal: Rc<Wal> },
    /// A standby without a stream tries to get one.
    Connect { node: usize, epoch: u64 },
    /// A watch, or something local, wakes the agent.
    Notice(usize),
    /// A shutdown goes on: the checkpoint, then the wait for standbys since then.
    Stop { node: usize, epoch: u64, checkpointed: Option<Duration> },
    /// The server leaves recovery.
    Promoted { node: usize, epoch: u64 },
    /// A start has come to its end.
    Started { node: usize, epoch: u64 },
    /// A new primary writes its first checkpoint.
    Checkpoint { node: usize, epoch: u64 },
    /// The guard of a node looks at its deadline.
    Guard { node: usize, deadline: Duration },
    /// A client writes, or reads.
    Client,
    /// Something goes wrong, or an operator does something.
    Fault(Fault),
}

/// Who waits for an answer: the node, the life of its agent, and the number of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sender {
    /// The node.
    pub node: usize,
    /// Which agent: one that was started again gets no answers of its predecessor.
    pub life: u64,
    /// Which question.
    pub ticket: u64,
}

/// An answer that has arrived.
#[derive(Clone, Debug)]
pub enum Arrived {
    /// Of the store.
    Store(StoreReply),
    /// Of a peer.
    Peer(MemberName, PeerStatus),
}

/// A machine with an agent and a server.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: MemberName,
    /// The configuration file.
    pub settings: Settings,
    /// The server.
    pub postgres: Postgres,
    /// When the postmaster was started.
    pub started_at: Duration,
    /// The agent's process exists.
    pub alive: bool,
    /// Which agent this is.
    pub life: u64,
    /// Stopped until then, as by SIGSTOP or a machine without mercy.
    pub frozen_until: Option<Duration>,
    /// Left the cluster for good, or is not yet part of it.
    pub absent: bool,
    /// The agent was told to stop.
    pub stopping: bool,
    /// Something woke the agent.
    pub woken: bool,
    /// The role it announces.
    pub role: Role,
    /// The end of the lease it believes in.
    pub lease_until: Option<Duration>,
    /// The guard's deadline.
    pub guard: Option<Duration>,
    /// Its last tick was paused.
    pub paused: bool,
    /// The same, until it has a lease again or accepts no writes: a paused server may be a primary without one.
    pub was_paused: bool,
    /// Nobody looked after the server when its lease ended, or may not have: the agent was frozen or dead.
    pub unattended: bool,
    /// Makes a new cluster.
    pub bootstrapping: bool,
    /// What its agent ordered, until the job takes it up.
    pub order: Option<JobOrder>,
    /// The job that runs.
    pub job: Option<JobView>,
    /// The job that ended.
    pub ended: Option<(Job, JobOutcome)>,
    /// Requests of operators.
    pub requests: BTreeMap<RequestId, Request>,
    /// Difference of its wall clock.
    pub wall_offset: i64,
    /// The agent ended by itself because somebody has to do something.
    pub fatal: bool,
    /// Answers that arrived and were not yet read.
    pub arrived: BTreeMap<u64, Vec<Arrived>>,
    /// The last verdict.
    pub verdict: String,
    /// Ticks so far.
    pub ticks: u64,
}

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The branch it is in.
    pub branch: u64,
    /// Its end.
    pub end: Lsn,
}

/// The universe.
pub struct Universe {
    /// Time since everything was started.
    pub now: Duration,
    /// Chance.
    pub random: Random,
    /// The machines.
    pub nodes: Vec<Node>,
    /// The store.
    pub store: Store,
    /// Directed pairs between which nothing passes.
    pub cuts: BTreeSet<(usize, usize)>,
    /// Everything takes this much longer.
    pub slow: u32,
    /// Each node has a guard.
    pub guarded: bool,
    /// What clients were told is written.
    pub writes: Vec<Write>,
    /// Nodes whose agent or job may be able to go on.
    pub runnable: BTreeSet<usize>,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Requests made over REST, and not yet answered.
    pub unanswered: BTreeMap<RequestId, usize>,
    /// What happened, for people.
    pub trace: Option<Vec<String>>,
    /// The last time at which an operator had the cluster paused.
    pub paused_at: Option<Duration>,
    /// Two servers called their timelines the same, and PostgreSQL could not tell.
    pub ambiguous: bool,
    expiry_at: Option<Duration>,
    queue: BTreeMap<(Duration, u64), Event>,
    serial: u64,
}

impl Universe {
    /// An empty universe.
    pub fn new(random: Random, guarded: bool, traced: bool) -> Self {
        Universe {
            now: Duration::from_secs(1000),
            random,
            nodes: Vec::new(),
            store: Store::default(),
            cuts: BTreeSet::new(),
            slow: 1,
            guarded,
            writes: Vec::new(),
            runnable: BTreeSet::new(),
            violations: Vec::new(),
            faults: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            trace: traced.then(Vec::new),
            paused_at: None,
            ambiguous: false,
            expiry_at: None,
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A number that nothing else has.
    pub fn unique(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Something will happen.
    pub fn at(&mut self, when: Duration, event: Event) {
        let serial = self.unique();
        self.queue.insert((when.max(self.now), serial), event);
    }

    /// The same, after a while.
    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// The next thing that happens, if it happens before `end`; time moves there.
    pub fn next(&mut self, end: Duration) -> Option<Event> {
        let (&key, _) = self.queue.first_key_value().filter(|(key, _)| key.0 < end)?;
        self.now = key.0;
        self.queue.remove(&key)
    }

    /// Writes a line of the trace.
    pub fn log(&mut self, who: usize, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let name = self.nodes.get(who).map_or("-", |node| node.name.as_str());
            lines.push(format!("{:10.4} {name:>3}  {}", (self.now - Duration::from_secs(1000)).as_secs_f64(), text()));
        }
    }

    /// What must not be.
    pub fn violation(&mut self, who: usize, text: String) {
        self.log(who, || format!("VIOLATION {text}"));
        let at = (self.now - Duration::from_secs(1000)).as_secs_f64();
        let name = self.nodes.get(who).map_or("-", |node| node.name.as_str()).to_owned();
        self.violations.push(format!("at {at:.3} s, {name}: {text}"));
    }

    /// Nothing passes from one to the other.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Sends a message over the network, if it can pass.
    ///
    /// `false`: it surely did not leave.
    pub fn send(&mut self, from: usize, to: usize, event: Event) -> bool {
        if self.is_cut(from, to) || to == STORE && self.store.down {
            return false;
        }
        let slow = self.slow;
        let delay = self.random.mostly(1..4) * slow;
        self.after(delay, event);
        true
    }

    /// The node can be found by its name.
    pub fn node_named(&self, name: &MemberName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    /// Wakes an agent.
    pub fn wake(&mut self, node: usize) {
        self.nodes[node].woken = true;
        self.runnable.insert(node);
    }

    /// Carries out what does not concern faults.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(node) => {
                self.runnable.insert(node);
            }
            Event::Notice(node) => self.wake(node),
            Event::ToStore { from, request } => self.store_handles(from, request),
            Event::FromStore { to, reply } => self.arrive(to, Arrived::Store(reply)),
            Event::Expire => {
                self.expiry_at = None;
                if self.store.expire(self.now) {
                    self.log(STORE, || "a lease ended".into());
                    self.notify_watchers();
                }
                self.watch_expiry();
            }
            Event::ToPeer { from, peer } => self.peer_answers(from, peer),
            Event::FromPeer { to, name, status } => self.arrive(to, Arrived::Peer(name, status)),
            Event::Wal { to, from, wal } => self.wal_arrives(to, from, &wal),
            Event::Connect { node, epoch } => self.connect(node, epoch),
            Event::Started { node, epoch } => self.started(node, epoch),
            Event::Stop { node, epoch, checkpointed } => self.stop_goes_on(node, epoch, checkpointed),
            Event::Promoted { node, epoch } => self.promoted(node, epoch),
            Event::Checkpoint { node, epoch } => self.checkpoint(node, epoch),
            Event::Guard { node, deadline } => self.guard_looks(node, deadline),
            Event::Client => self.client(),
            Event::Fault(_) => {}
        }
    }

    fn arrive(&mut self, to: Sender, what: Arrived) {
        let node = &mut self.nodes[to.node];
        if node.alive && node.life == to.life {
            node.arrived.entry(to.ticket).or_default().push(what);
            self.runnable.insert(to.node);
        }
    }

    fn store_handles(&mut self, from: Sender, request: StoreRequest) {
        if self.store.down {
            return;
        }
        let node = &self.nodes[from.node];
        let (name, ttl) = (node.name.clone(), node.settings.ttl);
        let before = self.store.cluster().leader_name().cloned();
        let (reply, heard) = self.store.handle(&name, ttl, request, self.now);
        let after = self.store.cluster().leader_name().cloned();
        if before != after {
            let text = after.map_or_else(|| "nobody holds the lease".into(), |name| format!("{name} holds the lease"));
            self.log(STORE, || text);
        }
        if heard {
            self.notify_watchers();
        }
        self.watch_expiry();
        self.send(STORE, from.node, Event::FromStore { to: from, reply });
    }

    /// An operator writes to the store.
    pub fn operator_writes(&mut self, request: StoreRequest) {
        let nobody = MemberName::from("operator");
        if self.store.handle(&nobody, Duration::ZERO, request, self.now).1 {
            self.notify_watchers();
        }
    }

    fn watch_expiry(&mut self) {
        if let Some(when) = self.store.next_expiry()
            && self.expiry_at.is_none_or(|at| when < at)
        {
            self.expiry_at = Some(when);
            self.at(when, Event::Expire);
        }
    }

    fn notify_watchers(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].alive && !self.is_cut(STORE, node) {
                let delay = self.random.mostly(1..4);
                self.after(delay, Event::Notice(node));
            }
        }
    }

    /// The REST API of a peer answers with what its last tick and its server say.
    fn peer_answers(&mut self, from: Sender, peer: usize) {
        let node = &self.nodes[peer];
        if !node.alive || node.frozen_until.is_some() || node.absent {
            return;
        }
        let primary = node.postgres.is_primary() || node.role == Role::Primary;
        let up = node.postgres.serves();
        let data = node.postgres.data().filter(|_| up);
        let streams = matches!(node.postgres.process, Process::Up { stream: Some(_), .. });
        let status = PeerStatus {
            in_recovery: !primary,
            wal_position: data.map_or(Lsn(0), |data| data.wal.end),
            timeline: data.map(|data| data.wal.timeline()),
            replication_state: streams.then(|| "streaming".into()),
            tags: node.settings.tags.clone(),
            watchdog_failed: false,
        };
        let name = node.name.clone();
        self.send(peer, from.node, Event::FromPeer { to: from, name, status });
    }

    // The servers.

    /// Adds to the log of a primary, and sends it to whoever streams.
    pub fn append(&mut self, node: usize, bytes: u64) -> Option<Write> {
        let data = self.nodes[node].postgres.data_mut()?;
        data.wal.end.0 += bytes;
        let write = Write { branch: data.wal.last().id, end: data.wal.end };
        self.stream_out(node);
        Some(write)
    }

    /// Sends the log to whoever streams from this server.
    pub fn stream_out(&mut self, node: usize) {
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

    fn wal_arrives(&mut self, to: (usize, u64), from: (usize, u64), wal: &Wal) {
        let server = &mut self.nodes[to.0].postgres;
        let current = matches!(server.process, Process::Up { primary: false, stream: Some(source) } if source == from);
        if server.epoch != to.1 || !current || server.hung || server.disk_full {
            return;
        }
        let Some(data) = server.data_mut() else { return };
        if wal.end <= data.wal.end && wal.branches.len() <= data.wal.branches.len() {
            return;
        }
        data.wal = wal.clone();
        data.checkpoint_timeline = data.wal.timeline();
        self.stream_out(to.0);
    }

    /// A standby asks the server it follows for WAL, as walreceiver does: by timeline and position.
    fn connect(&mut self, node: usize, epoch: u64) {
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
        let wal = self.nodes[source].postgres.data().map(|data| Rc::new(data.wal.clone()));
        if let Some(wal) = wal {
            self.send(source, node, Event::Wal { to: (node, epoch), from: (source, source_epoch), wal });
        }
    }

    /// Streams from or to this server, or over this link, break.
    pub fn break_streams(&mut self, broken: impl Fn(usize, usize) -> bool) {
        for node in 0..self.nodes.len() {
            let server = &mut self.nodes[node].postgres;
            if let Process::Up { primary: false, stream: Some((source, _)) } = server.process
                && broken(source, node)
            {
                server.process = Process::Up { primary: false, stream: None };
                let epoch = server.epoch;
                let again = self.random.millis(500..5500);
                self.after(again, Event::Connect { node, epoch });
            }
        }
    }

    /// The postmaster begins to start.
    pub fn start_postgres(&mut self, node: usize) -> bool {
        let clean = match self.nodes[node].postgres.data() {
            None => return false,
            Some(data) => matches!(data.control, ControlState::ShutDown | ControlState::ShutDownInRecovery),
        };
        let takes = if clean { self.random.mostly(100..800) } else { self.random.mostly(200..1500) };
        self.nodes[node].started_at = self.now;
        let server = &mut self.nodes[node].postgres;
        server.epoch += 1;
        server.process = Process::Starting;
        let epoch = server.epoch;
        self.after(takes, Event::Started { node, epoch });
        true
    }

    fn started(&mut self, node: usize, epoch: u64) {
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || server.process != Process::Starting {
            return;
        }
        if server.disk_full {
            self.crash_postgres(node, "dies: no space left on device");
            return;
        }
        let Some(data) = server.data_mut() else { return };
        let primary = !data.standby;
        data.control = if primary { ControlState::InProduction } else { ControlState::InArchiveRecovery };
        server.process = Process::Up { primary, stream: None };
        if primary {
            self.checkpoint(node, epoch);
        } else {
            self.after(Duration::from_millis(10), Event::Connect { node, epoch });
        }
        self.log(node, || format!("PostgreSQL runs as {}", if primary { "primary" } else { "standby" }));
        self.wake(node);
    }

    fn checkpoint(&mut self, node: usize, epoch: u64) {
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
    pub fn signal_promote(&mut self, node: usize) {
        let takes = self.random.mostly(30..600);
        let epoch = self.nodes[node].postgres.epoch;
        self.after(takes, Event::Promoted { node, epoch });
    }

    fn promoted(&mut self, node: usize, epoch: u64) {
        let id = self.unique();
        let first_checkpoint = self.random.mostly(50..2000);
        let server = &mut self.nodes[node].postgres;
        if server.epoch != epoch || !matches!(server.process, Process::Up { primary: false, .. }) {
            return;
        }
        server.epoch += 1;
        let epoch = server.epoch;
        let Some(data) = server.data_mut() else { return };
        data.wal.fork(id);
        data.standby = false;
        data.control = ControlState::InProduction;
        let timeline = data.wal.timeline();
        server.process = Process::Up { primary: true, stream: None };
        self.append(node, CHECKPOINT);
        self.break_streams(|source, _| source == node);
        self.after(first_checkpoint, Event::Checkpoint { node, epoch });
        self.log(node, || format!("PostgreSQL is primary on timeline {timeline}"));
        self.wake(node);
    }

    /// A fast shutdown: sessions end now, the rest takes its time.
    pub fn begin_stop(&mut self, node: usize) {
        let takes = self.random.mostly(50..1500);
        let server = &mut self.nodes[node].postgres;
        let epoch = server.epoch;
        match server.process {
            Process::Down | Process::Stopping => {}
            Process::Starting => self.crash_postgres(node, "is stopped while it starts"),
            Process::Up { .. } => {
                server.process = Process::Stopping;
                server.shutdown = None;
                self.log(node, || "PostgreSQL is stopping".into());
                self.after(takes, Event::Stop { node, epoch, checkpointed: None });
            }
        }
    }

    fn stop_goes_on(&mut self, node: usize, epoch: u64, checkpointed: Option<Duration>) {
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
    pub fn crash_postgres(&mut self, node: usize, how: &str) {
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
    pub fn standbys_have_everything(&self, node: usize) -> bool {
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
    pub fn replication(&self, node: usize) -> Vec<Replication> {
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

    // The guard: a process of its own that holds the deadline.

    /// The agent tells its guard until when its lease lasts.
    pub fn arm_guard(&mut self, node: usize, deadline: Option<Duration>) {
        if !self.guarded || self.nodes[node].guard == deadline {
            return;
        }
        self.nodes[node].guard = deadline;
        if let Some(deadline) = deadline {
            self.at(deadline, Event::Guard { node, deadline });
        }
    }

    fn guard_looks(&mut self, node: usize, deadline: Duration) {
        if self.nodes[node].guard == Some(deadline) {
            self.nodes[node].guard = None;
            self.crash_postgres(node, "is stopped by the guard");
        }
    }

    // Clients.

    fn client(&mut self) {
        let writers: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| self.nodes[node].postgres.accepts_writes()).collect();
        if !writers.is_empty() {
            let node = writers[self.random.index(writers.len())];
            if self.nodes[node].postgres.disk_full {
                self.crash_postgres(node, "dies: no space left on device");
            } else {
                self.client_reads(node);
                let bytes = self.random.within(60..400);
                let write = self.append(node, bytes);
                self.writes.extend(write);
            }
        }
        let next = self.random.mostly(100..900);
        self.after(next, Event::Client);
    }

    /// What was acknowledged on this timeline is there.
    fn client_reads(&mut self, node: usize) {
        let Some(data) = self.nodes[node].postgres.data() else { return };
        let branch = data.wal.last().id;
        let missing = self.writes.iter().rev().take(20).any(|write| write.branch == branch && write.end > data.wal.end);
        if missing {
            self.violation(node, "a client does not find what it wrote on the same timeline".into());
        }
    }

    /// The answer to a request that came over REST.
    pub fn answered(&mut self, id: RequestId, answer: &Answer) {
        self.unanswered.remove(&id);
        self.log(STORE, || format!("request {} is answered: {answer:?}", id.0));
    }

    /// The machine is empty again, as an operator leaves it.
    pub fn wipe(&mut self, node: usize) {
        self.crash_postgres(node, "is removed by an operator");
        self.nodes[node].postgres.disk = Disk::Empty;
    }
}

/// A node that is about to be part of the cluster.
pub fn new_node(settings: Settings) -> Node {
    Node {
        name: settings.name.clone(),
        settings,
        postgres: Postgres::empty(),
        started_at: Duration::ZERO,
        alive: false,
        life: 0,
        frozen_until: None,
        absent: true,
        stopping: false,
        woken: false,
        role: Role::Uninitialized,
        lease_until: None,
        guard: None,
        paused: false,
        was_paused: false,
        unattended: false,
        bootstrapping: false,
        order: None,
        job: None,
        ended: None,
        requests: BTreeMap::new(),
        wall_offset: 0,
        fatal: false,
        arrived: BTreeMap::new(),
        verdict: String::new(),
        ticks: 0,
    }
}

