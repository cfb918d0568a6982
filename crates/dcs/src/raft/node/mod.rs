//! One node of the store: its files, its consensus, and what it answers.

mod answers;
mod handover;
mod lifecycle;
mod links;
mod membership;
mod refusals;
mod server;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{Notify, broadcast, oneshot};
use tokio::time::Instant;

pub use self::thread::{RaftNode, StartError};
use super::admin::{MemberStatus, Phase, StoreStatus};
use super::clock::Clock;
use super::net::{Peer, Pool, Secret, Transport};
use super::options::RaftOptions;
use super::protocol::{Answer, ClusterId, MemberId, Request};
use super::state::Event;
use super::storage::{Identity, LogStore, Machine};
use super::types::{Raft, Reign};

/// How often the leader is heard of.
const HEARTBEAT: Duration = Duration::from_millis(300);
/// A node without news from a leader for a random time between these begins an election, after the leader's own time
/// (the longer one) is over.
const ELECTION: (Duration, Duration) = (Duration::from_millis(1200), Duration::from_millis(2400));
/// A member that has not answered for so long is not counted as living.
const SILENCE: Duration = Duration::from_secs(5);

/// A question from inside the process.
pub(crate) struct LocalCall {
    pub(crate) request: Request,
    pub(crate) budget: Duration,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What all tasks of a node share.
pub(crate) struct Node {
    options: RaftOptions,
    address: String,
    pool: Pool,
    secret: Secret,
    clock: Clock,
    events: broadcast::Sender<Arc<Vec<Event>>>,
    condition: Mutex<Condition>,
    /// Members of clusters that took this node for one of theirs: it had that address.
    expected_by: Mutex<BTreeSet<String>>,
    /// When members last answered.
    answered: Mutex<BTreeMap<u64, Instant>>,
    /// Held while the membership, or what this node belongs to, is changed.
    changing: tokio::sync::Mutex<()>,
    /// Another member said that this one was removed.
    told_removed: Notify,
}

#[derive(Clone)]
enum Condition {
    Running(Arc<Running>),
    Removed(Identity),
    Broken(String),
}

/// Files and consensus, as long as they work.
pub(crate) struct Running {
    raft: Raft,
    log: LogStore,
    machine: Machine,
}

impl Node {
    /// A node that does not run yet.
    pub(crate) fn new(options: RaftOptions, address: String, transport: Arc<dyn Transport>) -> Arc<Self> {
        let secret = Secret::new(options.password.as_deref());
        Arc::new(Node {
            address,
            pool: Pool::new(transport, secret.clone()),
            secret,
            options,
            clock: Clock::new(),
            events: Machine::channel(),
            condition: Mutex::new(Condition::Broken("it is starting".to_owned())),
            expected_by: Mutex::default(),
            answered: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            told_removed: Notify::new(),
        })
    }

    /// Changes as this node learns of them.
    pub(crate) fn events(&self) -> broadcast::Receiver<Arc<Vec<Event>>> {
        self.events.subscribe()
    }

    /// Ends what the consensus does in the background.
    #[cfg(test)]
    pub(crate) async fn halt(&self) {
        let condition = std::mem::replace(&mut *lock(&self.condition), Condition::Broken("it was killed".to_owned()));
        if let Condition::Running(running) = condition {
            let _ = running.raft.shutdown().await;
        }
    }

    fn running(&self) -> Result<Arc<Running>, String> {
        match &*lock(&self.condition) {
            Condition::Running(running) => Ok(Arc::clone(running)),
            Condition::Removed(_) => Err(format!("the member {} was removed from the store", self.address)),
            Condition::Broken(why) => Err(format!("the embedded store at {} does not run: {why}", self.address)),
        }
    }

    /// The state of the store as this node sees it.
    pub(crate) fn status(&self) -> StoreStatus {
        let condition = lock(&self.condition).clone();
        let mut status = StoreStatus {
            cluster: None,
            member: MemberId(0),
            address: self.address.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            phase: Phase::Removed,
            leader: None,
            term: 0,
            last_log: None,
            applied: None,
            snapshot: None,
            purged: None,
            log_bytes: 0,
            revision: super::state::Revision(0),
            keys: 0,
            members: Vec::new(),
        };
        match condition {
            Condition::Running(running) => self.running_status(&running, &mut status),
            Condition::Removed(identity) => {
                status.cluster = identity.cluster;
                status.member = identity.member;
            }
            Condition::Broken(why) => status.phase = Phase::Broken(why),
        }
        status
    }

    fn running_status(&self, running: &Running, status: &mut StoreStatus) {
        let metrics = running.raft.metrics().borrow().clone();
        let identity = running.log.identity();
        let (revision, keys) = running.machine.size();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let answered = lock(&self.answered);
        let leads = metrics.state == ServerState::Leader;
        let silent = |id: u64| answered.get(&id).map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX));
        let member = |(id, node): (&u64, &super::types::Node)| MemberStatus {
            id: MemberId(*id),
            address: node.addr.clone(),
            voter: voters.contains(id),
            matched: metrics.replication.as_ref().and_then(|all| all.get(id)?.map(|log_id| log_id.index)),
            silent_ms: if *id == identity.member.0 { Some(0) } else { leads.then(|| silent(*id)).flatten() },
        };
        status.members = membership.nodes().map(member).collect();
        status.members.sort_by(|a, b| a.address.cmp(&b.address));
        status.cluster = identity.cluster;
        status.member = identity.member;
        status.phase =
            if voters.contains(&identity.member.0) { Phase::Member } else { Phase::Waiting(self.founding_addresses()) };
        status.leader = metrics.current_leader.map(MemberId);
        status.term = metrics.current_term;
        status.last_log = metrics.last_log_index;
        status.applied = metrics.last_applied.map(|id| id.index);
        status.snapshot = metrics.snapshot.map(|id| id.index);
        status.purged = metrics.purged.map(|id| id.index);
        status.log_bytes = running.log.bytes();
        status.revision = revision;
        status.keys = keys as u64;
    }

    /// The addresses that found a cluster together, in order.
    fn founding_addresses(&self) -> Vec<String> {
        let mut addresses = self.options.addresses();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    fn as_member(&self, cluster: ClusterId, from: MemberId, to: u64) -> Peer {
        Peer::Member { cluster, from, from_address: self.address.clone(), to: MemberId(to) }
    }
}

impl Running {
    /// The reign in which this member leads, if it thinks that it does.
    fn reign(&self) -> Option<Reign> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader && metrics.vote.is_committed();
        leads.then(|| (*metrics.vote.leader_id()).into())
    }

    /// The member that is taken for the leader, if it is another one, and its address.
    fn other_leader(&self) -> Option<(u64, String)> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
        Some((leader, metrics.membership_config.membership().get_node(&leader)?.addr.clone()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random number that is not 0.
fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| std::io::Error::other("there are no random numbers"))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}
