//! What goes wrong, what operators do, and when.

use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::cluster::FailoverRequest;
use patroni_core::cluster::Version;
use patroni_core::request::{Request, RequestId, RestartConditions};
use serde_json::json;

use crate::ambush::Worst;
use crate::operators::{bring_back, operator_looks};
use crate::postgres::Process;
use crate::random::Random;
use crate::simulation::{Mode, Simulation};
use crate::store::StoreRequest;
use crate::universe::{Event, STORE, Universe};

/// A fault, the end of one, or something an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    AgentDies(usize),
    AgentStarts(usize),
    AgentTold(usize),
    /// Only if it does not lead: a leader that is told to stop goes, whoever has its last write.
    ReplicaTold(usize),
    Freezes(usize, Duration),
    Thaws(usize),
    HostDies(usize),
    PostmasterDies(usize),
    Hangs(usize),
    Answers(usize),
    DiskFills(usize),
    DiskFrees(usize),
    Cut(usize, usize),
    Mended(usize, usize),
    Isolated(usize),
    Rejoins(usize),
    StoreDown,
    StoreUp,
    Slow,
    Fast,
    ClockSteps(usize, i64),
    Switchover,
    Failover,
    Pause,
    Resume,
    Restart(usize),
    Reinitialize(usize),
    Configure,
    /// A setting is changed once a second, so many times.
    Fidgets(u32),
    /// Settings of synchronous replication.
    Tune,
    /// Another mode.
    Mode,
    /// The key `/sync` is deleted by hand.
    SyncLost,
    /// It falls behind, and then all others die.
    Cornered(usize),
    /// All but this one die, which can write again.
    OthersDie(usize),
    Joins(usize),
    Leaves(usize),
}

impl Fault {
    /// Its name in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::AgentDies(_) => "agent killed",
            Fault::AgentStarts(_) => "agent started",
            Fault::AgentTold(_) | Fault::ReplicaTold(_) => "agent told to stop",
            Fault::Freezes(..) => "agent frozen",
            Fault::Thaws(_) => "agent thawed",
            Fault::HostDies(_) => "host crashed",
            Fault::PostmasterDies(_) => "postmaster killed",
            Fault::Hangs(_) => "PostgreSQL hung",
            Fault::Answers(_) => "PostgreSQL answers again",
            Fault::DiskFills(_) => "disk full",
            Fault::DiskFrees(_) => "disk freed",
            Fault::Cut(..) => "one-way cut",
            Fault::Mended(..) => "cut mended",
            Fault::Isolated(_) => "node isolated",
            Fault::Rejoins(_) => "node rejoined",
            Fault::StoreDown => "store outage",
            Fault::StoreUp => "store back",
            Fault::Slow => "network slow",
            Fault::Fast => "network fast",
            Fault::ClockSteps(..) => "wall clock stepped",
            Fault::Switchover => "switchover",
            Fault::Failover => "manual failover",
            Fault::Pause => "pause",
            Fault::Resume => "resume",
            Fault::Restart(_) => "restart",
            Fault::Reinitialize(_) => "reinitialize",
            Fault::Configure => "configuration change",
            Fault::Fidgets(_) => "changed once a second",
            Fault::Tune => "synchronous settings changed",
            Fault::Mode => "synchronous mode changed",
            Fault::SyncLost => "/sync deleted",
            Fault::Cornered(_) => "node cornered",
            Fault::OthersDie(_) => "all others died",
            Fault::Joins(_) => "member joined",
            Fault::Leaves(_) => "member left",
        }
    }
}

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Only planned actions: nothing that was acknowledged may be lost.
    Calm,
    /// Anything.
    Stormy,
}

/// Everything that will happen to a cluster of so many nodes, of which `spare` join later.
pub(crate) fn plan(
    random: &mut Random,
    weather: Weather,
    mode: Mode,
    nodes: usize,
    length: Duration,
) -> Vec<(Duration, Fault)> {
    let mut events = Vec::new();
    let count = random.within(1..if weather == Weather::Calm { 5 } else { 10 });
    let begin = if weather == Weather::Stormy && random.percent(30) { 0 } else { 20_000 };
    for _ in 0..count {
        let at = random.millis(begin..length.as_millis() as u64);
        let node = random.index(nodes);
        let lasts = random.mostly(500..12_000);
        let (fault, end) = match weather {
            Weather::Calm | Weather::Stormy if mode != Mode::Async && random.percent(12) => {
                (tuning(random, mode), None)
            }
            Weather::Calm => calm(random, node),
            Weather::Stormy => stormy(random, node, nodes, lasts),
        };
        // Failsafe mode begins when the store has been away for a while.
        let lasts = if fault == Fault::StoreDown { lasts * 3 } else { lasts };
        events.push((at, fault));
        events.extend(end.map(|end| (at + lasts, end)));
    }
    events
}

