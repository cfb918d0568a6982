//! Model checking: every order of events among a few nodes, with the same `decide`.
//!
//! Time goes in steps of `loop_wait`; each operation of a tick is a step of its own, and may be lost before or after
//! it had its effect. The agent of a node may die; its guard stops PostgreSQL when the lease ends. In the synchronous
//! modes writes are acknowledged by the standbys that PostgreSQL was told to wait for, and must survive every failover.
//! With failsafe mode the store may go away and come back, and agents that agreed to something may die and forget it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patroni_core::JsonMap;
use patroni_core::cluster::{
    Cluster, ClusterConfig, FailoverRequest, History, HistoryLine, Initialize, Leader, Member, MemberData, SyncState,
    Version,
};
use patroni_core::decide::{decide, title};
use patroni_core::facts::{Answer, Answers, Facts, JobFact, Op, Outcome, RewindCheck, UpstreamCheck, Watchdog};
use patroni_core::job::{DemoteMode, Job, JobOutcome, JobView, Stage};
use patroni_core::lsn::{Lsn, Timeline};
use patroni_core::member_key::MemberKey;
use patroni_core::memory::{Memory, StepDown};
use patroni_core::name::{MemberName, SystemId};
use patroni_core::parameters::SynchronousStandbyNames;
use patroni_core::peer::{Peer, PeerStatus};
use patroni_core::plan::{JobOrder, Plan, Step};
use patroni_core::server::{ControlData, ControlState, DataDir, Postmaster, Role, Running, Server, Wal};
use patroni_core::settings::{Dynamic, RewindSettings, Settings, SlotSettings, Synchronous, SynchronousMode};
use patroni_core::slots::News;
use patroni_core::sync::{Electorate, Inspection, Sender, StandbyNames};
use patroni_core::tags::Tags;
use patroni_core::time::{Moment, Now, WallTime};
use patroni_core::view::{Addresses, View};
use serde_json::json;
use stateright::{Checker, Expectation, HasDiscoveries, Model, Property};

const NAMES: [&str; 3] = ["a", "b", "c"];
/// A step of time, and `loop_wait`.
const STEP: u64 = 10;
/// `ttl`, in steps.
const TTL: u8 = 3;
/// What has to happen somewhere in a model, lest it prove nothing.
const FAILOVER: &str = "failover";
const SWITCHOVER: &str = "switchover";
const VOTE: &str = "a vote of the quorum was won";
const AGREEMENT: &str = "a primary went on without the store";
const SYSTEM: SystemId = SystemId(7);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Process {
    Down { clean: bool },
    Standby,
    Primary,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    alive: bool,
    process: Process,
    /// The timelines of its log, and how much was written.
    timeline: u8,
    written: u8,
    memory: Memory,
    job: JobFact,
    /// A tick in the middle: its facts, the operation it waits for, and when it was asked for.
    tick: Option<(Facts, Op, u8)>,
    wake_at: u8,
    guard: Option<u8>,
    /// `synchronous_standby_names`.
    names: StandbyNames,
    /// Who may go on without the store by the leave of this node, and since when.
    agreed: Option<(u8, u8)>,
    /// It is about to lead, and agrees to nothing.
    claiming: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    leader: Option<(u8, u8)>,
    request: Option<u8>,
    handed_over: bool,
    /// The present lease was won with the votes of others.
    voted: bool,
    history: u8,
    nodes: Vec<Node>,
    faults: u8,
    mode: SynchronousMode,
    failsafe: bool,
    /// The store can be reached.
    store: bool,
    sync: SyncState,
    /// How far a client was told that things are written, as timeline and writes.
    promised: (u8, u8),
    /// What no state may have seen.
    wrong: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Tick(u8),
    BlindTick(u8),
    Answer(u8),
    AnswerLost(u8),
    RequestLost(u8),
    Work(u8),
    Time,
    AgentDies(u8),
    PostgresDies(u8),
    Write(u8),
    Stream(u8),
    Ask(u8),
    /// Which costs no fault: failsafe mode is for the days when much is cut.
    PeersSilent(u8),
    AgentReturns(u8),
    StoreGoes,
    StoreReturns,
}

impl Event {
    fn is_fault(self) -> bool {
        match self {
            Event::BlindTick(_)
            | Event::AnswerLost(_)
            | Event::RequestLost(_)
            | Event::AgentDies(_)
            | Event::PostgresDies(_)
            | Event::StoreGoes => true,
            Event::Tick(_)
            | Event::Answer(_)
            | Event::Work(_)
            | Event::Time
            | Event::Write(_)
            | Event::Stream(_)
            | Event::Ask(_)
            | Event::PeersSilent(_)
            | Event::AgentReturns(_)
            | Event::StoreReturns => false,
        }
    }
}

