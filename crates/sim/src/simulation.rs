//! One run: a cluster, its agents and jobs on one thread, and time that passes when nothing else can happen.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::decide::title;
use patroni_core::hang::Watch;
use patroni_core::job::{Job, JobOutcome, JobView, Stage};
use patroni_core::plan::{Exit, JobOrder};
use patroni_core::settings::{Dynamic, RewindSettings, Settings};
use patroni_core::tags::Tags;
use patroni_core::time::Moment;
use patroni_tick::driver;
use serde_json::{Value, json};

use crate::ambush::Ambush;
use crate::faults::{self, Fault, Weather};
use crate::invariants;
use crate::jobs;
use crate::node::new_node;
use crate::operators;
use crate::postgres::{Disk, Process};
use crate::random::Random;
use crate::universe::{Event, STORE, Shared, Universe};
use crate::world::SimWorld;

type Task<T> = Pin<Box<dyn Future<Output = T>>>;

/// How many events a run may have: more means that something wakes itself for ever.
const EVENTS: u64 = 400_000;

/// How commits are made safe, and so what has to survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `synchronous_mode: off`, and nobody turns it on.
    Async,
    /// `synchronous_mode: on`.
    On,
    /// The same with `synchronous_mode_strict`.
    Strict,
    /// `synchronous_mode: quorum`, every other time strict.
    Quorum,
    /// Any of them, and operators change it at any moment.
    Any,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 5] = [Mode::Async, Mode::On, Mode::Strict, Mode::Quorum, Mode::Any];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Async => "async",
            Mode::On => "on",
            Mode::Strict => "strict",
            Mode::Quorum => "quorum",
            Mode::Any => "any",
        }
    }
}

/// What a run was.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What must not have happened, and did.
    pub violations: Vec<String>,
    /// Faults by name.
    pub faults: std::collections::BTreeMap<&'static str, u64>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
    /// Decisions made.
    pub ticks: u64,
    /// Writes acknowledged.
    pub writes: u64,
    /// Of these, confirmed by standbys first.
    pub waited: u64,
    /// Writes that were to survive, and were given up by an operator's order.
    pub given_up: u64,
    /// Timelines of the last leader: one more than there were promotions on its way.
    pub timelines: u64,
    /// Events.
    pub events: u64,
    /// Two promotions that PostgreSQL cannot tell apart.
    pub ambiguous: bool,
}

/// A cluster in motion.
pub(crate) struct Simulation {
    pub(crate) shared: Shared,
    agents: Vec<Option<Task<Exit>>>,
    jobs: Vec<Option<Task<JobOutcome>>>,
    events: u64,
}

/// Runs one seed.
pub fn run(seed: u64, mode: Mode, traced: bool) -> Report {
    let mut random = Random::new(seed);
    let weather = if random.percent(15) { Weather::Calm } else { Weather::Stormy };
    let guarded = random.percent(60);
    let nodes = random.within(2..6) as usize;
    let length = random.millis(40_000..120_000);
    let plan = faults::plan(&mut random, weather, mode, nodes, length);
    let (base, dynamic) = settings(&mut random, mode);
    let mut members: Vec<Settings> = (0..=nodes).map(|index| member(&mut random, &base, mode, index)).collect();
    if nodes > 2 && random.percent(15) {
        // One of them follows, whatever happens.
        members[random.index(nodes)].tags.0.insert("nofailover".into(), json!(true));
    }
    let mut universe = Universe::new(random, guarded, mode != Mode::Async, traced);
    universe.dynamic = dynamic;
    universe.nodes = members.into_iter().map(new_node).collect();
    universe.ambush = (weather == Weather::Stormy).then(|| Ambush::lay(&mut universe.random)).flatten();
    let mut simulation = Simulation {
        shared: Rc::new(RefCell::new(universe)),
        agents: (0..=nodes).map(|_| None).collect(),
        jobs: (0..=nodes).map(|_| None).collect(),
        events: 0,
    };
    simulation.begin(nodes, plan, weather, &base);
    let end = Duration::from_secs(1000) + length;
    simulation.run_until(end);
    simulation.settle(&base, weather);
    simulation.report(seed)
}