/// What operators do to synchronous replication.
fn tuning(random: &mut Random, mode: Mode) -> Fault {
    match random.within(0..8) {
        0 => Fault::SyncLost,
        1..=5 if mode == Mode::Any => Fault::Mode,
        _ => Fault::Tune,
    }
}

fn calm(random: &mut Random, node: usize) -> (Fault, Option<Fault>) {
    match random.within(0..7) {
        0..=2 => (Fault::Switchover, None),
        3 => (Fault::Restart(node), None),
        4 => (Fault::Reinitialize(node), None),
        5 if random.percent(30) => (Fault::Fidgets(60), None),
        5 => (Fault::Configure, None),
        _ => (Fault::ReplicaTold(node), Some(Fault::AgentStarts(node))),
    }
}

fn stormy(random: &mut Random, node: usize, nodes: usize, lasts: Duration) -> (Fault, Option<Fault>) {
    let other = match random.index(nodes + 1) {
        index if index == nodes => STORE,
        index => index,
    };
    let (from, to) = if random.percent(50) { (node, other) } else { (other, node) };
    match random.within(0..27) {
        0 | 1 => (Fault::AgentDies(node), Some(Fault::AgentStarts(node))),
        2..=4 => (Fault::Freezes(node, lasts), Some(Fault::Thaws(node))),
        5 | 6 => (Fault::HostDies(node), Some(Fault::AgentStarts(node))),
        7 | 8 => (Fault::PostmasterDies(node), None),
        9 => (Fault::Hangs(node), Some(Fault::Answers(node))),
        10 => (Fault::DiskFills(node), Some(Fault::DiskFrees(node))),
        11 | 12 => (Fault::Cut(from, to), Some(Fault::Mended(from, to))),
        13 | 14 => (Fault::Isolated(node), Some(Fault::Rejoins(node))),
        15 | 16 => (Fault::StoreDown, Some(Fault::StoreUp)),
        17 => (Fault::Slow, Some(Fault::Fast)),
        18 => {
            let step = random.within(0..7200) as i64 - 3600;
            (Fault::ClockSteps(node, step * 1000), None)
        }
        19 => (Fault::Switchover, None),
        20 => (Fault::Failover, None),
        21 => (Fault::Pause, Some(Fault::Resume)),
        22 => (Fault::Restart(node), None),
        23 => (Fault::Reinitialize(node), None),
        26 => (Fault::Cornered(node), None),
        24 => (Fault::AgentTold(node), Some(Fault::AgentStarts(node))),
        _ => match random.within(0..3) {
            0 => (Fault::Joins(nodes), None),
            1 => (Fault::Leaves(node), None),
            _ if random.percent(30) => (Fault::Fidgets(60), None),
            _ => (Fault::Configure, None),
        },
    }
}

/// Makes it happen.
pub(crate) fn apply(simulation: &mut Simulation, fault: Fault) {
    {
        let mut universe = simulation.shared.borrow_mut();
        *universe.faults.entry(fault.name()).or_default() += 1;
        universe.log(STORE, || format!("--- {fault:?}"));
    }
    match fault {
        Fault::AgentDies(node) => simulation.agent_dies(node),
        Fault::AgentStarts(node) => simulation.agent_starts(node),
        Fault::HostDies(node) => {
            simulation.agent_dies(node);
            let mut universe = simulation.shared.borrow_mut();
            universe.nodes[node].guard = None;
            universe.crash_postgres(node, "dies with its host");
        }
        Fault::OthersDie(survivor) => {
            recovers(&mut simulation.shared.borrow_mut(), survivor);
            let count = simulation.shared.borrow().nodes.len();
            for node in (0..count).filter(|node| *node != survivor) {
                let back = simulation.shared.borrow_mut().random.millis(5_000..50_000);
                apply(simulation, Fault::HostDies(node));
                simulation.shared.borrow_mut().after(back, Event::Fault(Fault::AgentStarts(node)));
            }
        }
        Fault::Joins(node) if node < simulation.shared.borrow().nodes.len() => {
            simulation.shared.borrow_mut().nodes[node].absent = false;
            simulation.agent_starts(node);
        }
        Fault::Joins(_)
        | Fault::AgentTold(_)
        | Fault::ReplicaTold(_)
        | Fault::Freezes(..)
        | Fault::Thaws(_)
        | Fault::PostmasterDies(_)
        | Fault::Hangs(_)
        | Fault::Answers(_)
        | Fault::DiskFills(_)
        | Fault::DiskFrees(_)
        | Fault::Cut(..)
        | Fault::Mended(..)
        | Fault::Isolated(_)
        | Fault::Rejoins(_)
        | Fault::StoreDown
        | Fault::StoreUp
        | Fault::Slow
        | Fault::Fast
        | Fault::ClockSteps(..)
        | Fault::Switchover
        | Fault::Failover
        | Fault::Pause
        | Fault::Resume
        | Fault::Restart(_)
        | Fault::Reinitialize(_)
        | Fault::Configure
        | Fault::Fidgets(_)
        | Fault::Tune
        | Fault::Mode
        | Fault::SyncLost
        | Fault::Cornered(_)
        | Fault::Leaves(_) => strike(&mut simulation.shared.borrow_mut(), fault),
    }
}

