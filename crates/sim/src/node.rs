//! A machine of the simulation: its agent, its server, and what is known of both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use patroni_core::cluster::MemberData;
use patroni_core::hang::Watch;
use patroni_core::job::{Job, JobOutcome, JobView};
use patroni_core::member_key::MemberKey;
use patroni_core::name::MemberName;
use patroni_core::plan::JobOrder;
use patroni_core::request::{Request, RequestId};
use patroni_core::settings::{Settings, Synchronous};
use patroni_core::time::{Moment, Now, WallTime};
use patroni_core::view::View;
use patroni_tick::agreement::Agreement;

use crate::guard::Guard;
use crate::postgres::Postgres;
use crate::shown::{Lies, Writing, initial_view};
use crate::universe::Arrived;

/// A machine with an agent and a server.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name.
    pub name: MemberName,
    /// The configuration file.
    pub settings: Settings,
    /// How commits are made safe, as its agent last read it.
    pub synchronous: Synchronous,
    /// Failsafe mode is on, as its agent last read it.
    pub failsafe_mode: bool,
    /// What its agent agreed to in failsafe mode.
    pub agreement: Arc<Agreement>,
    /// Until when it goes on without the store.
    pub failsafe_until: Option<Duration>,
    /// The server's files are its agent's to write: it has taken the server over.
    pub knows_server: bool,
    /// It took the lease because an operator named it, whatever it has.
    pub by_hand: bool,
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
    /// What its last tick showed.
    pub view: Arc<View>,
    /// Its member key, as its agent knows it, and the write that is under way.
    pub key: MemberKey,
    pub writing: Option<Writing>,
    /// What is written after that.
    pub next_write: Option<Arc<MemberData>>,
    /// Its last tick could not read the store.
    pub store_failed: bool,
    /// When its agent was last prevented from writing its key.
    pub troubled_at: Duration,
    /// Since when it has been answering what is not true, and what it was when that was looked at last.
    pub lies: Lies,
    /// The end of the lease it believes in.
    pub lease_until: Option<Duration>,
    /// The same, as of its last tick: the tick that takes the lease may write `/sync` before it goes on, or give the lease up again.
    pub decided_lease_until: Option<Duration>,
    /// Its guard, while it is armed.
    pub guard: Option<Guard>,
    /// Its clients were held back in the last tick.
    pub held: bool,
    /// What it will show once it is promoted has been confirmed: its clients were held back for that.
    pub shows_all: bool,
    /// Its last tick was paused.
    pub paused: bool,
    /// The same, until it has a lease again or accepts no writes: a paused server may be a primary without one.
    pub was_paused: bool,
    /// Nobody looked after the server when its lease ended, or may not have: the agent was frozen or dead.
    pub unattended: bool,
    /// Which of its agents told the server to become primary.
    pub promoted_by: u64,
    /// Its next promotion comes late.
    pub replays_long: bool,
    /// Its agent dies when it has begun to carry out that the running job is replaced.
    pub dies_half_way: bool,
    /// Makes a new cluster.
    pub bootstrapping: bool,
    /// What its agent ordered, until the job takes it up.
    pub order: Option<JobOrder>,
    /// It asks for the lease before it does what cannot be taken back.
    pub asks_for_lease: bool,
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
    /// What its agent sees of a server that hangs, while it watches for that.
    pub hang: Watch,
    /// Answers that arrived and were not yet read.
    pub arrived: BTreeMap<u64, Vec<Arrived>>,
    /// The last verdict.
    pub verdict: String,
    /// Ticks so far.
    pub ticks: u64,
}

impl Node {
    /// What time it is here, `now` after the simulation began.
    pub(crate) fn time(&self, now: Duration) -> Now {
        Now { boot: Moment(now), wall: WallTime(now.as_millis() as i64 + self.wall_offset) }
    }
}

/// A node that is about to be part of the cluster.
pub(crate) fn new_node(settings: Settings) -> Node {
    Node {
        name: settings.name.clone(),
        synchronous: settings.synchronous.clone(),
        failsafe_mode: settings.failsafe_mode,
        agreement: Arc::default(),
        failsafe_until: None,
        view: initial_view(&settings),
        settings,
        knows_server: false,
        by_hand: false,
        postgres: Postgres::empty(),
        started_at: Duration::ZERO,
        alive: false,
        life: 0,
        frozen_until: None,
        absent: true,
        stopping: false,
        woken: false,
        key: MemberKey::default(),
        writing: None,
        next_write: None,
        store_failed: false,
        troubled_at: Duration::ZERO,
        lies: Lies::default(),
        lease_until: None,
        decided_lease_until: None,
        guard: None,
        held: false,
        shows_all: false,
        paused: false,
        was_paused: false,
        unattended: false,
        promoted_by: 0,
        replays_long: false,
        dies_half_way: false,
        bootstrapping: false,
        order: None,
        asks_for_lease: false,
        job: None,
        ended: None,
        requests: BTreeMap::new(),
        wall_offset: 0,
        fatal: false,
        hang: Watch::default(),
        arrived: BTreeMap::new(),
        verdict: String::new(),
        ticks: 0,
    }
}