/// What all configuration files say, and their `bootstrap.dcs`.
fn settings(random: &mut Random, mode: Mode) -> (Settings, JsonMap) {
    let (ttl, loop_wait, retry_timeout) = [(30, 10, 10), (20, 5, 5), (20, 10, 5), (30, 5, 10)][random.index(4)];
    let rewind = match random.within(0..10) {
        0 => RewindSettings::default(),
        1 | 2 => RewindSettings { remove_data_directory_on_diverged_timelines: true, ..RewindSettings::default() },
        3 => {
            RewindSettings { use_pg_rewind: true, remove_data_directory_on_rewind_failure: true, ..Default::default() }
        }
        _ => RewindSettings { use_pg_rewind: true, ..RewindSettings::default() },
    };
    let mut dynamic = map([
        ("ttl", json!(ttl)),
        ("loop_wait", json!(loop_wait)),
        ("retry_timeout", json!(retry_timeout)),
        ("check_timeline", json!(random.percent(50))),
        ("primary_start_timeout", json!(if random.percent(25) { 0 } else { 300 })),
        ("failsafe_mode", json!(random.percent(35))),
        ("primary_hang_timeout", json!([0, 0, 3, 5, ttl / 2][random.index(5)])),
    ]);
    dynamic.extend(synchronous(random, mode));
    let base = Settings {
        scope: "demo".into(),
        name: "".into(),
        config_version: None,
        dynamic: Dynamic::of(&dynamic),
        unusable: Vec::new(),
        tags: Tags::default(),
        can_bootstrap: true,
        can_clone_without_leader: false,
        rewind,
    };
    (base, dynamic)
}