/// The faults that touch nothing but the universe.
fn strike(universe: &mut Universe, fault: Fault) {
    match fault {
        Fault::AgentTold(node) => {
            universe.nodes[node].stopping = true;
            universe.wake(node);
        }
        Fault::ReplicaTold(node) => {
            if universe.store.cluster().leader_name() != Some(&universe.nodes[node].name) {
                strike(universe, Fault::AgentTold(node));
            }
        }
        Fault::Leaves(node) => leave(universe, node),
        Fault::Freezes(node, lasts) => {
            let until = universe.now + lasts;
            universe.nodes[node].frozen_until = Some(until);
            universe.nodes[node].unattended = true;
        }
        Fault::Thaws(node) => {
            universe.nodes[node].frozen_until = None;
            universe.runnable.insert(node);
        }
        Fault::PostmasterDies(node) => universe.crash_postgres(node, "is killed"),
        Fault::Hangs(node) => {
            if universe.nodes[node].postgres.process != Process::Down {
                universe.nodes[node].postgres.hung = true;
            }
        }
        Fault::Answers(node) => recovers(universe, node),
        Fault::DiskFills(node) => universe.nodes[node].postgres.disk_full = true,
        Fault::DiskFrees(node) => recovers(universe, node),
        Fault::Cut(from, to) => {
            if from != to {
                universe.cuts.insert((from, to));
                universe.break_streams(|a, b| (a, b) == (from, to) || (b, a) == (from, to));
            }
        }
        Fault::Mended(from, to) => {
            universe.cuts.remove(&(from, to));
        }
        Fault::Isolated(node) => isolate(universe, node),
        Fault::Rejoins(node) => universe.cuts.retain(|(a, b)| *a != node && *b != node),
        Fault::StoreDown => universe.store.down = true,
        Fault::StoreUp => universe.store.down = false,
        Fault::Slow => universe.slow = 100,
        Fault::Fast => universe.slow = 1,
        Fault::ClockSteps(node, step) => universe.nodes[node].wall_offset += step,
        Fault::Switchover => request_leader_change(universe, true),
        Fault::Failover => request_leader_change(universe, false),
        Fault::Pause => configure(universe, "pause", json!(true)),
        Fault::Resume => configure(universe, "pause", json!(false)),
        Fault::Configure => {
            let loop_wait = universe.random.within(4..11);
            configure(universe, "loop_wait", json!(loop_wait));
            if universe.random.percent(30) {
                let on = universe.random.percent(50);
                configure(universe, "failsafe_mode", json!(on));
            }
        }
        Fault::Fidgets(times) => {
            // Nothing reacts to what it says: it wakes everybody, and that is all.
            configure(universe, "note", json!(times));
            if times > 0 {
                universe.after(Duration::from_secs(1), Event::Fault(Fault::Fidgets(times - 1)));
            }
        }
        Fault::Tune => tune(universe),
        Fault::Mode => {
            let mode = ["off", "on", "quorum"][universe.random.index(3)];
            configure(universe, "synchronous_mode", json!(mode));
            let strict = universe.random.percent(40);
            configure(universe, "synchronous_mode_strict", json!(strict));
            universe.worst_for_leader(Worst::ModeChanged);
        }
        Fault::SyncLost => {
            if !universe.store.down && universe.store.cluster().sync.leader.is_some() {
                universe.store.lose_sync();
                universe.sync_lost = true;
                universe.notify_watchers();
                universe.worst_for_leader(Worst::SyncLost);
            }
        }
        Fault::Cornered(node) => {
            universe.nodes[node].postgres.disk_full = true;
            let after = universe.random.millis(300..2500);
            universe.after(after, Event::Fault(Fault::OthersDie(node)));
        }
        Fault::Restart(node) => ask(universe, node, Request::Restart(RestartConditions::default())),
        Fault::Reinitialize(node) => ask(universe, node, Request::Reinitialize { force: false, from_leader: false }),
        Fault::AgentDies(_) | Fault::AgentStarts(_) | Fault::HostDies(_) | Fault::OthersDie(_) | Fault::Joins(_) => {}
    }
}

