//! Everything that exists in a simulation, its one clock, and its queue of events.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use patroni_core::JsonMap;
use patroni_core::lsn::Lsn;
use patroni_core::name::MemberName;
use patroni_core::peer::PeerStatus;
use patroni_core::request::{Answer, RequestId};

use crate::ambush::{Ambush, Worst};
use crate::clients::Write;
use crate::faults::Fault;
use crate::guard::Guard;
use crate::node::Node;
use crate::postgres::Disk;
use crate::random::Random;
use crate::store::{Store, StoreReply, StoreRequest};
use crate::wal::Wal;

/// The universe, shared by everything that runs in it, on one thread.
pub(crate) type Shared = Rc<RefCell<Universe>>;

/// The store's place in the network.
pub(crate) const STORE: usize = usize::MAX;

/// What can happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Something this node's agent or job may wait for.
    Wake(usize),
    /// A request arrives at the store.
    ToStore { from: Sender, request: StoreRequest },
    /// Its answer arrives.
    FromStore { to: Sender, reply: StoreReply },
    /// This write of a member's key is not waited for any longer.
    KeyDeadline(Sender),
    /// A lease may have ended.
    Expire,
    /// A peer is asked for its status.
    ToPeer { from: Sender, peer: usize },
    /// Its answer arrives.
    FromPeer { to: Sender, name: MemberName, status: PeerStatus },
    /// A primary without a store asks a peer whether it may go on.
    Failsafe { from: Sender, peer: usize },
    /// The answer arrives.
    Agreed { to: Sender, name: MemberName, agreed: bool },
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
    /// The postmaster reads its files again.
    Reload { node: usize, birth: u64 },
    /// A WAL sender takes over what it read.
    SenderReloads { node: usize, birth: u64, standby: usize },
    /// So does the checkpointer.
    CheckpointerReloads { node: usize, birth: u64 },
    /// A standby's confirmation arrives at the primary.
    Confirm { to: (usize, u64), from: (usize, u64), position: Lsn },
    /// The guard of a node looks at its deadline.
    Guard { node: usize, guard: Guard },
    /// A client writes, or reads.
    Client,
    /// Something goes wrong, or an operator does something.
    Fault(Fault),
}

/// Who waits for an answer: the node, the life of its agent, and the number of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sender {
    /// The node.
    pub node: usize,
    /// Which agent: one that was started again gets no answers of its predecessor.
    pub life: u64,
    /// Which question.
    pub ticket: u64,
}

/// An answer that has arrived.
#[derive(Clone, Debug)]
pub(crate) enum Arrived {
    /// Of the store.
    Store(StoreReply),
    /// Of a peer.
    Peer(MemberName, PeerStatus),
    /// Of a peer that was asked for its leave.
    Agreed(MemberName, bool),
}

/// The universe.
pub(crate) struct Universe {
    /// Time since everything was started.
    pub now: Duration,
    /// Chance.
    pub random: Random,
    /// The dynamic configuration of the files (`bootstrap.dcs`), the same on all machines.
    pub dynamic: JsonMap,
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
    /// Standbys confirm what they receive: synchronous replication may be turned on.
    pub synchronous: bool,
    /// `/sync` was deleted by somebody, and not yet written again.
    pub sync_lost: bool,
    /// An agent was started while it was: it cannot know what the key said.
    pub amnesia: bool,
    /// When a client last heard that something is written.
    pub acknowledged_at: Duration,
    /// How many writes were confirmed by standbys first.
    pub waited: u64,
    /// How many writes that were to survive were given up by an operator's order.
    pub given_up: u64,
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
    /// Two servers called their timelines the same, and PostgreSQL could not tell.
    pub ambiguous: bool,
    /// Where hosts die at the worst moment.
    pub ambush: Option<Ambush>,
    expiry_at: Option<Duration>,
    queue: BTreeMap<(Duration, u64), Event>,
    serial: u64,
}