fn synchronous(random: &mut Random, mode: Mode) -> JsonMap {
    let (mode, strict) = match mode {
        Mode::Async => return JsonMap::new(),
        Mode::On => ("on", false),
        Mode::Strict => ("on", true),
        Mode::Quorum => ("quorum", random.percent(50)),
        Mode::Any => (["off", "on", "quorum"][random.index(3)], random.percent(30)),
    };
    let mut settings = map([
        ("synchronous_mode", json!(mode)),
        ("synchronous_mode_strict", json!(strict)),
        ("synchronous_node_count", json!([1, 1, 1, 2, 2, 3][random.index(6)])),
    ]);
    if random.percent(20) {
        settings.insert("maximum_lag_on_syncnode".to_owned(), json!(500));
    }
    // As in production: on in the strict mode, unless somebody says otherwise.
    if mode != "off" && random.percent(10) {
        settings.insert("synchronous_mode_hold".to_owned(), json!(!strict));
    }
    settings
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> JsonMap {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The configuration file of one node.
fn member(random: &mut Random, base: &Settings, mode: Mode, index: usize) -> Settings {
    let name = ["a", "b", "c", "d", "e", "f"][index];
    let mut tags = Tags::default();
    let tag = match random.within(0..if mode == Mode::Async { 1 } else { 30 }) {
        1 | 2 => Some(("nosync", json!(true))),
        3..=5 => Some(("sync_priority", json!(random.within(1..4)))),
        6 | 7 => Some(("failover_priority", json!(random.within(1..4)))),
        8 => Some(("clonefrom", json!(true))),
        _ => None,
    };
    tags.0.extend(tag.map(|(key, value)| (key.to_owned(), value)));
    Settings { name: name.into(), tags, ..base.clone() }
}

impl Simulation {
    fn begin(&mut self, nodes: usize, plan: Vec<(Duration, Fault)>, weather: Weather, base: &Settings) {
        {
            let mut universe = self.shared.borrow_mut();
            let guarded = universe.guarded;
            universe.log(STORE, || format!("{nodes} nodes, {weather:?}, guard: {guarded}, {:?}", base.synchronous));
            faults::schedule(&mut universe, plan);
            universe.after(Duration::from_secs(1), Event::Client);
        }
        for node in 0..nodes {
            self.shared.borrow_mut().nodes[node].absent = false;
            self.agent_starts(node);
        }
    }

    /// Once faults stop: a leader within the bound, and later everything as it should be.
    fn settle(&mut self, base: &Settings, weather: Weather) {
        faults::heal(self);
        let healed = self.shared.borrow().now;
        let loop_wait = Duration::from_secs(10);
        let bound = invariants::leader_bound(base.ttl, loop_wait) + self.creation_time(base);
        let mut led_at = None;
        let mut end = healed + bound;
        let mut next = healed;
        while next < end && self.shared.borrow().violations.is_empty() {
            next += Duration::from_secs(5);
            self.run_until(next);
            operators::operator_looks(self);
            let mut universe = self.shared.borrow_mut();
            if led_at.is_none() && universe.now > healed + bound / 2 {
                operators::operator_chooses(&mut universe);
            }
            if led_at.is_none() && invariants::leader(&universe).is_some() {
                led_at = Some(universe.now);
                end = healed + bound.max(universe.now - healed) + Duration::from_secs(180);
            }
        }
        let mut universe = self.shared.borrow_mut();
        if led_at.is_none() {
            universe.violation(usize::MAX, format!("no leader within {bound:?} after the last fault"));
        }
        invariants::settled(&mut universe, weather == Weather::Calm);
    }

    /// A cluster that does not exist yet has to be made, perhaps after somebody who died at it.
    fn creation_time(&self, base: &Settings) -> Duration {
        let universe = self.shared.borrow();
        match universe.store.cluster().initialize {
            patroni_core::cluster::Initialize::Done(_) => Duration::ZERO,
            patroni_core::cluster::Initialize::Absent
            | patroni_core::cluster::Initialize::InProgress(_)
            | patroni_core::cluster::Initialize::Invalid(..) => 2 * base.ttl + Duration::from_secs(40),
        }
    }

    fn report(&self, seed: u64) -> Report {
        let mut universe = self.shared.borrow_mut();
        let leader = invariants::leader(&universe);
        let data = leader.and_then(|node| universe.nodes[node].postgres.data());
        Report {
            seed,
            timelines: data.map_or(0, |data| data.wal.branches.len() as u64),
            violations: universe.violations.clone(),
            faults: universe.faults.clone(),
            ticks: universe.nodes.iter().map(|node| node.ticks).sum(),
            writes: universe.writes.len() as u64,
            waited: universe.waited,
            given_up: universe.given_up,
            events: self.events,
            ambiguous: universe.ambiguous,
            trace: universe.trace.take().unwrap_or_default(),
        }
    }

    fn run_until(&mut self, end: Duration) {
        while self.shared.borrow().violations.is_empty() {
            self.poll_all();
            invariants::check(&mut self.shared.borrow_mut());
            let event = self.shared.borrow_mut().next(end);
            self.shared.borrow_mut().note_trouble();
            let Some(event) = event else { break };
            self.events += 1;
            if self.events > EVENTS {
                self.shared
                    .borrow_mut()
                    .violation(usize::MAX, "too many events: something wakes itself for ever".into());
            }
            match event {
                Event::Fault(fault) => faults::apply(self, fault),
                other => self.shared.borrow_mut().handle(other),
            }
        }
        let mut universe = self.shared.borrow_mut();
        universe.now = universe.now.max(end);
    }

    /// Lets every agent and job go on that can.
    fn poll_all(&mut self) {
        loop {
            let node = {
                let mut universe = self.shared.borrow_mut();
                let ready = universe.runnable.iter().copied().find(|&node| universe.nodes[node].frozen_until.is_none());
                let Some(node) = ready else { return };
                universe.runnable.remove(&node);
                node
            };
            self.poll_agent(node);
            self.take_order(node);
            self.poll_job(node);
        }
    }

    fn poll_agent(&mut self, node: usize) {
        let Some(agent) = &mut self.agents[node] else { return };
        let Poll::Ready(exit) = agent.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return };
        self.agents[node] = None;
        self.jobs[node] = None;
        let mut universe = self.shared.borrow_mut();
        universe.log(node, || format!("the agent ends: {exit:?}"));
        universe.write_key(node);
        let unanswered: Vec<_> = universe.nodes[node].requests.keys().copied().collect();
        for id in unanswered {
            universe.unanswered.remove(&id);
        }
        let this = &mut universe.nodes[node];
        this.alive = false;
        this.fatal = exit == Exit::Fatal && !this.stopping;
        this.unattended = true;
        this.guard = this.guard.filter(|_| this.postgres.process != Process::Down);
        this.job = None;
        this.order = None;
        this.lease_until = None;
    }

    fn take_order(&mut self, node: usize) {
        let Some(order) = self.shared.borrow_mut().nodes[node].order.take() else { return };
        // The agent may be waiting for that: its next tick looks at the job once it has begun.
        self.shared.borrow_mut().runnable.insert(node);
        match order {
            JobOrder::Keep => {}
            JobOrder::Start(job) => {
                if self.jobs[node].is_some() {
                    self.shared.borrow_mut().violation(node, format!("two jobs at once: {job:?}"));
                }
                self.start_job(node, job);
            }
            JobOrder::Cancel => {
                let view = self.shared.borrow().nodes[node].job.clone();
                if let Some(view) = view.filter(|view| view.stage == Stage::Revocable) {
                    self.drop_job(node);
                    let mut universe = self.shared.borrow_mut();
                    universe.nodes[node].ended = Some((view.job, JobOutcome::Cancelled));
                    universe.wake(node);
                }
            }
            JobOrder::Replace(job) => {
                self.drop_job(node);
                self.start_job(node, job);
            }
        }
    }

    /// What a cancelled copy leaves behind is removed by whoever cancels it.
    fn drop_job(&mut self, node: usize) {
        self.jobs[node] = None;
        let mut universe = self.shared.borrow_mut();
        let this = &mut universe.nodes[node];
        let Some(view) = this.job.take() else { return };
        let copies = matches!(view.job, Job::Clone { .. } | Job::Reinitialize { .. } | Job::Bootstrap);
        if copies && matches!(this.postgres.disk, Disk::Torn) {
            this.postgres.disk = Disk::Empty;
        }
    }

    fn start_job(&mut self, node: usize, job: Job) {
        let since = Moment(self.shared.borrow().now);
        let view = JobView { title: title(&job), job: job.clone(), since, stage: Stage::Revocable };
        let stage = if job == Job::Promote { Stage::Revocable } else { Stage::Committed("working".into()) };
        self.shared.borrow_mut().nodes[node].job = Some(JobView { stage, ..view });
        self.shared.borrow_mut().nodes[node].postgres.shutdown = None;
        // A job that ended while the loop decided to replace it must not hide the one that runs now.
        self.shared.borrow_mut().nodes[node].ended = None;
        self.jobs[node] = Some(Box::pin(jobs::run(Rc::clone(&self.shared), node, job)));
        self.shared.borrow_mut().runnable.insert(node);
    }

    fn poll_job(&mut self, node: usize) {
        let Some(job) = &mut self.jobs[node] else { return };
        let Poll::Ready(outcome) = job.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return };
        self.jobs[node] = None;
        let mut universe = self.shared.borrow_mut();
        let Some(view) = universe.nodes[node].job.take() else { return };
        universe.log(node, || format!("job {} ends: {outcome:?}", view.title));
        universe.nodes[node].ended = Some((view.job, outcome));
        universe.wake(node);
    }

    pub(crate) fn agent_dies(&mut self, node: usize) {
        self.agents[node] = None;
        self.jobs[node] = None;
        let mut universe = self.shared.borrow_mut();
        let lost: Vec<_> = universe.nodes[node].requests.keys().copied().collect();
        for id in lost {
            universe.unanswered.remove(&id);
        }
        let this = &mut universe.nodes[node];
        this.requests.clear();
        this.alive = false;
        this.unattended = true;
        this.frozen_until = None;
        this.job = None;
        this.order = None;
        this.ended = None;
        this.lease_until = None;
        this.bootstrapping = false;
    }

    pub(crate) fn agent_starts(&mut self, node: usize) {
        let shown = {
            let universe = &mut *self.shared.borrow_mut();
            let this = &mut universe.nodes[node];
            if this.alive || this.absent {
                return;
            }
            this.life += 1;
            this.knows_server = false;
            this.alive = true;
            this.fatal = false;
            this.hang = Watch::default();
            this.stopping = false;
            this.unattended = true;
            this.forget_shown();
            this.requests.clear();
            this.arrived.clear();
            this.ended = None;
            this.verdict.clear();
            this.synchronous = this.settings.synchronous.clone();
            this.failsafe_mode = this.settings.failsafe_mode;
            this.agreement = Arc::default();
            universe.amnesia |= universe.sync_lost;
            Arc::clone(&this.view)
        };
        let mut world = SimWorld::new(Rc::clone(&self.shared), node);
        self.agents[node] = Some(Box::pin(async move { driver::run(&mut world, shown).await }));
        self.shared.borrow_mut().runnable.insert(node);
    }
}