/// It answers and writes again, and gets what it missed in the meantime.
fn recovers(universe: &mut Universe, node: usize) {
    if universe.nodes[node].postgres.killed {
        universe.crash_postgres(node, "is let go, and gone");
    }
    let server = &mut universe.nodes[node].postgres;
    if std::mem::take(&mut server.hung) | std::mem::take(&mut server.disk_full) {
        universe.break_streams(|_, standby| standby == node);
    }
}

fn isolate(universe: &mut Universe, node: usize) {
    for other in (0..universe.nodes.len()).chain([STORE]) {
        if other != node {
            universe.cuts.insert((node, other));
            universe.cuts.insert((other, node));
        }
    }
    universe.break_streams(|a, b| a == node || b == node);
}

/// Leaves the cluster for good, if enough others stay.
fn leave(universe: &mut Universe, node: usize) {
    let others = universe.nodes.iter().filter(|other| !other.absent).count();
    // Whoever takes the leader away for good switches over first.
    let leads = universe.store.cluster().leader_name() == Some(&universe.nodes[node].name);
    if others > 2 && !leads && !universe.nodes[node].absent && universe.nodes[node].alive {
        universe.nodes[node].stopping = true;
        universe.nodes[node].absent = true;
        universe.wake(node);
    }
}

/// patronictl switchover, or failover.
fn request_leader_change(universe: &mut Universe, switchover: bool) {
    let cluster = universe.store.cluster();
    let Some(leader) = cluster.leader_name().cloned().filter(|_| !universe.store.down) else { return };
    let others: Vec<_> = cluster.members.keys().filter(|name| **name != leader).cloned().collect();
    if cluster.failover.is_some() || others.is_empty() {
        return;
    }
    let candidate = others[universe.random.index(others.len())].clone();
    let named = !switchover || universe.random.percent(70);
    let request = FailoverRequest {
        version: Version(0),
        leader: switchover.then_some(leader),
        candidate: named.then_some(candidate),
        scheduled_at: None,
    };
    universe.operator_writes(StoreRequest::WriteFailover { expected: None, request: Some(request) });
}

/// How many standbys, and how far behind they may be.
fn tune(universe: &mut Universe) {
    if universe.random.percent(15) {
        let hold = universe.random.percent(50);
        configure(universe, "synchronous_mode_hold", json!(hold));
    } else if universe.random.percent(60) {
        let count = universe.random.within(1..4);
        configure(universe, "synchronous_node_count", json!(count));
    } else {
        let lag = universe.random.within(0..1000);
        configure(universe, "maximum_lag_on_syncnode", json!(lag));
    }
}

/// patronictl edit-config, pause, or resume.
pub(crate) fn configure(universe: &mut Universe, key: &str, value: serde_json::Value) {
    let Some(config) = universe.store.cluster().config.clone().filter(|_| !universe.store.down) else { return };
    let mut data: JsonMap = config.data.unwrap_or_default();
    data.insert(key.to_owned(), value);
    universe.operator_writes(StoreRequest::WriteConfig { expected: Some(config.version), data });
}

/// A request over REST.
pub(crate) fn ask(universe: &mut Universe, node: usize, request: Request) {
    if !universe.nodes[node].alive || universe.nodes[node].frozen_until.is_some() {
        return;
    }
    let id = RequestId(universe.unique());
    universe.nodes[node].requests.insert(id, request);
    universe.unanswered.insert(id, node);
    universe.wake(node);
}

/// Everything that went wrong is over. What operators asked for stays asked for.
pub(crate) fn heal(simulation: &mut Simulation) {
    {
        let mut universe = simulation.shared.borrow_mut();
        universe.log(STORE, || "--- all faults are over".into());
        universe.forget_faults();
        universe.cuts.clear();
        universe.store.down = false;
        universe.slow = 1;
        configure(&mut universe, "pause", json!(false));
        bring_back(&mut universe);
        for node in 0..universe.nodes.len() {
            recovers(&mut universe, node);
            universe.nodes[node].frozen_until = None;
            universe.nodes[node].stopping &= universe.nodes[node].absent;
            universe.runnable.insert(node);
        }
    }
    operator_looks(simulation);
}

/// The end of a fault that has an end.
pub(crate) fn schedule(universe: &mut Universe, plan: Vec<(Duration, Fault)>) {
    let begin = universe.now;
    for (at, fault) in plan {
        universe.at(begin + at, Event::Fault(fault));
    }
}