#[derive(Clone, Copy)]
struct Few {
    nodes: u8,
    horizon: u8,
    faults: u8,
    requests: bool,
    mode: SynchronousMode,
    failsafe: bool,
}

impl Model for Few {
    type State = State;
    type Action = Event;

    fn init_states(&self) -> Vec<State> {
        let mut nodes: Vec<Node> = (0..self.nodes).map(|index| node(index, self.nodes)).collect();
        let (names, sync) = begin_synchronous(self.mode, self.nodes);
        nodes[0].names = names;
        let requests = self.requests.then_some(u8::MAX);
        vec![State {
            now: 0,
            leader: Some((0, TTL)),
            request: requests,
            handed_over: false,
            voted: false,
            history: 1,
            nodes,
            faults: self.faults,
            mode: self.mode,
            failsafe: self.failsafe,
            store: true,
            sync,
            promised: (0, 0),
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Event>) {
        if state.wrong.is_some() {
            return;
        }
        for index in 0..self.nodes {
            let node = &state.nodes[usize::from(index)];
            let faulty = state.faults > 0;
            if node.alive {
                if let Some((_, op, _)) = &node.tick {
                    actions.push(Event::Answer(index));
                    if self.failsafe && matches!(op, Op::PollPeers(_)) {
                        actions.push(Event::PeersSilent(index));
                    } else if faulty {
                        actions.extend([Event::AnswerLost(index), Event::RequestLost(index)]);
                    }
                } else if node.wake_at <= state.now {
                    actions.push(Event::Tick(index));
                    if faulty {
                        actions.push(Event::BlindTick(index));
                    }
                }
                if let JobFact::Running(_) = node.job {
                    actions.push(Event::Work(index));
                }
                if faulty {
                    actions.push(Event::AgentDies(index));
                }
            } else if self.failsafe {
                actions.push(Event::AgentReturns(index));
            }
            if node.process == Process::Primary && node.written < 1 {
                actions.push(Event::Write(index));
            }
            if faulty && !matches!(node.process, Process::Down { .. }) {
                actions.push(Event::PostgresDies(index));
            }
            actions.push(Event::Stream(index));
            if state.request == Some(u8::MAX) && index > 0 {
                actions.push(Event::Ask(index));
            }
        }
        if self.failsafe && (!state.store || state.faults > 0) {
            actions.push(if state.store { Event::StoreGoes } else { Event::StoreReturns });
        }
        if state.now < self.horizon && state.nodes.iter().all(|node| may_wait(node, state.now)) {
            actions.push(Event::Time);
        }
    }

    fn next_state(&self, last: &State, action: Event) -> Option<State> {
        let mut state = last.clone();
        match action {
            Event::Tick(index) => state.begin_tick(index, true),
            Event::BlindTick(index) => {
                state.faults -= 1;
                state.begin_tick(index, false);
            }
            Event::Answer(index) => state.answer(index, true, true),
            Event::AnswerLost(index) => {
                state.faults -= 1;
                state.answer(index, true, false);
            }
            Event::RequestLost(index) => {
                state.faults -= 1;
                state.answer(index, false, false);
            }
            Event::Work(index) => state.work(index),
            Event::Time => state.time_passes(),
            Event::AgentDies(index) => {
                state.faults -= 1;
                let node = &mut state.nodes[usize::from(index)];
                node.alive = false;
                node.tick = None;
                node.job = JobFact::Idle;
                node.memory = Memory::new();
                node.agreed = None;
                node.claiming = false;
            }
            Event::PeersSilent(index) => state.answer(index, true, false),
            Event::AgentReturns(index) => {
                let node = &mut state.nodes[usize::from(index)];
                node.alive = true;
                node.wake_at = state.now;
            }
            Event::StoreGoes => {
                state.faults -= 1;
                state.store = false;
            }
            Event::StoreReturns => state.store = true,
            Event::PostgresDies(index) => {
                state.faults -= 1;
                let node = &mut state.nodes[usize::from(index)];
                node.process = Process::Down { clean: false };
                node.wake_at = state.now;
            }
            Event::Write(index) => {
                state.nodes[usize::from(index)].written += 1;
                state.acknowledge();
            }
            Event::Stream(index) => {
                state.stream(index);
                state.acknowledge();
            }
            Event::Ask(index) => state.request = Some(index),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("one primary", |_, state: &State| {
                state.nodes.iter().filter(|node| node.process == Process::Primary).count() <= 1
            }),
            Property::always("nothing went wrong", |_, state: &State| state.wrong.is_none()),
        ];
        properties
            .push(Property::sometimes(FAILOVER, |_, state: &State| !state.handed_over && state.is_led_by_another()));
        if self.requests {
            properties.push(Property::sometimes(SWITCHOVER, |_, state: &State| {
                state.handed_over && state.is_led_by_another()
            }));
        }
        if self.mode == SynchronousMode::Quorum {
            properties.push(Property::sometimes(VOTE, |_, state: &State| state.voted && state.is_led_by_another()));
        }
        if self.failsafe {
            properties.push(Property::sometimes(AGREEMENT, |_, state: &State| {
                let goes_on = |node: &Node| node.process == Process::Primary && node.memory.leads_by_agreement;
                state.leader.is_none() && state.nodes.iter().any(goes_on)
            }));
        }
        properties
    }
}

/// Nothing of this node has to happen before time goes on.
fn may_wait(node: &Node, now: u8) -> bool {
    if !node.alive {
        return true;
    }
    // As the loop has it: nothing outlasts the lease.
    let lease_ends = node.guard.is_some_and(|until| until <= now + 1);
    let in_time = node.tick.as_ref().map_or(node.wake_at > now, |(_, _, asked)| *asked == now && !lease_ends);
    let stopping = matches!(&node.job, JobFact::Running(view) if matches!(view.job, Job::Demote(_)));
    in_time && !stopping
}

impl State {
    fn is_led_by_another(&self) -> bool {
        self.nodes[1..].iter().any(|node| node.process == Process::Primary && node.memory.lease_until.is_some())
    }

    fn begin_tick(&mut self, index: u8, sees_store: bool) {
        let facts = self.facts(index, sees_store && self.store);
        self.nodes[usize::from(index)].job = match &facts.job {
            JobFact::Ended(..) | JobFact::Idle => JobFact::Idle,
            JobFact::Running(view) => JobFact::Running(view.clone()),
        };
        self.go_on(index, facts);
    }

    fn go_on(&mut self, index: u8, facts: Facts) {
        let now = self.now;
        let node = &mut self.nodes[usize::from(index)];
        match decide(&node.memory, &facts) {
            Step::Run(op) => node.tick = Some((facts, op, now)),
            Step::Finish(plan) => {
                node.tick = None;
                self.carry_out(index, *plan);
            }
        }
    }

    fn answer(&mut self, index: u8, happens: bool, arrives: bool) {
        let Some((mut facts, op, asked)) = self.nodes[usize::from(index)].tick.take() else { return };
        let asked_at = moment(asked);
        if matches!(op, Op::AcquireLease) || matches!(op, Op::RenewLease) && facts.server.is_standby() {
            self.nodes[usize::from(index)].claiming = self.agreed_with(index).is_none();
        }
        let done = (happens && (self.store || !is_for_the_store(&op))).then(|| self.effect(index, &op));
        let write = |done: Option<bool>| match done {
            Some(true) if arrives => Outcome::Done(()),
            Some(false) if arrives => Outcome::Refused,
            Some(_) => Outcome::Unknown("lost".into()),
            None => Outcome::Failed("lost".into()),
        };
        let lease = |outcome: Outcome<()>| outcome.map(|()| asked_at);
        let answer = match op {
            Op::RenewLease => Answer::Renew(lease(write(done))),
            Op::AcquireLease => Answer::Acquire(lease(write(done))),
            Op::ReleaseLease(_) => Answer::Release(write(done)),
            Op::Initialize(_) => Answer::Initialize(write(done)),
            Op::WriteConfig(_) => Answer::Config(write(done)),
            Op::WriteFailover(..) => Answer::Failover(write(done)),
            Op::WriteHistory => Answer::History(write(done)),
            Op::PollPeers(names) => Answer::Peers(self.peers(&names, arrives)),
            Op::AskFailsafe(_) => Answer::Failsafe(match done {
                Some(true) if arrives => Ok(asked_at),
                _ => Err("somebody did not agree".into()),
            }),
            Op::CheckRewind(_) => Answer::Rewind(RewindCheck::NotNeeded),
            Op::CheckUpstream(_) => Answer::Upstream(Ok(UpstreamCheck::UpToDate)),
            Op::ActivateWatchdog => Answer::Watchdog(true),
            Op::InspectSynchronous => {
                Answer::Synchronous(if arrives { Ok(self.inspection(index)) } else { Err("silent".into()) })
            }
            Op::SetSynchronousStandbyNames(_) => Answer::StandbyNames(write(done)),
            Op::WriteSync(..) => Answer::Sync(write(done)),
        };
        if matches!(
            &answer,
            Answer::Renew(Outcome::Done(_)) | Answer::Acquire(Outcome::Done(_)) | Answer::Failsafe(Ok(_))
        ) {
            self.nodes[usize::from(index)].guard = Some(asked + TTL);
        }
        facts.answers.record(answer);
        self.go_on(index, facts);
    }

    /// What an operation does to the store. `false`: it is refused.
    fn effect(&mut self, index: u8, op: &Op) -> bool {
        let mine = self.leader.is_some_and(|(holder, _)| holder == index);
        let until = self.now + TTL;
        let (standby, free) = {
            let node = &self.nodes[usize::from(index)];
            (node.process == Process::Standby, node.claiming)
        };
        match op {
            Op::RenewLease if standby && !free => return false,
            Op::AcquireLease if !free => return false,
            Op::RenewLease if mine => self.leader = Some((index, until)),
            Op::AcquireLease if self.leader.is_none() => {
                self.leader = Some((index, until));
                self.voted = self.sync.quorum > 0 && self.sync.leader != Some(NAMES[usize::from(index)].into());
            }
            Op::ReleaseLease(_) if mine => {
                self.leader = None;
                self.handed_over = true;
            }
            Op::RenewLease | Op::AcquireLease | Op::ReleaseLease(_) => return false,
            Op::WriteFailover(..) => self.request = None,
            Op::WriteHistory => self.history = self.nodes[usize::from(index)].timeline,
            Op::AskFailsafe(names) => return self.all_agree(index, names),
            Op::Initialize(_)
            | Op::WriteConfig(_)
            | Op::PollPeers(_)
            | Op::CheckRewind(_)
            | Op::CheckUpstream(_)
            | Op::ActivateWatchdog
            | Op::InspectSynchronous => {}
            Op::SetSynchronousStandbyNames(setting) => {
                self.nodes[usize::from(index)].names = match setting {
                    SynchronousStandbyNames::Managed(Some(text)) => text.parse().expect("our own words"),
                    SynchronousStandbyNames::Managed(None) | SynchronousStandbyNames::Configured => Default::default(),
                };
                self.acknowledge();
            }
            Op::WriteSync(version, electorate) => {
                if *version != self.sync.version {
                    return false;
                }
                self.write_sync(index, electorate.as_ref());
            }
        }
        true
    }

    /// Each that is reached agrees, unless it leads, or is about to.
    fn all_agree(&mut self, leader: u8, names: &BTreeMap<MemberName, String>) -> bool {
        let (now, mut all) = (self.now, true);
        for (node, _) in self.nodes.iter_mut().zip(NAMES).filter(|(_, name)| names.contains_key(*name)) {
            let leads = node.memory.role == Role::Primary || node.memory.lease_until.is_some() || node.claiming;
            if node.alive && !leads {
                node.agreed = Some((leader, now));
            } else {
                all = false;
            }
        }
        all
    }

    /// To whose going on this node agreed, and until when.
    fn agreed_with(&self, index: u8) -> Option<(u8, u8)> {
        let (leader, at) = self.nodes[usize::from(index)].agreed?;
        (self.now < at + TTL).then_some((leader, at + TTL))
    }

    fn write_sync(&mut self, index: u8, electorate: Option<&Electorate>) {
        let version = self.sync.version.map_or(0, |version| version.0) + 1;
        self.sync = electorate.map_or_else(SyncState::default, |Electorate { voters, quorum }| SyncState {
            version: Some(Version(version)),
            leader: Some(NAMES[usize::from(index)].into()),
            standbys: voters.iter().cloned().collect(),
            quorum: u32::try_from(*quorum).expect("few"),
        });
    }

    /// A client hears of what the primary wrote as soon as the standbys that it waits for have it.
    fn acknowledge(&mut self) {
        if self.mode == SynchronousMode::Off {
            return;
        }
        for node in self.nodes.iter().filter(|node| node.process == Process::Primary) {
            let has_it = |name: &MemberName| {
                let standby = NAMES.iter().position(|known| *known == name.as_str()).map(|index| &self.nodes[index]);
                standby.is_some_and(|standby| {
                    standby.process == Process::Standby
                        && (standby.timeline, standby.written) == (node.timeline, node.written)
                })
            };
            let confirmed = node.names.names.iter().filter(|name| has_it(name)).count();
            if node.names.is_empty() || confirmed >= node.names.number {
                self.promised = self.promised.max((node.timeline, node.written));
            }
        }
    }

    fn inspection(&self, index: u8) -> Inspection {
        let node = &self.nodes[usize::from(index)];
        let standbys = self
            .nodes
            .iter()
            .zip(NAMES)
            .filter(|(standby, _)| standby.process == Process::Standby && standby.timeline == node.timeline);
        let sender = |(standby, name): (&Node, &str)| Sender {
            name: name.into(),
            state: "streaming".into(),
            sync_state: "sync".into(),
            sync_priority: i64::from(node.names.lists(name)),
            written: Some(position(standby)),
            flushed: Some(position(standby)),
            replayed: Some(position(standby)),
        };
        Inspection {
            turned_down: Vec::new(),
            standby_names: node.names.to_string(),
            synchronous_commit: "on".into(),
            flushed: position(node),
            senders: standbys.map(sender).collect(),
            checkpointer_busy: false,
            start_time: "noon".into(),
        }
    }

    fn peers(&self, names: &BTreeMap<MemberName, String>, arrives: bool) -> BTreeMap<MemberName, Peer> {
        let answer = |name: &MemberName| {
            let node = &self.nodes[NAMES.iter().position(|known| *known == name.as_str()).expect("a node")];
            if !node.alive || !arrives {
                return Peer::Unreachable("silent".into());
            }
            let up = !matches!(node.process, Process::Down { .. });
            Peer::Status(PeerStatus {
                in_recovery: node.process != Process::Primary && node.memory.role != Role::Primary,
                wal_position: if up { position(node) } else { Lsn(0) },
                location: None,
                timeline: up.then_some(Timeline(node.timeline.into())),
                replication_state: (node.process == Process::Standby).then(|| "streaming".into()),
                tags: Tags::default(),
                watchdog_failed: false,
                space: Default::default(),
            })
        };
        names.keys().map(|name| (name.clone(), answer(name))).collect()
    }

    fn carry_out(&mut self, index: u8, plan: Plan) {
        let now = self.now;
        let node = &mut self.nodes[usize::from(index)];
        let soon = plan.wake_after < Duration::from_secs(STEP) && plan.job != JobOrder::Keep;
        let lease_end = node.guard.map_or(u8::MAX, |until| until.saturating_sub(1));
        node.wake_at = if soon { now } else { (now + 1).min(lease_end.max(now)) };
        node.memory = plan.memory;
        node.claiming = false;
        node.memory.comparison_awaited_since = None;
        let unanswered = node.memory.stepped_down.filter(|given_up| given_up.unanswered);
        node.memory.stepped_down = unanswered.map(|given_up| StepDown { at: moment(0), last_lsn: None, ..given_up });
        if node.memory.lease_until.is_none() && node.process != Process::Primary {
            node.guard = None;
        }
        match plan.job {
            JobOrder::Keep => {}
            JobOrder::Cancel => {
                if matches!(&node.job, JobFact::Running(view) if view.stage == Stage::Revocable) {
                    node.job = JobFact::Idle;
                }
            }
            JobOrder::Start(job) | JobOrder::Replace(job) => {
                let stage = if job == Job::Promote { Stage::Revocable } else { Stage::Committed(String::new()) };
                let since = moment(0);
                node.job = JobFact::Running(JobView { title: title(&job), job, since, stage });
            }
        }
    }

    /// One step of the job of a node.
    fn work(&mut self, index: u8) {
        let (now, leader) = (self.now, self.leader);
        let node = &mut self.nodes[usize::from(index)];
        let JobFact::Running(view) = node.job.clone() else { return };
        let leased = node.guard.is_some_and(|until| now < until);
        let mut outcome = JobOutcome::Done;
        match (&view.job, &view.stage) {
            (Job::Promote, Stage::Revocable) if leased && node.process == Process::Standby => {
                if leader.is_none_or(|(holder, _)| holder != index) {
                    self.wrong = Some("promoted without the lease");
                }
                let stage = Stage::Committed(String::new());
                node.job = JobFact::Running(JobView { stage, ..view });
                return;
            }
            (Job::Promote, Stage::Committed(_)) if node.process == Process::Standby => {
                if (node.timeline, node.written) < self.promised {
                    self.wrong = Some("promoted without what was acknowledged");
                }
                node.process = Process::Primary;
                node.timeline += 1;
            }
            (Job::Promote, _) => outcome = JobOutcome::Failed(String::new()),
            (Job::Demote(DemoteMode::Graceful), Stage::Committed(_)) => {
                node.process = Process::Down { clean: true };
                node.written += 1;
                let checkpoint = Lsn(position(node).0 - 1);
                let stage = Stage::ShutDown { checkpoint, previous: checkpoint, exited: false };
                node.job = JobFact::Running(JobView { stage, ..view });
                node.wake_at = now;
                return;
            }
            (Job::Demote(mode), _) => {
                if node.process != (Process::Down { clean: true }) {
                    node.process = Process::Down { clean: *mode == DemoteMode::Offline };
                }
            }
            (Job::Start { role: Role::Primary, .. }, _) if leased => node.process = Process::Primary,
            (Job::Start { role: Role::Primary, .. }, _) => outcome = JobOutcome::Failed(String::new()),
            (Job::Start { .. }, _) => node.process = Process::Standby,
            (Job::CrashRecovery, _) => node.process = Process::Down { clean: true },
            (_, _) => {}
        }
        node.job = JobFact::Ended(view.job, outcome);
        node.wake_at = now;
    }

    /// Time goes on; leases end in the store; guards act; a primary whose agent lives must not outlast its lease.
    fn time_passes(&mut self) {
        self.now += 1;
        if self.leader.is_some_and(|(_, until)| until <= self.now) {
            self.leader = None;
            self.nodes.iter_mut().for_each(|node| node.wake_at = self.now);
        }
        for node in &mut self.nodes {
            let ended = node.guard.is_some_and(|until| until <= self.now);
            if ended && node.process == Process::Primary {
                if node.alive {
                    self.wrong = Some("a primary outlasts its lease, and only the guard stops it");
                }
                node.process = Process::Down { clean: false };
            }
        }
    }

    /// A standby gets what the primary has.
    fn stream(&mut self, index: u8) {
        let source = self.nodes.iter().find(|node| {
            node.process == Process::Primary
                || matches!(&node.job, JobFact::Running(view) if matches!(view.stage, Stage::ShutDown { .. }))
        });
        let Some((timeline, written)) = source.map(|node| (node.timeline, node.written)) else { return };
        let node = &mut self.nodes[usize::from(index)];
        if node.process == Process::Standby {
            node.timeline = timeline;
            node.written = written;
        }
    }

    fn facts(&self, index: u8, sees_store: bool) -> Facts {
        let node = &self.nodes[usize::from(index)];
        let boot = moment(self.now);
        let name = NAMES[usize::from(index)];
        let settings = Arc::new(settings(name, self.mode, self.failsafe));
        let server = Arc::new(server(node));
        Facts {
            now: Now { boot, wall: WallTime(0) },
            shown: Arc::new(View::initial(Arc::clone(&settings), Arc::clone(&server), boot)),
            settings,
            cluster: if sees_store { Ok(Arc::new(self.cluster())) } else { Err("silent".into()) },
            server,
            job: node.job.clone(),
            requests: BTreeMap::new(),
            shutdown: false,
            watchdog: Watchdog { required: false, healthy: true },
            failsafe_leader: self
                .agreed_with(index)
                .map(|(leader, until)| (NAMES[usize::from(leader)].into(), moment(until))),
            addresses: Addresses { api_url: format!("http://{name}"), ..Addresses::default() },
            member_key: MemberKey::default(),
            slots: News::default(),
            standstill: None,
            disks: Default::default(),
            answers: Answers::default(),
        }
    }

    fn cluster(&self) -> Cluster {
        let leader = self.leader.map(|(holder, _)| NAMES[usize::from(holder)]);
        let request = self.request.filter(|to| *to != u8::MAX).map(|to| FailoverRequest {
            version: Version(2),
            leader: Some("a".into()),
            candidate: Some(NAMES[usize::from(to)].into()),
            scheduled_at: None,
        });
        let line = |timeline: u8| HistoryLine(vec![json!(timeline), json!(1), json!(""), json!(""), json!("")]);
        let lines: Vec<HistoryLine> = (1..self.history).map(line).collect();
        let raw = if lines.is_empty() { "[]" } else { "[...]" };
        let data = JsonMap::from_iter([("ttl".to_owned(), json!(30))]);
        Cluster {
            initialize: Initialize::Done(SYSTEM),
            config: Some(ClusterConfig { version: Version(1), data: Some(data) }),
            leader: leader.map(|name| Leader { name: name.into(), version: Version(1), session: None }),
            members: members(self.nodes.len()),
            failover: request,
            sync: self.sync.clone(),
            failsafe: self.failsafe.then(|| addresses(self.nodes.len())),
            history: Some(History { version: Version(1), raw: raw.into(), lines }),
            ..Cluster::default()
        }
    }
}

/// A step of time, as the agents see it.
fn moment(step: u8) -> Moment {
    Moment(Duration::from_secs(3600 + u64::from(step) * STEP))
}

fn is_for_the_store(op: &Op) -> bool {
    match op {
        Op::RenewLease
        | Op::AcquireLease
        | Op::ReleaseLease(_)
        | Op::Initialize(_)
        | Op::WriteConfig(_)
        | Op::WriteFailover(..)
        | Op::WriteHistory
        | Op::WriteSync(..) => true,
        Op::PollPeers(_)
        | Op::AskFailsafe(_)
        | Op::CheckRewind(_)
        | Op::CheckUpstream(_)
        | Op::ActivateWatchdog
        | Op::InspectSynchronous
        | Op::SetSynchronousStandbyNames(_) => false,
    }
}

fn position(node: &Node) -> Lsn {
    Lsn(1000 + u64::from(node.timeline) * 100 + u64::from(node.written))
}

fn server(node: &Node) -> Server {
    let timeline = Timeline(node.timeline.into());
    let running = |wal| {
        Postmaster::Running(Running {
            statistics_reset: None,
            start_time: String::new(),
            server_version: 150_018,
            wal,
            timeline: Some(timeline),
            control_timeline: Some(timeline),
            replication: Vec::new(),
            slots: BTreeMap::new(),
            pending_restart: JsonMap::new(),
        })
    };
    let postmaster = match node.process {
        Process::Primary => running(Wal::Primary { location: position(node) }),
        Process::Standby => running(Wal::Standby {
            received: Some(position(node)),
            replayed: Some(position(node)),
            replayed_timestamp: None,
            paused: false,
            latest_end: None,
            replication_state: Some("streaming".into()),
        }),
        Process::Down { clean } => Postmaster::Stopped(Some(ControlData {
            state: if clean { ControlState::ShutDown } else { ControlState::InProduction },
            checkpoint: Lsn(position(node).0 - 1),
            checkpoint_timeline: timeline,
            min_recovery_end: position(node),
            min_recovery_timeline: timeline,
            standby_signal: false,
            backup_label: false,
            torn: false,
        })),
    };
    Server { data_dir: DataDir::Present(SYSTEM), postmaster, other_wal: false }
}

fn node(index: u8, nodes: u8) -> Node {
    let leads = index == 0;
    let mut memory = Memory::new();
    memory.role = if leads { Role::Primary } else { Role::Replica };
    memory.started = true;
    memory.known_members = Arc::new(members(nodes.into()));
    memory.last_leader = Some("a".into());
    memory.timeline = Some(Timeline(1));
    let until = moment(TTL);
    memory.lease_until = leads.then_some(until);
    Node {
        alive: true,
        process: if leads { Process::Primary } else { Process::Standby },
        timeline: 1,
        written: 0,
        memory,
        job: JobFact::Idle,
        tick: None,
        wake_at: 0,
        guard: leads.then_some(TTL),
        names: StandbyNames::default(),
        agreed: None,
        claiming: false,
    }
}

/// What a synchronous cluster looks like in which all is well: the leader's setting, and `/sync`.
fn begin_synchronous(mode: SynchronousMode, nodes: u8) -> (StandbyNames, SyncState) {
    let others: BTreeSet<MemberName> =
        NAMES[1..usize::from(nodes)].iter().map(|name| MemberName::from(*name)).collect();
    let (names, quorum) = match mode {
        SynchronousMode::Off => return Default::default(),
        SynchronousMode::On => (StandbyNames::all(others.into_iter().take(1).collect()), 0),
        SynchronousMode::Quorum => (StandbyNames::any(1, others.clone()), others.len() as u32 - 1),
    };
    let sync = SyncState {
        version: Some(Version(1)),
        leader: Some("a".into()),
        standbys: names.names.iter().cloned().collect(),
        quorum,
    };
    (names, sync)
}

fn members(count: usize) -> BTreeMap<MemberName, Member> {
    let member = |name: &str| {
        let data = MemberData {
            conn_url: Some(format!("postgres://{name}")),
            api_url: Some(format!("http://{name}")),
            state: Some("running".into()),
            ..MemberData::default()
        };
        Member { name: name.into(), version: Version(1), session: None, data }
    };
    NAMES[..count].iter().map(|name| (MemberName::from(*name), member(name))).collect()
}

/// The key `/failsafe`.
fn addresses(count: usize) -> BTreeMap<MemberName, String> {
    members(count).values().filter_map(Member::address).collect()
}

fn settings(name: &str, mode: SynchronousMode, failsafe_mode: bool) -> Settings {
    Settings {
        scope: "demo".into(),
        name: name.into(),
        config_version: Some(Version(1)),
        dynamic: Dynamic {
            ttl: Duration::from_secs(u64::from(TTL) * STEP),
            loop_wait: Duration::from_secs(STEP),
            retry_timeout: Duration::from_secs(STEP),
            failsafe_mode,
            synchronous: Synchronous { mode, strict: false, node_count: 1, maximum_lag: None, hold: false },
            slots: SlotSettings::default(),
            ..Dynamic::default()
        },
        unusable: Vec::new(),
        tags: Tags::default(),
        can_bootstrap: true,
        can_clone_without_leader: false,
        rewind: RewindSettings::default(),
    }
}

/// Where the states are too many, as many as can be looked at in this time.
const TIME: Duration = Duration::from_secs(15);

/// Looks at all states in their order, and then walks about at random, which comes to the end of the model sooner.
fn explore(model: Few) {
    let builder = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).timeout(TIME);
    let checker = builder.spawn_dfs().join();
    println!("{} states, {} unique", checker.state_count(), checker.unique_state_count());
    for (name, path) in checker.discoveries() {
        let last = path.last_state().clone();
        let steps = path.into_actions();
        let found = [FAILOVER, SWITCHOVER, VOTE, AGREEMENT].contains(&name);
        assert!(found, "{name:?} is not so ({:?}) after {steps:?}", last.wrong);
    }
    walk_about(&model);
}

/// At least ten thousand walks, and until everything has happened that has to.
fn walk_about(model: &Few) {
    let properties = model.properties();
    let sometimes = properties.iter().filter(|property| property.expectation == Expectation::Sometimes);
    let mut missing: BTreeSet<&str> = sometimes.map(|property| property.name).collect();
    let (began, mut walks, mut random) = (Instant::now(), 0, 7);
    while (walks < 10_000 || !missing.is_empty()) && began.elapsed() < TIME {
        walks += 1;
        let mut state = model.init_states().remove(0);
        let mut steps = Vec::new();
        while let Some((step, next)) = any_step(model, &state, &mut random) {
            steps.push(step);
            state = next;
            for property in &properties {
                let holds = (property.condition)(model, &state);
                let always = property.expectation == Expectation::Always;
                assert!(holds || !always, "{:?} is not so ({:?}) after {steps:?}", property.name, state.wrong);
                if holds && !always {
                    missing.remove(property.name);
                }
            }
        }
    }
    println!("{walks} random walks");
    assert!(missing.is_empty(), "these never happen: {missing:?}");
}

/// Faults are seldom: a walk whose faults all come at its beginning sees little.
fn any_step(model: &Few, state: &State, random: &mut u64) -> Option<(Event, State)> {
    let mut below = |limit: usize| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) as usize % limit
    };
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    let (faults, rest): (Vec<_>, Vec<_>) = actions.into_iter().partition(|event| event.is_fault());
    let faults_first = below(8) == 0;
    for mut some in if faults_first { [faults, rest] } else { [rest, faults] } {
        while !some.is_empty() {
            let step = some.swap_remove(below(some.len()));
            if let Some(next) = model.next_state(state, step) {
                return Some((step, next));
            }
        }
    }
    None
}