impl Universe {
    /// An empty universe.
    pub(crate) fn new(random: Random, guarded: bool, synchronous: bool, traced: bool) -> Self {
        Universe {
            now: Duration::from_secs(1000),
            random,
            dynamic: JsonMap::new(),
            nodes: Vec::new(),
            store: Store::default(),
            cuts: BTreeSet::new(),
            slow: 1,
            guarded,
            synchronous,
            sync_lost: false,
            amnesia: false,
            acknowledged_at: Duration::ZERO,
            waited: 0,
            given_up: 0,
            writes: Vec::new(),
            runnable: BTreeSet::new(),
            violations: Vec::new(),
            faults: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            trace: traced.then(Vec::new),
            ambiguous: false,
            ambush: None,
            expiry_at: None,
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A number that nothing else has.
    pub(crate) fn unique(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Something will happen.
    pub(crate) fn at(&mut self, when: Duration, event: Event) {
        let serial = self.unique();
        self.queue.insert((when.max(self.now), serial), event);
    }

    /// The same, after a while.
    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// What was still to go wrong does not.
    pub(crate) fn forget_faults(&mut self) {
        self.ambush = None;
        self.queue.retain(|_, event| !matches!(event, Event::Fault(_)));
    }

    /// The next thing that happens, if it happens before `end`; time moves there.
    pub(crate) fn next(&mut self, end: Duration) -> Option<Event> {
        let (&key, _) = self.queue.first_key_value().filter(|(key, _)| key.0 < end)?;
        self.now = key.0;
        self.queue.remove(&key)
    }

    /// Writes a line of the trace.
    pub(crate) fn log(&mut self, who: usize, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            let name = self.nodes.get(who).map_or("-", |node| node.name.as_str());
            lines.push(format!("{:10.4} {name:>3}  {}", (self.now - Duration::from_secs(1000)).as_secs_f64(), text()));
        }
    }

    /// What must not be.
    pub(crate) fn violation(&mut self, who: usize, text: String) {
        self.log(who, || format!("VIOLATION {text}"));
        let at = (self.now - Duration::from_secs(1000)).as_secs_f64();
        let name = self.nodes.get(who).map_or("-", |node| node.name.as_str()).to_owned();
        self.violations.push(format!("at {at:.3} s, {name}: {text}"));
    }

    /// Nothing passes from one to the other.
    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Sends a message over the network, if it can pass.
    ///
    /// `false`: it surely did not leave.
    pub(crate) fn send(&mut self, from: usize, to: usize, event: Event) -> bool {
        if self.is_cut(from, to) || to == STORE && self.store.down {
            return false;
        }
        let slow = self.slow;
        let delay = self.random.mostly(1..4) * slow;
        self.after(delay, event);
        true
    }

    /// The node can be found by its name.
    pub(crate) fn node_named(&self, name: &MemberName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    /// Wakes an agent.
    pub(crate) fn wake(&mut self, node: usize) {
        self.nodes[node].woken = true;
        self.runnable.insert(node);
    }

    /// Carries out what does not concern faults.
    pub(crate) fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(node) => {
                self.runnable.insert(node);
            }
            Event::Notice(node) => self.wake(node),
            Event::ToStore { from, request } => self.store_handles(from, request),
            Event::FromStore { to, reply } if self.writes_key(to) => self.key_written(to, reply),
            Event::FromStore { to, reply } => self.arrive(to, Arrived::Store(reply)),
            Event::Expire => {
                self.expiry_at = None;
                if self.store.expire(self.now) {
                    self.log(STORE, || "a lease ended".into());
                    self.notify_watchers();
                }
                self.look_at_keys_that_ran_out();
                self.watch_expiry();
            }
            Event::ToPeer { from, peer } => self.peer_answers(from, peer),
            Event::FromPeer { to, name, status } => self.arrive(to, Arrived::Peer(name, status)),
            Event::Failsafe { from, peer } => self.peer_agrees(from, peer),
            Event::KeyDeadline(from) => self.key_deadline(from),
            Event::Agreed { to, name, agreed } => self.arrive(to, Arrived::Agreed(name, agreed)),
            Event::Wal { to, from, wal } => self.wal_arrives(to, from, &wal),
            Event::Connect { node, epoch } => self.connect(node, epoch),
            Event::Started { node, epoch } => self.started(node, epoch),
            Event::Stop { node, epoch, checkpointed } => self.stop_goes_on(node, epoch, checkpointed),
            Event::Promoted { node, epoch } => self.promoted(node, epoch),
            Event::Checkpoint { node, epoch } => self.checkpoint(node, epoch),
            Event::Reload { node, birth } => self.reloaded(node, birth),
            Event::SenderReloads { node, birth, standby } => self.sender_reloads(node, birth, standby),
            Event::CheckpointerReloads { node, birth } => self.checkpointer_reloads(node, birth),
            Event::Confirm { to, from, position } => self.confirmed(to, from, position),
            Event::Guard { node, guard } => self.guard_looks(node, guard),
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
        let writes_sync = matches!(&request, StoreRequest::WriteSync { .. });
        let removes = matches!(&request, StoreRequest::WriteSync { electorate: None, .. });
        let acquires = matches!(&request, StoreRequest::Acquire);
        if matches!(&request, StoreRequest::Load) && before.as_ref() == Some(&name) {
            self.worst(Worst::Looked, from.node);
        }
        let (reply, heard) = self.store.handle(&name, ttl, request, self.now);
        self.look_at_keys_that_ran_out();
        if matches!(reply, StoreReply::Done) {
            if writes_sync {
                self.sync_written(from.node, removes);
                self.worst(Worst::SyncWritten, from.node);
            } else if acquires {
                self.worst(Worst::Acquired, from.node);
                self.nodes[from.node].by_hand = self
                    .store
                    .cluster()
                    .failover
                    .as_ref()
                    .is_some_and(|request| request.leader.is_none() && request.candidate.as_ref() == Some(&name));
                if self.nodes[from.node].postgres.is_primary() {
                    self.check_promises(from.node);
                }
            }
        }
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
    pub(crate) fn operator_writes(&mut self, request: StoreRequest) {
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

    pub(crate) fn notify_watchers(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].alive && !self.is_cut(STORE, node) {
                let delay = self.random.mostly(1..4);
                self.after(delay, Event::Notice(node));
            }
        }
    }

    /// The answer to a request that came over REST.
    pub(crate) fn answered(&mut self, id: RequestId, answer: &Answer) {
        self.unanswered.remove(&id);
        self.log(STORE, || format!("request {} is answered: {answer:?}", id.0));
    }

    /// The machine is empty again, as an operator leaves it.
    pub(crate) fn wipe(&mut self, node: usize) {
        self.crash_postgres(node, "is removed by an operator");
        self.nodes[node].postgres.disk = Disk::Empty;
    }
}