#[test]
fn two_nodes_two_faults() {
    explore(Few { nodes: 2, horizon: 5, faults: 2, requests: false, mode: SynchronousMode::Off, failsafe: false });
}

#[test]
fn a_switchover_of_two_nodes_and_a_fault() {
    explore(Few { nodes: 2, horizon: 4, faults: 1, requests: true, mode: SynchronousMode::Off, failsafe: false });
}

#[test]
fn three_nodes_and_a_fault() {
    explore(Few { nodes: 3, horizon: 4, faults: 1, requests: false, mode: SynchronousMode::Off, failsafe: false });
}

#[test]
fn two_synchronous_nodes_two_faults() {
    explore(Few { nodes: 2, horizon: 5, faults: 2, requests: false, mode: SynchronousMode::On, failsafe: false });
}

#[test]
fn three_synchronous_nodes_and_a_fault() {
    explore(Few { nodes: 3, horizon: 4, faults: 1, requests: false, mode: SynchronousMode::On, failsafe: false });
}

#[test]
fn a_quorum_of_three_nodes_and_a_fault() {
    explore(Few { nodes: 3, horizon: 4, faults: 1, requests: false, mode: SynchronousMode::Quorum, failsafe: false });
}

/// The leader may die at any point of what was asked for, and the candidate is only one of the voters.
#[test]
fn a_switchover_of_a_quorum_of_three_nodes_and_a_fault() {
    explore(Few { nodes: 3, horizon: 4, faults: 1, requests: true, mode: SynchronousMode::Quorum, failsafe: false });
}

/// The agent that agreed, or the primary, may die; the store may come back at any moment, and the lease be long gone.
#[test]
fn two_nodes_in_failsafe_mode_and_two_faults() {
    explore(Few { nodes: 2, horizon: 7, faults: 2, requests: false, mode: SynchronousMode::Off, failsafe: true });
}

#[test]
fn three_nodes_in_failsafe_mode_and_two_faults() {
    explore(Few { nodes: 3, horizon: 6, faults: 2, requests: false, mode: SynchronousMode::Off, failsafe: true });
}
